"""The column that orders rows in time: numbers, instants, or text of these."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from recsys.data.values import canonical, numbers, whole
from recsys.errors import DataError

__all__ = ["times"]

Floats = npt.NDArray[np.float64]


def times(table: pa.Table, name: str) -> Floats:
    """The time of every row: numbers as they are, instants in microseconds.

    Raises:
        DataError: When one is missing, or neither a number nor an instant.
    """
    array = whole(table[name])
    kind = array.type
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        found = _instants(array)
    else:
        try:
            found = numbers(array, name)
        except DataError:
            found = _read_instants(array, name)
    missing = int((~np.isfinite(found)).sum())
    if missing:
        raise DataError(f"column `{name}`: {missing:,} rows have no time, so they have no place in its order")
    return found


def _instants(array: pa.Array) -> Floats:
    zone = array.type.tz if pa.types.is_timestamp(array.type) else None
    micros = pc.cast(pc.cast(array, pa.timestamp("us", zone), safe=False), pa.int64())
    return np.asarray(pc.cast(micros, pa.float64(), safe=False).to_numpy(zero_copy_only=False))


def _read_instants(array: pa.Array, name: str) -> Floats:
    coded = array if pa.types.is_dictionary(array.type) else pc.dictionary_encode(array)
    texts = canonical(coded.dictionary, name).to_pylist()
    try:
        parsed = pd.to_datetime(pd.Series(texts, dtype="object"), format="ISO8601", utc=True)
    except (ValueError, OverflowError) as error:
        told = str(error).splitlines()[0][:120]
        raise DataError(f"column `{name}`: expected numbers or times such as 2024-05-31 12:00:00: {told}") from None
    micros = parsed.dt.as_unit("us").astype("int64").to_numpy(dtype=np.float64, copy=True)
    micros[parsed.isna().to_numpy()] = np.nan
    codes = pc.fill_null(pc.cast(coded.indices, pa.int64()), -1).to_numpy(zero_copy_only=False)
    return np.asarray(np.append(micros, np.nan)[codes])
