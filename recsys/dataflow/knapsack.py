"""Which rows get the memory that is near: the most hits a byte first, of all tables together."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from recsys.dataflow.gpu_plan import WORD
from recsys.dataflow.heat import Heat

__all__ = ["Knapsack"]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class Knapsack:
    """Hot rows of tables under a budget of bytes.

    Items are a table's steps of equally hot rows, by hits a byte. The first rows of a table bring its remap along, so
    that the first item is as many steps as give the most hits a byte with it. Items are taken in one order for every
    budget, the last of them in part: more memory has all that less memory has.

    Args:
        heat: Of the tables that may lie there.
        row_bytes: Of a stored row of each.
        remapped: Whether tables that lie in two places need a remap; without, it is a bound.
    """

    def __init__(self, heat: Mapping[str, Heat], row_bytes: Mapping[str, int], remapped: bool = True) -> None:
        self._names = list(heat)
        self._rows = {name: int(one.rows.sum()) for name, one in heat.items()}
        self._row_bytes, self._remapped = row_bytes, remapped
        parts = [self._items(k, name, heat[name]) for k, name in enumerate(self._names)]
        table, rows, size, worth = (np.concatenate([part[n] for part in parts]) for n in range(4))
        order = np.argsort(-worth, kind="stable")
        self._table, self._count, size = table[order], rows[order], size[order]
        for k, name in enumerate(self._names):  # a table that is all there needs no remap
            size[np.flatnonzero(self._table == k)[-1]] -= self._words(name)
        self._ends = np.cumsum(size)

    def _items(self, k: int, name: str, heat: Heat) -> tuple[Ints, Ints, Floats, Floats]:
        """Table, rows, bytes, and hits a byte of each item of a table."""
        size = heat.rows * float(self._row_bytes[name])
        value = heat.rows * heat.hits
        words = self._words(name)
        first = int(np.argmax(np.cumsum(value) / (np.cumsum(size) + words))) + 1
        rows = np.append(heat.rows[:first].sum(), heat.rows[first:])
        sizes = np.append(size[:first].sum() + words, size[first:])
        values = np.append(value[:first].sum(), value[first:])
        return np.full(len(rows), k), rows, sizes, np.minimum.accumulate(values / sizes)

    def _words(self, name: str) -> float:
        return 8.0 * -(-self._rows[name] // WORD) if self._remapped else 0.0

    def hot(self, memory: float) -> dict[str, int]:
        """Rows of each table that lie near, in so many bytes."""
        fit = np.flatnonzero(self._ends <= memory)
        whole = int(fit[-1]) + 1 if len(fit) else 0
        counts = np.bincount(self._table[:whole], self._count[:whole], len(self._names)).astype(np.int64)
        if whole < len(self._ends):
            left = memory - (self._ends[whole - 1] if whole else 0.0)
            k = int(self._table[whole])
            name = self._names[k]
            left -= self._words(name) if not counts[k] else 0.0
            counts[k] += max(0, min(int(left // self._row_bytes[name]), int(self._count[whole])))
        return dict(zip(self._names, counts.tolist(), strict=True))
