"""Statistics of real ids, counted as they stream by: what `recsys.dataflow.ids` draws from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from recsys.data.batch import Batch
from recsys.dataflow.ids import grid
from recsys.dataflow.workload import BATCH_SIZES, Ids, Workload, WorkloadLookup, WorkloadTable
from recsys.errors import ConfigError, DataError
from recsys.layers.tables import EmbeddingTables

__all__ = ["IdCounter", "assume_tables", "count_tables", "measure", "measure_tables"]

Ints = npt.NDArray[np.int64]

SIZES = 32
"""Most points of a measured distribution of bag sizes, and of a measured hot-row curve."""

_BLOCK = 8192
"""Bags that are counted together, or as many as the largest batch has."""


class IdCounter:
    """Counts the ids of one look-up: bag sizes, hits of every row, and distinct ids of batches.

    It holds 8 bytes for each row of the table, and the bags of one batch of the largest size. Of few ids a row the
    hot-row curve comes out steeper than it is: some rows are hit more often by chance.

    Args:
        rows: Of the table. An id out of range counts as row 0, which is what it reads.
        batch_sizes: For which distinct ids are counted, over bags as they follow each other.

    Raises:
        ConfigError: When a batch size is below 1.
    """

    def __init__(self, rows: int, batch_sizes: Iterable[int] = BATCH_SIZES) -> None:
        self.rows, self.batch_sizes = rows, sorted(set(batch_sizes))
        if self.batch_sizes and self.batch_sizes[0] < 1:
            raise ConfigError(f"expected batch sizes of 1 or more, got {self.batch_sizes[0]}")
        self._hits = np.zeros(rows, dtype=np.int64)
        self._sizes: Counter[int] = Counter()
        self._distinct, self._seen = (dict.fromkeys(self.batch_sizes, 0) for _ in range(2))
        self._block = max(_BLOCK, *self.batch_sizes, 0)
        self._waiting: list[tuple[Ints, Ints]] = []
        self._bags = 0

    def add(self, values: npt.ArrayLike, lengths: npt.ArrayLike | None = None) -> None:
        """Count bags.

        Args:
            values: Their ids, one bag behind the other.
            lengths: How many ids each holds; None: one each.

        Raises:
            DataError: When the ids are no whole numbers, or the lengths do not add up.
        """
        ids = _whole(values, "ids")
        sizes = np.ones(len(ids), dtype=np.int64) if lengths is None else _whole(lengths, "lengths")
        if sizes.sum() != len(ids) or (sizes < 0).any():
            raise DataError(f"the bags' lengths tell of {sizes.sum()} ids, there are {len(ids)}")
        self._waiting.append((ids, sizes))
        self._bags += len(sizes)
        if self._bags >= self._block:
            self._count_blocks(*self._take())

    def _take(self) -> tuple[Ints, Ints]:
        waiting, self._waiting, self._bags = self._waiting, [], 0
        none = np.zeros(0, dtype=np.int64)
        return np.concatenate([none, *(ids for ids, _ in waiting)]), np.concatenate([none, *(n for _, n in waiting)])

    def _count_blocks(self, ids: Ints, sizes: Ints) -> None:
        """Count what makes whole blocks; the rest waits for more."""
        bounds = np.append(0, np.cumsum(sizes))
        whole = len(sizes) // self._block * self._block
        for at in range(0, whole, self._block):
            to = at + self._block
            self._count(ids[bounds[at] : bounds[to]], sizes[at:to])
        self._waiting, self._bags = [(ids[bounds[whole] :], sizes[whole:])], len(sizes) - whole

    def _count(self, ids: Ints, sizes: Ints) -> None:
        """One sort tells both: what is hit how often, and where each id came last."""
        lengths, counts = np.unique(sizes, return_counts=True)
        self._sizes.update(dict(zip(lengths.tolist(), counts.tolist(), strict=True)))
        ids = np.where((ids >= 0) & (ids < self.rows), ids, 0)
        order = np.argsort(ids, kind="stable")
        first = np.ones(len(ids), dtype=bool)
        first[1:] = np.diff(ids[order]) != 0
        starts = np.flatnonzero(first)
        self._hits[ids[order[starts]]] += np.diff(starts, append=len(ids))
        before = np.full(len(ids), -1)
        again = np.flatnonzero(~first)
        before[order[again]] = order[again - 1]
        self._count_distinct(before, np.append(0, np.cumsum(sizes)))

    def _count_distinct(self, before: Ints, bounds: Ints) -> None:
        """An id is new to its batch when it came last before the batch began. A batch that is not full is left out."""
        for size in self.batch_sizes:
            ends = bounds[::size]
            starts = np.repeat(ends[:-1], np.diff(ends))
            self._distinct[size] += int(np.count_nonzero(before[: len(starts)] < starts))
            self._seen[size] += len(starts)

    @property
    def hits(self) -> Ints:
        """[rows] how often each row was hit so far, for `recsys.dataflow.heat`: which rows these are, too."""
        self._count(*self._take())
        return self._hits

    def ids(self, source: str = "") -> Ids:
        """What was counted so far.

        Args:
            source: Where the ids come from.

        Raises:
            DataError: When there was no bag.
        """
        self._count(*self._take())
        bags = self._sizes.total()
        if not bags:
            raise DataError(f"{source or 'the data'}: no rows to count ids in")
        hits = np.sort(self._hits[self._hits > 0])[::-1]
        said = f"measured on {bags:,} bags{' of ' * bool(source)}{source}"
        return Ids(
            bags=_histogram(self._sizes),
            distribution="measured" if hits.size else "uniform",
            hot=_hot(hits),
            unique=tuple((b, round(self._distinct[b] / n, 6)) for b, n in self._seen.items() if n),
            source=said if hits.size else f"{said}, all of them empty",
        )


def _whole(values: npt.ArrayLike, what: str) -> Ints:
    found = np.asarray(values)
    if found.ndim != 1 or (found.size and found.dtype.kind not in "iu"):
        raise DataError(f"expected {what} as a row of whole numbers, got {found.dtype} of shape {found.shape}")
    return found.astype(np.int64)


def _hot(hits: Ints) -> tuple[tuple[int, float], ...]:
    """The hot-row curve of hits that descend, to six digits."""
    if not hits.size:
        return ()
    n = grid(len(hits), SIZES)
    shares = np.cumsum(hits)[n - 1] / hits.sum()
    return tuple((int(rows), float(f"{share:.6g}")) for rows, share in zip(n, shares, strict=True))


def _histogram(sizes: Counter[int]) -> tuple[tuple[int, float], ...]:
    """(ids in a bag, share of the bags), with the true mean.

    More than 32 sizes are put together into 16 groups at most, each with about as large a share of the bags and of the
    ids; a group's bags count as the two neighbouring whole numbers of ids that have its mean.
    """
    bags, found = sizes.total(), sorted(sizes.items())
    if len(found) <= SIZES:
        return tuple((size, count / bags) for size, count in found)
    total = sum(size * count for size, count in found)
    groups: dict[int, list[tuple[int, int]]] = {}
    before = 0.0  # half the share of the bags, and half that of the ids
    for size, count in found:
        groups.setdefault(min(int(before * SIZES / 2), SIZES // 2 - 1), []).append((size, count))
        before += (count / bags + size * count / total) / 2
    shares: Counter[int] = Counter()
    for group in groups.values():
        count = sum(n for _, n in group)
        low, rest = divmod(sum(size * n for size, n in group), count)
        shares[low] += count - rest
        shares[low + 1] += rest
    return tuple((size, count / bags) for size, count in sorted(shares.items()) if count)


def measure(
    values: npt.ArrayLike,
    lengths: npt.ArrayLike | None,
    rows: int,
    batch_sizes: Iterable[int] = BATCH_SIZES,
    source: str = "",
) -> Ids:
    """Statistics of the ids of one look-up; see `IdCounter`."""
    counter = IdCounter(rows, batch_sizes)
    counter.add(values, lengths)
    return counter.ids(source)


def measure_tables(
    tables: EmbeddingTables,
    batches: Iterable[Batch],
    name: str,
    about: str = "",
    batch_sizes: Sequence[int] = BATCH_SIZES,
    source: str = "",
) -> Workload:
    """The workload of a model's tables on real batches, in one pass: see `count_tables`."""
    return count_tables(tables, batches, name, about, batch_sizes, source)[0]


