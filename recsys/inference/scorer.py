"""Scores encoded batches: look-ups into a buffer, and the network bound to it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import numpy as np
import pyarrow as pa
from torch import Tensor

from recsys.data.batch import Batch
from recsys.data.encoder import Counts
from recsys.dataflow.executor import TableExecutor
from recsys.dataflow.plan import DataFlowPlan
from recsys.errors import DataError
from recsys.inference.buffers import Bound, Buffers, Scores
from recsys.inference.choice import Choice
from recsys.inference.parts import Parts
from recsys.inference.rank import CandidateScorer
from recsys.inference.scores import score_dtype

__all__ = ["Scorer"]

_WORTH = 64
"""Rows that are worth a thread: handing them over takes some 50 µs."""


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
        self.choice, self.rows = choice, parts.rows
        self._max_batch, self._threads = max_batch, threads
        self._features, self._layout = parts.spec.features, parts.spec.layout
        tasks = parts.encoder.inputs.tasks
        dtype = score_dtype(tasks)
        self._dtype, self._tasks = np.dtype(str(dtype).removeprefix("torch.")), len(tasks)
        self._executor = TableExecutor(parts.spec, parts.rows, plan)
        self._buffers = Buffers(max_batch, self._layout, self._tasks, dtype, choice)
        self._candidates = CandidateScorer(parts.encoder, parts.spec, parts.rows, self._buffers, max_batch)
        self._pool = ThreadPoolExecutor(threads, "recsys-session") if threads > 1 else None

    def empty(self, n: int) -> Scores:
        """An array for the scores of n rows."""
        return np.empty(self._shape(n), dtype=self._dtype)

    def _shape(self, n: int) -> tuple[int, ...]:
        return (n,) if self._tasks == 1 else (n, self._tasks)

    def scores(self, batch: Batch, out: Scores | None = None) -> Scores:
        """The scores of a batch, [n] or [n, tasks], in `out` where it is given.

        Raises:
            DataError: When the batch or `out` does not fit, or a score is not finite.
        """
        n = len(batch)
        if batch.ids.features != self._features or batch.dense.shape[1] != self._layout.dense.stop:
            raise DataError(
                f"expected a batch of {self._layout.dense.stop} numbers and features {', '.join(self._features)}, got "
                f"{batch.dense.shape[1]} and {', '.join(batch.ids.features)}: encode with the session's encoder"
            )
        if out is None:
            out = self.empty(n)
        elif not isinstance(out, np.ndarray) or out.shape != self._shape(n) or out.dtype != self._dtype:
            came = f"{out.dtype} {out.shape}" if isinstance(out, np.ndarray) else type(out).__name__
            raise DataError(f"expected `out` as {self._dtype} {self._shape(n)}, got {came}")
        if n > self._max_batch or (self._pool is not None and n >= 2 * _WORTH):
            self._split(batch, out)
        elif n:
            self._piece(batch, out)
        return out

    def _split(self, batch: Batch, out: Scores) -> None:
        """Pieces of at most `max_batch` rows, shared out among the threads."""
        step = max(min(self._max_batch, -(-len(batch) // self._threads)), _WORTH)
        step = min(step, self._max_batch)
        starts = range(0, len(batch), step)

        def piece(start: int) -> None:
            self._piece(batch.slice(start, start + step), out[start : start + step])

        if self._pool is None:
            for start in starts:
                piece(start)
            return
        futures = [self._pool.submit(piece, start) for start in starts]
        wait(futures)  # all of them, so that nobody writes to `out` any more
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
            piece = batch if len(batch) <= self._max_batch else batch.slice(start, start + self._max_batch)
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
        return out, self._candidates.scores(user, candidates, out) if len(out) else Counts()
