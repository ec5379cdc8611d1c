"""A checksum of what a table says, not of a file's bytes: the same on every machine and with every version of Arrow.

For each column in order it hashes the name, the type, which values are missing, and the values: numbers as
little-endian bytes (zero where missing), text and lists as their lengths and then their contents.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys.data.values import whole
from recsys.errors import DataError

__all__ = ["digest"]


def digest(tables: Iterable[pa.Table]) -> str:
    """SHA-256 over the contents of `tables`, in order; chunks, row groups and metadata do not count.

    Raises:
        DataError: For a column that holds neither numbers, text nor lists of them.
    """
    total = hashlib.sha256()
    for table in tables:
        total.update(f"table {table.num_columns} {table.num_rows}\n".encode())
        for name in table.column_names:
            total.update(f"column {name}\n".encode())
            _add(total, whole(table[name]), name)
    return total.hexdigest()


def _add(total: Any, array: pa.Array, name: str) -> None:
    kind = array.type
    if _is_list(kind):
        _head(total, array, "list")
        total.update(_bytes(pc.fill_null(pc.list_value_length(array), 0), "<i8"))
        _add(total, whole(pc.list_flatten(array)), name)
    elif pa.types.is_string(kind) or pa.types.is_large_string(kind):
        _head(total, array, "text")
        array = pc.cast(pc.fill_null(array, ""), pa.large_binary())
        total.update(_bytes(pc.binary_length(array), "<i8"))
        total.update(b"".join(array.to_pylist()))
    elif pa.types.is_integer(kind) or pa.types.is_floating(kind):
        _head(total, array, str(kind))
        total.update(_bytes(pc.fill_null(array, pa.scalar(0, kind)), None))
    else:
        raise DataError(f"column `{name}`: {kind} has no checksum here; expected numbers, text or lists of them")


def _head(total: Any, array: pa.Array, kind: str) -> None:
    total.update(f"{kind} {len(array)} {array.null_count}\n".encode())
    if array.null_count:
        total.update(_bytes(pc.cast(pc.is_valid(array), pa.uint8()), None))


def _bytes(array: pa.Array, dtype: str | None) -> bytes:
    values = array.to_numpy(zero_copy_only=False)
    return np.ascontiguousarray(values, dtype or values.dtype.newbyteorder("<")).tobytes()


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))
