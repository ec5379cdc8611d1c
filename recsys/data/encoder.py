"""Turn columns into numbers and row ids: fitted on training data only, saved with the model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Sequence as Listed
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import mmh3
import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from recsys.data.batch import Batch, JaggedIds
from recsys.data.schema import Categorical, Hashing, IdFeature, Label, Numeric, Schema, Sequence, Side
from recsys.data.values import Ints, canonical, dictionary, murmur_rows, numbers, whole
from recsys.errors import CheckpointError, DataError

__all__ = ["Counts", "Encoder", "IdInput", "Inputs", "Normaliser", "Task"]

UNKNOWN, MISSING, FIRST = 0, 1, 2
"""Rows of a vocabulary's table: never seen in training, missing, and the first known value."""


FARTHEST = 1e10
"""An encoded number beyond this, so many standard deviations away, counts as missing: it would overflow a network."""


@dataclass(frozen=True)
class IdInput:
    """What a model must know of an id feature."""

    name: str
    table: str
    rows: int
    kind: str
    side: Side
    shares: str | None = None
    reserved: int = 1
    """Rows at the table's start that stand for no value: unknown, and in a vocabulary's table missing."""


@dataclass(frozen=True)
class Task:
    """What a model must know of a label; a regression task's logit is ``(label - shift) / scale``."""

    name: str
    kind: Literal["binary", "regression"] = "binary"
    weight: float = 1.0
    shift: float = 0.0
    scale: float = 1.0


@dataclass(frozen=True)
class Inputs:
    """What a model must know of its data: numbers, id features and tasks."""

    dense: tuple[str, ...]
    ids: tuple[IdInput, ...]
    tasks: tuple[Task, ...]


@dataclass
class Counts:
    """What the encoder met: per feature, how many values were missing and how many were unknown."""

    rows: int = 0
    values: dict[str, int] = field(default_factory=dict)
    missing: dict[str, int] = field(default_factory=dict)
    unknown: dict[str, int] = field(default_factory=dict)

    def add(self, feature: str, values: int, missing: int, unknown: int = 0) -> None:
        """Count one batch of a feature."""
        for counter, n in ((self.values, values), (self.missing, missing), (self.unknown, unknown)):
            counter[feature] = counter.get(feature, 0) + int(n)

    def sentences(self) -> list[str]:
        """One line for each feature with something to say."""
        lines = []
        for name, values in self.values.items():
            told = [
                f"{n:,} {what} ({n / values:.1%})"
                for what, n in (("unknown", self.unknown[name]), ("missing", self.missing[name]))
                if n
            ]
            if told:
                lines.append(f"{name}: {', '.join(told)} of {values:,} values")
        return lines


@dataclass(frozen=True)
class Normaliser:
    """``(v - shift) / scale`` after the feature's transform; `fill`, the training mean, stands in for a missing v."""

    shift: float
    scale: float
    fill: float


