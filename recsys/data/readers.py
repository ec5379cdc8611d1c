"""Read rows: Parquet and text files, folders of them, Arrow tables and DataFrames, always as tables of bounded size."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import os
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import pyarrow as pa
import pyarrow.parquet as pq

from recsys.data import text
from recsys.data.formats import DERIVED
from recsys.data.parquet import batches, groups, open_parquet
from recsys.data.schema import Format
from recsys.errors import ConfigError, DataError

__all__ = ["BEGIN", "DataFile", "Dataset", "Piece", "Place", "Rows", "files_in", "open_parquet", "read", "tables"]

Rows = Any
"""A path of a file or a folder, several of them, a pyarrow Table or RecordBatch, a DataFrame, or what exports Arrow."""

_BLOCK = 1 << 24
_TABLE = 1 << 16


class Place(NamedTuple):
    """Where a reader stands: `rows` rows into a piece."""

    piece: int = 0
    rows: int = 0


BEGIN = Place()


@dataclass(frozen=True)
class Piece:
    """A part of the rows that can be read by itself.

    Attributes:
        file: Which file, by its position; of a table in memory 0.
        start: Its first byte (text), row group (Parquet) or row (memory).
        stop: One past its last.
        rows: How many rows, or None while that is not known.
    """

    file: int
    start: int
    stop: int | None
    rows: int | None


@dataclass(frozen=True)
class DataFile:
    """A file, and what tells whether it is still the one that was opened."""

    path: Path
    size: int
    modified: int

    @classmethod
    def of(cls, path: Path) -> DataFile:
        """The file as it is now.

        Raises:
            DataError: When it is absent, or empty.
        """
        try:
            found = path.stat()
        except OSError as error:
            gone = isinstance(error, (FileNotFoundError, NotADirectoryError))
            raise DataError(f"{path}: {'no such file' if gone else error.strerror}") from None
        if found.st_size == 0:
            raise DataError(f"{path}: the file is empty (0 bytes)")
        return cls(path, found.st_size, found.st_mtime_ns)

    def check(self) -> None:
        """Raise DataError when the file was changed since it was opened."""
        try:
            now = self.path.stat()
        except OSError:
            raise DataError(f"{self.path}: was removed while it was being read") from None
        if (now.st_size, now.st_mtime_ns) != (self.size, self.modified):
            raise DataError(f"{self.path}: was changed while it was being read; try again when nobody writes to it")


class Dataset:
    """Rows in pieces: what training shuffles, and what a scoring job resumes from.

    Args:
        rows: See `Rows`. A folder stands for all files in it and below, but those whose names begin with `.` or `_`.
        format: Of text files, where they need one.
        columns: The only ones that will be read; a DataFrame's others are then not converted.

    Raises:
        DataError: When a file is absent, empty, or neither Parquet nor text with columns.
    """

    def __init__(self, rows: Rows, format: Format | None = None, columns: Sequence[str] | None = None) -> None:
        paths = _paths(rows)
        self.files = tuple(DataFile.of(path) for path in paths or ())
        self._table = None if paths is not None else _in_memory(rows, columns)
        self._opened = [_open(file, format) for file in self.files]

    @property
    def schema(self) -> pa.Schema:
        """Columns of the first file, with a type that holds the values of all; a text file's columns are text."""
        return self._table.schema if self._table is not None else _unified([opened.schema for opened in self._opened])

    @property
    def rows(self) -> int | None:
        """How many rows there are, where that is known without reading them."""
        known = [piece.rows for piece in self.pieces()] if self._cheap() else [None]
        return None if None in known else sum(cast(list[int], known))

    @property
    def bytes(self) -> int:
        """Size of the files, or of the table in memory."""
        return self._table.nbytes if self._table is not None else sum(file.size for file in self.files)

    def identity(self) -> list[tuple[str, int, int]]:
        """What changes when a file does: name, size and time of change of each; of a table in memory nothing."""
        return [(file.path.name, file.size, file.modified) for file in self.files]

    def _cheap(self) -> bool:
        return all(isinstance(opened, _Parquet) for opened in self._opened)

    def pieces(self) -> Iterator[Piece]:
        """All rows in order; of text files, reading on finds where the next piece begins."""
        if self._table is not None:
            for start in range(0, self._table.num_rows, _TABLE):
                stop = min(start + _TABLE, self._table.num_rows)
                yield Piece(0, start, stop, stop - start)
        for f, opened in enumerate(self._opened):
            for start, stop, rows in opened.pieces():
                yield Piece(f, start, stop, rows)

    def read(
        self,
        columns: Sequence[str] | None = None,
        size: int | None = None,
        pieces: Iterable[Piece] | None = None,
        start: Place = BEGIN,
    ) -> Iterator[tuple[pa.Table, Place]]:
        """Tables of at most `size` rows, each with the place that comes after it.

        Args:
            columns: The columns that are needed; by default all.
            size: Most rows a table; by default 65,536, and fewer of more than 256 columns.
            pieces: Which, in this order; by default all in theirs.
            start: Where to begin, as an earlier call with the same pieces gave it.

        Raises:
            ConfigError: When `size` is below 1.
            DataError: When a file is broken or changed, or a column is absent or stands twice.
        """
        size = _suited(len(self.schema.names if columns is None else columns)) if size is None else size
        if size < 1:
            raise ConfigError(f"expected at least 1 row at a time, got {size}")
        if columns is not None and self._table is not None:
            self.need(columns)
        for p, piece in enumerate(self.pieces() if pieces is None else pieces):
            if p < start.piece:
                continue
            done = 0
            skip = start.rows if p == start.piece else 0
            for table in self._read(piece, columns, size):
                fresh = table.slice(max(skip - done, 0))
                done += table.num_rows
                if fresh.num_rows or not table.num_rows:
                    yield fresh, Place(p, done)

    def need(self, columns: Sequence[str]) -> None:
        """Raise DataError when a file lacks one of these columns, or has it twice."""
        if self._table is not None:
            _need(self._table.column_names, columns, "the data")
        for file, opened in zip(self.files, self._opened, strict=True):
            _need(opened.schema.names, columns, str(file.path))

    def _read(self, piece: Piece, columns: Sequence[str] | None, size: int) -> Iterator[pa.Table]:
        if self._table is not None:
            table = self._table.slice(piece.start, (piece.stop or 0) - piece.start)
            table = table if columns is None else table.select(list(columns))
            yield from (table.slice(start, size) for start in range(0, table.num_rows, size))
            return
        file, opened = self.files[piece.file], self._opened[piece.file]
        names = opened.schema.names if columns is None else columns
        _need(opened.schema.names, names, str(file.path))
        file.check()
        yield from opened.read(piece, names, size)
        file.check()


