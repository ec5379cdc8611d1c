"""Look-ups that the CPU does for a GPU: pooled into pinned memory, copied over, and put where they belong."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from recsys.data.batch import JaggedIds
from recsys.dataflow.kernels.cpu import CpuKernels, isas
from recsys.dataflow.kernels.reference import ReferenceKernels, Slot
from recsys.dataflow.plan import spread
from recsys.dataflow.platform import read_cores

__all__ = ["CpuPart", "Stage"]

_ALONE = 16
"""Examples that one core looks up: to wake others takes longer."""


class CpuPart:
    """The CPU's look-ups of a plan: their kernels, and which columns they fill.

    Args:
        slots: The look-ups with their columns of the network's input. Rows that they skip are the GPU's.
    """

    def __init__(self, slots: Sequence[Slot]) -> None:
        own, self.width = [], 0
        self.runs: list[tuple[int, int, int, bool]] = []
        """(first column here, first column of the input, columns, whether they are added), neighbours put together."""
        for slot in sorted(slots, key=lambda slot: slot.column):
            dim = slot.rows.dim
            added = slot.skip is not None
            own.append(replace(slot, column=self.width))
            first, column, columns, like = self.runs[-1] if self.runs else (0, -1, 0, added)
            if column + columns == slot.column and like == added:
                self.runs[-1] = (first, column, columns + dim, added)
            else:
                self.runs.append((self.width, slot.column, dim, added))
            self.width += dim
        self.kernels = _kernels(own)

    def stage(self, batch: int, device: torch.device) -> Stage:
        """Buffers for batches of up to so many examples; one for each thread."""
        return Stage(self, batch, device)


def _kernels(slots: Sequence[Slot]) -> CpuKernels | ReferenceKernels:
    if not isas():
        return ReferenceKernels(slots)
    cpus, names = [core.cpu for core in read_cores()], [slot.name for slot in slots]
    alone = spread(names, 1).model_copy(update={"batch": _ALONE})
    return CpuKernels(
        slots, cpus=cpus, schedules=[alone, spread(names, len(cpus)).model_copy(update={"batch": _ALONE + 1})]
    )


class Stage:
    """Where the CPU's look-ups of a batch lie on their way to the GPU.

    Call `fill` while the GPU does its own look-ups, then `launch`, which a graph may capture: its buffers stay.
    """

    def __init__(self, part: CpuPart, batch: int, device: torch.device) -> None:
        self._part = part
        self._host = torch.zeros(batch, part.width, pin_memory=device.type == "cuda")
        self._near = torch.zeros(batch, part.width, device=device)

    def fill(self, ids: JaggedIds) -> int:
        """Look up B bags of every feature, on the host; how many ids were out of range: these read row 0.

        What the last batch left must have been copied: wait for its launch before.
        """
        return self._part.kernels.look_up(ids, self._host[: ids.size])

    def launch(self, x: Tensor) -> None:
        """Copy what was filled to the GPU, and into the columns of x [B, width], of any float type.

        Of look-ups that skip rows it is added to what the GPU has put there.
        """
        count = x.shape[0]
        self._near[:count].copy_(self._host[:count], non_blocking=True)
        for first, column, columns, added in self._part.runs:
            own = self._near[:count, first : first + columns]
            into = x[:, column : column + columns]
            into.add_(own) if added else into.copy_(own)
