"""Rank many candidates for one user: what is the user's is encoded and looked up once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from recsys.data.batch import Batch
from recsys.data.encoder import Counts
from recsys.dataflow.executor import TableExecutor
from recsys.dataflow.storage import Rows
from recsys.inference.buffers import Buffers
from recsys.inference.candidates import CandidateEncoder, Part, Row
from recsys.inference.given import Scores
from recsys.layers.tables import TableSpec

__all__ = ["CandidateScorer", "Ranking", "Work", "best", "part_of"]

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


class CandidateScorer:
    """Scores candidates for a user.

    Args:
        encoder: Of candidates.
        spec: What is looked up where.
        rows: The stored rows of every table.
        buffers: Of the session.
        share_out: Does some work on so many rows, as the session shares it out among its threads.
    """

    def __init__(
        self,
        encoder: CandidateEncoder,
        spec: TableSpec,
        rows: Mapping[str, Rows],
        buffers: Buffers,
        share_out: Callable[[int, Work], None],
    ) -> None:
        self._encoder, self._buffers, self._share_out = encoder, buffers, share_out
        self._names, self._width = list(spec.layout.sequences), spec.layout.width
        self._executors = {
            part.sides: TableExecutor(spec, rows, features=part.names) for part in encoder.parts if part.names
        }

    def scores(self, user: Row, candidates: Sequence[Row] | pa.Table, out: Scores) -> Counts:
        """Fill `out` [n] or [n, tasks] with the candidates' scores; what the encoder met is returned.

        Raises:
            DataError: When a column is of no feature or on the wrong side, or a value cannot be read.
        """
        given, counts = self._encoder.encode(user, candidates)
        if given is None:
            return counts
        x, fixed = torch.zeros(1, self._width), self._sequences(given.mine, given.user)
        self._fill(given.mine, given.user, x)

        def work(start: int, stop: int) -> None:
            piece = part_of(given.batch, start, stop)
            bound = self._buffers.bound(len(piece))
            bound.x.copy_(x)
            self._fill(given.theirs, piece, bound.x)
            bound.run(self._inputs(fixed, self._sequences(given.theirs, piece), len(piece)))
            bound.copy(out[start:stop])

        self._share_out(len(given.batch), work)
        return counts

    def _fill(self, part: Part, batch: Batch, x: Tensor) -> None:
        """Write the columns of a part's features of x [B, width]."""
        if len(part.dense):
            x[:, part.dense] = batch.dense
        if part.sides in self._executors:
            self._executors[part.sides].lookup(batch.ids, x)

    def _sequences(self, part: Part, batch: Batch) -> dict[str, tuple[Tensor, Tensor]]:
        """Name -> (rows [B, L, dim], lengths [B])."""
        return self._executors[part.sides].sequences(batch.ids) if part.sides in self._executors else {}

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


def part_of(batch: Batch, start: int, stop: int) -> Batch:
    """Rows of a batch, or itself where these are all."""
    return batch if stop - start == len(batch) else batch.slice(start, stop)


def best(scores: Scores, k: int) -> Ranking:
    """The k highest of [n] scores."""
    order = np.argsort(-scores, kind="stable")[:k]
    return Ranking(order, scores[order])
