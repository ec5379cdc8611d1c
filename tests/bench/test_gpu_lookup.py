"""A tiny run of the GPU's look-up benchmark, by Triton's interpreter where there is no GPU; nobody's time is judged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from recsys.bench import gpu_lookup, gpu_rig, gpu_timing, gpu_tune
from recsys.bench.dataflow import with_ids
from recsys.bench.gpu_peers import ours
from recsys.bench.gpu_rig import GpuRig, drawn
from recsys.bench.gpu_timing import Figure, in_turn
from recsys.bench.gpu_tune import candidates, tune
from recsys.bench.lookup_rig import Case
from recsys.cli import app
from recsys.dataflow.kernels.gpu import blocks
from recsys.dataflow.kernels.gpu import rows as gpu_rows
from recsys.dataflow.kernels.gpu.blocks import Shapes
from recsys.dataflow.kernels.gpu.kernels import GpuKernels
from recsys.dataflow.workload import Ids, Workload, WorkloadLookup, WorkloadTable
from recsys.errors import ConfigError


def workload(dim: int, bag: int) -> Workload:
    """Two tables of odd sizes; the second is read twice."""
    ids = Ids(bags=((1, 0.5), (bag, 0.5)) if bag > 1 else ((1, 1.0),))
    tables = tuple(WorkloadTable(name=f"t{rows}", rows=rows, dim=dim) for rows in (3001, 7))
    reads = (("a", "t3001"), ("b", "t7"), ("c", "t7"))
    return Workload(
        name="tiny",
        about="Made up.",
        tables=tables,
        lookups=tuple(WorkloadLookup(name=name, table=table, ids=ids) for name, table in reads),
    )


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, device: torch.device) -> torch.device:
    cases = {}
    for name, one, batches in (("ones", workload(16, 1), (1, 4)), ("bags", workload(64, 3), (4,))):
        (tmp_path / f"{name}.toml").write_text(one.toml())
        cases[name] = Case(str(tmp_path / f"{name}.toml"), batches=batches)
    for module in (gpu_lookup, gpu_tune):
        monkeypatch.setattr(module, "WORKLOADS", cases)
        monkeypatch.setattr(module, "the_gpu", lambda: device)
    monkeypatch.setattr(gpu_timing, "_COPIED", 1 << 16)
    monkeypatch.setattr(gpu_timing, "_ROUNDS", 1)
    monkeypatch.setattr(gpu_rig, "_SETS", 2)
    return device


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody looks first how often graphs can be replayed in a turn."""
    monkeypatch.setattr(gpu_timing, "_passes", lambda *_: 1)


