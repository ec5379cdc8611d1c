"""Parquet files in parts of whole row groups, text columns as dictionaries."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from recsys.errors import DataError

__all__ = ["batches", "groups", "open_parquet"]

_LEAST = 1 << 14


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


def groups(meta: pq.FileMetaData) -> Iterator[tuple[int, int, int]]:
    """Runs of row groups as (first, one past the last, rows): small ones together, so that parts are worth reading."""
    first = rows = 0
    for group in range(meta.num_row_groups):
        rows += meta.row_group(group).num_rows
        if rows >= _LEAST or group + 1 == meta.num_row_groups:
            yield first, group + 1, rows
            first, rows = group + 1, 0


def batches(
    path: Path, meta: pq.FileMetaData, row_groups: range, columns: Sequence[str], size: int
) -> Iterator[pa.Table]:
    """The rows of some row groups, at most `size` at a time.

    Raises:
        DataError: When a page cannot be read.
    """
    types = meta.schema.to_arrow_schema()
    text = [name for name in dict.fromkeys(columns) if _is_text(types.field(name).type)]
    try:
        with pq.ParquetFile(path, metadata=meta, read_dictionary=text) as file:
            for batch in file.iter_batches(batch_size=size, row_groups=list(row_groups), columns=list(columns)):
                yield pa.Table.from_batches([batch])
    except pa.ArrowNotImplementedError as error:
        raise DataError(
            f"{path}: a column has a type that Arrow cannot read in parts ({_first_sentence(error)})"
        ) from None
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: a page cannot be read ({_first_sentence(error)}); is the file damaged?") from None


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _first_sentence(error: Exception) -> str:
    return str(error).splitlines()[0][:200]
