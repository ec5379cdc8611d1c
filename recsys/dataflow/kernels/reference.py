"""Look-ups in plain torch: slow and obvious, what every other kernel is tested against."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from recsys.data.batch import JaggedIds
from recsys.dataflow.storage import Rows

__all__ = ["ReferenceKernels", "Slot", "look_up"]


@dataclass(frozen=True)
class Slot:
    """One pooled look-up: the feature that it reads, the table, and the columns that it fills.

    Attributes:
        name: Of the look-up.
        feature: Among those of a batch.
        rows: Of the table.
        column: The first that it fills.
        pooling: Of a bag.
        skip: int32 [⌈rows / 32⌉], a bit for each row, the lowest first: rows that somebody else adds to the same sums,
            who then counts ids out of range as well. A mean is still over all ids of the bag.
    """

    name: str
    feature: int
    rows: Rows
    column: int
    pooling: Literal["sum", "mean"] = "sum"
    skip: Tensor | None = None


class ReferenceKernels:
    """The slots of `look_up`, kept."""

    def __init__(self, slots: Sequence[Slot]) -> None:
        self.slots = tuple(slots)

    def look_up(self, ids: JaggedIds, x: Tensor) -> int:
        """Fill the slots' columns of x [B, width] and return how many ids were out of range."""
        return look_up(self.slots, ids, x)


def look_up(slots: Sequence[Slot], ids: JaggedIds, x: Tensor) -> int:
    """Fill the columns of every slot and return how many ids were out of range; these read row 0.

    Bag b becomes ``Σ_i w_i · row(id_i)``, for mean divided by the number of its ids; an empty bag becomes zeros.

    Args:
        slots: What to look up.
        ids: B bags of every feature.
        x: [B, width] float32, filled in place.

    Raises:
        DataError: When offsets or weights do not fit the ids.
    """
    ids.check()
    return sum(_look_up(slot, ids, x) for slot in slots)


def _look_up(slot: Slot, ids: JaggedIds, x: Tensor) -> int:
    values, lengths, weights = ids.feature(slot.feature)
    values = values.long()
    known = (values >= 0) & (values < slot.rows.data.shape[0])
    found = torch.where(known, values, 0)
    rows = _read(slot.rows, found)
    if slot.skip is not None:
        rows = rows * (1 - (slot.skip[found >> 5] >> (found & 31) & 1)).unsqueeze(1)
    if weights is not None:
        rows = rows * weights.unsqueeze(1)
    lengths = torch.ones_like(values) if lengths is None else lengths.long()
    bags = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
    pooled = torch.zeros(len(lengths), slot.rows.dim).index_add_(0, bags, rows)
    if slot.pooling == "mean":
        pooled /= lengths.clamp(min=1).unsqueeze(1)
    x[:, slot.column : slot.column + slot.rows.dim] = pooled
    return int((~known).sum()) if slot.skip is None else 0


def _read(rows: Rows, ids: Tensor) -> Tensor:
    return Rows(rows.data[ids], rows.dim, rows.dtype).read()
