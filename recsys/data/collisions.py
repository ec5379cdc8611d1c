"""How many ids of a hashed table share their row with another id: measured, and what chance would give."""

from __future__ import annotations

from dataclasses import dataclass

import mmh3
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from recsys.data.hashing import hash64
from recsys.data.values import Ints

__all__ = ["Collisions", "Shares", "expected_share"]


_PENDING = 1 << 16
"""Ids that may wait to be merged, or twice as many as are merged already, if that is more."""


@dataclass(frozen=True)
class Shares:
    """Of one feature: distinct ids, and the share of them whose row another id of the table reads too."""

    distinct: int
    colliding: float


def expected_share(ids: int, rows: int) -> float:
    """``1 - (1 - 1/m)^(n - 1)``: the chance that one of n - 1 other ids falls into an id's row among m."""
    return 0.0 if ids < 2 else float(-np.expm1((ids - 1) * np.log1p(-1 / rows))) if rows > 1 else 1.0


class Collisions:
    """Collects the ids of one table, exactly up to `limit` of them, then those of a sample of its rows.

    All ids of a sampled row are kept, so the shares stay unbiased and the memory bounded (about 36 bytes an id).
    """

    def __init__(self, limit: int = 1 << 22) -> None:
        self.limit, self.level = limit, 0
        self._names: list[str] = []
        self._parts: list[tuple[npt.NDArray[np.uint64], Ints, Ints]] = []
        self._pending = self._kept = 0

    def add(self, name: str, texts: pa.LargeStringArray, rows: Ints) -> None:
        """Collect the distinct `texts` of feature `name` and the `rows` that they read."""
        if name not in self._names:
            self._names.append(name)
        sampled = self._sampled(rows)
        ids = hash64(texts, 0)[sampled] ^ np.uint64(mmh3.hash64(name, signed=False)[0])
        self._parts.append((ids, rows[sampled], np.full(ids.size, self._names.index(name))))
        self._pending += ids.size
        if self._pending > max(2 * self._kept, min(_PENDING, self.limit)):
            self._merge()

    def shares(self) -> dict[str, Shares]:
        """What was found, by feature."""
        self._merge()
        _, rows, features = self._parts[0]
        _, where, sizes = np.unique(rows, return_inverse=True, return_counts=True)
        crowded = sizes[where] > 1
        found = {}
        for f, name in enumerate(self._names):
            mine = features == f
            ids = int(mine.sum())
            found[name] = Shares(ids << self.level, float(crowded[mine].mean()) if ids else 0.0)
        return found

    def _sampled(self, rows: Ints) -> npt.NDArray[np.bool_]:
        # Rows are hashes, so those whose last bits are zero are a sample of them.
        return np.asarray((rows & ((1 << self.level) - 1)) == 0)

    def _merge(self) -> None:
        nothing = (np.zeros(0, dtype=np.uint64), np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))
        ids, rows, features = (np.concatenate(column) for column in zip(nothing, *self._parts, strict=True))
        ids, first = np.unique(ids, return_index=True)
        rows, features = rows[first], features[first]
        while ids.size > self.limit // 2 and self.level < 31:
            self.level += 1
            kept = self._sampled(rows)
            ids, rows, features = ids[kept], rows[kept], features[kept]
        self._parts, self._kept, self._pending = [(ids, rows, features)], ids.size, 0
