"""Turn columns into numbers and row ids: fitted on training data only, saved with the model."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from collections.abc import Sequence as Listed
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from recsys.data.batch import Batch, JaggedIds
from recsys.data.collisions import Shares
from recsys.data.columns import Floats, groups, transformed, values
from recsys.data.columns import labels as _labels
from recsys.data.fitting import Fitted, Normaliser, fit, target_name
from recsys.data.hashing import hash_row, hash_rows
from recsys.data.inputs import Counts, IdInput, Inputs, Task
from recsys.data.schema import Bucketed, Hashing, IdFeature, Label, Numeric, Quantiles, Schema, Side, part_name
from recsys.data.values import Ints, dictionary
from recsys.data.vocabulary import Vocabulary
from recsys.errors import CheckpointError

__all__ = ["Counts", "Encoder", "IdInput", "Inputs", "Normaliser", "Task", "id_inputs"]

UNKNOWN, MISSING, FIRST = 0, 1, 2
"""Rows of a vocabulary's table: never seen in training, missing, and the first known value."""


FARTHEST = 1e10
"""An encoded number beyond this, so many standard deviations away, counts as missing: it would overflow a network."""


class Encoder:
    """Encodes tables under a schema; `fit` learns vocabularies, quantiles and scales from training data.

    A value reads row 0 when training never showed it (or less than `min_count` times) and row 1 when it is missing;
    known values follow, the most frequent first. A hashed feature has no unknown values, and its missing value is
    hashed like any other.

    Args:
        schema: What the columns mean.
        fitted: What was learnt from training data.
    """

    def __init__(self, schema: Schema, fitted: Fitted) -> None:
        self.schema = schema
        self.fitted = fitted
        # A schema looks these up feature by feature; of a thousand columns that adds up.
        self._numeric, self._id_features = schema.numeric, schema.id_features
        own = {feature.name: feature for feature in self._id_features}
        self._owners = {name: own[feature.shares or name] for name, feature in own.items()}
        self._parts = {feature.name: schema.parts(feature) for feature in self._id_features}

    @property
    def inputs(self) -> Inputs:
        """What a model must know of the encoded data."""
        schema = self.schema
        return Inputs(
            dense=tuple(feature.name for feature in schema.numeric),
            ids=tuple(part for f in schema.id_features for part in id_inputs(schema, f, self.rows(f))),
            tasks=tuple(self._task(label) for label in schema.labels),
        )

    def _task(self, label: Label) -> Task:
        if label.kind == "binary":
            return Task(label.name, label.kind, label.weight)
        scale = self.fitted.normalisers[target_name(label)]
        return Task(label.name, label.kind, label.weight, scale.shift, scale.scale)

    def rows(self, feature: IdFeature) -> int:
        """Rows of the table that `feature` reads."""
        owner = self.schema.owner(feature)
        if isinstance(owner.encoding, Hashing):
            return 1 << owner.encoding.bits
        return FIRST + len(self.fitted.vocabularies[owner.name])

    @classmethod
    def fit(cls, schema: Schema, tables: Iterable[pa.Table]) -> Self:
        """Learn from training data in one pass.

        Raises:
            DataError: When a column is missing or mistyped, or there are no rows.
        """
        return cls(schema, fit(schema, tables))

    def encode(
        self,
        table: pa.Table,
        labels: bool = True,
        counts: Counts | None = None,
        keys: Listed[str] = (),
        sides: Container[Side] | None = None,
    ) -> Batch:
        """Encode the rows of a table.

        Args:
            table: Columns as the schema names them; others are ignored.
            labels: Whether labels and groups are read too; a table to be scored has none.
            counts: Where missing and unknown values are counted; the same one for all tables of a data set.
            keys: Columns to pass on in the batch as they are.
            sides: Encode only the features of these sides, the others as if the schema had none; by default all.

        Raises:
            DataError: When a column is absent or mistyped, or a label is missing or out of range.
        """
        counts = counts if counts is not None else Counts()
        counts.rows += table.num_rows
        numeric, id_features = self.features(sides)
        dense = np.zeros((table.num_rows, len(numeric)), dtype=np.float32)
        for f, number in enumerate(numeric):
            dense[:, f] = self._dense(table, number, counts)
        ids = [part for feature in id_features for part in self.ids(table, feature, counts)]
        return Batch(
            dense=torch.from_numpy(dense),
            ids=JaggedIds.stack(tuple(name for feature in id_features for name in self._parts[feature.name]), ids),
            labels=torch.from_numpy(_labels(table, self.schema.labels)) if labels else None,
            groups=self._groups(table, counts) if labels else None,
            keys=table.select(list(keys)) if keys else None,
        )

    def features(self, sides: Container[Side] | None = None) -> tuple[tuple[Numeric, ...], tuple[IdFeature, ...]]:
        """The numbers and the id features of some sides, by default of all, in the schema's order."""
        if sides is None:
            return self._numeric, self._id_features
        return (
            tuple(feature for feature in self._numeric if feature.side in sides),
            tuple(feature for feature in self._id_features if feature.side in sides),
        )

    def _groups(self, table: pa.Table, counts: Counts) -> Tensor | None:
        group = self.schema.group
        return None if group is None else torch.from_numpy(groups(table, group, counts))

    def _dense(self, table: pa.Table, feature: Numeric, counts: Counts) -> npt.NDArray[np.float64]:
        scale = self.fitted.normalisers[feature.name]
        encoded = (transformed(table, feature) - scale.shift) / scale.scale
        usable = np.abs(encoded) <= FARTHEST  # false for NaN, too
        counts.add(feature.name, encoded.size, int((~usable).sum()))
        return np.where(usable, encoded, np.clip((scale.fill - scale.shift) / scale.scale, -FARTHEST, FARTHEST))

    def ids(self, table: pa.Table, feature: IdFeature, counts: Counts) -> list[tuple[Tensor, Tensor | None, None]]:
        """Ids and lengths of one feature, once for every hash."""
        array, lengths, cut = values(table, feature, self.fitted.edges.get(feature.name))
        texts, codes = dictionary(array, feature.source)
        bags = None if lengths is None else torch.from_numpy(lengths)
        ids = [rows[codes] for rows in self.rows_of(texts, feature)]
        hashed = isinstance(self._owners[feature.name].encoding, Hashing)
        unknown = 0 if hashed else codes.size - int(np.count_nonzero(ids[0]))
        counts.add(feature.name, codes.size, int((codes < 0).sum()), unknown, cut)
        return [(torch.from_numpy(part), bags, None) for part in ids]

    def rows_of(self, texts: pa.LargeStringArray, feature: IdFeature) -> list[Ints]:
        """For every hash, rows of distinct texts, and last the row of a missing value, whose code is -1."""
        owner = self._owners[feature.name]
        if isinstance(owner.encoding, Hashing):
            keys = [(name, owner.encoding.bits, owner.encoding.seed) for name in self._parts[owner.name]]
            return [np.append(hash_rows(texts, *key), hash_row(None, *key)) for key in keys]
        found = self.fitted.vocabularies[owner.name].positions(texts)
        return [np.append(np.where(found < 0, UNKNOWN, found + FIRST), MISSING)]

    def to_json(self) -> dict[str, Any]:
        """Schema and state as plain JSON values."""
        fitted = self.fitted
        return {
            "schema": self.schema.model_dump(mode="json", exclude_none=True),
            "normalisers": {name: [n.shift, n.scale, n.fill] for name, n in fitted.normalisers.items()},
            "vocabularies": {name: vocabulary.to_list() for name, vocabulary in fitted.vocabularies.items()},
            "edges": {name: edges.tolist() for name, edges in fitted.edges.items()},
            "shares": {name: [shares.distinct, shares.colliding] for name, shares in fitted.shares.items()},
        }

    @classmethod
    def from_json(cls, state: Mapping[str, Any], where: str) -> Self:
        """The encoder that `to_json` described.

        Raises:
            SchemaError: When the schema does not hold together.
            CheckpointError: When the state does not belong to the schema.
        """
        schema = Schema.parse(state.get("schema", {}) if isinstance(state, Mapping) else state, where)
        try:
            encoder = cls(schema, _fitted(state))
            _ = encoder.inputs, [encoder.fitted.normalisers[feature.name] for feature in schema.numeric]
            _check_edges(schema, encoder.fitted.edges)
        except (KeyError, TypeError, ValueError, OverflowError, pa.ArrowException) as error:
            raise CheckpointError(f"{where}: the encoder's state does not fit its schema: {error!r}") from None
        return encoder