def count_tables(
    tables: EmbeddingTables,
    batches: Iterable[Batch],
    name: str,
    about: str = "",
    batch_sizes: Sequence[int] = BATCH_SIZES,
    source: str = "",
) -> tuple[Workload, dict[str, Ints]]:
    """The workload of a model's tables on real batches, in one pass, and for each table how often its rows were hit.

    Look-ups of one feature in tables of one size read the same ids, which are counted once. An unpooled look-up has the
    bags that it has, and its pooling is `none`.

    Args:
        tables: Of a model.
        batches: Encoded rows, in the order in which they are to be looked up.
        name: Of the workload.
        about: What it is.
        batch_sizes: To plan and measure for.
        source: Where the rows come from.

    Raises:
        ConfigError: When there is no batch size, or one below 1.
        DataError: When the model looks nothing up, or there are no rows.
    """
    if not batch_sizes:
        raise ConfigError("expected at least one of batch_sizes, got none")
    if not tables.lookups:
        raise DataError(f"`{name}` looks nothing up: its model reads numbers only")
    assumed = assume_tables(tables, name, about)
    keys = {
        lookup.name: (tables.position[lookup.feature], tables.tables[lookup.table].rows) for lookup in tables.lookups
    }
    counters = {key: IdCounter(key[1], batch_sizes) for key in keys.values()}
    weighted = False
    for batch in batches:
        weighted = weighted or batch.ids.weights is not None
        for key, counter in counters.items():
            values, lengths, _ = batch.ids.feature(key[0])
            counter.add(values.numpy(), None if lengths is None else lengths.numpy())
    ids = {key: counter.ids(source) for key, counter in counters.items()}
    lookups = tuple(
        lookup.model_copy(update={"weighted": weighted, "ids": ids[keys[lookup.name]]}) for lookup in assumed.lookups
    )
    hits: dict[str, Ints] = {}
    for lookup in assumed.lookups:
        if lookup.pooling != "none":
            counted = counters[keys[lookup.name]].hits
            hits[lookup.table] = hits[lookup.table] + counted if lookup.table in hits else counted
    sizes = tuple(sorted(set(batch_sizes)))
    return assumed.model_copy(update={"lookups": lookups, "batch_sizes": sizes}), hits


def assume_tables(tables: EmbeddingTables, name: str, about: str = "") -> Workload:
    """The workload of a model's tables before anything is known of its ids: assumed are Zipf's, one a bag."""
    return Workload(
        name=name,
        about=about,
        tables=tuple(WorkloadTable(name=t.name, rows=t.rows, dim=t.dim) for t in tables.tables.values()),
        lookups=tuple(WorkloadLookup(name=n.name, table=n.table, pooling=n.pooling) for n in tables.lookups),
    )
