"""How hot the rows of a table are, hottest first: what decides which of them get the memory that is near."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from recsys.dataflow.ids import grid, hottest, scatter
from recsys.dataflow.workload import Workload

__all__ = ["Heat", "assumed", "counted", "even"]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

STEPS = 256
"""Most steps of a curve."""
FEW = 8
"""Hits up to which what was counted is not believed as it stands: some rows were hit by chance."""
ENOUGH = 32
"""Rows of a number of hits from which their share of all rows is believed."""


@dataclass(frozen=True)
class Heat:
    """Rows of a table in steps of equally hot ones, the hottest first.

    Attributes:
        rows: [S] of each step; they sum to the table's.
        hits: [S] of one row of each, by an example; they descend.
        chosen: Which n rows are the hottest: bool [rows].
    """

    rows: Ints
    hits: Floats
    chosen: Callable[[int], Tensor]

    @property
    def ids(self) -> float:
        """Of an example."""
        return float(self.rows @ self.hits)

    def share(self, rows: int) -> float:
        """Of the ids that fall on the hottest so many rows."""
        if rows >= self.rows.sum():
            return 1.0
        ends = np.append(0, np.cumsum(self.rows))
        sums = np.append(0.0, np.cumsum(self.rows * self.hits))
        return float(np.interp(rows, ends, sums)) / sums[-1] if sums[-1] else 0.0


def assumed(workload: Workload, made_up: bool = True) -> dict[str, Heat]:
    """The heat of every table by its look-ups' statistics.

    Where it is not known which rows are hot, all are alike, and any of them are as good as others: the first ones.

    Args:
        workload: What is looked up; look-ups of one table add up, the k-th hottest row of each being one row.
        made_up: The ids are drawn by `recsys.dataflow.ids`, so that it is known which rows are hot. Of a trained model,
            whose ids are like these, it is not; nor is it where a hot-row curve was measured.
    """
    return {table.name: _assumed(workload, table.name, table.rows, made_up) for table in workload.tables}


def _assumed(workload: Workload, name: str, rows: int, made_up: bool) -> Heat:
    ids = [lookup.ids for lookup in workload.lookups if lookup.table == name]
    if not made_up or any(one.distribution == "measured" for one in ids):
        return even(rows, sum(one.mean for one in ids))
    n = grid(rows, STEPS)
    sizes, hits = np.diff(n, prepend=0), np.zeros(len(n))
    for one in ids:
        hits += one.mean * np.diff(hottest(one, rows, n), prepend=0.0) / sizes
    return Heat(sizes, np.minimum.accumulate(hits), partial(_scattered, rows))


def even(rows: int, hits: float) -> Heat:
    """All rows of a table are alike, and any of them are as good as others: the first ones are taken.

    Args:
        rows: Of the table.
        hits: Of all of them, by an example.
    """
    return Heat(np.array([rows]), np.array([hits / rows]), partial(_first, rows))


def _first(rows: int, n: int) -> Tensor:
    return torch.arange(rows) < n


def _scattered(rows: int, n: int) -> Tensor:
    found = np.zeros(rows, dtype=bool)
    for at in range(0, n, 1 << 24):
        found[scatter(np.arange(at, min(n, at + (1 << 24))), rows)] = True
    return torch.from_numpy(found)


def counted(hits: Mapping[str, Ints], examples: int) -> dict[str, Heat]:
    """The heat of every table from the hits of its rows.

    What a row that was hit c times is going to be hit is c* = (c + 1) N(c + 1) / N(c), where N(c) rows were hit c times
    (I. J. Good, Biometrika 40, 1953, after Turing): rows that were seen once were so by chance, and rows that were not
    seen are going to be.

    Args:
        hits: [rows] of each table.
        examples: In how many.
    """
    return {name: _counted(one, max(examples, 1)) for name, one in hits.items()}


def _counted(hits: Ints, examples: int) -> Heat:
    most = int(hits.max(initial=0))
    few = np.bincount(np.minimum(hits, FEW + 2), minlength=FEW + 3)
    many, rows = np.unique(hits[hits > FEW + 1], return_counts=True) if most > FEW + 1 else (np.zeros(0, int),) * 2
    values = np.concatenate([np.arange(FEW + 2), many])
    counts = np.concatenate([few[: FEW + 2], rows]).astype(np.int64)
    expected = values.astype(np.float64)
    for c in range(FEW + 1):
        if counts[c] >= ENOUGH and counts[c + 1] >= ENOUGH:
            expected[c] = (c + 1) * counts[c + 1] / counts[c]
    expected = np.maximum.accumulate(expected)
    there = counts > 0
    values, counts, expected = values[there][::-1], counts[there][::-1], expected[there][::-1]
    total = float(counts @ expected)
    scale = float(hits.sum()) / total / examples if total else 0.0
    sizes, heat = _coarse(counts, expected * scale)
    return Heat(sizes, heat, partial(_hottest, hits))


def _coarse(counts: Ints, heat: Floats) -> tuple[Ints, Floats]:
    """Neighbouring steps put together, so that few are left."""
    if len(counts) <= STEPS:
        return counts, heat
    ends = np.cumsum(counts)
    last = np.unique(np.searchsorted(ends, grid(int(ends[-1]), STEPS)))
    sizes = np.diff(ends[last], prepend=0)
    sums = np.diff(np.cumsum(counts * heat)[last], prepend=0.0)
    return sizes.astype(np.int64), sums / sizes


def _hottest(hits: Ints, n: int) -> Tensor:
    """The n rows that were hit most; of those that were hit alike, the first ones."""
    if n >= len(hits):
        return torch.ones(len(hits), dtype=torch.bool)
    if n == 0:
        return torch.zeros(len(hits), dtype=torch.bool)
    least = np.partition(hits, len(hits) - n)[len(hits) - n]
    found = hits > least
    alike = np.flatnonzero(hits == least)
    found[alike[: n - int(found.sum())]] = True
    return torch.from_numpy(found)
