"""Run plans: what the cost model predicted beside what was measured, for every piece, and other plans beside ours.

The tables of a workload are made up, its ids drawn as its statistics say. Every batch is a new one, since one that was
just looked up would be found in the caches. Plans take turns: planned, and symmetric ones (every core does all look-ups
for its share of the batch) on 1, 2, 4, … cores. FBGEMM runs after them, at as many thread counts: its threads keep
their cores busy for a while.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from recsys.bench.card import machine
from recsys.data.batch import JaggedIds
from recsys.dataflow.cost import CostModel
from recsys.dataflow.ids import batch as draw
from recsys.dataflow.kernels.cpu import CpuKernels
from recsys.dataflow.kernels.fbgemm import FbgemmKernels, installed
from recsys.dataflow.kernels.reference import Slot, look_up
from recsys.dataflow.plan import DataFlowPlan, Piece, Schedule
from recsys.dataflow.planner import plan, symmetric
from recsys.dataflow.platform import Platform, read_cores
from recsys.dataflow.storage import Rows, allocate, quantise
from recsys.dataflow.workload import Ids, Workload, WorkloadTable, refuse_too_big
from recsys.errors import ConfigError
from recsys.threads import torch_threads

__all__ = ["Distribution", "check", "copied", "measure", "rig", "with_ids"]

Distribution = Literal["as it is", "zipf", "uniform", "equal", "trace"]

_BLOCK = 9973
"""Rows of a table that are made; they are repeated. A prime, so that an address off by a power of two is found out."""
_IDS = 8_000_000
"""Ids that are drawn for a workload and batch size, at most, unless a few batches need more."""
_TURN = 6, 48
"""Fewest and most batches that a plan runs before it is another's turn. The first third of these is not counted: each
plan leaves rows and output in the caches of other cores."""
_TURNS = 2, 24
"""Fewest and most turns of each plan."""
_CALLS = 36
"""Of FBGEMM, at each thread count."""
_ALONE_US = 1.0
"""Of shorter pieces the clock is a large part: they are shown, and not counted as errors."""
_GAP_NS = 100_000
"""Between batches: a model computes before it looks up again, and threads that wait for work fall asleep."""


def with_ids(workload: Workload, distribution: Distribution) -> Workload:
    """The same with other ids: how many a bag holds stays. `trace`: as ids from production fall, see `trace-medium`."""
    if distribution == "as it is":
        return workload
    ids = _trace() if distribution == "trace" else Ids(distribution=distribution)
    changed = [
        lookup.model_copy(update={"ids": ids.model_copy(update={"bags": lookup.ids.bags})})
        for lookup in workload.lookups
    ]
    return workload.model_copy(update={"lookups": tuple(changed)})


def _trace() -> Ids:
    """The hot-row curve of real ids; how many of them were distinct was counted in bags of other lengths."""
    (lookup,) = Workload.find("trace-medium").lookups
    return lookup.ids.model_copy(update={"unique": ()})


def rig(workload: Workload) -> tuple[list[Slot], int]:
    """Slots over made-up tables on huge pages, and the columns that they fill.

    Raises:
        ConfigError: When the tables do not fit into memory; nothing is allocated then.
    """
    refuse_too_big(workload)
    memory, _ = allocate(sum(_lines(table) for table in workload.tables))
    tables, at = {}, 0
    for table in workload.tables:
        tables[table.name] = _filled(memory[at : at + table.rows * table.row_bytes], table)
        at += _lines(table)
    slots, column = [], 0
    for k, lookup in enumerate(workload.lookups):
        pooling: Literal["sum", "mean"] = "mean" if lookup.pooling == "mean" else "sum"
        slots.append(Slot(lookup.name, k, tables[lookup.table], column, pooling))
        column += tables[lookup.table].dim
    return slots, column


def _lines(table: WorkloadTable) -> int:
    """Bytes of the lines that its rows take."""
    return -(-table.rows * table.row_bytes // 64) * 64


def _filled(memory: Tensor, table: WorkloadTable) -> Rows:
    block = torch.rand(min(table.rows, _BLOCK), table.dim, generator=torch.Generator().manual_seed(0))
    stored = quantise(block) if table.dtype == "int8" else block.half() if table.dtype == "fp16" else block
    rows = memory.view(stored.dtype).view(table.rows, -1)
    for part in torch.split(rows, len(stored)):
        part.copy_(stored[: len(part)])
    return Rows(rows, table.dim, table.dtype)


def measure(
    workloads: Sequence[Workload],
    platform: Platform,
    cores: int | None = None,
    batches: Sequence[int] = (),
    ids: Sequence[Distribution] = ("as it is", "equal"),
) -> dict[str, Any]:
    """Plan and run each workload.

    Args:
        workloads: Their tables must fit into memory, one workload at a time.
        platform: Of this machine.
        cores: How many to plan for; by default all of the platform's that this process has.
        batches: By default each workload's own.
        ids: Which distributions to draw.

    Raises:
        ConfigError: For more cores than there are, or tables that do not fit.
    """
    most = min(len(platform.cores), len(read_cores()))
    cores = most if cores is None else cores
    if not 0 < cores <= most:
        raise ConfigError(f"expected 1 to {most} cores, as many as the platform and this process have, got {cores}")
    for workload in workloads:
        refuse_too_big(workload)
    with torch_threads(1):
        rows = [row for workload in workloads for row in _workload(workload, platform, cores, batches, ids)]
    pieces = [piece for row in rows for piece in row["pieces"]]
    counted = [one for one in pieces if max(one["us"], one["predicted_us"]) >= _ALONE_US]
    summary = {"pieces": len(pieces), "pieces_counted": len(counted), **_errors("", counted), **_errors("_plan", rows)}
    about = {"machine": machine(["fbgemm-gpu-cpu"]), "platform": platform.fingerprint}
    return {"bench": "dataflow", **about, **summary, "rows": rows}


def _errors(kind: str, found: Sequence[dict[str, Any]]) -> dict[str, float | None]:
    """How far predictions are off what was measured; None where there is nothing to tell."""
    off = [abs(one["predicted_us"] / max(one["us"], 1e-3) - 1) for one in found]
    of: dict[str, Callable[[list[float]], float]] = {"median": statistics.median, "worst": max}
    return {f"{name}{kind}_error": _rounded(tell(off)) if off else None for name, tell in of.items()}


def _workload(
    workload: Workload, platform: Platform, cores: int, batches: Sequence[int], ids: Sequence[Distribution]
) -> Iterator[dict[str, Any]]:
    slots, width = rig(workload)
    sizes = batches or workload.batch_sizes
    with tqdm(total=len(ids) * len(sizes), desc=workload.name, unit="run", disable=None) as bar:
        for distribution in ids:
            drawn = with_ids(workload, distribution)
            for size in sizes:
                yield {
                    "workload": workload.name,
                    "ids": distribution,
                    **_run(drawn, slots, width, platform, cores, size),
                }
                bar.update()


def _run(
    workload: Workload, slots: Sequence[Slot], width: int, platform: Platform, cores: int, size: int
) -> dict[str, Any]:
    costs = CostModel(workload, platform)
    plans = {"planned": plan(workload, costs, cores, [size])}
    planned = plans["planned"].schedules[0]
    others = {count: symmetric(workload, costs, count, size) for count in _counts(min(cores, size))}
    same = [count for count, one in others.items() if _work(one.schedules[0]) == _work(planned)]
    plans |= {f"{count}": one for count, one in others.items() if count not in same}
    order = [core.cpu for core in read_cores()]
    kernels = {name: _kernels(slots, one, order) for name, one in plans.items()}
    timed = _kernels(slots, plans["planned"], order, timed=True)
    x = torch.zeros(size, width)
    turn, drawn = _draw(workload, size, len(kernels) + 1)
    check(slots, drawn[0], kernels, x)
    pieces: list[list[int]] = []

    def time_pieces(ids: JaggedIds) -> None:
        pieces.append(timed.times(ids, x))

    runs: dict[str, Callable[[JaggedIds], object]] = {name: partial(_look_up, one, x) for name, one in kernels.items()}
    runs["pieces"] = time_pieces
    us = _interleaved(runs, drawn, turn)
    us |= {f"{count}": us["planned"] for count in same}
    wake = costs.wake_us(len(_used(planned)))  # as predicted; it is no piece's
    symmetric_us, on = min((us[f"{count}"], count) for count in others)
    return {
        "batch": size,
        "cores": cores,
        "predicted_us": round(planned.predicted_us, 2),
        "us": us["planned"],
        "bound_us": round(planned.bound_us, 2),
        "symmetric_us": symmetric_us,
        "symmetric_cores": on,
        "one_core_us": us["1"],
        "ratio_symmetric": _rounded(symmetric_us / us["planned"]),
        **_fbgemm(slots, drawn, cores),
        "pieces": _pieces(planned, _warm(pieces, turn), us["planned"] - min(wake, us["planned"] / 2)),
    }


def copied(ids: JaggedIds) -> JaggedIds:
    """The same in new memory, as ids that have just been made."""
    parts = (None if part is None else part.clone() for part in (ids.offsets, ids.weights))
    return JaggedIds(ids.features, ids.values.clone(), *parts)


def _work(schedule: Schedule) -> list[Piece]:
    """What is done where, whatever it is predicted to take."""
    return [piece.model_copy(update={"predicted_us": 0.0}) for piece in schedule.pieces]


def _counts(cores: int) -> list[int]:
    """1, 2, 4, … and all."""
    return sorted({min(1 << k, cores) for k in range(cores.bit_length() + 1)})


def _fbgemm(slots: Sequence[Slot], drawn: Sequence[JaggedIds], cores: int) -> dict[str, Any]:
    """Median µs of FBGEMM's own kernel at its best thread count, where it is installed and reads rows of the dtypes.

    It does not check ids, nor divide sums where means are asked for.
    """
    if not installed() or any(slot.rows.dtype == "int8" for slot in slots):
        return {"fbgemm_us": None, "fbgemm_threads": None}
    kernels, found = FbgemmKernels(slots), []
    for count in _counts(cores):
        times = []
        with torch_threads(count):
            for ids in drawn[:_CALLS]:
                _busy(_GAP_NS)
                new = copied(ids)
                offsets = new.full_offsets()
                start = time.perf_counter_ns()
                kernels.sums(new.values, offsets, new.weights)
                times.append((time.perf_counter_ns() - start) / 1e3)
        found.append((round(statistics.median(times[_CALLS // 3 :]), 2), count))
    us, best = min(found)
    return {"fbgemm_us": us, "fbgemm_threads": best}


def _look_up(kernels: CpuKernels, x: Tensor, ids: JaggedIds) -> int:
    return kernels.look_up(ids, x)


def _kernels(slots: Sequence[Slot], made: DataFlowPlan, order: Sequence[int], timed: bool = False) -> CpuKernels:
    return CpuKernels(slots, cpus=order[: max(_used(made.schedules[0])) + 1], schedules=made.schedules, timed=timed)


def _draw(workload: Workload, size: int, plans: int) -> tuple[int, list[JaggedIds]]:
    """Batches of a turn, and the batches of all turns of so many plans."""
    ids = max(1.0, size * sum(lookup.ids.mean for lookup in workload.lookups))
    each = _IDS / ids / plans
    turn = int(np.clip(each / _TURNS[1], *_TURN))
    turns = int(np.clip(each / turn, *_TURNS))
    count, rng = turn * turns * plans, np.random.default_rng(0)
    if count * ids > 2 * _IDS:  # they are large, and would lie in memory twice
        return turn, [draw(workload, size, rng) for _ in range(count)]
    drawn = draw(workload, size * count, rng)
    return turn, [drawn.take(torch.arange(k * size, (k + 1) * size)) for k in range(count)]


def check(slots: Sequence[Slot], ids: JaggedIds, kernels: dict[str, CpuKernels], x: Tensor) -> None:
    """Every plan gives what the reference gives."""
    expected = torch.zeros_like(x)
    look_up(slots, ids, expected)
    for one in kernels.values():
        one.look_up(ids, x.zero_())
        torch.testing.assert_close(x, expected, rtol=1e-4, atol=1e-4)


def _interleaved(
    runs: dict[str, Callable[[JaggedIds], object]], drawn: Sequence[JaggedIds], turn: int
) -> dict[str, float]:
    """Median µs of each, over batches that take turns by `turn`; the first ones of a turn only warm up."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    names = list(runs)
    for k, ids in enumerate(drawn):
        name = names[k // turn % len(names)]
        _busy(_GAP_NS)
        ids = copied(ids)
        start = time.perf_counter_ns()
        runs[name](ids)
        found[name].append((time.perf_counter_ns() - start) / 1e3)
    return {name: round(statistics.median(_warm(times, turn)), 2) for name, times in found.items()}


_Time = TypeVar("_Time")


def _warm(times: Sequence[_Time], turn: int) -> list[_Time]:
    """Those of the later part of each turn, without the first turns."""
    kept = [one for k, one in enumerate(times) if k % turn >= turn // 3]
    return kept[len(kept) // 3 :]


def _busy(ns: int) -> None:
    until = time.perf_counter_ns() + ns
    while time.perf_counter_ns() < until:
        pass


def _pieces(planned: Schedule, times: Sequence[Sequence[int]], us: float) -> list[dict[str, Any]]:
    """What each piece took, of batches that were timed piece by piece.

    Apart from each other pieces take longer than in one go. So each counts as much less as makes all of them together
    take what the cores took for the plan as a whole: `us` each, since those that are done help the others.
    """
    apart = [statistics.median(one) / 1e3 for one in zip(*times, strict=True)]
    share = us * len(_used(planned)) / sum(apart)
    return [
        {
            "lookup": piece.lookup,
            "core": piece.core,
            "strategy": piece.strategy,
            "predicted_us": round(piece.predicted_us, 3),
            "us": round(one * share, 3),
        }
        for piece, one in zip(planned.pieces, apart, strict=True)
    ]


def _used(planned: Schedule) -> set[int]:
    """Cores that have work."""
    return {piece.core for piece in planned.pieces}


def _rounded(value: float) -> float:
    return round(value, 4)