def _suited(columns: int) -> int:
    """Rows of a table of some 16 million values at most."""
    return max(min(_TABLE, (1 << 24) // max(columns, 1)), 1024)


def tables(
    rows: Rows, columns: Sequence[str] | None = None, size: int | None = None, format: Format | None = None
) -> Iterator[pa.Table]:
    """The rows in order, as tables of at most `size` rows; see `Dataset.read`."""
    for table, _ in Dataset(rows, format, columns).read(columns, size):
        yield table


def read(rows: Rows, columns: Sequence[str] | None = None, format: Format | None = None) -> pa.Table:
    """All rows as one table, with the types that the data has: text is not left dictionary-encoded."""
    data = Dataset(rows, format, columns)
    data.need(columns or ())
    names = data.schema.names if columns is None else columns
    types = pa.schema([data.schema.field(name) for name in names]) if len(set(names)) == len(names) else data.schema
    parts = [table.cast(types) for table, _ in data.read(columns)]
    return pa.concat_tables(parts, promote_options="default") if parts else types.empty_table()


def files_in(folder: Path) -> list[Path]:
    """The data files of a folder and of the folders in it, by name; not those that begin with `.` or `_`.

    Raises:
        DataError: When there is none.
    """
    found = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    files = [path for path in found if not any(p[0] in "._" for p in path.relative_to(folder).parts)]
    if not files:
        raise DataError(f"{folder}: the folder holds no data files")
    return files


def _paths(rows: Rows) -> list[Path] | None:
    """Files that `rows` names, or None when it is a table."""
    if isinstance(rows, (str, Path)):
        path = Path(rows)
        return files_in(path) if os.path.isdir(path) else [path]  # false, too, of what the disk refuses to look at
    if isinstance(rows, (list, tuple)) and rows and all(isinstance(row, (str, Path)) for row in rows):
        files = [file for row in rows for file in _paths(row) or ()]
        real = [file.resolve() for file in files]
        twice = (
            next((file for i, file in enumerate(real) if file in real[:i]), None)
            if len(set(real)) < len(real)
            else None
        )
        if twice is not None:
            raise DataError(f"{twice}: is named twice, and its rows would count twice")
        return files
    return None


class _Parquet:
    def __init__(self, file: DataFile) -> None:
        self.file = file
        with open_parquet(file.path) as opened:
            self.meta: pq.FileMetaData = opened.metadata
            self.schema: pa.Schema = opened.schema_arrow

    def pieces(self) -> Iterator[tuple[int, int | None, int | None]]:
        yield from groups(self.meta)

    def read(self, piece: Piece, columns: Sequence[str], size: int) -> Iterator[pa.Table]:
        if columns:
            yield from batches(self.file.path, self.meta, range(piece.start, piece.stop or 0), columns, size)


class _Text:
    def __init__(self, file: DataFile, format: Format | None) -> None:
        self.file = file
        try:
            with self._open() as opened:
                self.layout = text.dialect(opened, file.path, format)
        except (OSError, EOFError, zlib.error) as error:
            raise _cut_off(file, error) from None
        columns = set(self.layout.columns)
        self.schema = pa.schema([(name, pa.string() if name in columns else DERIVED) for name in self.layout.names])

    def _open(self) -> BinaryIO:
        """The file's bytes, unpacked."""
        with self.file.path.open("rb") as file:
            magic = file.read(3)
        if magic[:2] == b"\x1f\x8b":
            return cast(BinaryIO, gzip.open(self.file.path))
        return cast(BinaryIO, bz2.open(self.file.path)) if magic == b"BZh" else self.file.path.open("rb")

    def pieces(self) -> Iterator[tuple[int, int | None, int | None]]:
        with self._open() as file:
            if isinstance(file, (gzip.GzipFile, bz2.BZ2File)):  # only readable from the front
                yield self.layout.start, None, None
                return
            try:
                for start, stop in text.split(file, self.layout, _BLOCK):
                    yield start, stop, None
            except DataError as error:
                raise DataError(f"{self.file.path}: {error}") from None

    def read(self, piece: Piece, columns: Sequence[str], size: int) -> Iterator[pa.Table]:
        try:
            with self._open() as file:
                for block in text.blocks(file, self.layout, piece.start, piece.stop, _BLOCK):
                    table = text.parse(block, self.layout, columns)
                    yield from (table.slice(start, size) for start in range(0, table.num_rows, size))
        except DataError as error:
            raise DataError(f"{self.file.path}: {error}") from None
        except (OSError, EOFError, zlib.error) as error:
            raise _cut_off(self.file, error) from None


def _cut_off(file: DataFile, error: Exception) -> DataError:
    return DataError(f"{file.path}: cannot be read ({error}); was it cut off?")


_BINARY = {b"PK\x03\x04": "a zip or Excel file", b"ARRO": "an Arrow file", b"ORC": "an ORC file", b"Obj\x01": "Avro"}


def _open(file: DataFile, format: Format | None) -> _Parquet | _Text:
    try:
        with file.path.open("rb") as opened:
            magic = opened.read(4)
    except OSError as error:
        raise DataError(f"{file.path}: cannot be read: {error.strerror or error}") from None
    for start, what in _BINARY.items():
        if magic.startswith(start):
            raise DataError(f"{file.path}: expected Parquet, CSV or TSV, got {what}; convert it first")
    parquet = magic == b"PAR1" or file.path.suffix in (".parquet", ".pq")
    return _Parquet(file) if parquet else _Text(file, format)


def _in_memory(rows: Rows, columns: Sequence[str] | None) -> pa.Table:
    if isinstance(rows, pa.Table):
        return rows
    if isinstance(rows, pa.RecordBatch):
        return pa.Table.from_batches([rows])
    if type(rows).__module__.partition(".")[0] == "pandas" and hasattr(rows, "columns"):
        return _from_pandas(rows, columns)
    with contextlib.suppress(pa.ArrowException, TypeError):  # of a column alone
        if hasattr(rows, "__arrow_c_stream__"):
            return pa.table(rows)
    raise DataError(
        "expected paths, an Arrow table, a DataFrame or anything else with columns that exports Arrow, got "
        f"{type(rows).__name__}"
    )


def _from_pandas(frame: Any, columns: Sequence[str] | None) -> pa.Table:
    """The wanted columns of a DataFrame; one of Python objects of several types becomes text.

    Raises:
        DataError: When values have no text.
    """
    names, arrays = [str(name) for name in frame.columns], []
    wanted = [i for i, name in enumerate(names) if columns is None or name in columns]
    for i in wanted:
        name = names[i]
        column = frame.iloc[:, i]
        try:
            array = pa.array(column, from_pandas=True)
        except (pa.ArrowException, OverflowError):
            array = _as_text(column, name)
        except UnicodeEncodeError as error:
            raise DataError(f"column `{name}`: its text cannot be written as UTF-8: {error}") from None
        arrays.append(array)
    return pa.Table.from_arrays(arrays, names=[names[i] for i in wanted])


def _as_text(column: Any, name: str) -> pa.Array:
    missing = column.isna()
    nested = next((v for v in column[~missing] if isinstance(v, (list, tuple, dict, set))), None)
    if nested is not None:
        raise DataError(f"column `{name}`: holds {type(nested).__name__} values among others; make all of one type")
    return pa.array([None if gone else str(v) for v, gone in zip(column, missing, strict=True)], pa.string())


def _unified(schemas: Sequence[pa.Schema]) -> pa.Schema:
    """The first schema with, for each column, a type that loses no value of any; text where there is no other."""
    first = schemas[0]
    if all(schema == first for schema in schemas):
        return first
    return pa.schema([(name, _common([s.field(name).type for s in schemas if s.get_field_index(name) >= 0] or
                                     [first.field(i).type])) for i, name in enumerate(first.names)])  # fmt: skip


def _common(kinds: Sequence[pa.DataType]) -> pa.DataType:
    try:
        fields = [pa.schema([("c", kind)]) for kind in dict.fromkeys(kinds)]
        return pa.unify_schemas(fields, promote_options="permissive").field("c").type
    except (pa.ArrowTypeError, pa.ArrowInvalid):
        return pa.string()


def _need(have: Sequence[str], want: Sequence[str], where: str) -> None:
    times = Counter(have)
    absent = [name for name in want if name not in times]
    if absent:
        names = ", ".join(f"`{name}`" for name in absent)
        raise DataError(
            f"{where}: missing column{'s' * (len(absent) > 1)} {names}; it has: {', '.join(have) or 'none'}"
        )
    twice = next((name for name in want if times[name] > 1), None)
    if twice is not None:
        raise DataError(f"{where}: column `{twice}` stands twice; rename one")
