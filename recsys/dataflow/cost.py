"""Predict what pieces of look-ups cost on a platform: from its measured readings and the ids' statistics.

*Where a row is found.* An id costs what its row takes to come and what finding its page takes. Both grow with what the
core has gone through since it was last there: W bytes of lines, V bytes of pages, as in a cache that keeps what was
used last. Over x bags, a look-up whose steps j have places of b_j bytes that are hit r_j times a bag goes through

    D(x) = Σ_j b_j (1 - exp(-r_j x)).

The time until a place is hit again is exponential; its mean cost is taken over five quantiles.

*Bursts.* A core reads some bags of one look-up, then of the next. Of a place that is hit λ times in such a burst, a
share (1 - exp(-λ)) / λ of the hits is the burst's first: since then all look-ups of the core had their turn, and the
ids and the output have passed by. The other hits come after bags of the same burst only.

*Edges.* Where two cores fill neighbouring columns, each bag has lines that both write to or beside; a piece that is
asked for alone has none.

Within a core's private cache W counts the core's own look-ups; beyond it, those of the whole workload, since what lies
behind is shared.

*What the platform tells.* Ids that fall evenly on W bytes measure the mean t(W) of what lies 0 to W bytes back, so
something W bytes back costs d(W t(W)) / dW. They measure row and page together; rows that lie alone in a page measure
the page, since their bytes are few.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from recsys.dataflow.ids import grid, hottest
from recsys.dataflow.plan import Piece
from recsys.dataflow.platform import Platform
from recsys.dataflow.workload import Workload, WorkloadLookup, WorkloadTable

__all__ = ["CostModel"]

Floats = npt.NDArray[np.float64]
Surface = Callable[[Floats], Floats]
"""Bytes -> ns an id, the mean over them."""

LINE, PAGE, ID_BYTES = 64, 4096, 8
POINTS = 24
"""Most steps of a hot-row curve."""
BLOCK = 64
"""Bags of one id that a kernel reads of one look-up before it goes on to the next."""


@dataclass(frozen=True)
class _Steps:
    """Equally hot places of a table, the hottest first: lines or pages.

    Attributes:
        share: [P] of the ids that falls on each step.
        rate: [P] hits of one place of each, a bag.
        bytes: [P] of all places of each.
    """

    share: Floats
    rate: Floats
    bytes: Floats


@dataclass(frozen=True)
class _Known:
    """A look-up and its table, as the model needs them."""

    lookup: WorkloadLookup
    table: WorkloadTable
    lines: _Steps
    pages: _Steps

    @cached_property
    def passed(self) -> tuple[_Passed, _Passed]:
        """Bytes of lines, and of pages, that it goes through."""
        return _Passed(self.lines), _Passed(self.pages)

    @property
    def ids(self) -> float:
        """Of a bag, on average."""
        return self.lookup.ids.mean

    @property
    def out_bytes(self) -> int:
        """Of a pooled row."""
        return self.table.dim * 4

    @property
    def single(self) -> bool:
        """Whether every bag holds one id, unweighted."""
        return self.lookup.ids.bags == ((1, 1.0),) and not self.lookup.weighted

    @property
    def ragged(self) -> bool:
        """Whether bags differ in length."""
        return len(self.lookup.ids.bags) > 1


def _know(lookup: WorkloadLookup, table: WorkloadTable) -> _Known:
    ids = lookup.ids
    n = grid(table.rows, POINTS)
    share = _steps(hottest(ids, table.rows, n))
    size = _steps(_touched(n.astype(float), table, LINE))
    lines = _Steps(share, ids.mean * share / _steps(n.astype(float)), size)
    # A page is as hot as the hottest row in it and its part of all others.
    count = max(1, -(-table.rows * table.row_bytes // PAGE))
    p = grid(count, POINTS)
    hot = hottest(ids, table.rows, p)
    share = _steps(hot + (1 - hot) * p / count)
    pages = _Steps(share, ids.mean * share / _steps(p.astype(float)), _steps(p * float(PAGE)))
    return _Known(lookup, table, lines, pages)


def _steps(sums: Floats) -> Floats:
    return np.diff(sums, prepend=0.0)


def _touched(n: Floats, table: WorkloadTable, unit: int) -> Floats:
    """Bytes of the lines in which n scattered rows lie."""
    rows = max(1.0, unit / table.row_bytes)  # of a line
    part = 1 - (1 - n / table.rows) ** rows
    found: Floats = np.maximum.accumulate(part * max(table.rows / rows, 1.0) * max(unit, table.row_bytes))
    return found


class _Passed:
    """D(x): bytes that a look-up goes through in x bags, from a table over log x."""

    LOG_X = np.linspace(np.log(1e-4), np.log(1e10), 160)

    def __init__(self, steps: _Steps) -> None:
        gone = -np.expm1(-np.exp(self.LOG_X)[:, None] * steps.rate)
        self.bytes: Floats = gone @ steps.bytes

    def __call__(self, x: Floats) -> Floats:
        return np.interp(np.log(np.maximum(x, 1e-300)), self.LOG_X, self.bytes)


class CostModel:
    """Predicts microseconds on a platform's cores.

    Args:
        workload: What is looked up.
        platform: What the machine was measured to need.
    """

    def __init__(self, workload: Workload, platform: Platform) -> None:
        self.platform = platform
        self.known = {lookup.name: _know(lookup, workload.table(lookup.table)) for lookup in workload.lookups}
        self.place = {name: k for k, name in enumerate(self.known)}
        self._shared: dict[int, tuple[Floats, Floats]] = {}
        self._data: dict[tuple[float, int], Surface] = {}
        self._page: dict[int, Surface] = {}

    @property
    def fingerprint(self) -> str:
        """Of the platform."""
        return self.platform.fingerprint

    def wake_us(self, cores: int) -> float:
        """µs of the call itself, and to wake and await the cores when there are several."""
        if cores == 1 or not self.platform.wake_us:
            return self.platform.call_us
        counts, us = zip(*self.platform.wake_us, strict=True)
        return self.platform.call_us + float(np.interp(cores, counts, us)) * max(1.0, cores / counts[-1])

    def reduce_us(self, piece: Piece, batch: int) -> float:
        """µs to add partial sums of a row range to the output; a bag of one id has only one."""
        known = self.known[piece.lookup]
        return 0.0 if known.single else len(piece.bags(batch)) * self._add_ns(known.out_bytes) / 1e3

    def _add_ns(self, row_bytes: float) -> float:
        return _line(self.platform.add_ns, row_bytes)

    def core_us(self, pieces: Sequence[Piece], batch: int) -> list[float]:
        """Predicted µs of each piece when one core does all of these for this batch; inf for what cannot be."""
        works = [_Work(piece, self.known[piece.lookup], batch) for piece in pieces]
        gone = _gone(works)
        behind = self._whole(batch)
        lines = np.where(gone[0] > self.platform.private, np.maximum(gone[0], behind[0]), gone[0])
        edges = self._edges(works) if len(works) > 1 else [0] * len(works)
        return [
            self._piece_us(work, lines, gone[1]) + n * work.bags * self.platform.edge_ns / 1e3
            for work, n in zip(works, edges, strict=True)
        ]

    def _edges(self, works: Sequence[_Work]) -> list[int]:
        """How many neighbours of each piece's columns are not the core's own; look-ups fill columns in their order."""
        own = {(self.place[work.piece.lookup], work.piece.share) for work in works}
        at = [(self.place[work.piece.lookup], work.piece.share) for work in works]
        return [
            sum(0 <= k < len(self.place) and (k, share) not in own for k in (place - 1, place + 1))
            for place, share in at
        ]

    def _whole(self, batch: int) -> tuple[Floats, Floats]:
        """What the whole workload goes through."""
        if batch not in self._shared:
            self._shared[batch] = _gone([_Work(Piece(lookup=name), known, batch) for name, known in self.known.items()])
        return self._shared[batch]

    def _piece_us(self, work: _Work, lines: Floats, pages: Floats) -> float:
        platform, strategy = self.platform, work.piece.strategy
        if not work.bags:
            return platform.lookup_us
        if strategy == "resident" and lines[-1] > platform.private:
            return math.inf
        if strategy == "vector" and not work.vectors:
            return math.inf
        find = _mean(self._page_ns(work.known.table.row_bytes), work, work.known.pages, work.known.passed[1], pages)
        read = _mean(self._data_ns(work), work, work.known.lines, work.known.passed[0], lines) + find
        read += ID_BYTES / platform.read_gbs
        if strategy == "vector":
            return work.bags * read / 1e3 + platform.lookup_us
        if strategy == "stream" or work.piece.rows is not None:
            return self._stream_ns(work, read) / 1e3 + platform.lookup_us
        return self._gather_ns(work, read, float(np.interp(0.0, np.log(BATCHES), lines))) / 1e3 + platform.lookup_us

    def _data_ns(self, work: _Work) -> Surface:
        """Nanoseconds that a row's bytes take from so far back, in a bag of one id or in a long one."""
        row_bytes = work.known.table.row_bytes
        if work.piece.strategy == "vector":
            mean = np.interp(np.log(SIZES), *_logs(self.platform.vector))
        elif work.known.single:
            mean = self.platform.one_ns(row_bytes, SIZES)
        else:
            mean = self.platform.more_ns(row_bytes, SIZES)
        key = mean[0], row_bytes
        if key not in self._data:
            self._data[key] = _marginal(np.maximum(mean - self._page_mean(row_bytes), mean[0]))
        return self._data[key]

    def _page_ns(self, row_bytes: int) -> Surface:
        """Nanoseconds of finding a page that lies so many bytes of pages back."""
        if row_bytes not in self._page:
            self._page[row_bytes] = _marginal(self._page_mean(row_bytes))
        return self._page[row_bytes]

    def _page_mean(self, row_bytes: int) -> Floats:
        """Mean ns of finding a page, [SIZES], of ids that fall evenly on so many bytes of pages.

        Rows alone in V bytes of pages take page(V) + data(V r / 4096); rows side by side in W bytes page(W) + data(W).
        """
        width = min(max(row_bytes, LINE), PAGE)
        together, alone = self.platform.one_ns(width, SIZES), self.platform.alone_ns(width, SIZES)
        page, data = np.zeros(len(SIZES)), together.copy()
        logs = np.log(SIZES)
        for k in range(1, len(SIZES)):
            read = np.interp(logs[k] + np.log(width / PAGE), logs[:k], data[:k])
            page[k] = min(max(page[k - 1], alone[k] - read), together[k] - together[0])
            data[k] = max(data[k - 1], together[k] - page[k])
        return np.maximum(page, 0.0)

    def _gather_ns(self, work: _Work, read: float, passed: float) -> float:
        platform, known = self.platform, work.known
        write = platform.write_ns(known.out_bytes, passed)
        convert = known.table.dim * platform.column_ns[known.table.dtype]
        if known.single:
            return work.bags * (read + convert + write)
        bag = _line(platform.bag_ns, known.out_bytes) + write + platform.ragged_ns * known.ragged
        return work.ids * (read + convert) + work.bags * bag

    def _stream_ns(self, work: _Work, read: float) -> float:
        """Every id is looked at; those of the range are sorted, and their rows come one by one, or all in order."""
        platform, known = self.platform, work.known
        away = (work.seen - work.ids) * platform.scan_ns
        near = float(self._data_ns(work)(np.ones(1))[0])
        in_order = known.table.rows * work.rows * known.table.row_bytes / platform.read_gbs
        convert = known.table.dim * platform.column_ns[known.table.dtype]
        each = platform.scan_ns + platform.sort_ns + self._add_ns(known.out_bytes) + convert
        return away + work.ids * each + max(0.0, min(work.ids * (read - near), in_order))


