"""A tiny run of the look-up benchmark: everybody gives what the reference gives, and the account is whole."""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, cast

import numpy as np
import pytest
import torch

from recsys.bench import lookup, lookup_peers, lookup_rig
from recsys.bench.dataflow import with_ids
from recsys.bench.lookup import measure
from recsys.bench.lookup_peers import DTYPES, Contender, peers, recycled
from recsys.bench.lookup_rig import Case, Rig, Turns, bound_us, rotations
from recsys.cli import app
from recsys.dataflow import platform
from recsys.dataflow.ids import batch, hottest, scatter
from recsys.dataflow.kernels.cpu import native
from recsys.dataflow.platform import Platform
from recsys.dataflow.workload import Ids, Workload, WorkloadLookup, WorkloadTable
from recsys.errors import ConfigError

ONE = {"torch-embedding", "torch-index-select"}  # where every bag holds one id
OPTIONAL = {"torchrec": {"torchrec"}, "fbgemm_gpu": {"fbgemm-split", *(f"fbgemm-nbit-{dtype}" for dtype in DTYPES)}}
THERE = {name for module, names in OPTIONAL.items() if importlib.util.find_spec(module) for name in names}
TINY = {
    "ones": Case("criteo-kaggle", cap=300, batches=(1, 4)),
    "bags": Case("mlperf-dlrm-v2", dim=8, cap=300, batches=(4,)),
}
needs_kernels = pytest.mark.skipif(native is None, reason="needs the C++ kernels")


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookup, "WORKLOADS", TINY)
    monkeypatch.setattr(lookup_rig, "_IDS", 1000)
    monkeypatch.setattr(platform, "here", lambda: stub(2.0))


def stub(ns: float) -> Platform:
    """A platform on which every id takes as long."""
    one = SimpleNamespace(
        one_ns=lambda size, sets: np.full(len(sets), ns), more_ns=lambda size, sets: np.full(len(sets), ns / 2)
    )
    return cast("Platform", one)


def made(bags: tuple[tuple[int, float], ...]) -> Workload:
    """Tables of odd sizes, so that none begins where another rule than side by side would have it."""
    tables = tuple(WorkloadTable(name=f"t{rows}", rows=rows, dim=8) for rows in (7, 301, 1, 12))
    ids = Ids(bags=bags, distribution="uniform")
    return Workload(
        name="odd",
        tables=tables,
        lookups=tuple(WorkloadLookup(name=table.name, table=table.name, ids=ids) for table in tables),
    )


# --- the command


