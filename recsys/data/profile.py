"""What the columns of a data set hold: counts of all rows that are read, and a sample of them for a closer look.

One pass in bounded memory; text that holds lists, such as ``a|b``, is read once more to count what is in them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from recsys.data.listed import listed, separator, without_values
from recsys.data.observe import Column, Distinct, Observer, present
from recsys.data.readers import Dataset
from recsys.data.values import Ints, whole
from recsys.errors import ConfigError, DataError

__all__ = ["BRACKETS", "Profile", "profile"]

BRACKETS = r"^[\[{(].*[\])}]$"
"""Text of a list or a set as a program prints it."""
SAMPLE = 1 << 16
"""Rows that are looked at closely; of fewer rows, all are."""
_SAMPLED = 1 << 22
"""Values that are looked at closely, in all columns together: of very many columns, fewer rows."""
_HASHES = 1 << 24
"""Distinct values that all columns together may remember, 8 bytes each."""
_COMMAS = (r"^-?\d+,\d+$", r"^-?\d{1,3}(,\d{3})+(\.\d+)?$")
"""Decimal commas and commas between thousands."""


@dataclass(frozen=True)
class Profile:
    """What a data set holds.

    Attributes:
        columns: In the data's order.
        rows: How many were read.
        cut: Whether there are more.
    """

    columns: tuple[Column, ...]
    rows: int
    cut: bool


def profile(data: Dataset, limit: int = 1_000_000, show: bool = False) -> Profile:
    """Look at the first `limit` rows.

    Args:
        data: The rows.
        limit: Most rows.
        show: A progress bar on standard error.

    Raises:
        ConfigError: When `limit` is below 1.
        DataError: When a file is broken, a column stands twice, or there are no columns or rows.
    """
    if limit < 1:
        raise ConfigError(f"expected at least 1 row to look at, got {limit}")
    names = list(data.schema.names)
    if not names:
        raise DataError("the data has no columns")
    sample = min(SAMPLE, max(_SAMPLED // len(names), 1024))
    head, draws, rows = _Head(data, names, limit, "describe" if show else None), _Draws(sample), 0
    states = {name: Observer(name, min(_HASHES // len(names), 1 << 20)) for name in names}
    for table in head:
        rows += table.num_rows
        picked = draws.pick(table.num_rows)
        for name, state in states.items():
            state.add(whole(table[name]), picked)
        if (keep := draws.surplus()) is not None:
            for state in states.values():
                state.keep(keep)
    if not rows:
        raise DataError("the data has no rows")
    order = draws.order()
    for state in states.values():
        state.keep(order)
    return Profile(_with_lists(data, [state.column(rows) for state in states.values()], limit), rows, head.cut)


class _Head:
    """Tables of the first `limit` rows.

    Attributes:
        cut: Afterwards, whether there are more.
    """

    def __init__(self, data: Dataset, names: Sequence[str], limit: int, what: str | None) -> None:
        data.need(names)
        self.data, self.names, self.limit, self.what, self.cut = data, names, limit, what, False

    def __iter__(self) -> Iterator[pa.Table]:
        left, known = self.limit, self.data.rows
        total = left if known is None else min(left, known)
        quiet = None if self.what else True
        with tqdm(total=total, desc=self.what, unit=" rows", unit_scale=True, disable=quiet) as bar:
            for table, _ in self.data.read(self.names):
                self.cut = table.num_rows > left
                part = table.slice(0, left)
                if part.num_rows:
                    yield part
                left -= part.num_rows
                bar.update(part.num_rows)
                if self.cut:
                    return


class _Draws:
    """Which rows are in the sample: each draws a random number, and the smallest numbers stay."""

    def __init__(self, sample: int = SAMPLE) -> None:
        self.sample = sample
        self._random = np.random.RandomState(0)  # of numpy's generators the one whose streams never change
        self._ranks = np.zeros(0)
        self._below = 1.0

    def pick(self, rows: int) -> Ints:
        """Positions in the next `rows` rows."""
        ranks = self._random.random_sample(rows)
        picked = np.flatnonzero(ranks < self._below)
        self._ranks = np.append(self._ranks, ranks[picked])
        return picked

    def surplus(self) -> Ints | None:
        """When more than twice as many are held as are wanted: those to keep."""
        return self.order() if self._ranks.size > 2 * self.sample else None

    def order(self) -> Ints:
        """The rows to keep, in random order."""
        keep = np.argsort(self._ranks, kind="stable")[: self.sample]
        self._ranks = self._ranks[keep]
        if keep.size == self.sample:
            self._below = float(self._ranks[-1])
        return keep


def _with_lists(data: Dataset, columns: list[Column], limit: int) -> tuple[Column, ...]:
    """The columns, those of separated text as lists; they are read again."""
    found = {c.name: sign for c in columns if _may_split(c) and (sign := separator(c.counted)) is not None}
    if not found:
        return tuple(columns)
    distinct = {name: Distinct(min(_HASHES // len(columns), 1 << 20)) for name in found}
    missing = dict.fromkeys(found, 0)
    for table in _Head(data, list(found), limit, None):
        for name, sign in found.items():
            lists = listed(whole(table[name]), sign)
            distinct[name].add(present(lists.flatten(), name)[0])
            missing[name] += without_values(lists)
    return tuple(
        _as_lists(c, found[c.name], missing[c.name], *distinct[c.name].count()) if c.name in found else c
        for c in columns
    )


def _may_split(column: Column) -> bool:
    plain = column.text and column.numbers is None and not column.dates
    return plain and not any(map(column.matches, (BRACKETS, *_COMMAS)))


def _as_lists(column: Column, sign: str, missing: int, distinct: int, exact: bool) -> Column:
    return replace(
        column,
        separator=sign,
        few=None,
        missing=missing,
        distinct=distinct,
        exact=exact,
        numbers=None,
        sample=listed(column.sample, sign),
    )