BATCHES = np.geomspace(1e-4, 1e8, 97)
"""How many batches ago, for which it is told what has been gone through since."""

SIZES = np.geomspace(1 << 12, 1 << 38, 105)
"""Bytes for which means are turned into marginal costs."""

QUANTILES = np.array([0.1, 0.3, 0.5, 0.7, 0.9])


def _gone(works: Sequence[_Work]) -> tuple[Floats, Floats]:
    """Bytes of lines, and of pages, that these go through in so many batches; ids are new every time."""
    output = sum(work.bags * work.known.out_bytes for work in works)
    passing = output * np.minimum(BATCHES, 1.0) + ID_BYTES * sum(work.seen for work in works) * np.minimum(BATCHES, 8.0)
    lines, pages = (
        sum((work.known.passed[k](work.bags * BATCHES) * work.rows for work in works), passing) for k in range(2)
    )
    return lines, pages


def _mean(surface: Surface, work: _Work, steps: _Steps, passed: _Passed, gone: Floats) -> float:
    """Mean ns of an id: what is found again within a burst, and what in a later one."""
    hits = np.maximum(steps.rate * work.burst, 1e-12)[:, None]
    first = -np.expm1(-hits) / hits
    within = -np.log1p(QUANTILES * np.expm1(-hits)) / hits * work.burst  # bags
    near = surface(passed(within) * work.rows)
    ago = -np.log1p(-QUANTILES) / np.maximum(steps.rate * work.bags, 1e-12)[:, None]  # batches
    turn = work.burst / work.bags  # until it is this look-up's turn again
    far = surface(np.interp(np.log(np.maximum(ago, turn)), np.log(BATCHES), gone))
    return float(steps.share @ (first * far + (1 - first) * near).mean(axis=1))


