"""A batch of which the CPU looks up some tables, as a plan says, while the GPU looks up the others."""

from __future__ import annotations

from torch import Tensor

from recsys.data.batch import Batch
from recsys.inference.backends import Run
from recsys.inference.cuda.bound import Bound, Model
from recsys.inference.cuda.lane import Lane
from recsys.inference.cuda.packing import Kind

__all__ = ["StagedBound"]


class StagedBound(Bound):
    """Buffers and two graphs: copy and look-ups of the GPU; and, when the CPU has done its own, all the rest.

    Rows beside those of a batch keep what the CPU has looked up for a larger one.
    """

    def __init__(self, model: Model, lane: Lane, kind: Kind, room: int, x: Tensor) -> None:
        stage = model.executor.stage(kind.rows)
        assert stage is not None
        self._stage, self._far = stage, 0  # `_far`: ids out of range that the CPU met since it was last asked
        super().__init__(model, lane, kind, room, x)

    def _graph(self) -> Run:
        """What launches the first of the two."""
        self._rest = self._lane.captured(self._send_and_score)
        return self._copied_then(self._look_up)

    def _send(self) -> None:
        self._stage.launch(self._x)

    def _send_and_score(self) -> None:
        self._send()
        self._score()

    def _fill(self) -> None:
        self._far += self._stage.fill(self._ids)

    def _complete(self) -> None:
        """Look up what the GPU does not, while it does what was launched."""
        self._fill()
        self._send()

    def launch(self, batch: Batch) -> None:
        """Pack a batch and launch its work, the CPU's look-ups among it; `finish` waits for it."""
        self._ids = batch.ids
        super().launch(batch)
        if self._start is None:
            return
        try:
            self._fill()
        except BaseException:
            self._lane.wait()  # nobody may write to what the GPU still reads
            raise
        self._lane.run(self._rest)

    def unknown(self) -> int:
        """Ids out of range since it was last asked, on both sides."""
        found, self._far = super().unknown() + self._far, 0
        return found

    def times(self, batch: Batch) -> tuple[float, float]:
        """Microseconds of copy and look-ups, the CPU's among them, and of the network."""
        self._ids = batch.ids
        return super().times(batch)

    def _timed(self) -> tuple[Run, Run]:
        start = self._start
        if start is None:
            return super()._timed()
        if self._steps is None:
            self._steps = self._lane.captured(self._send), self._lane.captured(self._network)
        send, network = self._steps

        def first() -> None:
            start()
            self._fill()
            send()

        return first, network
