"""The network's input on a GPU, and the sizes of batches that are captured."""

from __future__ import annotations

import torch
from torch import Tensor

from recsys.layers.tables import InputLayout

__all__ = ["buckets", "network_input"]

_FLOATS = 4
"""Of 16 bytes, which a GPU stores at a time."""


def buckets(most: int) -> list[int]:
    """Sizes of batches, ascending, up to `most`: those of a few rows take as long as one another, then by a half."""
    sizes = {1, 8, 32, most}
    size = 64
    while size < most:
        sizes |= {size, size + size // 2}
        size *= 2
    return sorted(one for one in sizes if one <= most)


def network_input(rows: int, layout: InputLayout, device: torch.device) -> Tensor:
    """Zeros [rows, width] float32 whose embeddings begin at multiples of 16 bytes: columns are left out around a row.

    Products of bfloat16 read it as float32 too, and round it themselves: what stands beside products has all of it.
    """
    before = -layout.dense.stop % _FLOATS
    stride = -(-(before + layout.width) // _FLOATS) * _FLOATS
    return torch.zeros(rows, stride, dtype=torch.float32, device=device)[:, before : before + layout.width]
