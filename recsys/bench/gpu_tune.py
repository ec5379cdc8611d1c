"""Find the fastest block shapes of the GPU's kernel for a workload: what the table in `blocks.py` is made from.

    from recsys.bench.gpu_tune import tune
    tune("w1-d64", batches=(8192, 65_536), dtypes=("fp16", "int8"))

Each line that it prints is an entry of that table.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from recsys.bench.dataflow import with_ids
from recsys.bench.gpu_lookup import WORKLOADS, captures, the_gpu
from recsys.bench.gpu_peers import ours
from recsys.bench.gpu_rig import GpuRig, drawn, first
from recsys.bench.gpu_timing import in_turn
from recsys.bench.lookup import Distribution
from recsys.bench.lookup_rig import chosen
from recsys.data.batch import JaggedIds
from recsys.dataflow.kernels.gpu.blocks import Blocks, Measured, Shapes
from recsys.dataflow.kernels.gpu.kernels import GpuKernels
from recsys.dataflow.workload import Dtype

__all__ = ["candidates", "tune"]

_WARPS = (1, 2, 4, 8)
_SHORT, _LONG, _LANES = (1, 2, 4, 8, 16, 32, 64, 128), (1, 2, 4, 8, 16), (2, 4, 8, 16, 32)
_MOST_SHORT, _MOST_LONG = 128, 64
"""Columns that a thread holds at most: more than these spill. Long bags need as many again for the next rows."""
_FINAL, _LONGER = 4, 5
"""How many of the fastest are measured again, beside what the table says now, and so many times longer."""


def tune(
    name: str,
    batches: Sequence[int] = (),
    dtypes: Sequence[Dtype] = ("fp16",),
    ids: Sequence[Distribution] = ("zipf", "uniform"),
    seconds: float = 0.02,
    device: torch.device | None = None,
    tell: Callable[[str], object] = print,
) -> list[Measured]:
    """The fastest shapes for each dtype and batch size, told as they are found, with ids checked.

    Args:
        name: One of `recsys.bench.gpu_lookup.WORKLOADS`.
        batches: By default the workload's own.
        dtypes: Of rows.
        ids: How ids fall; the sum of their times counts.
        seconds: About how long each shape is measured for each way that ids fall.
        device: By default the GPU.
        tell: Given each entry, as it is found.

    Raises:
        ConfigError: As `recsys.bench.gpu_lookup.measure`.
    """
    chosen(WORKLOADS, [name], batches, seconds)
    device = the_gpu() if device is None else device
    workload, sizes = WORKLOADS[name].workload(), tuple(batches or WORKLOADS[name].batches)
    rig = GpuRig(workload, dtypes, device, peers=False)
    ways = [drawn(with_ids(workload, way), max(sizes), device) for way in ids]
    found = []
    with torch.no_grad():
        for dtype, size in itertools.product(dtypes, sizes):
            trial = _Trial(rig, dtype, size, [first(way, size) for way in ways])
            found.append(trial.best(seconds))
            tell(trial.told)
    return found


def candidates(dim: int, batch: int, now: Shapes, single: bool) -> Iterator[Shapes]:
    """Shapes to try first: all of short blocks, or all of long ones and short blocks as they are."""
    width = 1 << (dim - 1).bit_length()
    most = 1 << (batch - 1).bit_length()
    if single:
        for short, warps in itertools.product(_SHORT, _WARPS):
            if short <= most and _fits(short * width, warps, _MOST_SHORT):
                yield replace(now, short=short, warps=warps)
        return
    for long, lanes, warps in itertools.product(_LONG, _LANES, _WARPS):
        if long <= most and _fits(long * lanes * width, warps, _MOST_LONG):
            yield replace(now, long=long, lanes=lanes, warps=warps)


def _fits(tile: int, warps: int, most: int) -> bool:
    """Whether there is something to do for every thread, unless it is one warp, and not too much."""
    return tile <= most * 32 * warps and (warps == 1 or tile >= 32 * warps)


@dataclass
class _Trial:
    """One dtype and batch size; `ways` has its batches of ids for each way that they fall."""

    rig: GpuRig
    dtype: Dtype
    size: int
    ways: Sequence[Sequence[JaggedIds]]
    told: str = ""

    def best(self, seconds: float) -> Measured:
        """What the table should say."""
        single = self.ways[0][0].offsets is None
        now = Blocks.measured(self.rig.device).shapes(self.rig.dim, self.dtype, single, self.size)
        times: dict[Shapes, float] = {}
        for shapes in candidates(self.rig.dim, self.size, now, single):
            times[shapes] = self._us([shapes], seconds)[0]
        if not single:
            fastest = min(times, key=times.__getitem__)
            for short in _SHORT:
                shapes = replace(fastest, short=short)
                if short * self.rig.dim <= _MOST_SHORT * 32 * shapes.warps:
                    times[shapes] = self._us([shapes], seconds)[0]
        final = sorted(times, key=times.__getitem__)[:_FINAL]
        *us, before = self._us([*final, now], seconds * _LONGER * (len(final) + 1))
        shapes = final[us.index(min(us))]
        entry = Measured(self.rig.dim, self.dtype, single, self.size, shapes)
        self.told = f"{entry!r},  # {min(us):.2f} µs, {len(times)} tried; {before:.2f} by {now!r}"
        return entry

    def _us(self, tried: Sequence[Shapes], seconds: float) -> list[float]:
        """µs of each, in turn, summed over the ways that ids fall; infinite where the GPU has not the room."""
        from triton.runtime.errors import TritonError

        device = self.rig.device
        x = torch.empty(self.size, self.rig.width, dtype=torch.float16, device=device)
        unknown = torch.zeros(1, dtype=torch.int32, device=device)
        slots = self.rig.slots(self.dtype)
        kernels = [GpuKernels(slots, device, True, Blocks.fixed(shapes)) for shapes in tried]
        everybody = [ours(one, self.dtype, True, x, unknown) for one in kernels]
        try:
            figures = [in_turn(captures(self.rig, everybody, sets), seconds, device) for sets in self.ways]
        except TritonError:
            return [float("inf")] * len(tried)
        return [sum(figure.us for figure in one) for one in zip(*figures, strict=True)]
