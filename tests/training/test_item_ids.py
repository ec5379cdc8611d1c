"""From a catalogue or vectors to semantic ids with a report, in one call."""

from __future__ import annotations

import io
import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from recsys.data.catalogue import Catalogue
from recsys.data.semantic_ids import SemanticIds
from recsys.data.text_embeddings import SentenceEncoder
from recsys.errors import ConfigError, DataError
from recsys.training.item_ids import IdReport, item_ids
from recsys.training.quantised import Floats, Quantised
from recsys.training.residual_kmeans import residual_kmeans
from recsys.training.rqvae import RqVaeConfig, train_rqvae

X = np.array([[0.0], [1.0], [10.0], [11.0], [10.0]])


def pairs(x: Floats) -> Quantised:
    return residual_kmeans(x, levels=2, size=2)


class Vowels(nn.Module):
    """A transformer whose states are the tokens, as (token, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(hidden_size=2)
        self.one = nn.Parameter(torch.ones(1), requires_grad=False)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Any:
        return SimpleNamespace(
            last_hidden_state=torch.stack([input_ids * self.one, torch.ones(input_ids.shape)], dim=-1)
        )


def encoder() -> SentenceEncoder:
    tokenizer = SimpleNamespace(encode_batch=lambda texts: [SimpleNamespace(ids=[len(text)]) for text in texts])
    return SentenceEncoder(tokenizer, Vowels(), padding=0)


def test_vectors_get_ids_of_their_own_and_a_report() -> None:
    ids, report = item_ids(X, quantise=pairs)
    assert ids.sizes == (2, 2, 2)
    assert not ids.collisions()
    assert ids.codes[:, 2].tolist() == [0, 0, 0, 0, 1]
    assert (report.items, report.without_text) == (5, None)
    assert (report.colliding, report.groups, report.largest) == (2, 1, 2)
    assert [(level.size, level.used) for level in report.levels] == [(2, 2), (2, 2)]
    assert report.levels[0].left == pytest.approx(residual_kmeans(X, 2, 2).left[0])
    assert set(report.seconds) == {"embed", "quantise"}


def test_a_catalogue_gets_ids_of_its_texts() -> None:
    catalogue = Catalogue(pa.array(list("abcde"), pa.large_string()), pa.array(["xy", "xyzabc", None, "xyz", None]))
    ids, report = item_ids(catalogue, encoder(), pairs, show=False)
    assert len(ids) == 5
    assert not ids.collisions()
    assert (report.without_text, report.largest) == (2, 2)
    assert (ids.codes[2, :2] == ids.codes[4, :2]).all()  # both have no text


def test_an_rqvae_may_make_them() -> None:
    config = RqVaeConfig(levels=2, size=2, hidden=(4,), width=2, epochs=2)
    ids, report = item_ids(X, quantise=lambda x: train_rqvae(x, config, show=False))
    assert ids.levels == 3
    assert len(report.levels) == 2


def test_what_does_not_go_together_is_said() -> None:
    bare = Catalogue(pa.array(["a"], pa.large_string()))
    with pytest.raises(ConfigError, match="expected a sentence encoder for the catalogue's texts"):
        item_ids(bare)
    with pytest.raises(DataError, match="the catalogue has no texts to make ids from"):
        item_ids(bare, encoder())
    with pytest.raises(ConfigError, match="got vectors, which need none"):
        item_ids(X, encoder())
    with pytest.raises(DataError, match="2 items share a tuple; expected 1 at most"):
        item_ids(X, quantise=pairs, limit=1)
    with pytest.raises(DataError, match="expected vectors"):
        item_ids([1.0, 2.0])


def test_a_report_is_json_and_a_table() -> None:
    report = item_ids(X, quantise=pairs)[1]
    assert json.loads(json.dumps(report.to_json()))["levels"][1]["used"] == 2
    shown = io.StringIO()
    Console(file=shown, width=100).print(report)
    assert "5 items; 2 share their tuple with another one, 2 at most" in shown.getvalue()
    assert "variance lost" in shown.getvalue()


def test_published_ids_have_a_report_without_variance() -> None:
    report = IdReport.of(SemanticIds(np.array([[0, 1], [1, 0]], dtype=np.int32), (2, 4)))
    assert (report.colliding, report.groups, report.largest) == (0, 0, 1)
    assert report.cells().rows == (("0", "2", "2", "2.0", "–"), ("1", "2", "4", "2.0", "–"))
