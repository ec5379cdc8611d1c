"""What users did, user after user, each in the order of time: what sequential recommenders learn from."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from recsys.data.catalogue import Catalogue
from recsys.data.names import Names
from recsys.data.readers import Dataset, Rows
from recsys.data.splits import shuffled
from recsys.data.times import times as read_times
from recsys.data.values import Ints, Plain, dictionary, text_of, whole
from recsys.errors import DataError

__all__ = ["Histories", "Interactions", "collected", "from_events"]

Items = npt.NDArray[np.int32]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Histories:
    """The events of U users: those of user u are ``items[offsets[u] : offsets[u + 1]]``, oldest first.

    Attributes:
        users: [U] names as canonical text.
        offsets: [U + 1] int64.
        items: [E] int32, numbers 1 … I of a `Catalogue`.
        times: [E] int64 in the data's own unit (instants: microseconds), ascending for each user; or None.

    Raises:
        DataError: When lengths do not fit each other, or an item is below 1.
    """

    users: pa.LargeStringArray
    offsets: Ints
    items: Items
    times: Ints | None = None

    def __post_init__(self) -> None:
        bounds, n = self.offsets, len(self.items)
        if len(bounds) != len(self.users) + 1 or bounds[0] != 0 or bounds[-1] != n or (np.diff(bounds) < 0).any():
            raise DataError(f"offsets must ascend from 0 to {n} events, one more than the {len(self.users)} users")
        if self.times is not None and len(self.times) != n:
            raise DataError(f"expected a time for each of {n} events, got {len(self.times)}")
        if n and self.items.min() < 1:
            raise DataError(f"items are numbered from 1, got {self.items.min()}; leave out what is no item")

    def __len__(self) -> int:
        return len(self.users)

    def lengths(self) -> Ints:
        """How many events each user has, [U]."""
        return np.diff(self.offsets)

    def owners(self) -> Ints:
        """The position of each event's user, [E]."""
        return np.repeat(np.arange(len(self)), self.lengths())

    def of(self, user: Plain) -> Items:
        """The items of one user, oldest first.

        Raises:
            DataError: When there is no such user.
        """
        at = pc.index(self.users, pa.scalar(text_of(user, "user"), self.users.type)).as_py()
        if at < 0:
            raise DataError(f"no such user as `{user}` among {len(self):,}")
        return self.items[self.offsets[at] : self.offsets[at + 1]]

    def popularity(self, items: int) -> Ints:
        """How often each item occurs, [I + 1]; of 0, which is no item, never.

        Args:
            items: I, the catalogue's length.

        Raises:
            DataError: When an item is not in a catalogue of this length.
        """
        counts = np.bincount(self.items, minlength=items + 1)
        if len(counts) > items + 1:
            raise DataError(f"item {len(counts) - 1} occurs, but the catalogue ends with {items}; is it another one's?")
        return counts.astype(np.int64)

    def kept(self, keep: Mask) -> Histories:
        """Only the events in the mask `keep` [E]; users stay, if with nothing."""
        offsets = np.append(0, np.cumsum(keep))[self.offsets]
        return Histories(self.users, offsets, self.items[keep], None if self.times is None else self.times[keep])

    def collapsed(self) -> Histories:
        """A run of one item counts once, as its first event: for data that repeat themselves, as edits of a page do."""
        keep = np.append(True, self.items[1:] != self.items[:-1])[: len(self.items)]
        keep[self.offsets[:-1][self.lengths() > 0]] = True
        return self.kept(keep)

    def at_least(self, n: int) -> Histories:
        """Only the users with `n` events or more."""
        often = self.lengths() >= n
        kept = self.kept(np.repeat(often, self.lengths()))
        offsets = np.append(0, np.cumsum(self.lengths()[often]))
        return Histories(self.users.filter(pa.array(often)), offsets, kept.items, kept.times)


@dataclass(frozen=True, eq=False)
class Interactions:
    """Histories made from a table or a file, and what was left out on the way.

    Attributes:
        histories: Of users with an event or more.
        catalogue: The items in them, or the catalogue that was given.
        rows: How many events there were to read: those of `histories`, the missing and the unknown.
        missing: Column -> rows without a value there; of a row that lacks several, its first counts.
        unknown: Rows of an item that the given catalogue does not have.
    """

    histories: Histories
    catalogue: Catalogue
    rows: int
    missing: Mapping[str, int] = field(default_factory=dict)
    unknown: int = 0


