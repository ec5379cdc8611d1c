"""The buffers of one thread: the network's input and output for each batch size, used again by every call."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import torch
from torch import Tensor

from recsys.inference.backends import Engine, Run
from recsys.inference.choice import Choice
from recsys.inference.given import Scores, deliver
from recsys.layers.tables import InputLayout

__all__ = ["Bound", "Buffers"]

_KEPT = 64
"""Batch sizes whose bound calls a thread keeps."""


class Bound:
    """Views of a thread's buffers for one batch size, and the network bound to them.

    Attributes:
        x: [B, width], the network's input; `dense` is its columns of numbers.
        out: [B, tasks]; `scores` is the same memory, [B] for one task.
    """

    def __init__(self, x: Tensor, out: Tensor, layout: InputLayout, engine: Engine) -> None:
        self.x, self.dense, self.out = x, x[:, layout.dense], out
        self.scores: Scores = out.numpy()[:, 0] if out.shape[1] == 1 else out.numpy()
        self._engine = engine
        self._bound: Run | None = None if layout.sequences else engine.bind([x], out)

    def run(self, sequences: Sequence[Tensor]) -> None:
        """Run the network on x and on the rows and lengths of sequences, which differ from batch to batch."""
        if self._bound is not None:
            self._bound()
        else:
            self._engine.bind([self.x, *sequences], self.out)()

    def copy(self, out: Scores) -> None:
        """Copy the scores to `out`.

        Raises:
            DataError: When one is not finite.
        """
        deliver(self.scores, out)


class Buffers(threading.local):
    """What each thread has of its own, made when the thread first asks.

    Args:
        most: Largest batch.
        layout: Of the network's input.
        tasks: Columns of its output.
        dtype: Of its output.
        choice: The engine of each batch size.
    """

    def __init__(self, most: int, layout: InputLayout, tasks: int, dtype: torch.dtype, choice: Choice) -> None:
        with torch.inference_mode(False):  # the thread may call outside of it, and could not write to them
            self._x, self._out = torch.zeros(most, layout.width), torch.zeros(most, tasks, dtype=dtype)
        self._layout, self._choice = layout, choice
        self._bound: dict[int, Bound] = {}

    def bound(self, size: int) -> Bound:
        """For a batch of that many."""
        found = self._bound.get(size)
        if found is None:
            if len(self._bound) >= _KEPT:
                self._bound.clear()
            found = Bound(self._x[:size], self._out[:size], self._layout, self._choice.engine(size))
            self._bound[size] = found
        return found
