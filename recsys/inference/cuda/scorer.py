"""Scores encoded batches on a GPU: packed, copied, looked up, scored and copied back by one graph."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Mapping
from collections.abc import Sequence as Listed
from typing import Any

import pyarrow as pa
import torch

from recsys.data.batch import Batch
from recsys.data.encoder import Counts, Encoder
from recsys.data.schema import MultiValued, Sequence
from recsys.dataflow.gpu import GpuExecutor
from recsys.dataflow.gpu_plan import GpuPlan
from recsys.inference.backends import Precision
from recsys.inference.candidates import CandidateEncoder
from recsys.inference.choice import Choice
from recsys.inference.cuda.bound import Bound, Model
from recsys.inference.cuda.device import told
from recsys.inference.cuda.packing import Kind
from recsys.inference.cuda.rows import buckets
from recsys.inference.cuda.workspace import Workspace
from recsys.inference.given import Given, Scores
from recsys.inference.parts import Parts
from recsys.inference.rank import part_of
from recsys.inference.scores import score_dtype

__all__ = ["GpuScorer"]

_WORKSPACES = 2
"""Calls at once: the processor packs one while the GPU works on the other."""


class GpuScorer:
    """What `recsys.inference.scorer.Scorer` is, on a GPU: an open session has it, and a closed one has not.

    Any number of threads may call it; those that find no workspace wait for one.

    Args:
        parts: Of the model. Its rows are copied and not needed any more, but for tables that the CPU looks up.
        plan: Where tables lie; by default on the GPU, and what does not fit, by rule.
        choice: The engine of each batch size.
        precision: Of the network's matrix products.
        max_batch: Rows that run at once.
        device: The GPU; on a CPU, for tests, nothing is captured.

    Attributes:
        note: What a user should know of how the tables were placed; empty: nothing.

    Raises:
        ConfigError: When the plan is for another model or GPU, memory does not suffice, or the GPU's driver refuses.
        MissingExtraError: When Triton is not here.
    """

    def __init__(
        self,
        parts: Parts,
        plan: GpuPlan | None,
        choice: Choice,
        precision: Precision,
        max_batch: int,
        device: torch.device,
    ) -> None:
        self.choice, self.table_bytes = choice, sum(rows.data.nbytes for rows in parts.rows.values())
        self._max_batch, self._features = max_batch, parts.spec.features
        tasks = parts.encoder.inputs.tasks
        self._given = Given(parts.spec, tasks)
        self._candidates = CandidateEncoder(parts.encoder)
        self._unknown, self._lock = 0, threading.Lock()
        self._free: queue.SimpleQueue[Workspace] = queue.SimpleQueue()
        with told(f"opening a session on {device}"), torch.inference_mode(False):
            executor = GpuExecutor(parts.spec, parts.rows, device, plan=plan)
            self.note = executor.note
            model = Model(parts.spec, executor, choice, device, precision, score_dtype(tasks), len(tasks))
            sizes = buckets(max_batch)
            for _ in range(_WORKSPACES):
                workspace = Workspace(model, sizes)
                workspace.prepare([Kind(rows, True, _jagged(parts.encoder), False) for rows in sizes])
                self._free.put(workspace)

    @property
    def unknown_ids(self) -> int:
        """Ids of encoded batches so far that were out of range."""
        return self._unknown

    def empty(self, n: int) -> Scores:
        """An array for the scores of n rows."""
        return self._given.empty(n)

    def scores(self, batch: Batch, out: Scores | None = None) -> Scores:
        """The scores of a batch, [n] or [n, tasks], in `out` where it is given.

        Raises:
            DataError: When the batch or `out` does not fit, or a score is not finite.
            ConfigError: When the GPU fails.
        """
        out = self._given.accept(batch, out)
        if len(batch) > self._max_batch:
            self._in_pieces(batch, out)
        elif len(batch):
            workspace = self._free.get()
            try:
                with told("scoring on the GPU"):
                    bound = workspace.bound(batch)
                    bound.launch(batch)
                    self._count(bound.finish())
                    bound.deliver(out)
            except BaseException:
                self._wait(workspace)
                raise
            finally:
                self._free.put(workspace)
        return out

    def _wait(self, workspace: Workspace) -> None:
        """After an error or Ctrl-C: nobody may write to what the GPU still reads."""
        with contextlib.suppress(RuntimeError):
            workspace.wait()

    def _count(self, unknown: int) -> None:
        if unknown:
            with self._lock:
                self._unknown += unknown

    def _in_pieces(self, batch: Batch, out: Scores) -> None:
        """Pack a piece while the GPU works on the one before it, where a second workspace is free.

        Whoever has a workspace does not wait for another: two that did would wait for each other.
        """
        mine = [self._free.get()]
        with contextlib.suppress(queue.Empty):
            mine.append(self._free.get_nowait())
        running: dict[Workspace, tuple[Bound, Scores]] = {}
        try:
            with told("scoring on the GPU"):
                for k, start in enumerate(range(0, len(batch), self._max_batch)):
                    stop, workspace = min(start + self._max_batch, len(batch)), mine[k % len(mine)]
                    self._finish(running, workspace)
                    piece = part_of(batch, start, stop)
                    bound = workspace.bound(piece)
                    running[workspace] = bound, out[start:stop]
                    bound.launch(piece)
                for workspace in list(running):
                    self._finish(running, workspace)
        finally:
            for workspace in mine:
                self._wait(workspace)
                if workspace in running:
                    self._count(running[workspace][0].unknown())
                self._free.put(workspace)

    def _finish(self, running: dict[Workspace, tuple[Bound, Scores]], workspace: Workspace) -> None:
        """Wait for what a workspace runs, if it does."""
        if workspace in running:
            bound, scores = running.pop(workspace)
            self._count(bound.finish())
            bound.deliver(scores)

    def step_times(self, batch: Batch) -> tuple[float, float]:
        """Microseconds of copy and look-ups, and of the network; a large batch runs in pieces, as `scores` has it."""
        lookup = network = 0.0
        workspace = self._free.get()
        try:
            for start in range(0, len(batch), self._max_batch):
                piece = part_of(batch, start, min(start + self._max_batch, len(batch)))
                with told("scoring on the GPU"):
                    first, second = workspace.bound(piece).times(piece)
                lookup, network = lookup + first, network + second
        except BaseException:
            self._wait(workspace)
            raise
        finally:
            self._free.put(workspace)
        return lookup, network

    def rank(self, user: Mapping[str, Any], candidates: Listed[Mapping[str, Any]] | pa.Table) -> tuple[Scores, Counts]:
        """The scores of candidates for a user, and what the encoder met.

        The user is encoded once and looked up with each candidate: rows that all read lie in the GPU's caches.

        Raises:
            DataError: When a column is of no feature or on the wrong side, or a value cannot be read.
        """
        given, counts = self._candidates.encode(user, candidates)
        return (self.empty(0) if given is None else self.scores(given.whole(self._features))), counts


def _jagged(encoder: Encoder) -> bool:
    """Whether its batches hold bags of any number of ids."""
    return any(isinstance(feature, MultiValued | Sequence) for feature in encoder.schema.id_features)
