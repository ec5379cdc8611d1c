"""Encode a few rows given as dicts, as requests bring them, without what Arrow costs a column however few the rows."""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from collections.abc import Sequence as Listed
from contextlib import suppress
from itertools import chain, islice, repeat
from operator import is_, ne
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from recsys.config import nearest
from recsys.data.batch import Batch, JaggedIds
from recsys.data.columns import LARGEST, Floats, bucket_of
from recsys.data.encoder import FARTHEST, FIRST, MISSING, UNKNOWN, Counts, Encoder
from recsys.data.hashing import hash_row
from recsys.data.schema import Bucketed, Categorical, Hashing, IdFeature, MultiValued, Sequence, Side
from recsys.data.values import PLAIN, Plain, number_of, numbers, text_of, whole
from recsys.errors import DataError

__all__ = ["FEW", "RowEncoder"]

Get = Callable[[str], Any]
Rows = tuple[int, ...]
"""The rows that one value reads, one for every hash of its feature."""

FEW = 512
"""More rows than this become a table, unless its columns mix types.

Measured on an EPYC with 39 columns: 500 rows take 4 to 5 ms where most values are remembered and 11 to 15 ms where none
is, as a table 6 ms (hashed) or 10 ms (vocabularies); 1,000 rows take 11 ms, as a table 9 or 15 ms.
"""
_REMEMBERED = 1 << 14
"""Values that the look-up of a table remembers, each in 250 to 500 bytes."""
_LONGEST = 64
"""A longer text is not remembered, so that requests cannot fill the memory."""
_MANY = 128
"""More new texts of one column than this are looked up as an Arrow array.

Measured on an EPYC: one by one a text takes 0.7 µs with a hash and 1.4 µs with a vocabulary; an array takes 45 to
115 µs where all texts have one length, and up to 500 µs where they have many.
"""
_NUMBERS = PLAIN - {str}


class RowEncoder:
    """Encodes a few rows given as dicts, to the batch that `Encoder.encode` makes of a table of them.

    Every value is read by itself, as `recsys.data.values.canonical` reads it in a column; a column may mix types.
    Integers have up to 64 bits, signed or unsigned. What JSON has not (a date, a Decimal, a number of numpy) Arrow
    reads: the column where all its values are of one type, and value by value otherwise.

    A row need not have every column: what is absent is missing, and counted so. It may have all that the schema names;
    columns of other sides, labels, group and time are ignored. Any other is refused, for it is a feature misspelt.

    Threads may share an object, each with `Counts` of its own. It remembers the rows of so many values seen lately.

    Args:
        encoder: What encodes tables.
        sides: Encode only the features of these sides; by default all.
    """

    def __init__(self, encoder: Encoder, sides: Container[Side] | None = None) -> None:
        schema = encoder.schema
        self._encoder, self._sides = encoder, sides
        numeric, id_features = encoder.features(sides)
        self._sources = [feature.source for feature in numeric]
        self._names = [feature.name for feature in numeric]
        self._log = np.flatnonzero([feature.transform == "log" for feature in numeric])
        scales = [(n.shift, n.scale, n.fill) for n in map(encoder.fitted.normalisers.__getitem__, self._names)]
        self._shift, self._scale, fill = np.array(scales, dtype=np.float64).reshape(-1, 3).T
        self._fill = np.clip((fill - self._shift) / self._scale, -FARTHEST, FARTHEST)
        tables = {feature.shares or feature.name: _Table(encoder, schema.owner(feature)) for feature in id_features}
        self._ids = [_Ids(encoder, feature, tables[feature.shares or feature.name]) for feature in id_features]
        self._id_names = tuple(name for feature in id_features for name in schema.parts(feature))
        self._jagged = any(isinstance(feature, MultiValued | Sequence) for feature in id_features)
        others = [*(label.source for label in schema.labels), schema.group, schema.time]
        self._known = frozenset([*schema.columns, *(name for name in others if name is not None)])

    def encode(self, rows: Listed[Mapping[str, Any]], counts: Counts | None = None) -> Batch:
        """Encode rows, without labels.

        Args:
            rows: Columns and their values: text, a number, a boolean or None, or a list of these.
            counts: Where missing and unknown values are counted.

        Raises:
            DataError: When a row is no mapping, has a column that the schema does not name, or a value that cannot be
                read; the message names it.
        """
        self._check(rows)
        gets: list[Get] = [row.get for row in rows]
        if len(gets) > FEW and (table := self._table(gets)) is not None:
            return self._encoder.encode(table, labels=False, counts=counts, sides=self._sides)
        if counts is not None:
            counts.rows += len(gets)
        return Batch(self._dense(gets, counts), self._packed(gets, counts))

    def _check(self, rows: Listed[Mapping[str, Any]]) -> None:
        for at, row in enumerate(rows):
            if type(row) is not dict and not isinstance(row, Mapping):
                raise DataError(f"rows[{at}]: expected a mapping of columns to values, got {type(row).__name__}")
            if not row.keys() <= self._known:
                unknown = str(next(key for key in row if key not in self._known))
                raise DataError(f"rows[{at}]: unknown column `{unknown}`: {nearest(unknown, sorted(self._known))}")

    def _table(self, gets: list[Get]) -> pa.Table | None:
        sources = dict.fromkeys([*self._sources, *(ids.source for ids in self._ids)])
        columns = {source: _arrow([get(source) for get in gets], source) for source in sources}
        inferred = columns and all(array is not None for array in columns.values())
        return pa.table(columns) if inferred else None  # of no columns, a table has no rows

    def _dense(self, gets: list[Get], counts: Counts | None) -> torch.Tensor:
        """[B, N] float32, by the very operations of `columns.transformed` and `Encoder`, for all features at once."""
        found = self._numbers(gets)
        found = np.where(np.abs(found) <= LARGEST, found, np.nan)
        if self._log.size:
            logs = found[:, self._log]
            found[:, self._log] = np.sign(logs) * np.log1p(np.abs(logs))
        encoded = (found - self._shift) / self._scale
        usable = np.abs(encoded) <= FARTHEST  # false for NaN, too
        if counts is not None:
            for name, missing in zip(self._names, (~usable).sum(axis=0), strict=True):
                counts.add(name, len(gets), missing)
        return torch.from_numpy(np.where(usable, encoded, self._fill).astype(np.float32))

    def _numbers(self, gets: list[Get]) -> Floats:
        """[B, N] numbers, NaN where they are missing."""
        flat = [get(source) for get in gets for source in self._sources]
        with suppress(OverflowError):  # of an integer, which `number_of` refuses by its name
            if _NUMBERS.issuperset(map(type, flat)):
                found = np.array(flat, dtype=np.float64).reshape(len(gets), len(self._sources))  # of None, NaN
                if not (np.abs(found) >= 2.0**63).any():
                    return found
        return np.stack([_read([get(source) for get in gets], source) for source in self._sources], axis=1)

    def _packed(self, gets: list[Get], counts: Counts | None) -> JaggedIds:
        values: list[int] = []
        lengths: list[int] = []
        for ids in self._ids:
            found, bags = ids.encode([get(ids.source) for get in gets], counts)
            for part in zip(*found, strict=True):
                values += part
            if self._jagged:
                lengths += ([1] * len(gets) if bags is None else bags) * ids.parts
        offsets = torch.from_numpy(np.cumsum([0, *lengths], dtype=np.int64)) if self._jagged else None
        return JaggedIds(self._id_names, torch.from_numpy(np.array(values, dtype=np.int64)), offsets)


