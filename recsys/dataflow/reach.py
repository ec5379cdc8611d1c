"""How far back a core finds what it reads again: bytes gone through since, by the ids' statistics.

The ideas and formulas are in `recsys.dataflow.cost`, which turns distances into time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from recsys.dataflow.ids import grid, hottest
from recsys.dataflow.workload import WorkloadLookup, WorkloadTable

__all__ = ["ID_BYTES", "LINE", "LOG_SIZES", "ONE", "PAGE", "PAST", "SIZES", "Core", "Floats", "Known", "Work", "know"]

Floats = npt.NDArray[np.float64]

LINE, PAIR, PAGE, ID_BYTES = 64, 128, 4096, 8
"""Bytes; lines are fetched in pairs."""
PAST = 8 << 20
"""Bytes of an output that kernels of single ids write past the caches: kPast of native/gather.cpp."""
WALK = 8 * PAGE
"""Bytes of the pages whose entries in the page table share a line: one of them found, the others are near."""
POINTS = 24
"""Most steps of a hot-row curve."""
BLOCK = 64
"""Bags of one id that a kernel reads of one look-up before it goes on to the next, kBlock of native/gather.cpp; others
are read to the end."""

SIZES = np.geomspace(1 << 12, 1 << 38, 105)
"""Bytes back for which costs are told."""
LOG_SIZES = np.log(SIZES)

BATCHES = np.geomspace(1e-4, 1e8, 97)
"""How many batches ago, for which it is told what has been gone through since; the 33rd is one batch."""
LOG_BATCHES = np.log(BATCHES)
ONE = 32

QUANTILES = np.array([0.1, 0.3, 0.5, 0.7, 0.9])


@dataclass(frozen=True)
class Steps:
    """Equally hot places of a table, the hottest first: lines or pages.

    Attributes:
        share: [P] of the ids that falls on each step.
        rate: [P] hits of one place of each, a bag.
        bytes: [P] of all places of each.
    """

    share: Floats
    rate: Floats
    bytes: Floats

    LOG_X = np.linspace(np.log(1e-4), np.log(1e10), 160)

    @cached_property
    def _gone(self) -> Floats:
        gone = -np.expm1(-np.exp(self.LOG_X)[:, None] * self.rate)
        found: Floats = gone @ self.bytes
        return found

    def passed(self, bags: Floats) -> Floats:
        """D(x): bytes gone through in so many bags."""
        return np.interp(np.log(np.maximum(bags, 1e-300)), self.LOG_X, self._gone)


@dataclass(frozen=True)
class Known:
    """A look-up and its table, as the model needs them."""

    lookup: WorkloadLookup
    table: WorkloadTable
    single: bool
    """Whether every bag of the batch holds one id, unweighted: else those that do are looked up as bags."""
    lines: Steps
    pages: Steps

    @cached_property
    def ids(self) -> float:
        """Of a bag, on average."""
        return self.lookup.ids.mean

    @property
    def out_bytes(self) -> int:
        """Of a pooled row."""
        return self.table.dim * 4

    @property
    def ragged(self) -> bool:
        """Whether bags differ in length."""
        return len(self.lookup.ids.bags) > 1


def know(lookup: WorkloadLookup, table: WorkloadTable, single: bool) -> Known:
    """Steps of lines and of pages from a look-up's hot-row curve.

    Hot rows are scattered, so that each brings cold neighbours along: a line holds some rows, and a page is as hot as
    the hottest row in it and its part of all others.
    """
    ids = lookup.ids
    n = grid(table.rows, POINTS)
    share = _steps(hottest(ids, table.rows, n))
    lines = Steps(share, ids.mean * share / _steps(n), _steps(_touched(n, table)))
    count = max(1, -(-table.rows * table.row_bytes // WALK))
    p = grid(count, POINTS)
    hot = hottest(ids, table.rows, p)
    share = _steps(hot + (1 - hot) * p / count)
    pages = Steps(share, ids.mean * share / _steps(p), _steps(p) * WALK)
    return Known(lookup, table, single, lines, pages)


def _steps(sums: npt.NDArray[np.generic]) -> Floats:
    return np.diff(sums.astype(np.float64), prepend=0.0)


def _touched(n: npt.NDArray[np.int64], table: WorkloadTable) -> Floats:
    """Bytes of the pairs of lines in which n scattered rows lie."""
    rows = max(1.0, PAIR / table.row_bytes)  # of a pair
    part = 1 - (1 - n / table.rows) ** rows
    found: Floats = np.maximum.accumulate(part * max(table.rows / rows, 1.0) * max(PAIR, table.row_bytes))
    return found


class _Found:
    """Where the ids of a piece find their lines, or their pages: in a burst before, and in this one."""

    def __init__(self, steps: Steps, bags: int, burst: int, rows: float) -> None:
        self.gone = steps.passed(bags * BATCHES) * rows
        hits = np.maximum(steps.rate * burst, 1e-12)[:, None]
        first = -np.expm1(-hits) / hits
        within = -np.log1p(QUANTILES * np.expm1(-hits)) / hits * burst  # bags
        self._near = np.log(np.maximum(steps.passed(within) * rows, 1.0))
        self._again = steps.share[:, None] * (1 - first) / len(QUANTILES)
        ago = -np.log1p(-QUANTILES) / np.maximum(steps.rate * bags, 1e-12)[:, None]  # batches
        turn = burst / bags  # until it is this look-up's turn again
        self._before = _weights(np.log(np.maximum(ago, turn)), steps.share[:, None] * first / len(QUANTILES))
        self._within: dict[int, tuple[Floats, float]] = {}

    def mean(self, far: Floats, surface: Floats) -> float:
        """Mean ns of an id.

        Args:
            far: Cost of what was used [BATCHES] ago.
            surface: Cost of what lies [SIZES] back.
        """
        if id(surface) not in self._within:
            near = np.interp(self._near, LOG_SIZES, surface)
            self._within[id(surface)] = surface, float((self._again * near).sum())  # kept, its id is its own
        return self._within[id(surface)][1] + float(self._before @ far)


def _weights(at: Floats, weight: Floats) -> Floats:
    """[BATCHES]: with it, the weighted sum of what is read off between these at `at` is one product."""
    place = np.clip((at - LOG_BATCHES[0]) / (LOG_BATCHES[1] - LOG_BATCHES[0]), 0, len(BATCHES) - 1).ravel()
    low = np.minimum(place.astype(np.int64), len(BATCHES) - 2)
    part, flat = place - low, np.broadcast_to(weight, at.shape).ravel()
    found = np.zeros(len(BATCHES))
    np.add.at(found, low, flat * (1 - part))
    np.add.at(found, low + 1, flat * part)
    return found


class Work:
    """What a piece does of a batch: `bags`, ids that it looks at (`seen`), and ids that it reads (`ids`)."""

    def __init__(self, known: Known, bags: int, rows: float) -> None:
        self.known, self.bags, self.rows = known, bags, rows
        self.seen = bags * known.ids
        self.ids = self.seen * rows
        burst = min(bags, BLOCK) if known.single else bags
        if bags:
            self.lines = _Found(known.lines, bags, burst, rows)
            self.pages = _Found(known.pages, bags, burst, rows)

    @property
    def vectors(self) -> bool:
        """Whether strategy `vector` has a kernel for it."""
        table = self.known.table
        return table.dim == 1 and table.dtype == "fp32" and self.known.single and self.rows == 1


class Core:
    """What a core goes through: bytes of `lines` and of `pages` in [BATCHES]; ids are new every time.

    `past`: the output is written past the caches.
    """

    def __init__(self, works: Sequence[Work], past: bool) -> None:
        works = [work for work in works if work.bags]
        output = 0 if past else sum(work.bags * work.known.out_bytes for work in works)
        seen = sum(work.seen for work in works)
        passing = output * np.minimum(BATCHES, 1.0) + ID_BYTES * seen * np.minimum(BATCHES, 8.0)
        self.lines: Floats = sum((work.lines.gone for work in works), passing)
        self.pages: Floats = sum((work.pages.gone for work in works), passing)
        self.past = past
        self._costs: dict[int, tuple[Floats, Floats]] = {}

    @property
    def a_batch(self) -> float:
        """Bytes of lines in one batch."""
        return float(self.lines[ONE])

    def costs(self, surface: Floats, gone: Floats) -> Floats:
        """Cost of what was used [BATCHES] ago, from that of what lies [SIZES] back; each surface has its own `gone`."""
        if id(surface) not in self._costs:  # a surface that is kept has an id for itself
            self._costs[id(surface)] = surface, np.interp(np.log(np.maximum(gone, 1.0)), LOG_SIZES, surface)
        return self._costs[id(surface)][1]
