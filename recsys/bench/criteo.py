"""Rows in the shape of Criteo's display advertising challenge, made by a formula: no row of them is Criteo's.

What is as published: the columns, the number of distinct values of every category column, text of 8 hex digits, and,
rounded, the mean of each number. What is near it, and not exact: how often a column is missing, and the medians of
numbers. What is not: which values meet in a row, since every column is drawn by itself; which ranks are frequent in
which part of the file; and the labels, which are coins. Rows like these measure speed. A model trained on them learns
nothing.

A category is drawn by Zipf's law, ``P(rank = r) ∝ ∫ x^-1.05 dx`` over [r, r + 1], and a number is a count whose
logarithm is normal, which makes tails as heavy as the means beside the medians say.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from scipy.special import ndtri
from tqdm import tqdm

from recsys.errors import ConfigError
from recsys.files import make_folder, replacing

__all__ = ["CATEGORIES", "CHUNK", "NUMBERS", "chunks", "write"]

CHUNK = 1 << 17
"""Rows of a row group. Each is drawn by itself, from the seed and its number."""
EXPONENT = 1.05
LABEL_SHARE = 0.256
"""Share of clicks."""

Words = npt.NDArray[np.uint32]
Floats = npt.NDArray[np.float64]


class Category(NamedTuple):
    """A column of text."""

    values: int
    """Distinct values."""
    missing: float
    """Share of rows without one."""


class Number(NamedTuple):
    """A column of counts."""

    median: float
    mean: float
    missing: float
    """Share of rows without one."""
    negative: float = 0.0
    """Share of rows with -1, -2 or -3."""


_VALUES = (
    1460, 583, 10131227, 2202608, 305, 24, 12517, 633, 3, 93145, 5683, 8351593, 3194, 27, 14992, 5461306, 10, 5652,
    2173, 4, 7046547, 18, 15, 286181, 105, 142572,
)  # fmt: skip
_MISSING = {3: 0.034, 4: 0.034, 6: 0.121, 12: 0.034, 16: 0.034, 19: 0.44, 20: 0.44, 21: 0.034, 22: 0.763, 24: 0.034,
            25: 0.44, 26: 0.44}  # fmt: skip

CATEGORIES = {f"C{k}": Category(values, _MISSING.get(k, 0.0)) for k, values in enumerate(_VALUES, start=1)}
NUMBERS = {
    "I1": Number(1, 3.5, 0.454),
    "I2": Number(3, 106, 0.0, negative=0.1),
    "I3": Number(6, 27, 0.215),
    "I4": Number(4, 7.3, 0.217),
    "I5": Number(2813, 18539, 0.026),
    "I6": Number(32, 116, 0.224),
    "I7": Number(3, 16, 0.043),
    "I8": Number(7, 12.5, 0.0005),
    "I9": Number(38, 106, 0.043),
    "I10": Number(0.5, 0.62, 0.454),
    "I11": Number(1, 2.7, 0.043),
    "I12": Number(0, 1, 0.765),
    "I13": Number(4, 8.2, 0.217),
}


def write(path: Path, rows: int, seed: int = 0, show: bool = True) -> None:
    """Write a Parquet file as pyarrow does by default, a row group a chunk; equal arguments give equal rows.

    Args:
        path: The file; its folder is made.
        rows: How many.
        seed: Another one gives other rows of the same kind.
        show: A progress bar on standard error.

    Raises:
        ConfigError: When there would be no rows.
        DataError: When the disk refuses.
    """
    if rows < 1:
        raise ConfigError(f"expected at least 1 row, got {rows}")
    make_folder(path.parent)
    bar = tqdm(total=rows, desc="write", unit=" rows", unit_scale=True, disable=None if show else True)
    with bar, replacing(path) as temporary, pq.ParquetWriter(temporary, _SCHEMA) as writer:
        for table in chunks(rows, seed):
            writer.write_table(table, row_group_size=CHUNK)
            bar.update(table.num_rows)


def chunks(rows: int, seed: int = 0) -> Iterator[pa.Table]:
    """The first `rows` rows as tables of `CHUNK` rows; the last may be shorter."""
    for number in range(-(-rows // CHUNK)):
        size = min(CHUNK, rows - number * CHUNK)
        draws = _Draws(seed, number, size)
        columns = [pa.array((draws.uniform() < LABEL_SHARE).astype(np.int8))]
        columns += [_numbers(draws, number) for number in NUMBERS.values()]
        columns += [_texts(draws, k, category) for k, category in enumerate(CATEGORIES.values(), start=1)]
        yield pa.Table.from_arrays(columns, schema=_SCHEMA)


_SCHEMA = pa.schema(
    [("label", pa.int8()), *((name, pa.int32()) for name in NUMBERS), *((name, pa.string()) for name in CATEGORIES)]
)


class _Draws:
    """Columns of uniform numbers in (0, 1); a shorter chunk is the beginning of the whole one."""

    def __init__(self, seed: int, chunk: int, rows: int) -> None:
        self._key, self._rows, self._column = (seed << 32) + chunk, rows, 0

    def uniform(self) -> Floats:
        key = np.array([self._key, self._column], dtype=np.uint64)
        self._column += 1
        bits = np.random.Philox(key=key).random_raw(self._rows)
        return ((bits >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


def _numbers(draws: _Draws, number: Number) -> pa.Array:
    """Counts v with ln(v + 1) normal, whole, at most 2^31 - 1."""
    spread = math.sqrt(2 * math.log((number.mean + 1) / (number.median + 1)))
    large = np.exp(math.log(number.median + 1) + spread * ndtri(draws.uniform()))
    counts = np.clip(np.rint(large - 1), 0, 2**31 - 1)
    if number.negative:
        below = draws.uniform() / number.negative
        counts = np.where(below < 1, -1 - np.floor(3 * below**8), counts)
    return pa.array(counts.astype(np.int32), mask=draws.uniform() < number.missing)


def _texts(draws: _Draws, column: int, category: Category) -> pa.Array:
    """8 hex digits of each drawn rank; distinct ranks have distinct digits."""
    digits = _hex(_scattered(_zipf(draws.uniform(), category.values), column))
    offsets = np.arange(0, digits.size + 1, 8, dtype=np.int32)
    texts = pa.StringArray.from_buffers(offsets.size - 1, pa.py_buffer(offsets), pa.py_buffer(digits))
    missing = pa.array(draws.uniform() < category.missing)
    return pc.if_else(missing, pa.scalar(None, pa.string()), texts) if category.missing else texts


def _zipf(uniform: Floats, values: int) -> Words:
    """Ranks 1 … values: the inverse of the law's distribution function."""
    power = 1 - EXPONENT
    ranks: Floats = (1 + uniform * ((values + 1) ** power - 1)) ** (1 / power)
    return np.minimum(ranks, values).astype(np.uint32)


def _scattered(ranks: Words, column: int) -> Words:
    """Other 32 bits for each rank, by steps that can be undone, so that no two ranks meet."""
    words = ranks + np.uint32(column * 0x9E3779B9 & 0xFFFFFFFF)
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        words = (words ^ (words >> np.uint32(shift))) * np.uint32(factor)
    return words ^ (words >> np.uint32(16))


_PAIRS = np.frombuffer("".join(f"{byte:02x}" for byte in range(256)).encode(), dtype=np.uint16)
"""The two hex digits of every byte, as one number."""


def _hex(words: Words) -> npt.NDArray[np.uint8]:
    """The digits of all words, one after the other, the highest first."""
    digits: npt.NDArray[np.uint8] = _PAIRS[words.astype(">u4").view(np.uint8)].view(np.uint8)
    return digits
