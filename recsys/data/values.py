"""One text for each value, so that a category means the same in every type of column and every format of file.

The integer 5, the floats 5.0 of 32 and 64 bits, the decimal 5.00 and the texts "5", " 5" and "5.0" are one category;
so are the boolean true and the texts "true", "True" and "TRUE", and the instant 03:04:05 of a day with its text.

Text with a fraction stays as it is written: "1.50" may be a version, and "1e5" a hash. So a fraction that a program
writes in another way than Arrow (1e-05 for 0.00001) is another category in a text file than in a typed column.
"""

from __future__ import annotations

import re

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from recsys.errors import DataError

__all__ = ["NO_VALUE", "PLAIN", "Plain", "canonical", "dictionary", "number_of", "numbers", "text_of", "whole"]

Ints = npt.NDArray[np.int64]
Plain = str | int | float | bool | None
"""A value as JSON gives it, lists and objects apart."""
PLAIN = frozenset({str, int, float, bool, type(None)})
"""The types of `Plain`, without their subclasses, which may write themselves in another way."""

NO_VALUE = (
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA",
    "NULL", "NaN", "None", "n/a", "nan", "null", "\\N",
)  # fmt: skip
"""What text says for "missing": what pandas reads as missing, and the \\N of databases."""
_NOTHING = pa.array([*NO_VALUE], pa.large_string())
_NO_TEXT, _NO_NUMBER = frozenset(NO_VALUE), frozenset([*NO_VALUE, "?"])
_BOOLEANS = {"True": "true", "TRUE": "true", "False": "false", "FALSE": "false"}
_WHOLE = re.compile(r"(-?[0-9]+)\.0+")
_DECIMAL = re.compile(r"-?[0-9]+(\.[0-9]+)?")


def whole(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """The column as one array, dictionary-encoded or not, with extension types unwrapped."""
    array = column
    if isinstance(column, pa.ChunkedArray):
        array = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):  # pyarrow keeps chunks that are too large to join
        array = pa.concat_arrays(array.chunks)
    return array.storage if isinstance(array.type, pa.BaseExtensionType) else array


def canonical(array: pa.Array, name: str) -> pa.Array:
    """The values as text (large_string) without spaces around it; missing, NaN, blank text and `NO_VALUE` become null.

    A number without a fraction is written as an integer, so that a column that pandas turned into floats because of
    one missing value, or wrote to a file as such, still meets the vocabulary that was made from integers. An instant
    with a time zone is written in UTC.

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
            array = pc.cast(array, pa.timestamp("us", "UTC" if kind.tz else None), safe=False)
        text = pc.cast(array, pa.large_string())
    except pa.ArrowException as error:
        raise DataError(f"column `{name}`: {kind} values cannot be read as text: {error}") from None
    if pa.types.is_timestamp(kind) or pa.types.is_time(kind):
        return pc.replace_substring_regex(text, r"\.0+(Z?)$", r"\1")
    if pa.types.is_decimal(kind):
        text = pc.replace_substring_regex(text, r"(\.\d*?)0+$", r"\1")
        return pc.replace_substring_regex(text, r"\.$", "")
    return _tidy(text) if not _plain(kind) else text


def _plain(kind: pa.DataType) -> bool:
    """Whether a type's text is written by Arrow, and so without spaces and never empty."""
    return bool(pa.types.is_integer(kind) or pa.types.is_boolean(kind) or pa.types.is_temporal(kind))


def _tidy(text: pa.LargeStringArray) -> pa.LargeStringArray:
    if _is_tidy(text):
        return text
    text = pc.utf8_trim_whitespace(text)
    if pc.any(pc.match_substring(text, ".0")).as_py():
        text = pc.replace_substring_regex(text, r"^(-?\d+)\.0+$", r"\1")
    text = _lower_booleans(text)
    text = pc.if_else(pc.equal(text, "-0"), pa.scalar("0", pa.large_string()), text)
    missing = pc.is_in(text, value_set=_NOTHING)
    return pc.if_else(missing, pa.scalar(None, pa.large_string()), text) if pc.any(missing).as_py() else text


def _is_tidy(text: pa.LargeStringArray) -> bool:
    """Whether a look at the bytes is enough: plain ASCII, nothing empty, no point, none of T, F, N and n.

    Most ids are so; every text of `NO_VALUE` but the empty one has an N or n.
    """
    if text.null_count or not len(text):
        return not len(text)
    _, offsets, data = text.buffers()
    ends = np.frombuffer(offsets, dtype=np.int64)[text.offset : text.offset + len(text) + 1]
    if not (np.diff(ends) > 0).all():
        return False
    content = np.frombuffer(data, dtype=np.uint8)[ends[0] : ends[-1]]
    raw = content.tobytes()
    return bool(content.min() > 32 and content.max() < 127) and not any(
        mark in raw for mark in (b".", b"T", b"F", b"N", b"n", b"-")
    )


def _lower_booleans(text: pa.LargeStringArray) -> pa.LargeStringArray:
    """``True`` and ``TRUE`` of a text file are the boolean that pandas reads them as."""
    for word in ("True", "False"):
        found = pc.is_in(text, value_set=pa.array([word, word.upper()], pa.large_string()))
        if pc.any(found).as_py():
            text = pc.if_else(found, pa.scalar(word.lower(), pa.large_string()), text)
    return text


def _floats(array: pa.Array) -> pa.Array:
    exact = pc.and_(pc.equal(array, pc.trunc(array)), pc.less(pc.abs(array), 2.0**63))
    whole_numbers = pc.cast(pc.if_else(exact, array, pa.scalar(None, array.type)), pa.int64())
    text = pc.coalesce(pc.cast(whole_numbers, pa.large_string()), pc.cast(array, pa.large_string()))
    return pc.if_else(pc.is_nan(array), pa.scalar(None, pa.large_string()), text)