class _OddError(Exception):
    """A column holds a value that is not `Plain`, or stands where it must not: let Arrow read it, or say why not."""


def _arrow(column: list[Any], name: str) -> pa.Array | None:
    """The column as Arrow infers it; None where its types differ, and so its values must be read one by one."""
    kinds = set(map(type, column))
    if list in kinds:
        kinds.update(*(map(type, value) for value in column if type(value) is list))
    kinds -= {list, type(None)}
    if len(column) > 1 and len(kinds) > 1 and kinds != {int, float}:
        return None  # Arrow would read 0 beside a date as a date, and true beside a float as 1
    try:
        return whole(pa.array(column))
    except (pa.ArrowException, OverflowError, TypeError, ValueError) as error:
        if len(column) > 1:
            return None
        raise DataError(f"column `{name}`: a value cannot be read: {str(error)[:200]}") from None


def _read(column: list[Any], name: str) -> Floats:
    """[B] numbers of a column, each by itself where it must be."""
    if PLAIN.issuperset(map(type, column)):
        return np.array([number_of(value, name) for value in column], dtype=np.float64)
    array = _arrow(column, name)
    return np.concatenate([_read([value], name) for value in column]) if array is None else numbers(array, name)


class _Table:
    """Finds the rows of values in one feature's tables, and remembers those of texts seen lately."""

    def __init__(self, encoder: Encoder, owner: IdFeature) -> None:
        self._encoder, self._owner = encoder, owner
        self._hash = owner.encoding if isinstance(owner.encoding, Hashing) else None
        self._parts = encoder.schema.parts(owner)
        self.missing = self._find(None)
        self._seen: dict[Plain, Rows] = {}

    def rows(self, values: list[Any], name: str) -> list[Rows]:
        """The rows of every value [n] of the column `name`; of a missing one it is `missing` itself."""
        kinds = set(map(type, values))
        if not kinds <= PLAIN:
            raise _OddError
        known = list(map(self._seen.get, values))
        if bool in kinds:  # True and 1 are one key, and two categories
            known = [None if isinstance(value, bool) else rows for value, rows in zip(values, known, strict=True)]
        if None not in known:
            return known  # type: ignore[return-value]
        new = iter(self._new([value for value, rows in zip(values, known, strict=True) if rows is None], name))
        return [next(new) if rows is None else rows for rows in known]

    def counted(self, found: list[Rows]) -> tuple[int, int]:
        """How many values were missing, and how many unknown."""
        unknown = 0 if self._hash else found.count((UNKNOWN,))
        return sum(map(is_, found, repeat(self.missing))), unknown

    def _new(self, values: list[Any], name: str) -> list[Rows]:
        """The rows of values that are not remembered."""
        texts = [text_of(value, name) for value in values]
        distinct = list(dict.fromkeys(texts))
        known = dict(zip(distinct, self._find_all(distinct), strict=True))
        found = [known[text] for text in texts]
        new = {value: rows for value, rows in zip(values, found, strict=True) if _lasting(value)}
        if len(self._seen) + len(new) > _REMEMBERED:
            self._seen.clear()  # what is frequent is back soon; an order of use would cost more than it saves
        self._seen.update(islice(new.items(), _REMEMBERED))
        return found

    def _find_all(self, texts: list[str | None]) -> list[Rows]:
        if len(texts) <= _MANY:
            return [self.missing if text is None else self._find(text) for text in texts]
        present = pa.array([text for text in texts if text is not None], pa.large_string())
        rows = zip(*(part.tolist() for part in self._encoder.rows_of(present, self._owner)), strict=True)
        return [self.missing if text is None else next(rows) for text in texts]

    def _find(self, text: str | None) -> Rows:
        """As `Encoder.rows_of`, of one text."""
        if self._hash is not None:
            return tuple(hash_row(text, part, self._hash.bits, self._hash.seed) for part in self._parts)
        if text is None:
            return (MISSING,)
        at = self._encoder.fitted.vocabularies[self._owner.name].position(text)
        return (UNKNOWN if at < 0 else at + FIRST,)


