"""The benchmark of sessions on a GPU, on tables of a few rows; without one Triton's interpreter stands for it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from recsys.bench import gpu_session, lookup_rig
from recsys.cli import app
from recsys.inference import profile
from recsys.inference.cuda import choice, engines, scorer
from tests.inference.conftest import cache  # noqa: F401
from tests.inference.cuda.conftest import device  # noqa: F401


@pytest.fixture(autouse=True)
def small(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    monkeypatch.setattr(gpu_session, "find_gpu", lambda named: device)
    monkeypatch.setattr(choice, "GPU_ENGINES", {"eager": engines.GPU_ENGINES["eager"]})
    monkeypatch.setattr(choice, "_SECONDS", 0.0)
    monkeypatch.setattr(gpu_session, "GPU_PRECISIONS", ("fp32", "bf16"))
    monkeypatch.setattr(choice, "_REPLAYS", 1)
    monkeypatch.setattr(profile, "_LEAST", 1)
    monkeypatch.setattr(scorer, "_WORKSPACES", 1)
    monkeypatch.setattr(gpu_session, "_PROFILED", 1)
    monkeypatch.setattr(lookup_rig, "_ROUNDS", (1, 1))
    monkeypatch.setattr(lookup_rig, "_CALLS", 1)
    for name, least in (("_IDS", 1), ("_BATCHES", 2)):
        monkeypatch.setattr(lookup_rig, name, least)


def test_a_session_on_a_gpu_beside_its_peers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["bench", "session", "--cap", "40", "--only", "dcn2", "--batch", "1", "3", "--seconds", "0.01"]
    results = tmp_path / "R.md"
    assert app.main([*words, "--device", "cuda", "--results", str(results)]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["bench"] == "session-gpu"
    assert [(row["batch"], row["dtype"]) for row in found["rows"]] == [
        (n, kind) for n in (1, 3) for kind in ("fp32", "bf16")
    ]
    for row in found["rows"]:
        # Peers compute in float32: what we do with fewer bits is not held against that.
        assert set(row["ratios"]) == ({"torch-loop", "torch-fused"} if row["dtype"] == "fp32" else set())
        assert row["ours"]["us"] > 0
        assert row["bound_us"] > 0
    assert "## Sessions on a GPU beside" in results.read_text()


def test_an_unknown_model_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["bench", "session", "--device", "cuda", "--only", "dcn3"]) == 2
    assert "no such model as `dcn3`" in capsys.readouterr().err