class Encoder:
    """Encodes tables under a schema; `fit` learns vocabularies and scales from training data.

    A value reads row 0 when training never showed it (or less than `min_count` times) and row 1 when it is missing;
    known values follow, the most frequent first. A hashed feature has no unknown values, and its missing value is
    hashed like any other.

    Args:
        schema: What the columns mean.
        normalisers: Of numeric features and of regression labels, by name.
        vocabularies: Known values of features with a vocabulary, by name, in the order of their rows.
    """

    def __init__(
        self, schema: Schema, normalisers: Mapping[str, Normaliser], vocabularies: Mapping[str, list[str]]
    ) -> None:
        self.schema = schema
        self.normalisers = dict(normalisers)
        self.vocabularies = {name: list(values) for name, values in vocabularies.items()}
        self._index = {name: pd.Index(values, dtype=object) for name, values in self.vocabularies.items()}

    @property
    def inputs(self) -> Inputs:
        """What a model must know of the encoded data."""
        schema = self.schema
        return Inputs(
            dense=tuple(feature.name for feature in schema.numeric),
            ids=tuple(
                IdInput(f.name, schema.table(f), self.rows(f), f.kind, f.side, f.shares, self._reserved(f))
                for f in schema.id_features
            ),
            tasks=tuple(self._task(label) for label in schema.labels),
        )

    def _reserved(self, feature: IdFeature) -> int:
        return 1 if isinstance(self.schema.owner(feature).encoding, Hashing) else FIRST

    def _task(self, label: Label) -> Task:
        if label.kind == "binary":
            return Task(label.name, label.kind, label.weight)
        scale = self.normalisers[_target(label)]
        return Task(label.name, label.kind, label.weight, scale.shift, scale.scale)

    def rows(self, feature: IdFeature) -> int:
        """Rows of the table that `feature` reads."""
        owner = self.schema.owner(feature)
        if isinstance(owner.encoding, Hashing):
            return 1 << owner.encoding.bits
        return FIRST + len(self.vocabularies[owner.name])

    @classmethod
    def fit(cls, schema: Schema, tables: Iterable[pa.Table]) -> Self:
        """Learn vocabularies and scales in one pass over training data.

        Raises:
            DataError: When a column is missing or mistyped, or there are no rows.
        """
        moments = {feature.name: np.zeros(3) for feature in schema.numeric}
        targets = {_target(label): np.zeros(3) for label in schema.labels if label.kind == "regression"}
        counts: dict[str, dict[str, int]] = {
            f.name: {} for f in schema.id_features if f.shares is None and not isinstance(f.encoding, Hashing)
        }
        rows = 0
        for table in tables:
            rows += table.num_rows
            for number in schema.numeric:
                _add_moments(moments[number.name], _transformed(_column(table, number.source), number))
            for label in schema.labels:
                if label.kind == "regression":
                    _add_moments(targets[_target(label)], _label(_column(table, label.source), label))
            for feature in schema.id_features:
                owner = schema.owner(feature).name
                if owner in counts:
                    _add_counts(counts[owner], _flat(table, feature)[0], feature.source)
        if not rows:
            raise DataError("the training data has no rows")
        normalisers = {n.name: _normaliser(moments[n.name], n.transform != "none") for n in schema.numeric}
        normalisers |= {name: _normaliser(values, True) for name, values in targets.items()}
        return cls(schema, normalisers, {n: _vocabulary(c, schema, n) for n, c in counts.items()})

    def encode(
        self, table: pa.Table, labels: bool = True, counts: Counts | None = None, keys: Listed[str] = ()
    ) -> Batch:
        """Encode the rows of a table.

        Args:
            table: Columns as the schema names them; others are ignored.
            labels: Whether labels and groups are read too; a table to be scored has none.
            counts: Where missing and unknown values are counted; the same one for all tables of a data set.
            keys: Columns to pass on in the batch as they are.

        Raises:
            DataError: When a column is absent or mistyped, or a label is missing or out of range.
        """
        counts = counts if counts is not None else Counts()
        counts.rows += table.num_rows
        dense = [self._dense(table, feature, counts) for feature in self.schema.numeric]
        ids = [self._ids(table, feature, counts) for feature in self.schema.id_features]
        stacked = np.stack(dense, axis=1) if dense else np.zeros((table.num_rows, 0))
        group = self.schema.group
        return Batch(
            dense=torch.from_numpy(stacked.astype(np.float32)),
            ids=JaggedIds.stack(tuple(f.name for f in self.schema.id_features), ids),
            labels=_labels(table, self.schema.labels) if labels else None,
            groups=_groups(_column(table, group), group, counts) if labels and group else None,
            keys=table.select(list(keys)) if keys else None,
        )

    def _dense(self, table: pa.Table, feature: Numeric, counts: Counts) -> npt.NDArray[np.float64]:
        values = _transformed(_column(table, feature.source), feature)
        scale = self.normalisers[feature.name]
        encoded = (values - scale.shift) / scale.scale
        usable = np.abs(encoded) <= FARTHEST  # false for NaN, too
        counts.add(feature.name, values.size, int((~usable).sum()))
        return np.where(usable, encoded, (scale.fill - scale.shift) / scale.scale)

    def _ids(self, table: pa.Table, feature: IdFeature, counts: Counts) -> tuple[Tensor, Tensor | None, None]:
        array, lengths = _flat(table, feature)
        texts, codes = dictionary(array, feature.source)
        rows, missing = self._rows_of(texts, feature)
        ids = rows[codes] if texts.size else np.empty(codes.size, dtype=np.int64)
        ids[codes < 0] = missing
        hashed = isinstance(self.schema.owner(feature).encoding, Hashing)
        counts.add(feature.name, ids.size, int((codes < 0).sum()), 0 if hashed else int((ids == UNKNOWN).sum()))
        return torch.from_numpy(ids), None if lengths is None else torch.from_numpy(lengths), None

    def _rows_of(self, texts: npt.NDArray[np.object_], feature: IdFeature) -> tuple[Ints, int]:
        """Rows of distinct texts, and the row of a missing value."""
        owner = self.schema.owner(feature)
        if isinstance(owner.encoding, Hashing):
            bits, seed = owner.encoding.bits, owner.encoding.seed
            # No text can be equal to this one: a value is written after the bar, the missing value has none.
            missing = 1 + mmh3.hash(owner.name, seed, signed=False) % max((1 << bits) - 1, 1)
            return murmur_rows(texts, owner.name, bits, seed), min(missing, (1 << bits) - 1)
        found = self._index[owner.name].get_indexer(pd.Index(texts, dtype=object))
        return np.where(found < 0, UNKNOWN, found + FIRST).astype(np.int64), MISSING

    def to_json(self) -> dict[str, Any]:
        """Schema and state as plain JSON values."""
        return {
            "schema": self.schema.model_dump(mode="json", exclude_none=True),
            "normalisers": {name: [scale.shift, scale.scale, scale.fill] for name, scale in self.normalisers.items()},
            "vocabularies": self.vocabularies,
        }

    @classmethod
    def from_json(cls, state: Mapping[str, Any], where: str) -> Self:
        """The encoder that `to_json` described.

        Raises:
            SchemaError: When the schema does not hold together.
            CheckpointError: When the state does not belong to the schema.
        """
        schema = Schema.parse(state.get("schema", {}), where)
        try:
            normalisers = {name: Normaliser(*map(float, three)) for name, three in state["normalisers"].items()}
            encoder = cls(schema, normalisers, state["vocabularies"])
            _ = encoder.inputs, [normalisers[feature.name] for feature in schema.numeric]
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{where}: the encoder's state does not fit its schema: {error!r}") from None
        return encoder


