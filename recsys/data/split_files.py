"""Split files of any size into train, valid and test Parquet files: at random by row, or by time."""

from __future__ import annotations

import contextlib
import math
import os
import shutil
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from recsys.data.cache import SPLITS
from recsys.data.readers import Dataset, Rows
from recsys.data.schema import Format
from recsys.data.splits import Fractions
from recsys.data.times import times as times_of
from recsys.errors import ConfigError, DataError
from recsys.files import locked, make_folder

__all__ = ["Written", "split_files"]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_GROUP = 1 << 16
"""Rows of a row group."""
_TIMES = 1 << 21
"""Different times that are told apart; of more, neighbours are counted together."""


@dataclass(frozen=True)
class Written:
    """What a split wrote.

    Attributes:
        files: By split; one whose fraction is 0 has none.
        rows: Of each of them.
        after: Of a split by time: the last time in train and the last in valid, as numbers or microseconds.
    """

    files: dict[str, Path]
    rows: dict[str, int]
    after: tuple[float, float] | None = None


def split_files(
    rows: Rows,
    folder: Path,
    *,
    time: str | None = None,
    fractions: Fractions = (0.8, 0.1, 0.1),
    seed: int = 0,
    format: Format | None = None,
    overwrite: bool = False,
    show: bool = False,
) -> Written:
    """Write ``train.parquet``, ``valid.parquet`` and ``test.parquet`` into a folder; all of them or none.

    At random, the split of row number r depends on `seed` and r alone, so sizes are near the fractions and not exactly
    them. By time, the earliest rows go to train and the latest to test; rows of one time stay together. Rows keep
    their order. Columns keep their types, those of text files are text.

    Args:
        rows: See `recsys.data.readers.Rows`; read once, and by time its column once before.
        folder: Where to write.
        time: Column of numbers, instants, or text of these (ISO 8601); None: at random.
        fractions: Train, valid and test.
        seed: Of the random split.
        format: Of text files, where they need one.
        overwrite: Whether to replace files of an earlier split.
        show: Progress bars on standard error.

    Raises:
        ConfigError: When the fractions are no partition.
        DataError: When the rows cannot be read, a split would have no rows, or files are in the way.
    """
    bounds = _bounds(fractions)
    data = Dataset(rows, format)
    _check_place(rows, data, folder, overwrite)
    wanted = [name for name, fraction in zip(SPLITS, fractions, strict=True) if fraction > 0]
    after = None if time is None else _time_cuts(data, time, bounds, fractions, show)
    with _folder(folder, wanted) as temporary, _Writers(temporary, wanted, data.schema) as writers:
        first = 0
        for table in _read(data, list(data.schema.names), "split", show):
            which = _by_time(table, time, after) if time and after else _by_chance(first, table.num_rows, bounds, seed)
            writers.write(table, which)
            first += table.num_rows
        writers.finish()
        counts = {name: writers.rows[name] for name in wanted}
        _check_rows(counts, first)
    return Written({name: folder / f"{name}.parquet" for name in wanted}, counts, after)


def _bounds(fractions: Fractions) -> tuple[float, float]:
    """Where train ends and where valid ends, of all rows as 1; infinite where nothing comes after."""
    if not all(0 <= part <= 1 for part in fractions) or not math.isclose(sum(fractions), 1, abs_tol=1e-9):
        raise ConfigError(f"expected three fractions from 0 to 1 that sum to 1, got {fractions}")
    train, valid, test = fractions
    return train if valid or test else math.inf, train + valid if test else math.inf


