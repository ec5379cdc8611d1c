"""sentence-transformers, given the same folder, gives the same vectors."""

from __future__ import annotations

from pathlib import Path

import pytest

from recsys.data.text_embeddings import embed
from tests.tiny_encoder import WORDS, write_encoder

pytest.importorskip("sentence_transformers", reason="parity with it needs `pip install sentence-transformers`")
from sentence_transformers import SentenceTransformer

pytestmark = pytest.mark.parity


def test_vectors_are_equal(tmp_path: Path) -> None:
    folder = write_encoder(tmp_path / "encoder")
    texts = ["red nail polish", "a", "", "unheard", " ".join(WORDS[4:]), " ".join(WORDS[4:] * 9)]
    theirs = SentenceTransformer(str(folder), device="cpu", local_files_only=True).encode(texts)
    assert embed(texts, folder, show=False) == pytest.approx(theirs, abs=1e-5)
