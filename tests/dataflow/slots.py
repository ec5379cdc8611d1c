"""Random tables, look-ups and ids for the tests of kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from recsys.data.batch import JaggedIds
from recsys.dataflow.kernels.reference import Slot
from recsys.dataflow.storage import Source, Storage
from recsys.dataflow.workload import Dtype

WRONG = (-1, 0, (1 << 31) - 1, -(1 << 31), 1 << 31, (1 << 32) + 1, -(1 << 40), (1 << 63) - 1, -(1 << 63))
"""Ids to be put among the right ones, besides the number of rows; 0 is right."""


def slots(
    dims: Sequence[int],
    rows: Sequence[int] = (1, 7, 100),
    dtype: Dtype = "fp32",
    pooling: Literal["sum", "mean"] = "sum",
    seed: int = 0,
) -> list[Slot]:
    """One slot a dim over tables of the given sizes in turn; a column is left free before each."""
    generator = torch.Generator().manual_seed(seed)
    sources = {
        str(k): Source(torch.randn(rows[k % len(rows)], dim, generator=generator), dtype) for k, dim in enumerate(dims)
    }
    storage = Storage(sources)
    found, column = [], 0
    for k, dim in enumerate(dims):
        found.append(Slot(str(k), k, storage.tables[str(k)], column + 1, pooling))
        column += dim + 1
    return found


def width(found: Sequence[Slot]) -> int:
    """Columns of a buffer for the slots, one more than they need."""
    return max((slot.column + slot.rows.dim for slot in found), default=0) + 1


def ids(
    found: Sequence[Slot],
    size: int,
    longest: int | None = None,
    weighted: bool = False,
    index: torch.dtype = torch.int64,
    wrong: bool = True,
    seed: int = 0,
) -> JaggedIds:
    """Bags for every slot: one id each, or 0 to `longest`; some ids are out of range."""
    generator = torch.Generator().manual_seed(seed)
    lengths = (
        torch.ones(len(found), size, dtype=torch.int64)
        if longest is None
        else torch.randint(0, longest + 1, (len(found), size), generator=generator)
    )
    values = [_values(slot, int(n.sum()), wrong, index, generator) for slot, n in zip(found, lengths, strict=True)]
    packed = torch.cat(values) if values else torch.zeros(0, dtype=index)
    offsets = None if longest is None else torch.cat([torch.zeros(1, dtype=torch.int64), lengths.flatten().cumsum(0)])
    weights = torch.randn(len(packed), generator=generator) if weighted else None
    return JaggedIds(tuple(slot.name for slot in found), packed, offsets, weights)


def _values(slot: Slot, n: int, wrong: bool, index: torch.dtype, generator: torch.Generator) -> Tensor:
    rows = slot.rows.data.shape[0]
    values = torch.randint(0, max(rows, 1), (n,), generator=generator)
    if wrong and n:
        limit = torch.iinfo(index)
        bad = torch.tensor([w for w in (*WRONG, rows, rows - 1) if limit.min <= w <= limit.max])
        at = torch.randint(0, n, (max(1, n // 5),), generator=generator)
        values[at] = bad[torch.randint(0, len(bad), (len(at),), generator=generator)]
    return values.to(index)
