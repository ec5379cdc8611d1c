"""Split rows into train, valid and test: by time within each user, or at random. Equal input gives equal splits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from recsys.data.values import whole
from recsys.errors import ConfigError, DataError

__all__ = ["TENTHS", "Fractions", "Splits", "cuts", "nearest", "random", "shuffled", "user_time"]

Splits = tuple[pa.Table, pa.Table, pa.Table]
"""Train, valid and test: every row of the data in exactly one of them."""

Fractions = tuple[float, float, float]
"""Train, valid and test, which sum to 1."""
TENTHS: Fractions = (0.8, 0.1, 0.1)
"""Train, valid and test of a split that nobody sized."""


def user_time(table: pa.Table, user: str, time: str, fractions: Fractions = TENTHS, seed: int = 0) -> Splits:
    """Each user's first rows to train, the next to valid, the last to test, so that a model is asked about the future.

    A user with n rows is cut at the whole numbers nearest to n·train and n·(train + valid). Rows of one user at one
    time are put in a random order that `seed` and the table fix: a table's own order (often by item) would put some
    items into train more often than others. The splits are sorted by user and time.

    Args:
        table: The rows.
        user: Column that names the user.
        time: Column that orders a user's rows.
        fractions: Train, valid and test.
        seed: Of the order of ties.

    Raises:
        ConfigError: When the fractions are no partition.
        DataError: When a column is absent or holds nulls.
    """
    parts = cuts(fractions)
    users, times = _ranks(table, user), _ranks(table, time)
    order = np.lexsort((shuffled(table.num_rows, seed), times, users))
    sizes = np.bincount(users, minlength=1)
    first = np.cumsum(sizes) - sizes
    rank = np.arange(table.num_rows) - first[users[order]]
    n = sizes[users[order]]
    return _take(table, order, [(rank >= nearest(n * low)) & (rank < nearest(n * high)) for low, high in parts])


def random(table: pa.Table, fractions: Fractions = TENTHS, seed: int = 0) -> Splits:
    """Rows to train, valid and test at random; within a split they keep the table's order.

    Raises:
        ConfigError: When the fractions are no partition.
    """
    parts, n = cuts(fractions), table.num_rows
    rank = np.empty(n, dtype=np.int64)
    rank[shuffled(n, seed)] = np.arange(n)
    size = np.asarray(n)
    keep = [(rank >= nearest(size * low)) & (rank < nearest(size * high)) for low, high in parts]
    return _take(table, np.arange(n), keep)


def cuts(fractions: Sequence[float]) -> list[tuple[float, float]]:
    """Where train, valid and test begin and end, as shares of all rows.

    Raises:
        ConfigError: When the fractions are no partition.
    """
    sound = len(fractions) == 3 and all(0 <= part <= 1 for part in fractions)
    if not sound or not math.isclose(sum(fractions), 1, abs_tol=1e-9):
        raise ConfigError(f"expected three fractions from 0 to 1 that sum to 1, got {tuple(fractions)}")
    train, valid, _ = fractions
    return [(0.0, train), (train, train + valid), (train + valid, 1.0)]


def nearest(size: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
    """The nearest whole numbers; a half is rounded up."""
    # 0.7 + 0.1 times 10 is a hair below 8: the small term keeps a half that rounding errors have shaved a half.
    return np.floor(size + 0.5 + 1e-9).astype(np.int64)


def shuffled(rows: int, seed: int) -> npt.NDArray[np.int64]:
    """A random order. Of all of numpy's generators only RandomState promises streams that never change."""
    return np.random.RandomState(seed).permutation(rows).astype(np.int64)


def _column(table: pa.Table, name: str) -> pa.Array:
    if name not in table.column_names:
        raise DataError(f"missing column `{name}`; the data has: {', '.join(table.column_names) or 'none'}")
    column = whole(table[name])
    if column.null_count:
        raise DataError(f"column `{name}`: {column.null_count} values are missing; a split by it needs all of them")
    return column


def _ranks(table: pa.Table, name: str) -> npt.NDArray[np.int64]:
    """For each row the rank of its value among the distinct values."""
    values = _column(table, name).to_numpy(zero_copy_only=False)
    return np.unique(values, return_inverse=True)[1].astype(np.int64)


def _take(table: pa.Table, order: npt.NDArray[np.int64], keep: list[npt.NDArray[np.bool_]]) -> Splits:
    train, valid, test = (table.take(pa.array(order[mask])) for mask in keep)
    return train, valid, test
