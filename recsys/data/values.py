"""One text for each value, so that a category means the same in every type of column.

The integer 5, the floats 5.0 of 32 and 64 bits, the decimal 5.00 and the text "5" are one category. The text "5.0" is
another: text is taken as it is.
"""

from __future__ import annotations

import mmh3
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from recsys.errors import DataError

__all__ = ["canonical", "dictionary", "murmur_rows", "numbers", "whole"]

Ints = npt.NDArray[np.int64]


def whole(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """The column as one array, dictionary-encoded or not, with extension types unwrapped."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(array, pa.ChunkedArray):  # pyarrow keeps chunks that are too large to join
        array = pa.concat_arrays(array.chunks)
    return array.storage if isinstance(array.type, pa.BaseExtensionType) else array


def canonical(array: pa.Array, name: str) -> pa.Array:
    """The values as text; missing, NaN and empty text become null.

    A number without a fraction is written as an integer, so that a column that pandas turned into floats because of
    one missing value still meets the vocabulary that was made from integers.

    Raises:
        DataError: For a nested type or bytes that are not UTF-8.
    """
    kind = array.type
    if pa.types.is_nested(kind):
        raise DataError(f"column `{name}`: expected one value a row, got {kind}; is the feature `multi-valued`?")
    try:
        if pa.types.is_floating(kind):
            return _floats(pc.cast(array, pa.float32()) if pa.types.is_float16(kind) else array)
        if pa.types.is_timestamp(kind):
            array = pc.cast(array, pa.timestamp("us", kind.tz), safe=False)
        text = pc.cast(array, pa.large_string())
    except pa.ArrowException as error:
        raise DataError(f"column `{name}`: {kind} values cannot be read as text: {error}") from None
    if pa.types.is_decimal(kind):
        text = pc.replace_substring_regex(text, r"(\.\d*?)0+$", r"\1")
        text = pc.replace_substring_regex(text, r"\.$", "")
    return pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.large_string()), text)


def _floats(array: pa.Array) -> pa.Array:
    exact = pc.and_(pc.equal(array, pc.trunc(array)), pc.less(pc.abs(array), 2.0**63))
    whole_numbers = pc.cast(pc.if_else(exact, array, pa.scalar(None, array.type)), pa.int64())
    text = pc.coalesce(pc.cast(whole_numbers, pa.large_string()), pc.cast(array, pa.large_string()))
    return pc.if_else(pc.is_nan(array), pa.scalar(None, pa.large_string()), text)


def dictionary(array: pa.Array, name: str) -> tuple[npt.NDArray[np.object_], Ints]:
    """Distinct canonical values, and for each row the position of its value, -1 where it is missing.

    Two distinct raw values may have one text (5 and "5"), so a text can stand twice among the distinct ones.
    """
    if not pa.types.is_dictionary(array.type):
        if pa.types.is_nested(array.type) or pa.types.is_null(array.type):
            array = canonical(array, name)
        array = pc.dictionary_encode(array)
    try:
        texts = canonical(array.dictionary, name).to_numpy(zero_copy_only=False)
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise DataError(f"column `{name}`: its text cannot be read, is it UTF-8? ({error})") from None
    codes = pc.fill_null(pc.cast(array.indices, pa.int64()), -1).to_numpy(zero_copy_only=False)
    missing = np.flatnonzero([text is None for text in texts])
    if missing.size:
        codes = np.where(np.isin(codes, missing), -1, codes)
    return np.asarray(texts, dtype=object), codes


def murmur_rows(texts: npt.NDArray[np.object_], feature: str, bits: int, seed: int) -> Ints:
    """Rows 1 … 2^bits - 1 for ``feature|text`` by murmur3 (32 bits); row 0 stays "unknown"."""
    rows = (1 << bits) - 1
    hashed = [1 + mmh3.hash(f"{feature}|{text}", seed, signed=False) % max(rows, 1) for text in texts]
    return np.minimum(np.asarray(hashed, dtype=np.int64), rows)


def numbers(array: pa.Array, name: str) -> npt.NDArray[np.float64]:
    """The column as float64, NaN where it is missing; text that reads as numbers is read.

    Raises:
        DataError: When a value is no number; the message shows it.
    """
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    if pa.types.is_boolean(array.type):
        array = pc.cast(array, pa.int8())
    if pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
        array = pc.utf8_trim_whitespace(array)
        array = pc.if_else(pc.equal(array, ""), pa.scalar(None, array.type), array)
    try:
        column = pc.cast(array, pa.float64(), safe=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(f"column `{name}`: expected numbers, got {array.type}: {error}") from None
    return np.asarray(pc.fill_null(column, float("nan")).to_numpy(zero_copy_only=False), dtype=np.float64)