def _column(table: pa.Table, name: str) -> pa.Array:
    if name not in table.column_names:
        raise DataError(f"missing column `{name}`; the data has: {', '.join(table.column_names) or 'no columns'}")
    if table.column_names.count(name) > 1:
        raise DataError(f"column `{name}` stands twice in the data; rename one")
    return whole(table.column(name))


def _transformed(array: pa.Array, feature: Numeric) -> npt.NDArray[np.float64]:
    values = numbers(array, feature.source)
    if feature.transform == "log":
        return np.asarray(np.sign(values) * np.log1p(np.abs(values)), dtype=np.float64)
    return values


def _add_moments(total: npt.NDArray[np.float64], values: npt.NDArray[np.float64]) -> None:
    """Merge count, mean and sum of squared deviations (Chan et al. 1979), which stays exact over many batches."""
    values = values[np.isfinite(values)]
    if not values.size:
        return
    n, mean = values.size, values.mean()
    delta, together = mean - total[1], total[0] + n
    total[2] += np.square(values - mean).sum() + delta**2 * total[0] * n / together
    total[1] += delta * n / together
    total[0] = together


def _target(label: Label) -> str:
    """The name under which a label's scale is kept; no feature can have it, for a label is none."""
    return f"label:{label.name}"


def _normaliser(moments: npt.NDArray[np.float64], standardise: bool) -> Normaliser:
    n, mean, squares = (float(v) for v in moments)
    if not standardise:
        return Normaliser(0.0, 1.0, mean)
    std = (squares / n) ** 0.5 if n else 0.0
    # Of a constant column only rounding is left: 0.1 everywhere has a "deviation" of 1e-17.
    varies = np.isfinite(std) and std > 1e-12 * max(abs(mean), 1e-30)
    return Normaliser(mean, std if varies else 1.0, mean)


def _add_counts(counts: dict[str, int], array: pa.Array, name: str) -> None:
    texts, codes = dictionary(array, name)
    for text, n in zip(texts, np.bincount(codes[codes >= 0], minlength=texts.size), strict=True):
        if text is not None and n:
            counts[text] = counts.get(text, 0) + int(n)