def _check_place(rows: Rows, data: Dataset, folder: Path, overwrite: bool) -> None:
    targets, place = [folder / f"{name}.parquet" for name in SPLITS], folder.resolve()
    for file in data.files:
        if file.path.resolve() in [target.resolve() for target in targets]:
            raise DataError(f"{file.path}: is read and would be overwritten; write the splits to another folder")
    for row in rows if isinstance(rows, (list, tuple)) else [rows]:
        if isinstance(row, (str, Path)) and Path(row).is_dir() and place.is_relative_to(Path(row).resolve()):
            raise DataError(f"{folder}: is in the folder that is read; write the splits to another folder")
    there = next((target for target in targets if target.exists()), None)
    if there is not None and not overwrite:
        raise DataError(f"{there}: is there already; choose another --out or add --overwrite")


def _check_rows(counts: dict[str, int], rows: int) -> None:
    if not rows:
        raise DataError("the data has no rows")
    empty = next((name for name, n in counts.items() if not n), None)
    if empty is not None:
        raise DataError(
            f"of {rows:,} rows none came to {empty}; give it a greater fraction, take another seed, or add rows"
        )


@contextlib.contextmanager
def _folder(folder: Path, wanted: Sequence[str]) -> Iterator[Path]:
    """A folder to write to, whose files come to `folder` on success.

    Files of an earlier split go first: a kill in between may leave some files missing, but never those of two splits.
    """
    made = not folder.exists()
    try:
        with locked(folder / ".split.lock"):
            for left in folder.glob(".split.*.partial"):  # of a split that was killed
                shutil.rmtree(left, ignore_errors=True)
            with _temporary(folder, wanted) as temporary:
                yield temporary
    finally:
        if made:
            with contextlib.suppress(OSError):
                folder.rmdir()  # only if it is empty: nothing was written