def from_events(
    rows: Rows,
    user: str,
    item: str,
    time: str | None = None,
    catalogue: Catalogue | None = None,
    seed: int = 0,
) -> Interactions:
    """Histories from any table of interactions: one row, one event.

    Users and items are named by canonical text, so 5, 5.0 and "5" are one. Both are sorted, whole numbers by value and
    then all others by their bytes, which does not depend on the order of the rows. A user's events are sorted by time.
    Events of one user at one time are put in a random order that `seed` and the events fix: a table's own order (often
    by item) lets a model guess what is next, which inflates what is measured. Without times the table's order counts.

    Rows without a user, an item or a time are left out and counted, as are items that a given catalogue lacks; so is
    who has no other event. The catalogue that is made holds all items of the table, whatever part of it is trained on
    later: an item that was never trained on can still be an answer, and costs a model that cannot recommend it.

    Args:
        rows: Files, an Arrow table, a DataFrame.
        user: Column that names the user.
        item: Column that names the item.
        time: Column that orders a user's events: whole numbers, or instants.
        catalogue: The items to number by; by default those of the rows.
        seed: Of the order of ties.

    Raises:
        DataError: When a column is absent or cannot be read, or a time has a fraction.
    """
    users, items = Names(user), Names(item)
    clock = _read(rows, users, items, time)
    there = {user: users.present(), item: items.present()}
    if clock is not None:
        there[str(time)] = _has_time(clock, str(time))
    missing, keep = _lacking(there)
    times = None if clock is None else _whole_times(clock.take(pa.array(keep)), str(time))
    return collected(users, items, keep, missing, times, catalogue, seed)


def collected(
    users: Names,
    items: Names,
    keep: Ints,
    missing: Mapping[str, int],
    times: Ints | None = None,
    catalogue: Catalogue | None = None,
    seed: int = 0,
) -> Interactions:
    """Histories from columns that were read.

    Args:
        users: Of the n events read.
        items: Of the same events.
        keep: [m] positions of the events to keep, of which user and item are there; the others are missing.
        missing: Column -> how many are.
        times: [m] of the events to keep.
        catalogue: See `from_events`.
        seed: See `from_events`.
    """
    texts, codes = items.settle(keep)
    catalogue = Catalogue(texts) if catalogue is None else catalogue
    numbers = catalogue.indices(texts)[codes]
    known = numbers > 0
    names, owners = users.settle(keep[known])
    times = None if times is None else times[known]
    order = _order(owners, numbers[known], times, seed)
    offsets = np.append(0, np.cumsum(np.bincount(owners, minlength=len(names)))).astype(np.int64)
    histories = Histories(names, offsets, numbers[known][order], None if times is None else times[order])
    return Interactions(histories, catalogue, len(items), missing, int((~known).sum()))


def _order(owners: Ints, numbers: Items, times: Ints | None, seed: int) -> Ints:
    """The order by user and time. Ties are shuffled from their order by item, which the rows' own does not touch."""
    if times is None:
        return np.argsort(owners, kind="stable")
    fixed = np.lexsort((numbers, times, owners))
    return np.asarray(fixed[np.lexsort((shuffled(len(fixed), seed), times[fixed], owners[fixed]))])


def _read(rows: Rows, users: Names, items: Names, time: str | None) -> pa.Array | None:
    """Read users and items into their names, and the times as they are."""
    columns = list(dict.fromkeys([users.column, items.column, *([] if time is None else [time])]))
    data = Dataset(rows, columns=columns)
    data.need(columns)
    kind = None if time is None else _plain(data.schema.field(time).type)
    clock: list[pa.Array] = []
    for table, _ in data.read(columns):
        users.add(whole(table[users.column]))
        items.add(whole(table[items.column]))
        if kind is not None:
            clock += table[time].cast(kind).chunks
    return None if kind is None else whole(pa.chunked_array(clock, kind))


def _plain(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _lacking(there: Mapping[str, Mask]) -> tuple[dict[str, int], Ints]:
    """Column -> how many rows lack it first, and the positions of the rows that lack nothing."""
    whole_rows, missing = np.ones(len(next(iter(there.values()))), dtype=bool), {}
    for column, present in there.items():
        missing[column] = int((whole_rows & ~present).sum())
        whole_rows &= present
    return missing, np.flatnonzero(whole_rows)


def _has_time(clock: pa.Array, column: str) -> Mask:
    """Which times are there, [n]; text may say that it is missing."""
    if _is_number(clock.type) or pa.types.is_temporal(clock.type):
        return np.asarray(pc.invert(clock.is_null(nan_is_null=True)).to_numpy(zero_copy_only=False))
    return dictionary(clock, column)[1] >= 0


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _whole_times(array: pa.Array, column: str) -> Ints:
    """Times [n] as integers, exact where they are written as such: float64 has 53 bits, nanoseconds need 61."""
    if not pa.types.is_temporal(array.type):
        with contextlib.suppress(pa.ArrowException):  # a fraction, or text that is no whole number
            return np.asarray(pc.cast(array, pa.int64()).to_numpy(zero_copy_only=False))
    found = read_times(pa.table({column: array}), column)
    broken = found[(found != np.floor(found)) | (np.abs(found) >= 2.0**63)]
    if broken.size:
        raise DataError(
            f"column `{column}`: expected whole numbers of 64 bits, or instants, got {broken.size:,} others such as "
            f"{broken[0]}; seconds with a fraction are whole as milliseconds"
        )
    return found.astype(np.int64)
