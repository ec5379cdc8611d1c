"""What is known of one column of data, and how it is found table by table in bounded memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from recsys.data.hashing import hash64
from recsys.data.listed import is_list, listed, without_values
from recsys.data.values import Ints, dictionary, numbers
from recsys.errors import DataError

__all__ = ["Column", "Distinct", "Numbers", "Observer", "present"]

_FEW = 32
_DATE = r"^\d{4}-\d{1,2}-\d{1,2}([T ]\d{1,2}:\d{2}(:\d{2}(\.\d+)?)?( ?(Z|UTC|[+-]\d{2}:?\d{2}))?)?$"


@dataclass(frozen=True)
class Numbers:
    """Of a column whose values all read as numbers, those that are finite.

    Attributes:
        finite: How many there are.
        low: The least.
        high: The greatest.
        mean: Their mean.
        skew: Third standardised moment, of the sample.
        whole: Whether none has a fraction.
    """

    finite: int
    low: float
    high: float
    mean: float
    skew: float
    whole: bool


@dataclass(frozen=True)
class Column:
    """What one column holds.

    Attributes:
        name: Of the column.
        type: As Arrow names it, of the first rows; of a text file always text.
        rows: How many were read.
        missing: Rows without a value: null, NaN, blank, what text files write for it, and empty lists.
        distinct: Different values; of lists the values in them.
        exact: Whether `distinct` is, or an estimate, some 0.5 % off.
        numbers: Or None, when a value is no number.
        sample: Rows drawn at random, in random order, as canonical text (large_string) or lists of it.
        few: How often each value occurs in all rows, when they are at most 32 different ones; else None.
        separator: What splits text into lists, or None.
        unreadable: Why no feature can be made of it, or None.
    """

    name: str
    type: pa.DataType
    rows: int
    missing: int
    distinct: int
    exact: bool
    numbers: Numbers | None
    sample: pa.Array
    few: Mapping[str, int] | None = None
    separator: str | None = None
    unreadable: str | None = None

    @property
    def missing_share(self) -> float:
        """Of all rows."""
        return self.missing / max(self.rows, 1)

    @property
    def lists(self) -> bool:
        """Whether a row holds several values."""
        return is_list(self.sample.type)

    @property
    def text(self) -> bool:
        """Whether a row holds one text."""
        kind = self.type
        text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
        return bool(text) and not self.lists and self.unreadable is None

    @cached_property
    def counted(self) -> list[tuple[str, int]]:
        """Values and how often they occur, most frequent first, ties by text; of many values, those of the sample."""
        flat = self.sample.flatten() if self.lists else self.sample
        found = Counter(flat.drop_null().to_pylist()) if self.few is None else self.few
        return sorted(found.items(), key=lambda item: (-item[1], item[0]))

    @property
    def top(self) -> float:
        """The most frequent value's share of all that are not missing."""
        return self.counted[0][1] / sum(n for _, n in self.counted) if self.counted else 0.0

    @property
    def examples(self) -> list[str]:
        """The three most frequent values."""
        return [text for text, _ in self.counted[:3]]

    @property
    def dates(self) -> bool:
        """Whether values are instants or days: by their type, or as text in ISO 8601."""
        if pa.types.is_timestamp(self.type) or pa.types.is_date(self.type):
            return True
        return self.matches(_DATE)

    def matches(self, pattern: str) -> bool:
        """Whether there are values, and 99 of 100 in the sample match."""
        if self.lists or not self.counted:
            return False
        texts = pa.array([text for text, _ in self.counted], pa.large_string())
        fits = pc.match_substring_regex(texts, pattern).to_pylist()
        hits = sum(n for (_, n), fit in zip(self.counted, fits, strict=True) if fit)
        return hits >= 0.99 * sum(n for _, n in self.counted)

    def floats(self) -> npt.NDArray[np.float64]:
        """The sample as numbers, NaN where one is missing."""
        sample = pc.equal(self.sample, "true") if pa.types.is_boolean(self.type) else self.sample
        return numbers(sample, self.name)


