"""Buffers and graphs of one kind of batch on a GPU."""

from __future__ import annotations

import time
from itertools import pairwise

import torch
from torch import Tensor

from recsys.data.batch import Batch
from recsys.dataflow.gpu import GpuExecutor
from recsys.inference.backends import Precision, Run
from recsys.inference.choice import Choice
from recsys.inference.cuda.lane import Lane
from recsys.inference.cuda.packing import Kind, Packed, host
from recsys.inference.cuda.unpooled import Unpooled
from recsys.inference.given import Scores, deliver
from recsys.layers.tables import TableSpec

__all__ = ["Bound", "Model"]


class Model:
    """What all workspaces of a session share.

    Args:
        spec: What is looked up where.
        executor: It has the tables.
        choice: The engine of each batch size.
        device: The GPU.
        precision: Of the network's matrix products.
        dtype: Of the scores [B, tasks].
        tasks: How many.
    """

    def __init__(
        self,
        spec: TableSpec,
        executor: GpuExecutor,
        choice: Choice,
        device: torch.device,
        precision: Precision,
        dtype: torch.dtype,
        tasks: int,
    ) -> None:
        self.spec, self.executor, self.choice = spec, executor, choice
        self.device, self.precision, self.dtype, self.tasks = device, precision, dtype, tasks
        self.unpooled = Unpooled(spec, executor, device) if spec.layout.sequences else None


class Bound:
    """Buffers and graph of one kind of batch."""

    def __init__(self, model: Model, lane: Lane, kind: Kind, room: int, x: Tensor) -> None:
        self._model, self._lane = model, lane
        self.packed = Packed(kind, len(model.spec.features), model.spec.dense, room, model.device)
        self._x = x[: kind.rows]
        scores = kind.rows * model.tasks * model.dtype.itemsize
        at = -(-scores // 16) * 16  # of the count of unknown ids, which comes back in the same copy
        self._out, self._back = torch.zeros(at + 4, dtype=torch.uint8, device=model.device), host(at + 4, model.device)
        self._scores, self._unknown = (
            self._out[:scores].view(model.dtype).view(kind.rows, model.tasks),
            self._out[at:].view(torch.int32),
        )
        told = self._back[:scores].view(model.dtype).view(kind.rows, model.tasks).numpy()
        self._told: Scores = told[:, 0] if model.tasks == 1 else told
        self._count, self._before = self._back[at:].view(torch.int32).numpy(), 0
        model.executor.prepare([kind.rows], not kind.jagged)
        if model.unpooled is None:
            self._network = model.choice.engine(kind.rows).bind([self._x], self._scores)
        self._start = None if model.unpooled is not None else self._graph()
        lane.follow()  # also where nothing is captured
        self._steps: tuple[Run, Run] | None = None

    def _graph(self) -> Run:
        """What launches everything: one graph, but for a copy whose size differs.

        Nothing that is kept refers to this object, so that a closed session gives its memory back at once.
        """
        return self._copied_then(self._compute)

    def _copied_then(self, work: Run) -> Run:
        """The copy and captured work behind it; the copy is captured too where it is of one size."""
        copy = self.packed.copy

        def whole() -> None:
            copy()
            work()

        if not self.packed.kind.jagged:
            return self._lane.captured(whole)
        replay = self._lane.captured(work)

        def start() -> None:
            copy()
            replay()

        return start

    def _compute(self) -> None:
        self._look_up()
        self._score()

    def _score(self) -> None:
        self._network()
        self._give_back()

    def _look_up(self) -> None:
        packed = self.packed
        if packed.dense.shape[1]:
            self._x[:, self._model.spec.layout.dense].copy_(packed.dense)
        self._model.executor.launch(packed.values, packed.offsets, packed.weights, self._x, self._unknown)

    def _give_back(self) -> None:
        self._back.copy_(self._out, non_blocking=True)

    def _pooled(self) -> None:
        """The copy and the look-ups that are pooled, one launch after the other."""
        self.packed.copy()
        self._look_up()
        self._complete()

    def _plain(self) -> None:
        """Everything, one launch after the other."""
        assert self._model.unpooled is not None
        self._pooled()
        inputs = [self._x, *self._model.unpooled(self.packed, self._unknown)]
        self._model.choice.engine(self.packed.kind.rows).bind(inputs, self._scores)()
        self._give_back()

    def _complete(self) -> None:
        """Look up what the GPU does not: nothing here."""

    def launch(self, batch: Batch) -> None:
        """Pack a batch and launch its work; `finish` waits for it."""
        self.packed.pack(batch)
        if self._start is not None:
            self._lane.run(self._start)
        else:
            self._lane.run_plain(self._plain)

    def finish(self) -> int:
        """Wait for the scores; how many ids were unknown."""
        self._lane.wait()
        return self.unknown()

    def deliver(self, out: Scores) -> None:
        """Copy the scores, for which `finish` has waited.

        Raises:
            DataError: When one is not finite.
        """
        deliver(self._told[: len(out)], out)

    def unknown(self) -> int:
        """Ids out of range since it was last asked: the device counts on and on, modulo 2^32."""
        count = int(self._count[0])
        found, self._before = (count - self._before) % (1 << 32), count
        return found

    def times(self, batch: Batch) -> tuple[float, float]:
        """Microseconds of copy and look-ups, and of the network; both are launched and waited for.

        Unknown ids are not counted: some are looked up twice.
        """
        self.packed.pack(batch)
        steps, times = self._timed(), [time.perf_counter()]
        for step in steps:
            self._lane.run(step)
            self._lane.wait()
            times.append(time.perf_counter())
        self._lane.run(self._give_back)
        self.finish()
        first, second = (1e6 * (end - start) for start, end in pairwise(times))
        return first, second if self._model.unpooled is None else second - first

    def _timed(self) -> tuple[Run, Run]:
        if self._model.unpooled is not None:
            return self._pooled, self._plain
        if self._steps is None:
            self._steps = self._copied_then(self._look_up), self._lane.captured(self._network)
        return self._steps
