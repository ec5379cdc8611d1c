"""Wikipedia edits: which page a person edits next, as rows for click prediction with histories.

One month of edits of the 1,000 most edited pages, without times (5,381 of the 8,227 people have fewer than five),
published by Kumar, Zhang and Leskovec 2019, "Predicting Dynamic Embedding Trajectory in Temporal Interaction Networks"
(JODIE, KDD, arXiv 1908.01207).

79 % of the edits are of the page that the person edited just before, which anyone can predict: for ranking, a run of
edits of one page counts once, as a visit. Each visit is a row with label 1, and a page drawn in its place is one with
label 0.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from recsys.data.readers import read
from recsys.data.splits import Splits, user_time
from recsys.errors import DataError
from recsys.shelves import shelf

__all__ = ["HISTORY", "SHORTEST", "events", "splits", "visits"]

Ints = npt.NDArray[np.int64]

HISTORY = 50
"""Most pages that a row's history keeps."""

SHORTEST = 3
"""Fewest visits of a user who is kept: the first is only history, and one more is no course of visits."""

POWER = 0.75
"""Exponent of the popularity by which pages for label 0 are drawn."""


def events(path: Path | None = None) -> pa.Table:
    """All edits as they were published: `user`, `page`, and `position`, which counts a user's edits from 0.

    Sorted by user and, within a user, by time. Runs of one page are not collapsed.

    Args:
        path: The file of rows (user, page); by default the bundled one.

    Raises:
        DataError: When the file is broken or empty, lacks a column, or is not sorted by user.
    """
    path = path or shelf("data") / "wikipedia" / "wikipedia.parquet"
    table = read(path, ["user", "page"])
    if not table.num_rows:
        raise DataError(f"{path}: it holds no edits")
    users, pages = (_ints(table, name, path) for name in ("user", "page"))
    if (np.diff(users) < 0).any():
        raise DataError(f"{path}: the rows are not sorted by `user`, so the order of a user's edits is lost")
    return _table(user=users, page=pages, position=_positions(users))


def visits(edits: pa.Table) -> pa.Table:
    """One row for every visit after a user's first; a visit is a run of edits of one page.

    `history` has the user's last 50 visits before this one, oldest first, `previous` is the last of them, and
    `position` is the visit's number, from 0. Users with fewer than three visits are left out.

    Args:
        edits: From `events`.
    """
    users, pages = (edits[name].to_numpy() for name in ("user", "page"))
    begins = np.append(True, (users[1:] != users[:-1]) | (pages[1:] != pages[:-1]))
    users, pages = users[begins], pages[begins]
    positions = _positions(users)
    often = np.bincount(users, minlength=1)[users] >= SHORTEST
    asked = np.flatnonzero((positions > 0) & often)
    table = _table(user=users[asked], page=pages[asked], position=positions[asked], previous=pages[asked - 1])
    return table.add_column(2, "history", _histories(pages, asked, positions[asked]))


def splits(path: Path) -> Splits:
    """Train, valid and test: two rows a visit, the page visited with label 1 and another one with label 0.

    A user's first 80 % of visits are train, the next 10 % valid, the last 10 % test. Of all ways to say which pages
    might have come next, the data show only one; the other page is drawn by its popularity^0.75 in train (word2vec's
    exponent, Mikolov et al. 2013, arXiv 1310.4546). Drawn uniformly, it would mostly be a page that hardly anyone
    edits, and popularity alone would tell the two apart; drawn by full popularity, it could not help at all. Neither
    the page visited nor the one before is drawn: the latter never comes next.

    Raises:
        DataError: See `events`; and when there are too few pages to draw another one from.
    """
    asked = visits(events(path))
    parts = user_time(asked, "user", "position")
    known, seen = np.unique(asked["page"].to_numpy()), parts[0]["page"].to_numpy()
    if known.size < 3:
        raise DataError(f"{path}: {known.size} pages are visited; expected 3 or more, to draw another one from")
    shares = (1.0 + np.bincount(seen, minlength=known[-1] + 1)[known]) ** POWER  # 1 more: one that train lacks, too
    random = np.random.RandomState(0)  # of all of numpy's generators the one whose streams never change
    train, valid, test = (_paired(part, _others(part, known, shares, random)) for part in parts)
    return train, valid, test


def _others(part: pa.Table, known: Ints, shares: npt.NDArray[np.float64], random: np.random.RandomState) -> Ints:
    """For each visit one of the `known` pages, drawn by their `shares`: neither the one visited nor the one before."""
    page, previous = part["page"].to_numpy(), part["previous"].to_numpy()
    ends = np.cumsum(shares)
    drawn: Ints = page.copy()
    while (again := np.flatnonzero((drawn == page) | (drawn == previous))).size:
        drawn[again] = known[np.searchsorted(ends[:-1], ends[-1] * random.random_sample(again.size), side="right")]
    return drawn


def _paired(part: pa.Table, others: Ints) -> pa.Table:
    """Each visit twice: with its own page, and with the other."""
    n = part.num_rows
    pages = np.stack([part["page"].to_numpy(), others], axis=1).ravel()
    labels = np.tile(np.array([1, 0], np.int8), n)
    twice = part.take(pa.array(np.repeat(np.arange(n), 2))).drop_columns(["previous"])
    twice = twice.set_column(twice.column_names.index("page"), "page", pa.array(pages.astype(np.int32)))
    return twice.append_column("label", pa.array(labels)).combine_chunks()


def _histories(pages: Ints, asked: Ints, lengths: Ints) -> pa.ListArray:
    """The pages before each place in `asked`, at most `HISTORY` of as many as the user had, oldest first."""
    lengths = np.minimum(lengths, HISTORY)
    offsets = np.append(0, np.cumsum(lengths))
    places = np.arange(offsets[-1]) + np.repeat(asked - lengths - offsets[:-1], lengths)
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(pages[places], pa.int32()))


def _positions(users: Ints) -> Ints:
    """For each row of sorted users how many rows of its user come before."""
    return np.arange(len(users)) - np.searchsorted(users, users, side="left")


def _ints(table: pa.Table, name: str, path: Path) -> Ints:
    column = table[name]
    if column.null_count or not pa.types.is_integer(column.type):
        raise DataError(f"{path}: column `{name}`: expected whole numbers without a gap, got {column.type}")
    values: Ints = column.to_numpy().astype(np.int64)
    return values


def _table(**columns: Ints) -> pa.Table:
    return pa.table({name: pa.array(column.astype(np.int32)) for name, column in columns.items()})