@contextlib.contextmanager
def _temporary(folder: Path, wanted: Sequence[str]) -> Iterator[Path]:
    temporary = folder / f".split.{uuid.uuid4().hex[:8]}.partial"
    make_folder(temporary)
    try:
        yield temporary
        for name in wanted:
            with (temporary / f"{name}.parquet").open("rb+") as file:
                os.fsync(file.fileno())
        for name in SPLITS:
            (folder / f"{name}.parquet").unlink(missing_ok=True)
        for name in wanted:
            (temporary / f"{name}.parquet").replace(folder / f"{name}.parquet")
    except OSError as error:
        raise DataError(f"{folder}: cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _read(data: Dataset, columns: list[str], what: str, show: bool) -> Iterator[pa.Table]:
    data.need(columns)
    quiet = None if show else True
    with tqdm(total=data.rows, desc=what, unit=" rows", unit_scale=True, disable=quiet) as bar:
        for table, _ in data.read(columns):
            yield table
            bar.update(table.num_rows)


class _Writers:
    """A Parquet file for each split, in row groups of one size."""

    def __init__(self, folder: Path, wanted: Sequence[str], declared: pa.Schema) -> None:
        self.folder, self.rows, self.declared = folder, dict.fromkeys(wanted, 0), declared
        self._open = contextlib.ExitStack()
        self._writers: dict[str, pq.ParquetWriter] = {}
        self._pending: dict[str, list[pa.Table]] = {name: [] for name in wanted}
        self._schema: pa.Schema | None = None

    def __enter__(self) -> _Writers:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def write(self, table: pa.Table, which: Ints) -> None:
        """Give each row to the split of that number."""
        table = self._plain(table)
        for s, name in enumerate(SPLITS):
            picked = np.flatnonzero(which == s)
            if picked.size:
                self._pending[name].append(table.take(pa.array(picked)))
                self.rows[name] += picked.size
                if sum(part.num_rows for part in self._pending[name]) >= _GROUP:
                    self._flush(name)

    def finish(self) -> None:
        """Write what is left, and close the files."""
        for name in self._pending:
            self._flush(name)
        self._open.close()

    def _flush(self, name: str) -> None:
        if self._pending[name] and self._schema is not None:
            if name not in self._writers:
                path = self.folder / f"{name}.parquet"
                writer = pq.ParquetWriter(path, self._schema, compression="zstd")
                self._writers[name] = self._open.enter_context(writer)
            self._writers[name].write_table(pa.concat_tables(self._pending[name]).combine_chunks())
            self._pending[name] = []

    def _plain(self, table: pa.Table) -> pa.Table:
        """The table with the first one's types; text that a reader made dictionaries of is text again."""
        if self._schema is None:
            self._schema = pa.schema([(field.name, _type(field, self.declared)) for field in table.schema])
        try:
            return table.cast(self._schema)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise DataError(f"the files disagree on the type of a column: {str(error).splitlines()[0][:200]}") from None


def _type(field: pa.Field, declared: pa.Schema) -> pa.DataType:
    """The type to write: text that was read as a dictionary is what the data say it is."""
    kind = declared.field(field.name).type
    return kind if pa.types.is_dictionary(field.type) and not pa.types.is_dictionary(kind) else field.type


def _by_chance(first: int, rows: int, bounds: Sequence[float], seed: int) -> Ints:
    """The split of rows `first` … `first + rows - 1`: splitmix64 of seed and row as a number in [0, 1)."""
    start = np.uint64((seed * 0x9E3779B97F4A7C15 + 0x632BE59BD9B4E019) & (2**64 - 1))
    with np.errstate(over="ignore"):
        mixed = (np.arange(first, first + rows, dtype=np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        mixed ^= _mixed(np.full(1, start, dtype=np.uint64))
        mixed = _mixed(mixed)
    chance = (mixed >> np.uint64(11)).astype(np.float64) / 2.0**53
    return np.searchsorted(np.asarray(bounds), chance, side="right").astype(np.int64)


def _mixed(words: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The finaliser of splitmix64 (Steele, Lea and Flood 2014)."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(words ^ (words >> np.uint64(31)))


def _by_time(table: pa.Table, time: str, after: tuple[float, float]) -> Ints:
    return np.searchsorted(np.asarray(after), times_of(table, time), side="left").astype(np.int64)


def _time_cuts(
    data: Dataset, time: str, bounds: Sequence[float], fractions: Fractions, show: bool
) -> tuple[float, float]:
    """The last time in train and in valid, such that the splits come nearest to the fractions and none is empty."""
    counts = _Counts()
    for table in _read(data, [time], "times", show):
        counts.add(times_of(table, time))
    times, sums = counts.cumulated()
    wanted = sum(fraction > 0 for fraction in fractions)
    if times.size < wanted:
        raise DataError(f"column `{time}` has {times.size} different times; {wanted} splits need one each at least")
    low = 0
    ends: list[float] = []
    left = wanted
    for bound, fraction in zip(bounds, fractions[:2], strict=True):
        if fraction == 0:
            ends.append(ends[-1] if ends else -np.inf)
            continue
        left -= 1
        if not left:
            ends.append(float(times[-1]))
            continue
        nearest = low + int(np.abs(sums[low : times.size - left] - bound * sums[-1]).argmin())
        ends.append(float(times[nearest]))
        low = nearest + 1
    return ends[0], ends[1]


class _Counts:
    """How many rows have each time; when there are too many times, two neighbours count as the later one."""

    def __init__(self) -> None:
        self.times, self.sizes = np.zeros(0), np.zeros(0, dtype=np.int64)

    def add(self, times: Floats) -> None:
        """Count these."""
        fresh, sizes = np.unique(times, return_counts=True)
        together, where = np.unique(np.concatenate([self.times, fresh]), return_inverse=True)
        counts = np.bincount(where, weights=np.concatenate([self.sizes, sizes]), minlength=together.size)
        self.times, self.sizes = together, counts.astype(np.int64)
        while self.times.size > _TIMES:
            keep = np.arange(self.times.size)[::-1][::2][::-1]
            self.sizes = np.diff(np.cumsum(self.sizes)[keep], prepend=0)
            self.times = self.times[keep]

    def cumulated(self) -> tuple[Floats, Ints]:
        """Times, and how many rows are at each or before."""
        return self.times, np.cumsum(self.sizes)
