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
from collections.abc import Sequence

import numpy as np

from recsys.dataflow.plan import Piece, Strategy
from recsys.dataflow.platform import Platform
from recsys.dataflow.reach import ID_BYTES, LINE, LOG_SIZES, ONE, PAGE, PAST, SIZES, Core, Floats, Work, know
from recsys.dataflow.workload import Workload

__all__ = ["CostModel"]


class CostModel:
    """Predicts microseconds on a platform's cores.

    Args:
        workload: What is looked up.
        platform: What the machine was measured to need.
    """

    def __init__(self, workload: Workload, platform: Platform) -> None:
        self.platform = platform
        single = all(lookup.ids.bags == ((1, 1.0),) and not lookup.weighted for lookup in workload.lookups)
        self.known = {lookup.name: know(lookup, workload.table(lookup.table), single) for lookup in workload.lookups}
        self.place = {name: k for k, name in enumerate(self.known)}
        self._shared: dict[int, Floats] = {}
        self._read: dict[int, float] = {}
        self._works: dict[tuple[str, int, float], Work] = {}
        self._readings: dict[tuple[str, int], Floats] = {}

    error = 0.1
    """Of plans with each other; single pieces are off by more."""

    @property
    def fingerprint(self) -> str:
        """Of the platform."""
        return self.platform.fingerprint

    def wake_us(self, cores: int) -> float:
        """µs of the call itself, and to wake and await the cores when there are several."""
        if cores == 1 or not self.platform.wake_us:
            return self.platform.call_us
        counts, us = zip(*self.platform.wake_us, strict=True)
        wake = float(np.interp(cores, counts, np.maximum.accumulate(us))) * max(
            1.0, math.log2(cores) / math.log2(counts[-1])
        )
        return self.platform.call_us + wake

    def crowd(self, cores: int, batch: int) -> float:
        """How many times longer work takes with so many cores at it, by the bytes of the rows that a batch reads."""
        if cores == 1 or not self.platform.crowd:
            return 1.0
        passed, counts = math.log(max(1.0, self._rows(batch))), {n for n, _, _ in self.platform.crowd}
        times = [1.0]
        for count in sorted(counts):
            points = sorted((size, ratio) for n, size, ratio in self.platform.crowd if n == count)
            sizes, ratios = zip(*points, strict=True)
            times.append(float(np.interp(passed, np.log(sizes), ratios)))
        return float(np.interp(math.log2(cores), np.log2([1, *sorted(counts)]), np.maximum.accumulate(times)))

    def floor_us(self, batch: int) -> float:
        """µs that all cores together need to write an output past the caches; 0 where it goes through them."""
        if self.platform.write_gbs is None or not self._goes_past(batch):
            return 0.0
        return batch * sum(known.out_bytes for known in self.known.values()) / self.platform.write_gbs / 1e3

    def reduce_us(self, piece: Piece, batch: int) -> float:
        """µs to add partial sums of a row range to the output; a bag of one id has only one."""
        known = self.known[piece.lookup]
        return 0.0 if known.single else len(piece.bags(batch)) * self._add_ns(known.out_bytes) / 1e3

    def _add_ns(self, row_bytes: float) -> float:
        return _line(self.platform.add_ns, row_bytes)

    def core_us(self, pieces: Sequence[Piece], batch: int) -> list[float]:
        """Predicted µs of each piece when one core does all of these for this batch; inf for what cannot be."""
        works = [self._work(piece, len(piece.bags(batch))) for piece in pieces]
        core = Core(works, self._goes_past(batch))
        behind = self._whole(batch)
        core.lines = np.where(core.lines > self.platform.private, np.maximum(core.lines, behind), core.lines)
        edges = self._edges(pieces) if len(works) > 1 else [0] * len(works)
        return [
            self._piece_us(piece.strategy, work, core) + n * work.bags * self.platform.edge_ns / 1e3
            for piece, work, n in zip(pieces, works, edges, strict=True)
        ]

    def _work(self, piece: Piece, bags: int) -> Work:
        """Pieces differ little, and a planner asks for many."""
        known = self.known[piece.lookup]
        rows = 1.0 if piece.rows is None else (piece.rows[1] - piece.rows[0]) / known.table.rows
        key = piece.lookup, bags, rows
        if key not in self._works:
            self._works[key] = Work(known, bags, rows)
        return self._works[key]

    def _edges(self, pieces: Sequence[Piece]) -> list[int]:
        """How many neighbours of each piece's columns are not the core's own; look-ups fill columns in their order."""
        at = [(self.place[piece.lookup], piece.share) for piece in pieces]
        own = set(at)
        return [
            sum(0 <= k < len(self.place) and (k, share) not in own for k in (place - 1, place + 1))
            for place, share in at
        ]

    def _whole(self, batch: int) -> Floats:
        """Bytes of lines that the whole workload goes through."""
        if batch not in self._shared:
            works = [self._work(Piece(lookup=name), batch) for name in self.known]
            self._shared[batch] = Core(works, self._goes_past(batch)).lines
        return self._shared[batch]

    def _rows(self, batch: int) -> float:
        """Bytes of lines that hold the rows of a batch of the whole workload, each counted once."""
        if batch not in self._read:
            works = [self._work(Piece(lookup=name), batch) for name in self.known]
            self._read[batch] = float(sum(work.lines.gone[ONE] for work in works))
        return self._read[batch]

    def _goes_past(self, batch: int) -> bool:
        """Whether the output is written past the caches."""
        known = self.known.values()
        whole = all(one.single and one.out_bytes % LINE == 0 for one in known) and bool(self.platform.past)
        return whole and batch * sum(one.out_bytes for one in known) >= PAST

    def _piece_us(self, strategy: Strategy, work: Work, core: Core) -> float:
        platform = self.platform
        if not work.bags:
            return platform.lookup_us
        if strategy == "resident" and core.lines[-1] > platform.private:
            return math.inf
        if strategy == "vector" and not (work.vectors and platform.vector):
            return math.inf
        kind = "vector" if strategy == "vector" else "one" if work.known.single else "more"
        row_bytes = work.known.table.row_bytes
        read = work.lines.mean(core.costs(self._data_ns(kind, row_bytes), core.lines), self._data_ns(kind, row_bytes))
        read += work.pages.mean(core.costs(self._page_ns(row_bytes), core.pages), self._page_ns(row_bytes))
        read += ID_BYTES / platform.read_gbs
        if strategy == "vector":
            ns = work.bags * read
        elif strategy == "stream" or work.rows < 1:
            ns = self._stream_ns(work, read, float(self._data_ns(kind, row_bytes)[0]), core.a_batch)
        else:
            ns = self._gather_ns(work, read, core)
        return ns / 1e3 + platform.lookup_us

    def _data_ns(self, kind: str, row_bytes: int) -> Floats:
        """Nanoseconds that a row's bytes take from [SIZES] back, in a bag of one id, in a long one, or by `vector`."""
        key = kind, row_bytes
        if key not in self._readings:
            mean = self._mean_ns(kind, row_bytes)
            data = np.maximum(mean - self._page_mean(row_bytes), mean[0])
            self._readings[key] = np.minimum(_marginal(data), max(data))
        return self._readings[key]

    def _mean_ns(self, kind: str, row_bytes: int) -> Floats:
        if kind == "vector":
            return self._vector_ns()
        return (self.platform.one_ns if kind == "one" else self.platform.more_ns)(row_bytes, SIZES)

    def _vector_ns(self) -> Floats:
        points = np.array(self.platform.vector, dtype=np.float64)
        return np.interp(LOG_SIZES, np.log(points[:, 0]), points[:, 1])

    def _page_ns(self, row_bytes: int) -> Floats:
        """Nanoseconds of finding a page that lies [SIZES] of pages back."""
        key = "page", row_bytes
        if key not in self._readings:
            self._readings[key] = _marginal(self._page_mean(row_bytes))
        return self._readings[key]

    def _page_mean(self, row_bytes: int) -> Floats:
        """Mean ns of finding a page, [SIZES], of ids that fall evenly on so many bytes of pages.

        At the most it is what rows far from any cache cost more when their pages are far too; how it comes to that is
        read off rows that lie alone in V bytes of pages: they take page(V) + data(64 V / 4096).
        """
        platform = self.platform
        near = _line(platform.fresh, row_bytes)
        most = max(0.0, float(platform.one_ns(row_bytes, SIZES[-1:])[0]) - near)
        sizes, alone = (np.array(points, dtype=np.float64) for points in zip(*platform.scatter, strict=True))
        page = np.maximum.accumulate(alone - platform.one_ns(LINE, sizes * LINE / PAGE))
        page -= page[0]
        return most * np.interp(LOG_SIZES, np.log(sizes), page) / max(float(page[-1]), 1e-9)

    def _write_ns(self, out_bytes: int, passed: float, single: bool) -> float:
        key = "write one" if single else "write more", out_bytes
        if key not in self._readings:
            self._readings[key] = np.array([self.platform.write_ns(out_bytes, size, single) for size in SIZES])
        return float(np.interp(np.log(max(passed, 1.0)), LOG_SIZES, self._readings[key]))

    def _gather_ns(self, work: Work, read: float, core: Core) -> float:
        platform, known = self.platform, work.known
        if core.past:
            write = _line(platform.past, known.out_bytes)
        else:
            write = self._write_ns(known.out_bytes, core.a_batch, known.single)
        convert = known.table.dim * platform.column_ns[known.table.dtype]
        if known.single:
            return work.bags * (read + convert + write)
        bag = _line(platform.bag_ns, known.out_bytes) + write + platform.ragged_ns * known.ragged
        return work.ids * (read + convert) + work.bags * bag

    def _stream_ns(self, work: Work, read: float, near: float, passed: float) -> float:
        """Every id is looked at; those of the range are sorted, and their rows come one by one, or all in order.

        Tile by tile all bags are gone through, so that a bag's sum is found again after the sums of all others.
        """
        platform, known = self.platform, work.known
        away = (work.seen - work.ids) * platform.scan_ns
        in_order = known.table.rows * work.rows * known.table.row_bytes / platform.read_gbs
        convert = known.table.dim * platform.column_ns[known.table.dtype]
        each = platform.scan_ns + platform.sort_ns + self._add_ns(known.out_bytes) + convert
        sums = self._data_ns("one", known.out_bytes)
        each += float(np.interp(np.log(max(1, work.bags * known.out_bytes)), LOG_SIZES, sums)) - float(sums[0])
        write = work.bags * self._write_ns(known.out_bytes, passed, False)
        return away + work.ids * each + max(0.0, min(work.ids * (read - near), in_order)) + write


def _line(points: Sequence[tuple[int, float]], row_bytes: float) -> float:
    """Between points straight, before the first as there, behind the last in proportion."""
    widths, ns = zip(*points, strict=True)
    return float(np.interp(row_bytes, widths, ns)) * max(1.0, row_bytes / float(widths[-1]))


def _marginal(mean: Floats) -> Floats:
    """d(W t(W)) / dW of a mean over [SIZES] that is straight over log W: t + dt / d(log W), which ascends."""
    there: Floats = np.maximum.accumulate(np.maximum(mean + np.gradient(mean, LOG_SIZES), mean[0]))
    return there
