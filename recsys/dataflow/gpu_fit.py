"""What a GPU's readings say of its cost model: how far processors and memory overlap, and what the second cache holds.

The formulas are in `recsys.dataflow.gpu_cost`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from recsys.dataflow.gpu_platform import KINDS, GpuPlatform, Kind
from recsys.dataflow.gpu_work import ID_BYTES

__all__ = ["cache_of", "power_of"]

Floats = npt.NDArray[np.float64]

POWERS = (1.0, 8.0)
"""Between these p is sought."""
PIECE = 128
"""Bytes of the rows that the readings of an output are filled with."""
CURVES: tuple[Kind, ...] = ("one", "bag32")
"""Kinds of bags whose readings tell how much the second cache holds."""
CACHES = tuple(k / 20 for k in range(4, 25))
"""Of these the share of the second cache that holds rows."""


def power_of(gpu: GpuPlatform) -> float:
    """The p by which the largest output is told: from what the processors need of a KiB, and what the memory needs."""
    near = 1024 / PIECE * gpu.bag_ns("one", PIECE, gpu.sets[0], gpu.batches[-1])
    far, told = 1024 * (1 + ID_BYTES / PIECE) / gpu.copy_gbs, gpu.write_ns[-1][1]
    low, high = POWERS
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if (near**middle + far**middle) ** (1 / middle) > told else (low, middle)
    return round(high, 2)


def cache_of(gpu: GpuPlatform, power: float) -> float:
    """Bytes that the second cache holds of rows."""
    own = [one for one in gpu.gather if (one.dtype, one.bags) == ("fp32", gpu.most_sets)]
    sets = np.array(sorted({one.working_set for one in own}), dtype=np.float64)
    if not gpu.l2 or len(sets) < 3:
        return float(gpu.l2)
    curves: list[tuple[Floats, float]] = []
    for width in sorted({one.row_bytes for one in own}):
        for kind in CURVES:
            ns = np.array([gpu.bag_ns(kind, width, size, gpu.most_sets) for size in sets])
            curves.append((ns, KINDS[kind] * width / gpu.copy_gbs))

    def off(cache: float) -> float:
        missed, total = 1 - np.minimum(1.0, cache / sets), 0.0
        for ns, memory in curves:
            far = max(ns[0], max(ns[-1] ** power - memory**power, 0.0) ** (1 / power))
            told = ((ns[0] + missed * (far - ns[0])) ** power + (missed * memory) ** power) ** (1 / power)
            total += float(np.abs(np.log(told / ns)).sum())
        return total

    return min((off(share * gpu.l2), share * gpu.l2) for share in CACHES)[1]
