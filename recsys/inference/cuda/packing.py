"""A batch as one piece of memory, alike on host and device: numbers, offsets, weights and ids, one after the other."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from recsys.data.batch import Batch, JaggedIds

__all__ = ["Kind", "Packed", "host", "kind_of"]

_ALIGNED = 16


class Kind(NamedTuple):
    """Batches that are packed alike.

    Attributes:
        rows: Of the bucket; smaller batches are filled up to it, with ids 0 or with empty bags.
        wide: Ids are int64.
        jagged: Bags hold any number of ids.
        weighted: Ids have weights.
    """

    rows: int
    wide: bool
    jagged: bool
    weighted: bool


def kind_of(rows: int, ids: JaggedIds) -> Kind:
    """The kind of a batch in a bucket."""
    return Kind(rows, ids.values.dtype is torch.int64, ids.offsets is not None, ids.weights is not None)


def host(size: int, device: torch.device) -> Tensor:
    """Bytes that the device copies from and to without the processor's help."""
    return torch.zeros(max(size, 1), dtype=torch.uint8, pin_memory=device.type == "cuda")


class Packed:
    """Where batches of a kind are packed.

    Ids keep their type: to look whether int64 ones fit into int32 takes longer than to copy twice the bytes.

    Args:
        kind: Of the batches.
        features: F, of ids.
        numbers: N, columns.
        room: Most ids of a batch whose bags hold any number of them.
        device: The GPU.

    Attributes:
        dense: [rows, N] float32 on the device, like all that follow.
        offsets: [F * rows + 1] int32, or None.
        values: [F * rows] or [room].
        weights: As many, or None.
        room: Of ids.
    """

    def __init__(self, kind: Kind, features: int, numbers: int, room: int, device: torch.device) -> None:
        self.kind, self._features = kind, features
        bags = features * kind.rows
        self.room = room if kind.jagged else bags
        ids = torch.int64 if kind.wide else torch.int32
        starts, end = {}, 0
        for name, dtype, count in (
            ("dense", torch.float32, kind.rows * numbers),
            ("offsets", torch.int32, bags + 1 if kind.jagged else 0),
            ("weights", torch.float32, self.room if kind.weighted else 0),
            ("values", ids, self.room),  # last, so that no more is copied than there are
        ):
            starts[name] = (dtype, end, count)
            end += -(-count * dtype.itemsize // _ALIGNED) * _ALIGNED
        self._host, self._there = host(end, device), torch.zeros(max(end, 1), dtype=torch.uint8, device=device)
        self._end, self._values_at = end, starts["values"][1]

        def part(memory: Tensor, name: str) -> Tensor:
            dtype, at, count = starts[name]
            return memory[at : at + count * dtype.itemsize].view(dtype)

        self.dense = part(self._there, "dense").view(kind.rows, numbers)
        self.values = part(self._there, "values")
        self.offsets = part(self._there, "offsets") if kind.jagged else None
        self.weights = part(self._there, "weights") if kind.weighted else None
        self._dense = part(self._host, "dense").view(kind.rows, numbers).numpy()
        self._values, self._offsets, self._weights = (
            part(self._host, name).numpy() for name in ("values", "offsets", "weights")
        )
        self._used = self.room

    def pack(self, batch: Batch) -> None:
        """Write a batch of up to `kind.rows` rows to the host's side. It must fit, with offsets that ascend."""
        n, ids = len(batch), batch.ids
        self._dense[:n] = batch.dense.numpy()
        values = ids.values.numpy()
        if ids.offsets is not None:
            self._used = len(values)
            self._values[: self._used] = values
            if ids.weights is not None:
                self._weights[: self._used] = ids.weights.numpy()
            self._bags(ids.offsets.numpy(), n)
            return
        self._columns(self._values, values, n)
        if ids.weights is not None:
            self._columns(self._weights, ids.weights.numpy(), n)

    def _columns(self, packed: npt.NDArray[Any], given: npt.NDArray[Any], n: int) -> None:
        """[F, n] of given ones into [F, rows], and zeros beside them."""
        if n == self.kind.rows:
            packed[:] = given
            return
        grid = packed.reshape(self._features, self.kind.rows)
        grid[:, :n] = given.reshape(self._features, n)
        grid[:, n:] = 0

    def _bags(self, offsets: npt.NDArray[Any], n: int) -> None:
        """Offsets of [F, n] bags into those of [F, rows], and empty bags beside them."""
        rows = self.kind.rows
        if n == rows:
            self._offsets[:] = offsets
            return
        grid = self._offsets[:-1].reshape(self._features, rows)
        grid[:, :n] = offsets[:-1].reshape(self._features, n)
        grid[:, n:] = offsets[n::n, None]
        self._offsets[-1] = offsets[-1]

    def copy(self) -> None:
        """Launch the copy to the device, of what is used alone where bags hold any number of ids."""
        if not self.kind.jagged:
            self._there.copy_(self._host, non_blocking=True)
            return
        end = self._values_at + self._used * self.values.element_size()
        self._there[:end].copy_(self._host[:end], non_blocking=True)

    def bags(self, feature: int) -> tuple[slice, npt.NDArray[np.int32]]:
        """Where the ids of a feature lie among `values`, and where its bags begin and end [rows + 1]."""
        rows = self.kind.rows
        if not self.kind.jagged:
            return slice(feature * rows, (feature + 1) * rows), np.arange(rows + 1, dtype=np.int32)
        offsets = self._offsets[feature * rows : (feature + 1) * rows + 1]
        return slice(int(offsets[0]), int(offsets[-1])), offsets
