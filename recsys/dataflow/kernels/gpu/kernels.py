"""All look-ups of a batch on a GPU: slots in the kernel's form, and its launches."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from recsys.dataflow.kernels.gpu.blocks import Blocks, Shapes
from recsys.dataflow.kernels.gpu.rows import GpuRows
from recsys.errors import DataError, MissingExtraError

__all__ = ["GpuKernels", "GpuSlot"]


@dataclass(frozen=True)
class GpuSlot:
    """One pooled look-up: the feature that it reads, its table, and the columns that it fills.

    Attributes:
        name: Of the look-up.
        feature: Among those of a batch.
        rows: Where the table lies.
        column: The first that it fills.
        pooling: Of a bag.
        ids: In a bag, on average. What a kernel gives does not depend on it; how fast it is does.
    """

    name: str
    feature: int
    rows: GpuRows
    column: int
    pooling: Literal["sum", "mean"] = "sum"
    ids: float = 1.0


class GpuKernels:
    """Launches what fills the columns of some slots: one kernel for all slots whose rows are alike.

    Args:
        slots: What to look up.
        device: Where ids, x and rows on the device lie. Of a CPU, Triton's interpreter does the work: for tests.
        checked: Whether ids may be out of range: these read row 0, and are counted. If not, they must not.
        blocks: Block shapes; by default those that were measured for such a GPU.

    Raises:
        MissingExtraError: When Triton is not here.
    """

    def __init__(
        self, slots: Sequence[GpuSlot], device: torch.device, checked: bool = True, blocks: Blocks | None = None
    ) -> None:
        try:
            from recsys.dataflow.kernels.gpu.lookup import look_up
        except ImportError:
            raise MissingExtraError("look-ups on a GPU need Triton, which a CUDA build of torch brings along") from None
        self._kernel, self._checked = look_up, checked
        self._blocks = blocks if blocks is not None else Blocks.measured(device)
        alike = sorted(slots, key=_kind)
        self._groups = [_Group(list(group), device) for _, group in itertools.groupby(alike, key=_kind)]

    def prepare(self, batch: int, single: bool) -> None:
        """Make what `launch` needs for batches of that many, which it cannot make while a graph is captured."""
        for group in self._groups:
            group.work(batch, self._shapes(group, batch, single), single)

    def launch(
        self, values: Tensor, offsets: Tensor | None, weights: Tensor | None, x: Tensor, unknown: Tensor
    ) -> None:
        """Fill the slots' columns of x.

        Args:
            values: Ids, feature after feature: int32 or int64.
            offsets: [features * batch + 1] int64 or int32; None: every bag holds one id.
            weights: [ids] float32, or None.
            x: [batch, width] float32, float16 or bfloat16; its rows lie one after the other, if with gaps.
            unknown: [1] int32: ids out of range are added to it.

        Raises:
            DataError: When ids, offsets or weights do not lie one after the other, which a kernel takes for granted.
        """
        for name, one in (("values", values), ("offsets", offsets), ("weights", weights)):
            if one is not None and not one.is_contiguous():
                raise DataError(f"`{name}` of ids must lie one after the other in memory: pass {name}.contiguous()")
        batch = x.shape[0]
        if batch == 0:
            return
        for group in self._groups:
            shapes = self._shapes(group, batch, offsets is None)
            work = group.work(batch, shapes, offsets is None)
            self._kernel[(len(work),)](
                work,
                group.slots,
                values,
                values if offsets is None else offsets,
                values if weights is None else weights,
                x.as_strided((1,), (1,), 0),
                unknown,
                batch,
                x.stride(0),
                x.storage_offset(),
                DIM=group.dim,
                WIDTH=1 << (group.dim - 1).bit_length(),
                DTYPE=group.dtype,
                STRIDE=group.stride,
                SHORT=shapes.short,
                LONG=shapes.long,
                LANES=shapes.lanes,
                ONE=offsets is None,
                WEIGHTED=weights is not None,
                CHECKED=self._checked,
                SPLIT=group.split,
                NATIVE=x.is_cuda,
                OUT=group.aligned(x),
                num_warps=shapes.warps,
            )

    def _shapes(self, group: _Group, batch: int, single: bool) -> Shapes:
        return self._blocks.shapes(group.dim, group.dtype, single, batch)


def _kind(slot: GpuSlot) -> tuple[int, str, int]:
    return slot.rows.dim, slot.rows.dtype, slot.rows.stride


class _Group:
    """Slots of one launch: their rows have one dim, dtype and stride."""

    def __init__(self, slots: Sequence[GpuSlot], device: torch.device) -> None:
        self._slots, self._device = slots, device
        rows = slots[0].rows
        self.dim, self.dtype, self.stride = rows.dim, rows.dtype, rows.stride
        self.split = any(slot.rows.remap is not None for slot in slots)
        self.slots = torch.tensor([_fields(slot, LONG_FROM) for slot in slots], dtype=torch.int64).to(device)
        self._work: dict[tuple[int, int, int], Tensor] = {}

    def work(self, batch: int, shapes: Shapes, single: bool) -> Tensor:
        """Slot << 32 | first bag of each program: those with most ids come first, so that none of them is last."""
        key = batch, shapes.short, 0 if single else shapes.long
        found = self._work.get(key)
        if found is None:
            parts = []
            for s in sorted(range(len(self._slots)), key=lambda s: -self._slots[s].ids):
                block = shapes.short if single or self._slots[s].ids < LONG_FROM else shapes.long
                parts.append((s << 32) | np.arange(0, batch, block, dtype=np.int64))
            found = self._work[key] = torch.from_numpy(np.concatenate(parts)).to(self._device)
        return found

    def aligned(self, x: Tensor) -> int:
        """Numbers at whose multiples all slots begin in memory, up to the 16 bytes that one store takes."""
        size = x.element_size()
        stored = math.gcd(16, x.untyped_storage().data_ptr())
        slots = (size * (slot.column + x.storage_offset()) for slot in self._slots)
        return max(math.gcd(stored, size * x.stride(0), *slots) // size, 1)


LONG_FROM = 6.0
"""Ids in a bag, on average, from which its ids are read side by side and not one after the other."""


def _fields(slot: GpuSlot, long_from: float) -> list[int]:
    """A slot as the kernel reads it; see `recsys.dataflow.kernels.gpu.lookup.FIELDS`."""
    rows = slot.rows
    device, host, remap = (0 if one is None else one.data_ptr() for one in (rows.device, rows.host, rows.remap))
    fields: Mapping[str, int] = {
        "device": device if rows.device is not None else host,
        "host": host,
        "remap": remap,
        "rows": rows.rows,
        "feature": slot.feature,
        "column": slot.column,
        "mean": int(slot.pooling == "mean"),
        "long": int(slot.ids >= long_from),
        "cold": int(not rows.whole_host),
    }
    return list(fields.values())
