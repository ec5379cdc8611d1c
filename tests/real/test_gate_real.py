"""Recipes trained on MovieLens-100K keep their scores as bfloat16 and int8, as the gate says of rows kept for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from recsys.data import sources
from recsys.inference import backends
from recsys.inference.convert import convert
from recsys.inference.gate import verify
from recsys.inference.session import session
from recsys.models.checkpoint import load, save
from recsys.training.recipe import find_recipe
from recsys.training.run import train

NAME = "movielens-100k"


@pytest.mark.slow
@pytest.mark.parametrize("model", ["dcn2", "dcnv2"])
def test_every_precision_passes(model: str, tmp_path: Path) -> None:
    if sources.state(NAME) == "not fetched":
        pytest.skip(f"needs MovieLens-100K: recsys data fetch {NAME}")
    save(train(find_recipe(model), show=False), tmp_path / "run")
    kinds = {kind for backend, kind in backends.ENGINES if not backends.absent(backend, kind)}
    seal = convert(tmp_path / "run", tmp_path / "export", data=sources.load(NAME).valid, show=False)
    assert set(seal.precisions) == kinds
    trained, rows = load(tmp_path / "run"), sources.load(NAME).test
    for kind in seal.precisions:
        with session(tmp_path / "export", precision=kind) as one:
            found = verify(trained, one, rows, show=False)
        assert found.passed, f"{kind}: {found.reasons}"
        assert found.rows == 9942