def _fitted(state: Mapping[str, Any]) -> Fitted:
    normalisers, vocabularies = _mapping(state["normalisers"]), _mapping(state["vocabularies"])
    edges, shares = _mapping(state.get("edges", {})), _mapping(state.get("shares", {}))
    return Fitted(
        normalisers={name: Normaliser(*map(float, three)) for name, three in normalisers.items()},
        vocabularies={name: Vocabulary(_listed(texts)) for name, texts in vocabularies.items()},
        edges={name: np.asarray(_listed(found), dtype=np.float64) for name, found in edges.items()},
        shares={name: Shares(int(n), float(share)) for name, (n, share) in shares.items()},
    )


def _mapping(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise TypeError(f"expected names and what belongs to them, got {type(value).__name__}")
    return value


def _listed(value: Any) -> list[Any]:
    """A text would be read as its letters."""
    if not isinstance(value, list):
        raise TypeError(f"expected a list, got {type(value).__name__}")
    return value


def _check_edges(schema: Schema, edges: Mapping[str, Floats]) -> None:
    """A number is looked for between them."""
    for feature in schema.id_features:
        if isinstance(feature, Bucketed) and isinstance(feature.buckets, Quantiles):
            found = edges[feature.name]
            if found.ndim != 1 or not (np.diff(found) >= 0).all():
                raise ValueError(f"the edges of `{feature.name}` do not ascend")


def id_inputs(schema: Schema, feature: IdFeature, rows: int) -> list[IdInput]:
    """What a model must know of a feature whose tables, one a hash, have `rows` rows each."""
    reserved = 1 if isinstance(schema.owner(feature).encoding, Hashing) else FIRST
    kind = "categorical" if feature.kind == "bucketed" else feature.kind
    names, table = schema.parts(feature), schema.table(feature)
    return [
        IdInput(
            name,
            part_name(table, part),
            rows,
            kind,
            feature.side,
            None if feature.shares is None else part_name(feature.shares, part),
            reserved,
            part,
            len(names),
        )
        for part, name in enumerate(names, 1)
    ]