def _marginal(mean: Floats) -> Surface:
    """d(W t(W)) / dW of a mean over [SIZES] that is straight over log W: t + dt / d(log W), which ascends."""
    logs = np.log(SIZES)
    there = np.maximum.accumulate(np.maximum(mean + np.gradient(mean, logs), mean[0]))
    return lambda size: np.interp(np.log(np.maximum(size, 1.0)), logs, there)


def _logs(points: Sequence[tuple[int, float]]) -> tuple[Floats, Floats]:
    sizes, ns = zip(*points, strict=True)
    return np.log(np.array(sizes, dtype=np.float64)), np.array(ns)


def _line(points: Sequence[tuple[int, float]], row_bytes: float) -> float:
    """Between points straight, before the first as there, behind the last in proportion."""
    widths, ns = zip(*points, strict=True)
    return float(np.interp(row_bytes, widths, ns)) * max(1.0, row_bytes / float(widths[-1]))


class _Work:
    """What a piece does of a batch: bags, ids that it looks at (`seen`) and ids that it reads."""

    def __init__(self, piece: Piece, known: _Known, batch: int) -> None:
        self.piece, self.known = piece, known
        self.bags = len(piece.bags(batch))
        self.rows = 1.0 if piece.rows is None else (piece.rows[1] - piece.rows[0]) / known.table.rows
        self.seen = self.bags * known.ids
        self.ids = self.seen * self.rows
        self.burst = min(self.bags, BLOCK) if known.single else self.bags

    @property
    def vectors(self) -> bool:
        """Whether strategy `vector` has a kernel for it."""
        table = self.known.table
        return table.dim == 1 and table.dtype == "fp32" and self.known.single and self.piece.rows is None