def _lasting(value: Any) -> bool:
    """Whether a value may be a key of a dict: no boolean, nor a number so large that int and float differ in text."""
    if isinstance(value, str):
        return len(value) <= _LONGEST
    return value is None or (not isinstance(value, bool) and bool(abs(value) < 1 << 63))


class _Ids:
    """Encodes the column of one id feature."""

    def __init__(self, encoder: Encoder, feature: IdFeature, table: _Table) -> None:
        self._encoder, self._feature, self._table = encoder, feature, table
        self.source, self.parts = feature.source, len(encoder.schema.parts(feature))
        edges = encoder.fitted.edges.get(feature.name)
        self._edges: list[float] | None = None if edges is None else edges.tolist()

    def encode(self, column: list[Any], counts: Counts | None) -> tuple[list[Rows], list[int] | None]:
        """The rows of the column's values one after the other, and how many values each row has (None: one)."""
        try:
            values, lengths, cut = self._values(column)
            found = self._table.rows(values, self.source)
        except _OddError:
            return self._by_arrow(column, counts)
        if counts is not None:
            counts.add(self._feature.name, len(found), *self._table.counted(found), cut)
        return found, lengths

    def _by_arrow(self, column: list[Any], counts: Counts | None) -> tuple[list[Rows], list[int] | None]:
        array = _arrow(column, self.source)
        if array is None:
            alone = [self.encode([value], counts) for value in column]
            lengths = None if alone[0][1] is None else [n for _, bags in alone for n in bags or ()]
            return [rows for found, _ in alone for rows in found], lengths
        parts = self._encoder.ids(pa.table({self.source: array}), self._feature, counts or Counts())
        bags = parts[0][1]
        return list(zip(*(ids.tolist() for ids, _, _ in parts), strict=True)), None if bags is None else bags.tolist()

    def _values(self, column: list[Any]) -> tuple[list[Any], list[int] | None, int]:
        """As `columns.values`: values, how many each row has, and how many rows had more than they may."""
        if isinstance(self._feature, Categorical):
            return column, None, 0
        if isinstance(self._feature, Bucketed):
            found = _read(column, self.source).tolist()
            return [bucket_of(number, self._feature, self._edges) for number in found], None, 0
        bags = kept = self._bags(column, self._feature)
        if isinstance(self._feature, Sequence):
            kept = [bag[-self._feature.max_length :] for bag in bags]
        lengths = list(map(len, kept))
        cut = sum(map(ne, lengths, map(len, bags)))
        return list(chain.from_iterable(kept)), lengths, cut

    def _bags(self, column: list[Any], feature: MultiValued | Sequence) -> list[list[Any]]:
        if not all(PLAIN.issuperset(map(type, bag)) for bag in column if type(bag) is list):  # what is cut off, too
            raise _OddError
        # A missing list is one missing value; where lists are text, it is a blank, and so a list of nothing.
        text = feature.separator is not None and set(map(type, column)) != {list, type(None)}
        nothing: list[Any] = [] if text else [None]
        return [nothing if bag is None else bag if type(bag) is list else self._split(bag, feature) for bag in column]

    def _split(self, value: Any, feature: MultiValued | Sequence) -> list[str]:
        if feature.separator is None or type(value) not in PLAIN:
            raise _OddError
        text = text_of(value, self.source)
        return [] if text is None else text.split(feature.separator)