def _vocabulary(counts: dict[str, int], schema: Schema, name: str) -> list[str]:
    """Values seen often enough, the most frequent first (hot rows lie together), ties in the order of their text."""
    encoding = next(f.encoding for f in schema.id_features if f.name == name)
    assert not isinstance(encoding, Hashing)
    kept = [(-n, text) for text, n in counts.items() if n >= encoding.min_count]
    return [text for _, text in sorted(kept)]


def _flat(table: pa.Table, feature: IdFeature) -> tuple[pa.Array, Ints | None]:
    """The values of a feature one after the other, and how many each row has (None: one each)."""
    array = _column(table, feature.source)
    if isinstance(feature, Categorical):
        return array, None
    lists = _lists(array, feature.source, feature.separator)
    lengths = pc.list_value_length(lists)
    null = lists.is_null().to_numpy(zero_copy_only=False)
    counted = np.array(pc.fill_null(pc.cast(lengths, pa.int64()), 1))
    values = lists.flatten()
    if null.any():
        # A null list is one missing value; an empty list is none.
        keep = np.full(int(counted.sum()), -1, dtype=np.int64)
        present = np.repeat(~null, counted)
        keep[present] = np.arange(len(values))
        values = values.take(pa.array(keep, mask=keep < 0))
    if isinstance(feature, Sequence):
        values, counted = _last(values, counted, feature.max_length)
    return values, counted


def _lists(array: pa.Array, name: str, separator: str | None) -> pa.Array:
    kind = array.type
    if pa.types.is_null(kind):
        return pa.nulls(len(array), pa.list_(pa.string()))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return array
    if pa.types.is_fixed_size_list(kind):
        return pc.cast(array, pa.large_list(kind.value_type))
    if separator is None:
        raise DataError(f"column `{name}`: expected lists, got {kind}; for text such as `a|b` set the separator")
    plain = array.dictionary_decode() if pa.types.is_dictionary(kind) else array
    lists = pc.split_pattern(canonical(plain, name), separator)
    # Text has no other way to write a list of nothing than to be empty.
    nothing = pa.array([[]], lists.type)[0]
    return pc.if_else(pc.fill_null(pc.equal(pc.cast(plain, pa.large_string()), ""), False), nothing, lists)


def _last(values: pa.Array, lengths: Ints, most: int) -> tuple[pa.Array, Ints]:
    """The last `most` values of each list."""
    kept = np.minimum(lengths, most)
    if (kept == lengths).all():
        return values, lengths
    ends = np.cumsum(lengths)
    starts = np.repeat(ends - kept - (np.cumsum(kept) - kept), kept)
    return values.take(pa.array(starts + np.arange(int(kept.sum())))), kept


def _labels(table: pa.Table, labels: tuple[Label, ...]) -> Tensor:
    columns = [_label(_column(table, label.source), label) for label in labels]
    return torch.from_numpy(np.stack(columns, axis=1))


def _label(array: pa.Array, label: Label) -> npt.NDArray[np.float64]:
    values = numbers(array, label.source)
    bad = ~np.isfinite(values)
    if bad.any():
        raise DataError(f"label `{label.source}`: {int(bad.sum())} of {values.size} rows have no finite value")
    if label.kind == "binary" and values.size and (values.min() < 0 or values.max() > 1):
        raise DataError(
            f"label `{label.source}`: expected values in [0, 1], got {values.min():g} … {values.max():g}; "
            'make it 0/1, or set kind = "regression"'
        )
    return values


def _groups(array: pa.Array, name: str, counts: Counts) -> Tensor:
    """Codes of users that are the same in every batch: 64 bits of murmur3 of the value's text.

    A row without a user is a user of its own, numbered from -1 down.
    """
    texts, codes = dictionary(array, name)
    missing = codes < 0
    if missing.any():
        counts.add(f"{name} (group)", codes.size, int(missing.sum()))
    hashed = np.array([mmh3.hash64(text or "")[0] for text in texts], dtype=np.int64)
    alone = -1 - np.arange(counts.rows - codes.size, counts.rows)
    return torch.from_numpy(np.where(missing, alone, hashed[codes] if hashed.size else 0))