def text_of(value: Plain, name: str) -> str | None:
    """`canonical` of one value by itself; of an integer that only unsigned 64 bits hold, too.

    Raises:
        DataError: For an integer beyond 64 bits, and for text that is not Unicode (half of a surrogate pair).
    """
    if isinstance(value, str):
        return _tidy_one(value, name)
    if value is None:
        return None
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(_fits(value, name)) if isinstance(value, int) else _float_text(value, name)


def _tidy_one(text: str, name: str) -> str | None:
    text = text.strip()
    if not text.isascii():
        _unicode(text, name)
    if ".0" in text and (found := _WHOLE.fullmatch(text)):
        text = found[1]
    text = _BOOLEANS.get(text, text)
    if text == "-0":
        return "0"
    return None if text in _NO_TEXT else text


def _float_text(value: float, name: str) -> str | None:
    if value != value:
        return None
    if value.is_integer() and abs(value) < 2.0**63:
        return str(int(value))
    if 1e-4 <= abs(value) < 1e10:
        return repr(value)  # what Arrow writes; beyond, the two begin to write exponents at other places
    text: str = canonical(pa.array([value]), name)[0].as_py()
    return text


def _fits(value: int, name: str) -> int:
    if -(1 << 63) <= value < 1 << 64:
        return value
    raise DataError(f"column `{name}`: an integer of {value.bit_length()} bits; at most 64 can be read, or text")


def _unicode(text: str, name: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"column `{name}`: its text cannot be read, is it Unicode? ({error})") from None


def dictionary(array: pa.Array, name: str) -> tuple[pa.LargeStringArray, Ints]:
    """Canonical texts of the values that occur, and for each row the position of its text, -1 where it is missing.

    Two raw values may have one text (5 and "5"), so a text can stand twice.
    """
    if not pa.types.is_dictionary(array.type):
        if pa.types.is_nested(array.type) or pa.types.is_null(array.type):
            array = canonical(array, name)
        array = pc.dictionary_encode(array)
    codes = _codes(array.indices)
    values, codes = _used(array.dictionary, codes)
    try:
        values.validate(full=True)  # text in a Parquet file or from another library may be anything
        texts = canonical(values, name)
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise DataError(f"column `{name}`: its text cannot be read, is it UTF-8? ({error})") from None
    return _without_nulls(texts, codes)


def _codes(indices: pa.Array) -> Ints:
    codes = pc.cast(indices, pa.int64())
    return np.asarray((pc.fill_null(codes, -1) if codes.null_count else codes).to_numpy(zero_copy_only=False))


def _used(values: pa.Array, codes: Ints) -> tuple[pa.Array, Ints]:
    """Leave out the values that no row has: the dictionary of a row group serves many small tables."""
    if len(values) <= codes.size // 2:
        return values, codes
    there = np.zeros(len(values) + 1, dtype=bool)
    there[codes] = True  # -1, missing, is the last
    if there[:-1].all():
        return values, codes
    position = np.cumsum(there) - 1
    position[-1] = -1
    return values.take(pa.array(np.flatnonzero(there[:-1]))), position[codes]


def _without_nulls(texts: pa.LargeStringArray, codes: Ints) -> tuple[pa.LargeStringArray, Ints]:
    if not texts.null_count:
        return texts, codes
    present = texts.is_valid().to_numpy(zero_copy_only=False)
    position = np.append(np.where(present, np.cumsum(present) - 1, -1), -1)
    return texts.drop_null(), position[codes]


def numbers(array: pa.Array, name: str) -> npt.NDArray[np.float64]:
    """The column as float64, NaN where it is missing; text that reads as numbers is read.

    In text, what `NO_VALUE` lists and a question mark count as missing, and true and false as 1 and 0.

    Raises:
        DataError: When a value is no number; the message shows it.
    """
    kind = array.type
    if pa.types.is_dictionary(kind):
        values = np.append(numbers(array.dictionary, name), np.nan)
        return np.asarray(values[_codes(array.indices)])  # -1, missing, is the last
    if pa.types.is_boolean(kind):
        array = pc.cast(array, pa.int8())
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        array = pc.utf8_trim_whitespace(pc.cast(array, pa.large_string()))
        nothing = pc.is_in(array, value_set=pa.array([*NO_VALUE, "?"], pa.large_string()))
        array = pc.if_else(nothing, pa.scalar(None, pa.large_string()), array)
        for word, number in (("true", "1"), ("false", "0")):
            says = pc.is_in(array, value_set=pa.array([word, word.title(), word.upper()], pa.large_string()))
            array = pc.if_else(says, pa.scalar(number, pa.large_string()), array)
    try:
        column = pc.cast(array, pa.float64(), safe=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(f"column `{name}`: expected numbers, got {kind}: {_shortly(error)}") from None
    return np.asarray(pc.fill_null(column, float("nan")).to_numpy(zero_copy_only=False), dtype=np.float64)


def number_of(value: Plain, name: str) -> float:
    """`numbers` of one value by itself.

    Raises:
        DataError: When it is no number, or an integer beyond 64 bits.
    """
    if value is None:
        return float("nan")
    if isinstance(value, float):
        return value
    if isinstance(value, int):
        return float(_fits(value, name))
    text = value.strip()
    if _DECIMAL.fullmatch(text):
        return float(text)
    if text in _NO_NUMBER:
        return float("nan")
    # Other spellings are left to Arrow: Python's float also reads 1_000 and digits of other scripts.
    _unicode(text, name)
    return float(numbers(pa.array([text]), name)[0])


def _shortly(error: Exception) -> str:
    return str(error).splitlines()[0][:200]
