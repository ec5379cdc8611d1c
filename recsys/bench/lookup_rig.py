"""What a look-up benchmark runs on: made-up tables, batches of ids in turn, and what the machine could do at best.

The rows are a block of random ones, repeated: a number of them that is prime, so that an address that is off by a
power of two is found out.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from recsys.bench.lookup_peers import Contender, Given, fbgemm_int8
from recsys.config import nearest
from recsys.data.batch import JaggedIds
from recsys.dataflow.ids import batch as draw
from recsys.dataflow.ids import curve
from recsys.dataflow.kernels.reference import Slot
from recsys.dataflow.platform import Platform
from recsys.dataflow.storage import Rows, allocate, quantise
from recsys.dataflow.workload import BATCH_SIZES, Dtype, Workload
from recsys.errors import ConfigError
from recsys.machine import available_memory

__all__ = ["Case", "Figure", "Rig", "Turns", "bound_us", "chosen", "rotations"]

_BLOCK = 99_991
"""Rows that are made."""
_IDS, _BATCHES, _MOST = 1_000_000, 8, 20_000_000
"""Ids that the batches of one size hold, at least; how many batches there are, at least; but no more ids than that."""
_ROUNDS = 3, 7
"""Turns of each, at least and at most."""
_CALLS = 4096
"""Batches of a turn, at most."""
_PAGE = 4096


@dataclass(frozen=True)
class Case:
    """A published workload, perhaps cut so that all rows fit into memory, and its batch sizes."""

    published: str
    dim: int | None = None
    cap: int | None = None
    batches: tuple[int, ...] = BATCH_SIZES

    def workload(self) -> Workload:
        """Its tables and look-ups."""
        found = Workload.find(self.published)
        found = found if self.dim is None else found.with_dim(self.dim)
        return found if self.cap is None else found.cap(self.cap)


def chosen(cases: Mapping[str, Case], only: Sequence[str], batches: Sequence[int], seconds: float) -> list[str]:
    """The names of the cases to measure: `only` these; none means all.

    Raises:
        ConfigError: For an unknown case, or sizes or seconds that cannot be.
    """
    for name in only:
        if name not in cases:
            raise ConfigError(f"no such workload as `{name}`: {nearest(name, list(cases))}")
    if min([1, *batches]) < 1 or not seconds > 0:
        raise ConfigError(f"expected batches of 1 or more and more than 0 seconds, got {list(batches)} and {seconds:g}")
    return list(only or cases)


class Rig:
    """The tables of a workload, for us and for peers.

    Args:
        workload: Its tables have one dim.
        kind: The peers' rows lie in memory as torch gets it, or on huge pages as ours do; where they are stored as ours
            are, these then are ours.

    Raises:
        ConfigError: When they do not fit into memory; nothing is allocated then.
    """

    def __init__(self, workload: Workload, kind: Literal["stock", "tuned"]) -> None:
        self.workload = workload
        self.sizes = [table.rows for table in workload.tables]
        self.dim = workload.tables[0].dim
        self.width = self.dim * len(workload.lookups)
        block = torch.rand(_BLOCK, self.dim, generator=torch.Generator().manual_seed(0)) * 2 - 1
        ours: dict[Dtype, Tensor] = {"fp32": block, "fp16": block.half(), "int8": quantise(block)}
        theirs: dict[Dtype, Tensor] = {**ours, "int8": fbgemm_int8(block)}
        made = [*ours.values(), *theirs.values()] if kind == "stock" else [*ours.values(), theirs["int8"]]
        self._refuse_too_big(sum(one[0].nbytes for one in made))
        self.rows = {dtype: self._filled(one, huge=True) for dtype, one in ours.items()}
        if kind == "stock":
            peers = {dtype: self._filled(one, huge=False) for dtype, one in theirs.items()}
        else:
            peers = {**self.rows, "int8": self._filled(theirs["int8"], huge=True)}
        self.given = Given(self.sizes, peers)
        for rows in (*self.rows.values(), *peers.values()):  # a virtual machine's host may have put away the first ones
            rows.view(torch.uint8).view(-1)[::_PAGE].sum()

    def _refuse_too_big(self, row_bytes: int) -> None:
        need, there = row_bytes * sum(self.sizes), available_memory()
        if need > there:
            raise ConfigError(
                f"the tables of `{self.workload.name}`, ours and the peers', need {need / 1e9:.1f} GB and "
                f"{there / 1e9:.1f} GB are available: name other workloads with --only"
            )

    def _filled(self, block: Tensor, huge: bool) -> Tensor:
        """All rows, in one piece: the block, repeated."""
        count = sum(self.sizes)
        if huge:
            rows = allocate(count * block[0].nbytes)[0].view(block.dtype).view(count, -1)
        else:
            rows = torch.empty(count, block.shape[1], dtype=block.dtype)
        for part in torch.split(rows, _BLOCK):
            part.copy_(block[: len(part)])
        return rows

    def slots(self, dtype: Dtype) -> list[Slot]:
        """All look-ups of our rows, one beside the other."""
        tables = dict(
            zip((t.name for t in self.workload.tables), torch.split(self.rows[dtype], self.sizes), strict=True)
        )
        return [
            Slot(lookup.name, k, Rows(tables[lookup.table], self.dim, dtype), k * self.dim)
            for k, lookup in enumerate(self.workload.lookups)
        ]


def rotations(workload: Workload, sizes: tuple[int, ...]) -> Iterator[tuple[int, list[JaggedIds]]]:
    """For each batch size the batches that everybody looks up in turn, cut from one draw.

    They hold a million ids at least and are eight at least; where these are more than 20 million, two at least.
    """
    each = sum(lookup.ids.mean for lookup in workload.lookups)
    counts = {size: _count(size * each) for size in sizes}
    drawn = draw(workload, max(size * count for size, count in counts.items()), np.random.default_rng(0), torch.int32)
    for size, count in counts.items():
        yield size, [drawn.take(torch.arange(k * size, (k + 1) * size)) for k in range(count)]


def _count(ids: float) -> int:
    most = max(2, int(_MOST / ids))
    return min(max(_BATCHES, -int(-_IDS // ids)), most)


@dataclass(frozen=True)
class Figure:
    """Median µs a batch, of the thread's processor time and of wall time."""

    cpu: float
    wall: float

    def to_json(self, by: Literal["cpu", "wall"]) -> dict[str, Any]:
        """`us` is what ratios are made from."""
        return {"us": round(getattr(self, by), 3), "wall_us": round(self.wall, 3)}


