"""Look-ups that are not pooled, on a GPU: their shapes differ from batch to batch, so no graph has them."""

from __future__ import annotations

import torch
from torch import Tensor

from recsys.dataflow.gpu import GpuExecutor
from recsys.dataflow.kernels.gpu.kernels import GpuKernels, GpuSlot
from recsys.inference.cuda.packing import Packed
from recsys.layers.tables import TableSpec

__all__ = ["Unpooled"]


class Unpooled:
    """The rows of sequences, in order.

    Args:
        spec: What is looked up where.
        executor: It has the tables.
        device: The GPU.
    """

    def __init__(self, spec: TableSpec, executor: GpuExecutor, device: torch.device) -> None:
        position = {name: f for f, name in enumerate(spec.features)}
        self._device = device
        self._slots = []
        for slot in spec.layout.sequences:
            found = [one for one in spec.lookups if one.slot == slot and one.pooling == "none"]
            column, slots = 0, []
            for k, lookup in enumerate(found):
                rows = executor.rows[lookup.table]
                slots.append(GpuSlot(lookup.name, k, rows, column))
                column += rows.dim
            self._slots.append(([position[one.feature] for one in found], column, GpuKernels(slots, device)))

    def __call__(self, packed: Packed, unknown: Tensor) -> list[Tensor]:
        """For each sequence its rows [B, L, dim] and lengths [B]; L is the longest bag, at least 1.

        Args:
            packed: A batch that lies on the device.
            unknown: [1] int32: ids out of range are added to it.
        """
        found: list[Tensor] = []
        for features, width, kernels in self._slots:
            bags = [packed.bags(f) for f in features]
            counts = torch.from_numpy(bags[0][1]).diff().long()
            ids = int(counts.sum())
            values = packed.values.new_zeros(len(features), _room(ids))
            for row, (part, _) in zip(values, bags, strict=True):
                row[:ids] = packed.values[part]
            rows = torch.empty(values.shape[1], width, dtype=torch.float32, device=self._device)
            kernels.launch(values.view(-1), None, None, rows, unknown)
            found += _padded(rows[:ids], counts.to(self._device), max(int(counts.max()), 1))
        return found


def _room(ids: int) -> int:
    """Of few different sizes, as kernels keep a list of work for each: a power of two."""
    return 1 << (ids - 1).bit_length() if ids else 0


def _padded(rows: Tensor, lengths: Tensor, longest: int) -> tuple[Tensor, Tensor]:
    present = torch.arange(longest, device=rows.device) < lengths.unsqueeze(1)
    padded = rows.new_zeros(*present.shape, rows.shape[1])
    padded[present] = rows
    return padded, lengths
