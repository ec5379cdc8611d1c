"""What one call at a time uses on a GPU: a stream, the network's input, and buffers and graphs by kind of batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from recsys.data.batch import Batch
from recsys.errors import DataError
from recsys.inference.cuda.bound import Bound, Model
from recsys.inference.cuda.lane import Lane
from recsys.inference.cuda.packing import Kind, kind_of
from recsys.inference.cuda.rows import network_input
from recsys.inference.cuda.staged import StagedBound

__all__ = ["Workspace"]

_BAG = 4
"""Ids of a bag that there is room for at first."""
_MOST_IDS = (1 << 31) - 1
"""Of a batch: offsets on the device are int32."""


class Workspace:
    """For one call at a time.

    Args:
        model: What all share.
        sizes: Of batches, ascending: `bound` takes the smallest that holds a batch.
    """

    def __init__(self, model: Model, sizes: Sequence[int]) -> None:
        self._model, self._lane = model, Lane(model.device, model.precision)
        self._x = network_input(sizes[-1], model.spec.layout, model.device)
        self._sizes = np.searchsorted(sizes, np.arange(sizes[-1] + 1)).tolist()
        self._rows = list(sizes)
        self._bound: dict[Kind, Bound] = {}

    def prepare(self, kinds: Sequence[Kind]) -> None:
        """Make what batches of these kinds need."""
        for kind in kinds:
            self._made(kind, 0)

    def bound(self, batch: Batch) -> Bound:
        """What a batch runs in.

        Raises:
            DataError: When its ids do not fit its numbers, or its offsets or weights its ids, or it is not on the host.
        """
        n, ids = len(batch), batch.ids
        if not (batch.dense.is_cpu and ids.values.is_cpu):
            raise DataError('expected a batch in host memory, from where it is copied: pass batch.to("cpu")')
        if ids.features and ids.size != n:
            raise DataError(f"the batch has numbers of {n} rows and ids of {ids.size}")
        if ids.offsets is not None or ids.weights is not None:
            ids.check()
        kind = kind_of(self._rows[self._sizes[n]], ids)
        found = self._bound.get(kind)
        if found is None or (kind.jagged and len(ids.values) > found.packed.room):
            found = self._made(kind, len(ids.values))
        return found

    def wait(self) -> None:
        """Until all that was launched is done."""
        self._lane.wait()

    def _made(self, kind: Kind, ids: int) -> Bound:
        """With room for so many ids, and more, as more may come."""
        if ids > _MOST_IDS:
            raise DataError(f"a batch of {ids:,} ids is too large: 2^31 - 1 go at once; take a smaller max_batch")
        room = max(_BAG * len(self._model.spec.features) * kind.rows, 1)
        while room < ids:
            room *= 2
        self._bound.pop(kind, None)  # its memory first
        form = StagedBound if self._model.executor.staged else Bound
        with torch.inference_mode(False):  # others may call outside of it, and could not write to what was made in it
            found = self._bound[kind] = form(self._model, self._lane, kind, room, self._x)
        return found