class Distinct:
    """Counts different texts by their hashes: exactly up to `limit` of them, then those of a share of all hashes."""

    def __init__(self, limit: int) -> None:
        self.limit, self.level = limit, 0
        self._parts: list[npt.NDArray[np.uint64]] = []
        self._pending = 0

    def add(self, texts: pa.LargeStringArray) -> None:
        """Count these, none of them null."""
        hashes = self._sampled(hash64(texts, 0))
        self._parts.append(hashes)
        self._pending += hashes.size
        if self._pending > self.limit:
            self._merge()

    def count(self) -> tuple[int, bool]:
        """How many there were, and whether that is exact."""
        self._merge()
        return self._parts[0].size << self.level, self.level == 0

    def _sampled(self, hashes: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
        return np.asarray(hashes[(hashes & np.uint64((1 << self.level) - 1)) == 0])

    def _merge(self) -> None:
        kept = np.unique(np.concatenate([np.zeros(0, dtype=np.uint64), *self._parts]))
        while kept.size > self.limit:
            self.level += 1
            kept = self._sampled(kept)
        self._parts, self._pending = [kept], 0


class Observer:
    """What is known of one column so far."""

    def __init__(self, name: str, limit: int) -> None:
        self.name, self.distinct, self.missing = name, Distinct(limit), 0
        self.type: pa.DataType = pa.null()
        self.unreadable: str | None = None
        self._parts: list[pa.Array] = []
        self._few: dict[str, int] | None = {}
        self._numeric, self._whole, self._finite, self._sum = True, True, 0, 0.0
        self._low, self._high = np.inf, -np.inf

    def add(self, array: pa.Array, picked: Ints) -> None:
        """Count a part of the column, and put the picked rows into the sample."""
        if pa.types.is_null(self.type):
            self.type = array.type.value_type if pa.types.is_dictionary(array.type) else array.type
        self.unreadable = self.unreadable or _why_not(array.type)
        try:
            if self.unreadable is None:
                part = self._lists(array) if is_list(array.type) else self._scalars(array)
                self._parts.append(part.take(pa.array(picked)))
        except (DataError, pa.ArrowException) as error:
            self.unreadable = str(error).splitlines()[0][:200]

    def keep(self, rows: Ints) -> None:
        """Keep these rows of the sample."""
        if self.unreadable is None and self._parts:
            self._parts = [pa.concat_arrays(self._parts).take(pa.array(rows))]

    def column(self, rows: int) -> Column:
        """What was found."""
        if self.unreadable is not None:
            nothing = pa.array([], pa.large_string())
            return Column(self.name, self.type, rows, 0, 0, True, None, nothing, unreadable=self.unreadable)
        sample = self._parts[0]
        found = Column(self.name, self.type, rows, self.missing, *self.distinct.count(), None, sample, self._few)
        if not self._numeric or found.lists or not found.distinct:
            return found
        numeric = Numbers(
            self._finite, self._low, self._high, self._sum / max(self._finite, 1), _skew(found.floats()), self._whole
        )
        return replace(found, numbers=numeric)

    def _scalars(self, array: pa.Array) -> pa.Array:
        if self._parts and is_list(self._parts[0].type):
            raise DataError("holds lists in some files and single values in others")
        texts, codes = present(array, self.name)
        self.missing += int((codes < 0).sum())
        self.distinct.add(texts)
        self._count(texts, codes)
        if self._numeric:
            self._numbers(array)
        return texts.take(pa.array(codes, mask=codes < 0))

    def _count(self, texts: pa.LargeStringArray, codes: Ints) -> None:
        if self._few is None or len(texts) > 2 * _FEW:  # a text can stand twice
            self._few = None
            return
        sizes = np.bincount(codes[codes >= 0], minlength=len(texts)).tolist()
        for text, n in zip(texts.to_pylist(), sizes, strict=True):
            self._few[text] = self._few.get(text, 0) + n
        if len(self._few) > _FEW:
            self._few = None

    def _numbers(self, array: pa.Array) -> None:
        try:
            found = numbers(array, self.name)
        except DataError:
            self._numeric = False
            return
        found = found[np.isfinite(found)]
        if found.size:
            self._finite += found.size
            with np.errstate(over="ignore"):
                self._sum += float(found.sum())
            self._low, self._high = min(self._low, float(found.min())), max(self._high, float(found.max()))
            self._whole = self._whole and bool((found == np.trunc(found)).all())

    def _lists(self, array: pa.Array) -> pa.Array:
        if self._parts and not is_list(self._parts[0].type):
            raise DataError("holds lists in some files and single values in others")
        self._few, lists = None, listed(array, None)
        self.missing += without_values(lists)
        self.distinct.add(present(lists.flatten(), self.name)[0])
        return lists


def present(array: pa.Array, name: str) -> tuple[pa.LargeStringArray, Ints]:
    """The texts that occur and stand for a value, each once, and every row's position among them or -1."""
    texts, codes = dictionary(array, name)
    there = np.bincount(codes[codes >= 0], minlength=len(texts)) > 0
    position = np.append(np.where(there, np.cumsum(there) - 1, -1), -1)
    return texts.filter(pa.array(there)), position[codes]


def _why_not(kind: pa.DataType) -> str | None:
    """Why no feature can be made of a type."""
    inner = kind.value_type if is_list(kind) or pa.types.is_dictionary(kind) else kind
    if pa.types.is_nested(inner):
        return f"nested values ({kind})"
    fixed = pa.types.is_fixed_size_binary(inner)
    if fixed or pa.types.is_binary(inner) or pa.types.is_large_binary(inner) or pa.types.is_binary_view(inner):
        return f"binary values ({kind})"
    if pa.types.is_dictionary(inner):
        return f"lists of dictionaries ({kind})"
    return None


def _skew(found: npt.NDArray[np.float64]) -> float:
    """Third standardised moment; 0 where values do not vary."""
    found = found[np.isfinite(found)]
    largest = float(np.abs(found).max()) if found.size else 0.0
    if not largest:
        return 0.0
    off = found / largest  # cubes of large numbers would overflow
    off = off - off.mean()
    variance = float(np.square(off).mean())
    return float((off**3).mean() / variance**1.5) if variance > 1e-20 else 0.0
