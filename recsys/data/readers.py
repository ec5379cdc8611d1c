"""Read rows: Parquet files by row group, Arrow tables and DataFrames, always as Arrow tables of bounded size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from recsys.errors import ConfigError, DataError

__all__ = ["Rows", "open_parquet", "read", "tables"]

Rows = Any
"""A path of a Parquet file, a pyarrow Table or RecordBatch, a pandas DataFrame, or anything that exports Arrow."""


def open_parquet(path: Path) -> pq.ParquetFile:
    """Open a Parquet file.

    Raises:
        DataError: When it is absent, empty, truncated or no Parquet file.
    """
    if not path.is_file():
        raise DataError(
            f"{path}: no such file" if not path.exists() else f"{path}: expected a Parquet file, got a folder"
        )
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty (0 bytes)")
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path}: not a whole Parquet file ({_first_sentence(error)}); was it cut off?") from None


def tables(rows: Rows, columns: Sequence[str] | None = None, size: int = 65_536) -> Iterator[pa.Table]:
    """The rows in order, as tables of at most `size` rows.

    Args:
        rows: See `Rows`.
        columns: The columns that are needed; by default all.
        size: Most rows a table.

    Raises:
        ConfigError: When `size` is below 1.
        DataError: When a file is broken, or a column is absent or stands twice.
    """
    if size < 1:
        raise ConfigError(f"expected at least 1 row at a time, got {size}")
    if isinstance(rows, (str, Path)):
        yield from _from_parquet(Path(rows), columns, size)
        return
    table = _in_memory(rows, columns)
    for start in range(0, table.num_rows, size):
        yield table.slice(start, size)


def read(rows: Rows, columns: Sequence[str] | None = None) -> pa.Table:
    """All rows as one table."""
    parts = list(tables(rows, columns))
    return pa.concat_tables(parts) if parts else pa.table({})


def _from_parquet(path: Path, columns: Sequence[str] | None, size: int) -> Iterator[pa.Table]:
    file = open_parquet(path)
    with file:
        if columns is not None:
            _need(file.schema_arrow.names, columns, str(path))
        wanted = None if columns is None else list(columns)
        try:
            for batch in file.iter_batches(batch_size=size, columns=wanted):
                yield pa.Table.from_batches([batch])
        except (pa.ArrowInvalid, pa.ArrowException, OSError) as error:
            raise DataError(f"{path}: a page cannot be read ({_first_sentence(error)}); is the file damaged?") from None


def _in_memory(rows: Rows, columns: Sequence[str] | None) -> pa.Table:
    """The rows as a table of the wanted columns alone; what is not wanted is not converted."""
    pandas = type(rows).__module__.partition(".")[0] == "pandas"
    if pandas and columns is not None:
        _need([str(name) for name in rows.columns], columns, "the data")
        rows = rows[list(columns)]
    try:
        table = pa.Table.from_pandas(rows, preserve_index=False) if pandas else _table(rows)
    except pa.ArrowException as error:
        raise DataError(f"a column cannot be read: {_first_sentence(error)}") from None
    if columns is None:
        return table
    _need(table.column_names, columns, "the data")
    return table.select(list(columns))


def _table(rows: Rows) -> pa.Table:
    if isinstance(rows, pa.Table):
        return rows
    if isinstance(rows, pa.RecordBatch):
        return pa.Table.from_batches([rows])
    if hasattr(rows, "__arrow_c_stream__"):
        return pa.table(rows)
    raise DataError(f"expected a path, an Arrow table or a DataFrame, got {type(rows).__name__}")


def _need(have: Sequence[str], want: Sequence[str], where: str) -> None:
    absent = [name for name in want if name not in have]
    if absent:
        names = ", ".join(f"`{name}`" for name in absent)
        raise DataError(
            f"{where}: missing column{'s' * (len(absent) > 1)} {names}; it has: {', '.join(have) or 'none'}"
        )
    twice = next((name for name in want if list(have).count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{where}: column `{twice}` stands twice; rename one")


def _first_sentence(error: Exception) -> str:
    return str(error).splitlines()[0][:200]
