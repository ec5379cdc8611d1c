"""Rank many candidates for one user: what is the user's is encoded and looked up once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from recsys.config import nearest
from recsys.data.batch import Batch
from recsys.data.encoder import Counts, Encoder
from recsys.data.rows import RowEncoder
from recsys.data.schema import Side
from recsys.dataflow.executor import TableExecutor
from recsys.dataflow.storage import Rows
from recsys.errors import DataError
from recsys.inference.buffers import Buffers, Scores
from recsys.layers.tables import TableSpec

__all__ = ["CandidateScorer", "Ranking", "Work", "best", "part_of"]

Row = Mapping[str, Any]
Work = Callable[[int, int], None]
"""Scores the rows from a start up to a stop."""


class Ranking(NamedTuple):
    """The best candidates, best first; equal scores in the candidates' order.

    Attributes:
        positions: [k] int64, into the candidates.
        scores: [k].
    """

    positions: npt.NDArray[np.int64]
    scores: Scores


class _Part:
    """The features of some sides: how they are encoded, and what of the network's input they fill."""

    def __init__(self, encoder: Encoder, spec: TableSpec, rows: Mapping[str, Rows], sides: Collection[Side]) -> None:
        self.sides = sides
        numeric, id_features = encoder.features(sides)
        self.columns = frozenset(feature.source for feature in (*numeric, *id_features))
        names = tuple(name for feature in id_features for name in encoder.schema.parts(feature))
        everything = [feature.name for feature in encoder.features()[0]]
        self.dense = torch.tensor([everything.index(feature.name) for feature in numeric], dtype=torch.int64)
        self.encode = RowEncoder(encoder, sides).encode
        self.executor = TableExecutor(spec, rows, features=names) if names else None

    def fill(self, batch: Batch, x: Tensor) -> None:
        """Write the features' columns of x [B, width]."""
        if len(self.dense):
            x[:, self.dense] = batch.dense
        if self.executor is not None:
            self.executor.lookup(batch.ids, x)

    def sequences(self, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
        """Name -> (rows [B, L, dim], lengths [B])."""
        return {} if self.executor is None else self.executor.sequences(batch.ids)


class CandidateScorer:
    """Scores candidates for a user.

    Features of side `user` are read from the user, those of side `item` from each candidate. Those of side `context`
    are read from the user's row too, where no candidate has one; else each candidate has its own, and what it lacks
    the user's row gives.

    Args:
        encoder: Of the model.
        spec: What is looked up where.
        rows: The stored rows of every table.
        buffers: Of the session.
        share_out: Does some work on so many rows, as the session shares it out among its threads.
    """

    def __init__(
        self,
        encoder: Encoder,
        spec: TableSpec,
        rows: Mapping[str, Rows],
        buffers: Buffers,
        share_out: Callable[[int, Work], None],
    ) -> None:
        self._encoder, self._buffers, self._share_out = encoder, buffers, share_out
        self._names, self._width = list(spec.layout.sequences), spec.layout.width

        def part(*sides: Side) -> _Part:
            return _Part(encoder, spec, rows, sides)

        self._shared = part("user", "context"), part("item")
        self._apart = part("user"), part("item", "context")
        self._context = self._apart[1].columns - self._shared[1].columns

    def scores(self, user: Row, candidates: Sequence[Row] | pa.Table, out: Scores) -> Counts:
        """Fill `out` [n] or [n, tasks] with the candidates' scores; what the encoder met is returned.

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
        if not len(out):
            return Counts()
        counts.rows -= 1  # it is the candidates that are scored
        x, fixed = torch.zeros(1, self._width), mine.sequences(first)
        mine.fill(first, x)
        batch = self._encoded(candidates, theirs, user, counts)

        def work(start: int, stop: int) -> None:
            piece = part_of(batch, start, stop)
            bound = self._buffers.bound(len(piece))
            bound.x.copy_(x)
            theirs.fill(piece, bound.x)
            bound.run(self._inputs(fixed, theirs.sequences(piece), len(piece)))
            bound.copy(out[start:stop])

        self._share_out(len(batch), work)
        return counts

    def _encoded(self, candidates: Sequence[Row] | pa.Table, part: _Part, user: Row, counts: Counts) -> Batch:
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

    def _inputs(
        self, fixed: Mapping[str, tuple[Tensor, Tensor]], own: Mapping[str, tuple[Tensor, Tensor]], size: int
    ) -> list[Tensor]:
        """Rows and lengths of every sequence, the user's repeated."""
        found: list[Tensor] = []
        for name in self._names:
            if name in own:
                found += own[name]
            else:
                rows, lengths = fixed[name]
                found += [rows.expand(size, -1, -1).contiguous(), lengths.expand(size).contiguous()]
        return found


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


def part_of(batch: Batch, start: int, stop: int) -> Batch:
    """Rows of a batch, or itself where these are all."""
    return batch if stop - start == len(batch) else batch.slice(start, stop)


def best(scores: Scores, k: int) -> Ranking:
    """The k highest of [n] scores."""
    order = np.argsort(-scores, kind="stable")[:k]
    return Ranking(order, scores[order])