def test_everybody_is_measured_checked_beside_checked(
    tiny: torch.device, brief: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "R.md"
    words = ["--device", "cuda", "--ids", "zipf", "equal", "--seconds", "0.001", "--results", str(results)]
    assert app.main(["bench", "lookup", *words]) == 0
    *people, last = capsys.readouterr().out.splitlines()
    found, text = json.loads(last), "\n".join(people)
    assert found["bench"] == "lookup-gpu"
    assert found["ceilings"]["copy_tbs"] > 0
    cells = {(row["workload"], row["ids"], row["batch"], row["dtype"]) for row in found["rows"]}
    kinds = [("ones", 1, "fp16"), ("ones", 4, "fp16"), ("bags", 4, "fp16"), ("bags", 4, "int8")]
    assert cells == {(name, ids, size, dtype) for name, size, dtype in kinds for ids in ("zipf", "equal")}
    for row in found["rows"]:
        told(row, found["ceilings"]["copy_tbs"], text)
    assert len(found["distributions"]) == len(kinds)
    if tiny.type == "cpu":
        assert found["absent"] == {"fbgemm_gpu": "python -m recsys.install"}
        assert "absent: fbgemm_gpu; it runs after" in text
    assert f"\nrecsys bench lookup --ids zipf equal --seconds 0.001 --device cuda --results {results}\n" in (
        results.read_text()
    )


def told(row: dict[str, Any], copy_tbs: float, text: str) -> None:
    """A row of the account adds up."""
    mine = row["ours"]
    assert 0 < mine["low_us"] <= mine["us"] <= mine["high_us"]
    assert f"{mine['us']:,.1f}" in text
    assert row["bound_us"] == pytest.approx(row["counted_bytes"] / copy_tbs / 1e6, abs=0.001)
    assert row["share_of_bound"] == pytest.approx(row["bound_us"] / mine["us"], abs=0.001)
    of = {peer["class"]: peer["us"] for peer in row["peers"]}
    for kind, us in (("stock", mine["us"]), ("tuned", mine["unchecked_us"])):
        assert row[f"ratio_{kind}"] == (pytest.approx(of[kind] / us, rel=0.01) if kind in of else None)
    assert (row["ratio_fp16"] is None) == (row["dtype"] == "fp16")


def test_a_wrong_sum_is_found_before_anything_is_timed(tiny: torch.device) -> None:
    rig = GpuRig(workload(16, 3), ("fp16",), tiny, peers=False)
    ids, *_ = drawn(rig.workload, 4, tiny)
    x = torch.empty(4, rig.width, dtype=torch.float16, device=tiny)
    one = ours(GpuKernels(rig.slots("fp16"), tiny), "fp16", True, x, torch.zeros(1, dtype=torch.int32, device=tiny))
    rig.check("right", "fp16", ids, one.run(ids))
    x[2, 40] += 0.1
    with pytest.raises(AssertionError, match=r"shifted \(fp16\) is off by 0\.[01]\d* in look-up 2"):
        rig.check("shifted", "fp16", ids, x)


def test_tables_lie_on_lines_of_their_own_and_begin_with_other_rows(tiny: torch.device) -> None:
    rig = GpuRig(workload(64, 3), ("fp16", "int8"), tiny, peers=True)
    assert {dtype: one.row for dtype, one in rig.rows.items()} == {"fp16": 128, "int8": 72}
    assert {dtype: one.row for dtype, one in rig.fbgemm.items()} == {"fp16": 128, "int8": 80}
    assert rig.fbgemm["fp16"] is rig.rows["fp16"]
    assert all(start % 128 == 0 for one in (*rig.rows.values(), *rig.fbgemm.values()) for start in one.starts)
    first, second, third = rig.slots("fp16")
    assert first.rows.device is not None
    assert second.rows.device is not None
    assert second.rows is third.rows
    assert not torch.equal(first.rows.device[:7], second.rows.device)
    for slot in rig.slots("fp16")[:2]:
        assert slot.rows.device is not None
        assert slot.rows.device.shape == (slot.rows.rows, 64)


def test_bytes_are_counted_of_tables_that_the_cache_cannot_hold(tiny: torch.device) -> None:
    rig = GpuRig(workload(16, 1), ("fp16",), tiny, peers=False)
    ids, *_ = drawn(with_ids(rig.workload, "equal"), 4, tiny)
    rest = 3 * 4 * 4 + 4 * 48 * 2  # ids and output
    assert rig.counted_bytes(ids, "fp16", 1 << 20) == rest
    assert rig.counted_bytes(ids, "fp16", 3001 * 32) == rest + 32
    bags = GpuRig(workload(16, 3), ("fp16",), tiny, peers=False)
    ids, *_ = drawn(bags.workload, 4, tiny)
    distinct = len(set(ids.feature(0)[0].tolist()))
    counted = 32 * distinct + 4 * len(ids.values) + 4 * 13 + 4 * 48 * 2
    assert bags.counted_bytes(ids, "fp16", 3001 * 32) == counted


def test_tables_that_do_not_fit_are_refused(tiny: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_rig, "free_bytes", lambda device: 1000)
    with pytest.raises(ConfigError, match=r"tables of `tiny`, ours and FBGEMM's, need 0.0 GB on c"):
        GpuRig(workload(16, 1), ("fp16",), tiny, peers=False)
    assert gpu_rows.free_bytes(tiny) > 0


def test_without_a_gpu_one_sentence_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert app.main(["bench", "lookup", "--device", "cuda"]) == 2
    assert "--device cuda needs a GPU, and torch " in capsys.readouterr().err


def test_tuning_finds_shapes_that_the_table_can_have(
    tiny: torch.device, brief: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, few in (("_SHORT", (1, 4)), ("_LONG", (2,)), ("_LANES", (4,)), ("_WARPS", (1,)), ("_FINAL", 1)):
        monkeypatch.setattr(gpu_tune, name, few)
    found = [*tune("ones", (1, 4), ids=["zipf"], seconds=1e-6), *tune("bags", (4,), ["int8"], ["zipf"], seconds=1e-6)]
    assert [(one.dim, one.dtype, one.single, one.batch) for one in found] == [
        (16, "fp16", True, 1),
        (16, "fp16", True, 4),
        (64, "int8", False, 4),
    ]
    assert (found[-1].shapes.long, found[-1].shapes.lanes) == (2, 4)
    lines = capsys.readouterr().out.splitlines()
    assert [eval(line.partition(",  #")[0], vars(blocks)) for line in lines] == found


@pytest.mark.parametrize(("dim", "batch"), [(16, 1), (64, 8192), (128, 16_384), (200, 3)])
def test_shapes_that_are_tried_fill_a_program_and_do_not_overfill_it(dim: int, batch: int) -> None:
    for single in (True, False):
        tried = list(candidates(dim, batch, Shapes(short=8), single))
        assert len(tried) == len(set(tried)) > 0
        for one in tried:
            tile = one.short if single else one.long * one.lanes
            width = 1 << (dim - 1).bit_length()
            assert (32 * one.warps if one.warps > 1 else 0) <= tile * width <= 32 * one.warps * 128
            assert max(one.short if single else one.long, 1) < 2 * batch


def test_turns_replay_every_graph_as_often(tiny: torch.device) -> None:
    ran: list[int] = []
    graphs = [[lambda k=k: ran.append(k) for k in part] for part in ((0, 1), (2, 3))]
    figures = in_turn(graphs, 1e-9, torch.device("cpu"))
    assert all(isinstance(one, Figure) and 0 < one.low <= one.us <= one.high for one in figures)
    assert len({ran.count(k) for k in range(4)}) == 1
