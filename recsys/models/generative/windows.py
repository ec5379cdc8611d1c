"""Histories of any length as rows of a batch, left-aligned: the oldest event comes first, padding last."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

__all__ = ["windows"]


def windows(
    items: npt.NDArray[Any], starts: npt.NDArray[Any], ends: npt.NDArray[Any], longest: int
) -> tuple[Tensor, Tensor]:
    """The newest `longest` events of each history, left-aligned.

    Args:
        items: [E] the events of all users.
        starts: [B] where each history begins in `items`.
        ends: [B] where it ends, behind its newest event.
        longest: Most events of a row.

    Returns:
        Items [B, L] int64 with 0 as padding, L the longest row of these or 1; and how many each row has, [B] int64.
    """
    first = np.maximum(starts, ends - longest)
    lengths = (ends - first).astype(np.int64)
    steps = np.arange(max(int(lengths.max(initial=0)), 1))
    present = steps < lengths[:, None]
    rows = np.zeros(present.shape, dtype=np.int64)
    rows[present] = items[(first[:, None] + steps)[present]]
    return torch.from_numpy(rows), torch.from_numpy(lengths)
