"""A tiny run of the benchmark of optimised models: everybody gives the same, and the account is whole."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from recsys.bench import optimize
from recsys.bench.optimize import measure
from recsys.errors import ConfigError
from recsys.inference.optimize import OptimizeConfig


def _broken(model: nn.Module, batch: Any) -> Any:
    raise RuntimeError("no compiler\nhere")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What is compiled takes long, so that nothing is."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(optimize, "OptimizeConfig", lambda: OptimizeConfig(backend="eager"))
    monkeypatch.setattr(optimize, "PEERS", {"eager": lambda model, batch: model, "torch.compile": _broken})
    monkeypatch.setattr(optimize, "_SAMPLE", 64)


def test_everybody_is_measured_beside_the_model_itself() -> None:
    before = torch.get_num_threads(), torch.get_rng_state()
    found = measure(0.05, [1, 3], cap=50)
    assert torch.get_num_threads() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    there = ["hand", "dlrm"] if importlib.util.find_spec("torchrec") else ["hand"]
    assert [(row["model"], row["batch"]) for row in found["rows"]] == [(name, n) for name in there for n in (1, 3)]
    assert list(found["absent"]) == [name for name in ("dlrm",) if name not in there]
    for row in found["rows"]:
        assert (row["ours"]["backend"], row["ours"]["calls"], row["eager"]) == ("eager", 1, "")
        (peer,) = row["peers"]
        assert peer["name"] == "eager"
        assert peer["ratio"] == pytest.approx(peer["us"] / row["ours"]["us"], rel=0.01)
        assert row["failed"] == {"torch.compile": "RuntimeError: no compiler"}


@pytest.mark.parametrize(("seconds", "batches", "cap"), [(0, [1], 9), (1, [], 9), (1, [0], 9), (1, [1], 0)])
def test_what_cannot_be_measured_is_said(seconds: float, batches: list[int], cap: int) -> None:
    with pytest.raises(ConfigError, match="expected batches and a cap of 1 or more"):
        measure(seconds, batches, cap)
