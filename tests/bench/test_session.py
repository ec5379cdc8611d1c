"""The benchmarks of sessions and scoring, on tables of a few rows."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from recsys.bench import request, score, session, session_peers
from recsys.cli import app
from recsys.inference import backends, choice
from recsys.inference.backends import Backend, Precision
from tests.inference.conftest import cache  # noqa: F401

pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # FuxiCTR leaves its files open


@pytest.fixture(autouse=True)
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is built, which takes seconds: eager torch runs float32 and bfloat16, and torch.compile is left out."""

    def absent(backend: Backend, precision: Precision) -> str | None:
        return None if backend == "eager" and precision != "int8" else "left out here"

    real = session_peers._torchrec
    monkeypatch.setattr(backends, "absent", absent)
    monkeypatch.setattr(choice, "absent", absent)
    monkeypatch.setattr(choice, "_SECONDS", 0.0)
    monkeypatch.setattr(session_peers, "_torchrec", lambda *given: real(*given)[:1])


def called(words: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert app.main(["bench", *words]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return found


def test_a_session_beside_its_peers(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["session", "--cap", "40", "--only", "dcn2", "--batch", "1", "6", "--seconds", "0.01"]
    found = called(words, capsys)
    assert found["bench"] == "session"
    keys = [(row["batch"], row["storage"], row["dtype"]) for row in found["rows"]]
    assert keys == [(n, *kind) for n in (1, 6) for kind in (("huge", "fp32"), ("huge", "bf16"), ("map", "fp32"))]
    for row in found["rows"]:
        ours = row["ours"]
        rate = row["batch"] / ours["us"] * 1e6
        assert ours["rows_per_second"] == pytest.approx(rate, abs=0.51 + rate * 0.051 / ours["us"])  # both are rounded
        for peer in row["peers"]:
            assert row["ratios"][peer["name"]] == pytest.approx(peer["us"] / ours["us"], rel=0.05, abs=0.01)
        assert row["bound_us"] > 0
    assert found["absent"]["onnx int8"] == "left out here"


def test_scoring_beside_its_peers(capsys: pytest.CaptureFixture[str]) -> None:
    found = called(["score", "--rows", "600", "--bits", "8"], capsys)
    named = {row["name"]: row for row in found["rows"]}
    assert {"fp32", "bf16", "pandas", "pandas-factorize"} <= set(named)
    ours, peer = named["fp32"], named["pandas"]
    assert ours["times"]["pandas"] == round(ours["rows_per_second"] / peer["rows_per_second"], 2)
    assert peer["times"] == {}


def test_memory_is_what_a_job_took_and_not_what_was_taken_before_it() -> None:
    before = np.ones(100_000_000, dtype=np.uint8)
    del before
    took = score._Measured(lambda: None)
    took()
    assert took.most < 10_000_000
    took = score._Measured(lambda: print(np.ones(100_000_000, dtype=np.uint8).sum()))
    took()
    assert took.most == pytest.approx(100_000_000, rel=0.1)


def test_requests_from_dicts(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(request, "_ROWS", 1000)
    found = called(["request", "--seconds", "0.01", "--bits", "6"], capsys)
    assert [row["rows"] for row in found["rows"]] == [1, 1, 500, 500]
    assert all(0 < row["p50_us"] <= row["p99_us"] for row in found["rows"])


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["session", "--only", "dcn3"], "no such model as `dcn3`: did you mean"),
        (["session", "--batch", "0"], "batches of 1 or more"),
        (["request", "--bits", "40"], "1 to 24 bits"),
        (["score", "--rows", "0"], "rows and rounds of 1 or more"),
        (["score", "--rows", "300", "--bits", "4", "--only", "spark"], "no such job as `spark`"),
    ],
)
def test_what_cannot_be_measured_is_one_line(words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["bench", *words]) == 2
    assert told in capsys.readouterr().err


def test_the_peak_of_a_product_is_measured() -> None:
    import torch

    assert 1 < session.peak(torch.float32) < 1e5
    assert score._able("fp32")
