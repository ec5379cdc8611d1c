"""A tiny run of the strategies' benchmark: each gives what the reference gives, and every row is told."""

from __future__ import annotations

import pytest

from recsys.bench import dataflow, lookup_rig, strategies
from recsys.bench.report import strategies_cells
from recsys.bench.strategies import CASES, Tried, measure
from recsys.dataflow.kernels.cpu import native
from recsys.dataflow.workload import Workload
from recsys.errors import ConfigError

needs_kernels = pytest.mark.skipif(native is None, reason="needs the C++ kernels")


def small(case: Tried) -> Workload:
    found = Workload.find(case.published).cap(300)
    return found if case.dim is None else found.with_dim(case.dim)


def test_vector_is_absent_without_avx_512(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strategies, "isas", lambda: ["avx2"])
    found = measure(("frappe",), seconds=0.01)
    assert found["rows"] == []
    assert "frappe" in found["absent"]


@needs_kernels
def test_a_row_for_every_case_and_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = {
        "one": Tried(published="frappe", strategy="vector", dim=1, batches=(1, 20)),
        "bags": Tried(published="rm3", strategy="stream", batches=(7,)),
    }
    monkeypatch.setattr(strategies, "CASES", cases)
    monkeypatch.setattr(Tried, "workload", lambda case: small(case))
    monkeypatch.setattr(strategies, "isas", lambda: ["avx512"])
    monkeypatch.setattr(lookup_rig, "_IDS", 1000)
    found = measure(seconds=0.01)
    assert [(row["strategy"], row["batch"]) for row in found["rows"]] == [("vector", 1), ("vector", 20), ("stream", 7)]
    for row in found["rows"]:
        assert row["ratio"] == pytest.approx(row["gather_us"] / row["us"], rel=1e-2)
        ids = (10 if row["strategy"] == "vector" else 200) * row["batch"]
        assert row["ns_an_id"] == pytest.approx(row["us"] * 1e3 / ids, rel=1e-2)
    assert len(strategies_cells(found).rows) == 3


@needs_kernels
def test_what_a_strategy_gives_is_compared_with_the_reference(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataflow, "look_up", lambda slots, ids, x: x.fill_(7))
    with pytest.raises(AssertionError, match="not close"):
        measure(("frappe",), (3,), 0.01)


def test_bad_input_is_one_sentence() -> None:
    with pytest.raises(ConfigError, match=r"no such workload as `frape`.*frappe"):
        measure(("frape",))
    with pytest.raises(ConfigError, match="batches of 1 or more"):
        measure(batches=(0,))


def test_cases_are_published_workloads() -> None:
    for case in CASES.values():
        assert case.strategy != "vector" or {table.dim for table in case.workload().tables} == {1}
