"""Scores encoded batches: look-ups into a buffer, and the network bound to it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import pyarrow as pa
from torch import Tensor

from recsys.data.batch import Batch
from recsys.data.encoder import Counts
from recsys.dataflow.executor import TableExecutor
from recsys.dataflow.plan import DataFlowPlan
from recsys.inference.buffers import Bound, Buffers
from recsys.inference.candidates import CandidateEncoder
from recsys.inference.choice import Choice
from recsys.inference.given import Given, Scores
from recsys.inference.parts import Parts
from recsys.inference.rank import CandidateScorer, Work, part_of
from recsys.inference.scores import score_dtype
from recsys.threads import torch_threads

__all__ = ["Scorer"]

_WORTH = 64
"""Rows that are worth a thread: handing them over takes some 50 µs."""
_FEW = 8
"""Rows that torch shares out among no threads: to say so would take 0.4 µs of the 9 that a small network takes."""


class Scorer:
    """What an open session has and a closed one has not; a call keeps it until it ends.

    Args:
        parts: Of the model.
        plan: How rows are looked up.
        choice: The engine of each batch size.
        max_batch: Rows that run at once.
        threads: Among which a batch is shared out.
    """

    def __init__(self, parts: Parts, plan: DataFlowPlan | None, choice: Choice, max_batch: int, threads: int) -> None:
        self.choice, self.table_bytes = choice, sum(rows.data.nbytes for rows in parts.rows.values())
        self._max_batch, self._threads = max_batch, threads
        self._layout, tasks = parts.spec.layout, parts.encoder.inputs.tasks
        self._given = Given(parts.spec, tasks)
        self._executor = TableExecutor(parts.spec, parts.rows, plan)
        self._buffers = Buffers(max_batch, self._layout, len(tasks), score_dtype(tasks), choice)
        encoder = CandidateEncoder(parts.encoder)
        self._candidates = CandidateScorer(encoder, parts.spec, parts.rows, self._buffers, self._shared_out)
        self._pool = ThreadPoolExecutor(threads, "recsys-session") if threads > 1 else None

    @property
    def unknown_ids(self) -> int:
        """Ids of encoded batches so far that were out of range."""
        return self._executor.unknown_ids

    def empty(self, n: int) -> Scores:
        """An array for the scores of n rows."""
        return self._given.empty(n)

    def scores(self, batch: Batch, out: Scores | None = None) -> Scores:
        """The scores of a batch, [n] or [n, tasks], in `out` where it is given.

        Raises:
            DataError: When the batch or `out` does not fit, or a score is not finite.
        """
        n, out = len(batch), self._given.accept(batch, out)
        if n > self._max_batch or (self._pool is not None and n >= 2 * _WORTH):
            self._shared_out(n, lambda start, stop: self._piece(part_of(batch, start, stop), out[start:stop]))
        elif n > _FEW:
            with torch_threads(1):
                self._piece(batch, out)
        elif n:
            self._piece(batch, out)
        return out

    def _shared_out(self, n: int, work: Work) -> None:
        """Do `work` on n rows, at most `max_batch` at once, shared out among the threads."""
        few = n < 2 * _WORTH
        step = min(n if few else max(-(-n // self._threads), _WORTH), self._max_batch)
        pieces = [(start, min(start + step, n)) for start in range(0, n, step)]
        if self._pool is None or few:
            with torch_threads(1):
                for start, stop in pieces:
                    work(start, stop)
            return

        def alone(start: int, stop: int) -> None:
            with torch_threads(1):  # each thread has a number of its own
                work(start, stop)

        futures = [self._pool.submit(alone, *piece) for piece in pieces]
        wait(futures)  # all of them, so that nobody writes to the result any more
        for future in futures:
            future.result()

    def _piece(self, batch: Batch, out: Scores) -> None:
        bound = self._buffers.bound(len(batch))
        bound.run(self._look_up(batch, bound))
        bound.copy(out)

    def _look_up(self, batch: Batch, bound: Bound) -> list[Tensor]:
        """Fill the network's input; the rows and lengths of sequences are returned."""
        bound.dense.copy_(batch.dense)
        self._executor.lookup(batch.ids, bound.x)
        if not self._layout.sequences:
            return []
        return [one for pair in self._executor.sequences(batch.ids).values() for one in pair]

    def step_times(self, batch: Batch) -> tuple[float, float]:
        """Microseconds of look-ups and network, on one thread; a large batch runs in pieces, as `scores` has it."""
        lookup = network = 0.0
        for start in range(0, len(batch), self._max_batch):
            piece = part_of(batch, start, min(start + self._max_batch, len(batch)))
            bound = self._buffers.bound(len(piece))
            times = [time.perf_counter()]
            sequences = self._look_up(piece, bound)
            times.append(time.perf_counter())
            bound.run(sequences)
            times.append(time.perf_counter())
            lookup += 1e6 * (times[1] - times[0])
            network += 1e6 * (times[2] - times[1])
        return lookup, network

    def rank(
        self, user: Mapping[str, Any], candidates: Sequence[Mapping[str, Any]] | pa.Table
    ) -> tuple[Scores, Counts]:
        """The scores of candidates for a user, and what the encoder met.

        Raises:
            DataError: When a column is of no feature or on the wrong side, or a value cannot be read.
        """
        out = self.empty(len(candidates))
        with torch_threads(1):
            return out, self._candidates.scores(user, candidates, out)