@needs_kernels
def test_everybody_is_measured_and_the_ratios_are_to_the_best(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    threads = torch.get_num_threads()
    ways = ("zipf", "trace", "equal")
    arguments = ["--ids", *ways, "--seconds", "0.01", "--results", str(tmp_path / "R.md")]
    assert app.main(["bench", "lookup", *arguments]) == 0
    assert torch.get_num_threads() == threads
    *people, last = capsys.readouterr().out.splitlines()
    found, text = json.loads(last), "\n".join(people)
    assert found["bench"] == "lookup"
    assert set(found["workloads"]) == set(TINY)
    cells = {(row["workload"], row["ids"], row["batch"]) for row in found["rows"]}
    assert cells == {(name, ids, size) for name in TINY for ids in ways for size in TINY[name].batches}
    for row in found["rows"]:
        told(row, text)
    matters(found, text)
    written(found, (tmp_path / "R.md").read_text(), arguments)
    pairs = [row for row in found["rows"] if row["threads"] == 2]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    assert len(pairs) == (6 if cores > 1 else 0)  # a batch of one is not shared out


def told(row: dict[str, Any], text: str) -> None:
    """A row of the account adds up."""
    assert min(row["ours"]["us"], row["ours"]["p99_us"]) > 0
    assert row["share_of_bound"] == pytest.approx(row["bound_us"] / row["ours"]["us"], abs=0.001, rel=0.05)
    assert f"{row['ours']['us']:,.1f}" in text
    if row["threads"] == 2:
        assert (row["peers"], row["ratio_stock"], row["ratio_tuned"]) == ([], None, None)
        assert f"{row['ratio_one_thread']:.2f} × one thread" in text
        return
    stock = {"torch-embedding-bag", "torch-loop"} | THERE | (ONE if row["workload"] == "ones" else set())
    for kind, expected in (("stock", stock), ("tuned", stock - {"torch-loop", "torchrec"})):
        of_kind = [peer for peer in row["peers"] if peer["class"] == kind]
        assert {peer["name"] for peer in of_kind} == expected
        us = row["ours"]["us" if kind == "stock" else "us_beside_tuned"]
        best = min(of_kind, key=lambda peer: peer["us"])
        assert row[f"ratio_{kind}"] == pytest.approx(best["us"] / us, rel=0.01, abs=0.001)
        assert f"{row[f'ratio_{kind}']:.2f} × {best['name']}" in text
        alike = [peer["us"] for peer in of_kind if peer["dtype"] == row["dtype"]]
        expected_ratio = pytest.approx(min(alike) / us, rel=0.01, abs=0.001) if alike else None
        assert row[f"ratio_{kind}_dtype"] == expected_ratio


def matters(found: dict[str, Any], text: str) -> None:
    """Of every workload, batch and dtype: the slowest and the fastest way for ids to fall."""
    told = {(one["workload"], one["batch"], one["dtype"]): one for one in found["distributions"]}
    assert len(told) == len(found["distributions"])
    assert set(told) == {(name, size, dtype) for name in TINY for size in TINY[name].batches for dtype in DTYPES}
    for (name, size, dtype), one in told.items():
        us = {
            row["ids"]: row["ours"]["us"]
            for row in found["rows"]
            if (row["workload"], row["batch"], row["dtype"], row["threads"]) == (name, size, dtype, 1)
        }
        slowest, fastest = max(us.values()), min(us.values())
        assert (one["slowest"]["us"], us[one["slowest"]["ids"]]) == (slowest, slowest)
        assert (one["fastest"]["us"], us[one["fastest"]["ids"]]) == (fastest, fastest)
        assert one["ratio"] == pytest.approx(slowest / fastest, abs=0.001)
        if dtype == "fp32":
            assert f"{one['ratio']:.2f} ×" in text
    assert "how much it matters how ids fall" in text


def written(found: dict[str, Any], text: str, arguments: list[str]) -> None:
    """The markdown has a line for each workload, batch and way that ids fall, and says how it was made."""
    assert f"\nrecsys bench lookup {' '.join(arguments)}\n" in text
    lines = [line for line in text.splitlines() if line.startswith(("| zipf |", "| trace |", "| equal |"))]
    assert len(lines) == 3 * sum(len(case.batches) for case in TINY.values())
    for row in found["rows"]:
        if (row["threads"], row["dtype"]) == (1, "fp32"):
            assert f"| {row['ids']} | {row['batch']} | {row['ours']['us']:,.1f} |" in text
    assert all(f"\n### {name}\n" in text for name in TINY)


@needs_kernels
def test_it_runs_without_optional_peers_and_without_a_profile(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unknown() -> Platform:
        raise ConfigError("not measured")

    monkeypatch.setattr(platform, "here", unknown)
    monkeypatch.setattr(lookup_peers, "_has", lambda module: False)
    arguments = ["--only", "bags", "--batch", "3", "--ids", "uniform", "--seconds", "0.01"]
    assert app.main(["bench", "lookup", *arguments]) == 0
    *people, last = capsys.readouterr().out.splitlines()
    found, text = json.loads(last), "\n".join(people)
    assert set(found["absent"]) == set(OPTIONAL)
    assert found["distributions"] == []  # ids fell in one way
    assert "how much it matters" not in text
    assert all(f"absent: {name}; it runs after `{command}`" in text for name, command in found["absent"].items())
    for row in found["rows"]:
        assert (row["batch"], row["bound_us"], row["share_of_bound"]) == (3, None, None)
        assert {peer["name"] for peer in row["peers"]} <= {"torch-embedding-bag", "torch-loop"}


def test_what_cannot_be_measured_is_said() -> None:
    with pytest.raises(ConfigError, match="no such workload as `one`: did you mean `ones`"):
        measure(["one"])
    for sizes, seconds in (([0], 1.0), ([], 0.0), ([], float("nan"))):
        with pytest.raises(ConfigError, match="expected batches of 1 or more and more than 0 seconds"):
            measure([], sizes, (), seconds)


def test_tables_that_do_not_fit_are_refused_before_anything_is_allocated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookup_rig, "available_memory", lambda: 10_000)
    monkeypatch.setattr(lookup_rig, "allocate", lambda size: pytest.fail("allocated"))
    with pytest.raises(ConfigError, match="the tables of `odd`, ours and the peers', need"):
        Rig(made(((1, 1.0),)), "stock")


# --- do the peers do the job?


@needs_kernels
@pytest.mark.parametrize("kind", ["stock", "tuned"])
@pytest.mark.parametrize("bags", [((1, 1.0),), ((0, 0.2), (1, 0.3), (5, 0.5))], ids=["ones", "bags"])
def test_everybody_gives_what_the_reference_gives(
    kind: Literal["stock", "tuned"], bags: tuple[tuple[int, float], ...]
) -> None:
    workload = made(bags)
    rig = Rig(workload, kind)
    single = len(bags) == 1
    contenders = peers(rig.given, kind, single)
    assert {one.name for one in contenders} >= {"torch-embedding-bag", *(ONE if single else set())}
    for size in (1, 5, 64):
        ids = batch(workload, size, np.random.default_rng(size), torch.int32)
        with torch.no_grad():
            lookup._check(rig, contenders, ids)


def test_a_wrong_result_is_noticed() -> None:
    workload = made(((1, 1.0),))
    rig = Rig(workload, "tuned")
    (right, *_) = peers(rig.given, "tuned", single=True)
    wrong = Contender("shifted", "tuned", "int8", right.prepare, lambda ids: right.run(ids).roll(1, dims=0))
    ids = batch(workload, 8, np.random.default_rng(0), torch.int32)
    with pytest.raises(AssertionError, match="shifted"):
        lookup._check(rig, [right, wrong], ids)


def test_recycled_memory_does_without_glibc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    with recycled():
        pass


# --- the rig


def test_rotations_hold_enough_ids_and_fall_as_told() -> None:
    workload = with_ids(TINY["bags"].workload(), "equal")
    each = sum(lookup.ids.mean for lookup in workload.lookups)
    for size, rotation in rotations(workload, (1, 4, 256)):
        assert len(rotation) == max(8, -(-1000 // (size * each)))
        assert all(one.size == size and one.values.dtype is torch.int32 for one in rotation)
        values, _, _ = rotation[0].feature(0)
        assert (values == values[0]).all()


@pytest.mark.parametrize("name", ["ones", "bags"])
def test_trace_ids_fall_as_in_production_in_bags_of_their_own(name: str) -> None:
    workload = TINY[name].workload()
    changed = with_ids(workload, "trace")
    (published,) = Workload.find("trace-medium").lookups
    for before, after in zip(workload.lookups, changed.lookups, strict=True):
        assert after.ids.bags == before.ids.bags
        assert (after.ids.distribution, after.ids.hot) == ("measured", published.ids.hot)
        assert after.ids.unique == ()  # counted in other bags
    assert changed.tables == workload.tables


@pytest.mark.parametrize("rows", [1, 2, 7, 300, 50_000, 800_000])
def test_trace_ids_fit_tables_of_any_size(rows: int) -> None:
    workload = Workload(
        name="one", tables=(WorkloadTable(name="t", rows=rows, dim=1),), lookups=(WorkloadLookup(name="t", table="t"),)
    )
    (found,) = with_ids(workload, "trace").lookups
    values = batch(with_ids(workload, "trace"), 20_000, np.random.default_rng(0)).values.numpy()
    assert 0 <= values.min() <= values.max() < rows
    for n in {1, -(-rows // 4), rows}:
        share = np.isin(values, scatter(np.arange(n), rows)).mean()
        assert share == pytest.approx(float(hottest(found.ids, rows, np.array([n]))[0]), abs=0.02)


def test_big_batches_are_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookup_rig, "_MOST", 100)
    ((_, rotation),) = rotations(made(((1, 1.0),)), (64,))
    assert len(rotation) == 2


def test_the_bound_counts_the_rows_of_a_batch() -> None:
    assert bound_us(made(((1, 1.0),)), 10, "fp32", stub(50.0)) == pytest.approx(4 * 10 * 50 / 1e3)
    assert bound_us(made(((4, 1.0),)), 10, "int8", stub(50.0)) == pytest.approx(4 * 10 * 4 * 25 / 1e3)


def test_turns_give_everybody_fresh_batches() -> None:
    ids = [batch(made(((1, 1.0),)), 2, np.random.default_rng(k)) for k in range(5)]
    prepared: list[int] = []
    ran: list[int] = []

    def contender(name: str) -> Contender:
        def prepare(given: object) -> int:
            prepared.append(next(k for k, one in enumerate(ids) if one is given))
            return prepared[-1]

        def run(k: int) -> torch.Tensor:
            ran.append(k)
            return torch.zeros(0)

        return Contender(name, "stock", "fp32", prepare, run)

    figures = Turns(ids).take([contender("a"), contender("b")], 0.001)
    assert all(figure.cpu > 0 and figure.wall > 0 for figure in figures)
    assert prepared == ran == [k % 5 for k in range(len(ran))]
