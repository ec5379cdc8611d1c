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
        self._start = self._graph()
        lane.follow()  # also where nothing is captured
        self._steps: tuple[Run, Run] | None = None

    def _graph(self) -> Run:
        """What launches everything: one graph, but for a copy whose size differs, and for unpooled look-ups."""
        return self._copied_then(self._compute) if self._model.unpooled is None else self._plain

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

    def _plain(self) -> None:
        """Everything, one launch after the other."""
        assert self._model.unpooled is not None
        self.packed.copy()
        self._look_up()
        self._complete()
        inputs = [self._x, *self._model.unpooled(self.packed, self._unknown)]
        self._model.choice.engine(self.packed.kind.rows).bind(inputs, self._scores)()
        self._give_back()

    def _complete(self) -> None:
        """Look up what the GPU does not: nothing here."""

    def launch(self, batch: Batch) -> None:
        """Pack a batch and launch its work; `finish` waits for it."""
        self.packed.pack(batch)
        if self._model.unpooled is None:
            self._lane.run(self._start)
        else:
            self._lane.run_plain(self._start)

    def finish(self, out: Scores) -> int:
        """Wait for the scores and copy them; how many ids were unknown.

        Raises:
            DataError: When a score is not finite.
        """
        self._lane.wait()
        deliver(self._told[: len(out)], out)
        return self.unknown()

    def unknown(self) -> int:
        """Ids out of range since it was last asked: the device counts on and on, modulo 2^32."""
        count = int(self._count[0])
        found, self._before = (count - self._before) % (1 << 32), count
        return found

    def times(self, batch: Batch) -> tuple[float, float]:
        """Microseconds of copy and look-ups, and of the network; both are launched and waited for."""
        self.packed.pack(batch)
        if self._steps is None:
            self._steps = self._captured_steps()
        times = [time.perf_counter()]
        for step in self._steps:
            self._lane.run(step)
            self._lane.wait()
            times.append(time.perf_counter())
        first, second = (1e6 * (end - start) for start, end in pairwise(times))
        return first, second if self._model.unpooled is None else second - first

    def _captured_steps(self) -> tuple[Run, Run]:
        if self._model.unpooled is not None:

            def first() -> None:
                self.packed.copy()
                self._look_up()
                self._complete()

            return first, self._plain
        return self._copied_then(self._look_up), self._lane.captured(self._network)
