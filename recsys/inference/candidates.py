"""Encode many candidates for one user: what is the user's is encoded once."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import torch

from recsys.config import nearest
from recsys.data.batch import Batch, JaggedIds
from recsys.data.encoder import Counts, Encoder
from recsys.data.rows import RowEncoder
from recsys.data.schema import Side
from recsys.errors import DataError

__all__ = ["CandidateEncoder", "Candidates", "Part", "Row"]

Row = Mapping[str, Any]


class Part:
    """The features of some sides, and how they are encoded.

    Attributes:
        sides: Which.
        columns: That features are read from.
        names: Of the ids in a batch.
        dense: Where the numbers of a batch stand among those of all sides.
    """

    def __init__(self, encoder: Encoder, *sides: Side) -> None:
        self.sides = sides
        numeric, id_features = encoder.features(sides)
        self.columns = frozenset(feature.source for feature in (*numeric, *id_features))
        self.names = tuple(name for feature in id_features for name in encoder.schema.parts(feature))
        everything = [feature.name for feature in encoder.features()[0]]
        self.dense = torch.tensor([everything.index(feature.name) for feature in numeric], dtype=torch.int64)
        self.encode = RowEncoder(encoder, sides).encode


@dataclass(frozen=True)
class Candidates:
    """Encoded candidates for a user.

    Attributes:
        mine: What is read from the user; `user` is a batch of it, of one row.
        theirs: What is read from each candidate; `batch` has a row for each.
    """

    mine: Part
    user: Batch
    theirs: Part
    batch: Batch

    def whole(self, features: Sequence[str]) -> Batch:
        """Batches of all features, the user's repeated.

        Args:
            features: Of ids, in the order of the model.
        """
        n = len(self.batch)
        dense = torch.empty(n, len(self.mine.dense) + len(self.theirs.dense))
        dense[:, self.mine.dense], dense[:, self.theirs.dense] = self.user.dense, self.batch.dense
        repeated = self.user.ids.take(torch.zeros(n, dtype=torch.int64))
        found = {
            name: ids.feature(f)
            for part, ids in ((self.mine, repeated), (self.theirs, self.batch.ids))
            for f, name in enumerate(part.names)
        }
        return Batch(dense, JaggedIds.stack(tuple(features), [found[name] for name in features]))


class CandidateEncoder:
    """Encodes candidates for a user.

    Features of side `user` are read from the user, those of side `item` from each candidate. Those of side `context`
    are read from the user's row too, where no candidate has one; else each candidate has its own, and what it lacks
    the user's row gives.

    Args:
        encoder: Of the model.

    Attributes:
        parts: All that batches are encoded as.
    """

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._shared = Part(encoder, "user", "context"), Part(encoder, "item")
        self._apart = Part(encoder, "user"), Part(encoder, "item", "context")
        self.parts = (*self._shared, *self._apart)
        self._context = self._apart[1].columns - self._shared[1].columns

    def encode(self, user: Row, candidates: Sequence[Row] | pa.Table) -> tuple[Candidates | None, Counts]:
        """The candidates, or None where there are none, and what the encoder met; the user is no row of its own.

        Raises:
            DataError: When a column is of no feature or on the wrong side, or a value cannot be read.
        """
        counts = Counts()
        keys = set(candidates.column_names) if isinstance(candidates, pa.Table) else set().union(*candidates)
        own = self._context & keys
        mine, theirs = self._apart if own else self._shared
        self._check(keys, theirs.columns)
        misplaced = next((key for key in user if key in theirs.columns - self._context), None)
        if misplaced is not None:
            raise DataError(f"user: column `{misplaced}` is an item's: give it with each candidate")
        first = mine.encode([user], counts)
        if not len(candidates):
            return None, Counts()
        counts.rows -= 1  # it is the candidates that are scored
        return Candidates(mine, first, theirs, self._encoded(candidates, theirs, user, counts)), counts

    def _encoded(self, candidates: Sequence[Row] | pa.Table, part: Part, user: Row, counts: Counts) -> Batch:
        if isinstance(candidates, pa.Table):
            complete = _complete(candidates, part.columns, part.columns & self._context, user)
            return self._encoder.encode(complete, labels=False, counts=counts, sides=part.sides)
        given = {name: user[name] for name in part.columns & self._context & user.keys()}
        return part.encode([{**given, **row} for row in candidates] if given else candidates, counts)

    def _check(self, keys: Collection[str], known: Collection[str]) -> None:
        odd = next((key for key in keys if key not in known), None)
        if odd is not None and odd in self._encoder.schema.columns:
            raise DataError(f"candidates: column `{odd}` is the user's: give it in the user's row")
        if odd is not None:
            raise DataError(f"candidates: unknown column `{odd}`: {nearest(str(odd), sorted(known))}")


def _complete(table: pa.Table, columns: Collection[str], context: Collection[str], user: Row) -> pa.Table:
    """The table with the columns that it lacks: of the context the user's value in every row, else missing.

    Raises:
        DataError: When the user's value cannot be read.
    """
    for name in sorted(columns):
        if name not in table.column_names:
            value = user.get(name) if name in context else None
            try:
                filled = pa.nulls(table.num_rows) if value is None else pa.repeat(pa.array([value])[0], table.num_rows)
            except (pa.ArrowException, OverflowError, TypeError) as error:
                raise DataError(f"user: column `{name}`: its value cannot be read: {error}") from None
            table = table.append_column(name, filled)
    return table
