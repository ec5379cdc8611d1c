"""What benchmarks of a GPU's look-ups run on: ids drawn on the GPU, and tables made there.

Hundreds of millions of ids are drawn as `recsys.dataflow.ids` draws them, from the same formulas, in no time.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from recsys.data.batch import JaggedIds
from recsys.dataflow.ids import curve, harmonic
from recsys.dataflow.kernels.gpu.kernels import GpuSlot
from recsys.dataflow.kernels.gpu.rows import GpuRows
from recsys.dataflow.storage import quantise
from recsys.dataflow.workload import Dtype, Ids, Workload

__all__ = ["BLOCK", "block", "draw", "expected", "filled", "sample", "scattered", "slots"]

BLOCK = 9973
"""Rows that are made; they are repeated. A prime, so that an address off by a power of two is found out."""
_HEAD = 1024
_ODD = (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)


def draw(workload: Workload, batch: int, generator: torch.Generator) -> JaggedIds:
    """A batch for all look-ups of a workload, int64, where the generator is; its features are these, in their order."""
    parts = [sample(one.ids, workload.table(one.table).rows, batch, generator) for one in workload.lookups]
    names, values = tuple(one.name for one in workload.lookups), torch.cat([values for values, _ in parts])
    if all(one.ids.bags == ((1, 1.0),) for one in workload.lookups):
        return JaggedIds(names, values)
    lengths = torch.cat([lengths for _, lengths in parts])
    return JaggedIds(names, values, torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]))


def sample(ids: Ids, rows: int, bags: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Ids of bags, one behind the other, and how many each bag holds; drawn as `recsys.dataflow.ids.sample` does."""
    device = generator.device
    sizes = torch.tensor([n for n, _ in ids.bags], device=device)
    ends = torch.tensor(np.cumsum([share for _, share in ids.bags]), device=device)
    chosen = torch.rand(bags, dtype=torch.float64, device=device, generator=generator)
    lengths = sizes[torch.searchsorted(ends, chosen, right=True).clamp(max=len(sizes) - 1)]
    u = torch.rand(int(lengths.sum()), dtype=torch.float64, device=device, generator=generator)
    return scattered(_ranks(ids, rows, u), rows), lengths


def _ranks(ids: Ids, rows: int, u: Tensor) -> Tensor:
    if ids.distribution == "equal":
        return torch.zeros_like(u, dtype=torch.int64)
    if ids.distribution == "uniform":
        return (u * rows).long().clamp(max=rows - 1)
    if ids.distribution == "measured":
        return _measured(ids, rows, u)
    known, s = min(rows, _HEAD), ids.exponent
    ends = np.minimum(harmonic(np.arange(1, known + 1), s) / harmonic(np.array([rows]), s), 1.0)
    ends = np.append(ends[:-1] if known == rows else ends, 1.0)
    ranks = torch.searchsorted(torch.from_numpy(ends).to(u.device), u, right=True)
    if known == rows:
        return ranks.clamp(max=rows - 1)
    v = (u - ends[-2]) / (1 - ends[-2])
    log = float(np.log((rows + 0.5) / (known + 0.5)))
    power = (1 - s) * log
    grown = v * log if power == 0 else torch.log1p(v * float(np.expm1(power))) / (1 - s)
    tail = ((known + 0.5) * torch.exp(grown) - 0.5).long().clamp(known, rows - 1)
    return torch.where(ranks >= known, tail, ranks)


def _measured(ids: Ids, rows: int, u: Tensor) -> Tensor:
    ends, sums = (torch.from_numpy(np.append(0, one)).to(u.device) for one in curve(ids, rows))
    k = torch.searchsorted(sums[1:], u, right=True)
    part = (u - sums[k]) / (sums[k + 1] - sums[k])
    return torch.minimum(ends[k] + (part * (ends[k + 1] - ends[k])).long(), ends[k + 1] - 1)


def scattered(ranks: Tensor, rows: int) -> Tensor:
    """`recsys.dataflow.ids.scatter` of ranks on any device."""
    bits = max(int(rows - 1).bit_length(), 1)
    found = _mixed(ranks, bits)
    while bool((outside := found >= rows).any()):
        found = torch.where(outside, _mixed(found, bits), found)
    return found


def _mixed(x: Tensor, bits: int) -> Tensor:
    """Products wrap around at 64 bits, of which the lower ones are the same with and without a sign."""
    for odd in _ODD:
        x = (x * (odd - (1 << 64)) + (odd >> 7)) & ((1 << bits) - 1)
        x = x ^ (x >> ((bits + 1) // 2))
    return x


def block(dim: int, dtype: Dtype) -> Tensor:
    """The rows that are made, as they are stored."""
    made = torch.rand(BLOCK, dim, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return quantise(made) if dtype == "int8" else made.half() if dtype == "fp16" else made


def filled(made: Tensor, to: Tensor) -> Tensor:
    """Fill rows [rows, stored columns] with the block, again and again: row i is its row i mod `BLOCK`."""
    whole = len(to) // len(made)
    to[: whole * len(made)].view(whole, *made.shape).copy_(made)
    to[whole * len(made) :].copy_(made[: len(to) - whole * len(made)])
    return to


def slots(workload: Workload, rows: dict[str, GpuRows]) -> list[GpuSlot]:
    """The look-ups side by side; those of tables that are not in `rows` have columns, and nothing to fill them."""
    found, column = [], 0
    for feature, lookup in enumerate(workload.lookups):
        pooling = "mean" if lookup.pooling == "mean" else "sum"
        if lookup.table in rows:
            found.append(GpuSlot(lookup.name, feature, rows[lookup.table], column, pooling, lookup.ids.mean))  # type: ignore[arg-type]
        column += workload.table(lookup.table).dim
    return found


def expected(made: Tensor, dims: Sequence[int], drawn: JaggedIds, batch: int) -> Tensor:
    """What look-ups of filled tables give, summed: float32 [batch, width], the slow way."""
    found = []
    offsets = drawn.full_offsets()
    for k, _ in enumerate(dims):
        at = offsets[k * batch : (k + 1) * batch + 1]
        ids = drawn.values[int(at[0]) : int(at[-1])] % BLOCK
        bags = torch.repeat_interleave(torch.arange(batch, device=made.device), at.diff())
        found.append(torch.zeros(batch, made.shape[1], device=made.device).index_add_(0, bags, made[ids].float()))
    return torch.cat(found, dim=1)