class Turns:
    """Contenders in turn, on the next batches of a rotation."""

    def __init__(self, rotation: Sequence[JaggedIds]) -> None:
        self._next = itertools.cycle(rotation)

    def take(self, contenders: Sequence[Contender], seconds: float) -> list[Figure]:
        """The medians of each, of turns that take about so long in all."""
        share = seconds / len(contenders) / _ROUNDS[1] * 1e6
        calls = [self._calls(one, share) for one in contenders]
        start, found = time.perf_counter(), []
        for k in range(_ROUNDS[1]):
            if k >= _ROUNDS[0] and time.perf_counter() - start > 2 * seconds:
                break
            found.append([self._turn(one, n) for one, n in zip(contenders, calls, strict=True)])
        return [_median(figures) for figures in zip(*found, strict=True)]

    def _calls(self, one: Contender, us: float) -> int:
        """How many batches take so long."""
        each = self._turn(one, 1).wall
        if each < us / 10:  # the first one may have been slow for once
            each = self._turn(one, 5).wall
        return min(max(1, round(us / each)), _CALLS)

    def _turn(self, one: Contender, calls: int) -> Figure:
        """So many batches. Those before them, half as many, bring back what others drove out of the caches."""
        warm = -(-calls // 2) if calls > 1 else 0
        batches = [one.prepare(next(self._next)) for _ in range(warm + calls)]
        run = one.run
        for batch in batches[:warm]:
            run(batch)
        wall, cpu = time.perf_counter(), time.thread_time()
        for batch in batches[warm:]:
            run(batch)
        cpu, wall = time.thread_time() - cpu, time.perf_counter() - wall
        return Figure(max(cpu, 1e-9) / calls * 1e6, wall / calls * 1e6)

    def p99(self, one: Contender, seconds: float) -> float:
        """µs of wall time that one batch in a hundred exceeds."""
        found: list[int] = []
        end = time.perf_counter() + seconds
        while len(found) < 10 or (len(found) < _CALLS and time.perf_counter() < end):
            batch = one.prepare(next(self._next))
            start = time.perf_counter_ns()
            one.run(batch)
            found.append(time.perf_counter_ns() - start)
        return round(float(np.quantile(found, 0.99)) / 1e3, 3)


def _median(figures: Sequence[Figure]) -> Figure:
    return Figure(statistics.median(f.cpu for f in figures), statistics.median(f.wall for f in figures))


def bound_us(workload: Workload, batch: int, dtype: Dtype, platform: Platform) -> float:
    """µs that a batch's rows take to come, if caches held the hottest rows of every table; writing them is not counted.

    ``Σ_lookups ids · Σ_j share_j · t(n_j · row bytes)``: the share of the ids that falls on rows of rank up to n_j is
    read from a working set of these, in the time t that the platform measured with our own kernels.
    """
    total = 0.0
    for lookup in workload.lookups:
        table = workload.table(lookup.table).model_copy(update={"dtype": dtype})
        n, shares = curve(lookup.ids, table.rows)
        read = platform.one_ns if lookup.ids.mean == 1 else platform.more_ns
        ns = read(table.row_bytes, n.astype(np.float64) * table.row_bytes)
        total += batch * lookup.ids.mean * float(np.diff(shares, prepend=0.0) @ ns)
    return total / 1e3
