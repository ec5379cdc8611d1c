"""What one look-up of a batch asks of a GPU; the formulas are in `recsys.dataflow.gpu_cost`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Protocol

import numpy as np
import numpy.typing as npt

from recsys.dataflow.gpu_platform import KINDS, GpuPlatform, Kind
from recsys.dataflow.ids import grid, hottest
from recsys.dataflow.reach import POINTS, Steps
from recsys.dataflow.workload import WorkloadLookup, WorkloadTable

__all__ = ["ID_BYTES", "GpuWork", "Model"]

Floats = npt.NDArray[np.float64]

ID_BYTES, SECTOR = 8, 32


class Model(Protocol):
    """What is known of the GPU and of the whole batch; see `recsys.dataflow.gpu_cost.GpuCostModel`."""

    gpu: GpuPlatform
    out_bytes: int
    cache: float
    single: bool

    def apart(self, far: float, near: float) -> float:
        """What the memory needs of a time `far`, of which the processors need `near`."""


class GpuWork:
    """A look-up of a batch."""

    def __init__(self, model: Model, lookup: WorkloadLookup, table: WorkloadTable, batch: int) -> None:
        self.model, self.table, self.batch, self._bags = model, table, batch, lookup.ids.bags
        self.ids = batch * lookup.ids.mean
        n = grid(table.rows, 2 * POINTS)
        share = np.diff(hottest(lookup.ids, table.rows, n), prepend=0.0)
        rows = np.diff(n, prepend=0).astype(np.float64)
        self.row_bytes = -(-table.row_bytes // SECTOR) * SECTOR  # that pass
        self.steps = Steps(share, lookup.ids.mean * share / rows, rows * self.row_bytes)
        self._passing = table.dim * model.out_bytes + lookup.ids.mean * ID_BYTES  # of a bag: output and ids
        self.rows = self.passed(float(batch)) - batch * self._passing
        self.own = self.passed(float(batch))

    def passed(self, bags: float) -> float:
        """Bytes that so many bags go through."""
        return float(self.steps.passed(np.array([bags]))[0]) + bags * self._passing

    def missed(self, passed: float) -> Floats:
        """[P] share of the ids that the second cache does not hold, where the batch goes through so many bytes.

        It is told of each step of rows, hottest first: they sum to that of all ids.
        """
        cache, hits = self.model.cache, self.steps.rate * self.batch
        if cache <= 0:
            return self.steps.share
        first = _first(hits)
        if self.own > cache:
            bags = self._within(cache)
            part, near = bags / self.batch, self.steps.rate * bags
            found = part * (1 - _first(near)) - (1 - part) * np.expm1(-near)
        else:
            left = min(max(2 - passed / cache, 0.0), 1.0)
            seen = -np.expm1(-hits * max(1.0, cache / passed))
            found = 1 - first + first * left * seen
        missed: Floats = self.steps.share * (1 - np.clip(found, 0.0, 1.0))
        return missed

    def _within(self, size: float) -> float:
        """Bags that go through so many bytes."""
        low, high = 0.0, float(self.batch)
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (middle, high) if self.passed(middle) < size else (low, middle)
        return low

    def near(self) -> float:
        """Nanoseconds of the processors when the caches hold everything."""
        gpu, table = self.model.gpu, self.table
        held = min(max(self.rows, gpu.sets[0]), max(self.model.cache / 2, gpu.sets[0]))
        ns = {kind: self._ns(kind, gpu.sets[0], held) for kind in KINDS}
        written = 4 if table.dtype == "fp32" else 2  # bytes of a column that the readings write
        more = table.dim * (self.model.out_bytes - written) * self._column_ns
        return self.batch * (self._mean(ns) + max(more, -0.5 * ns["one"]))

    def _ns(self, kind: Kind, measured: float, size: float) -> float:
        """Of a bag out of so many bytes, from what was measured; float32 rows of as many bytes tell how it changes."""
        gpu, table = self.model.gpu, self.table
        own = gpu.bag_ns(kind, table.row_bytes, measured, self.batch, table.dtype)
        there, here = (gpu.bag_ns(kind, table.row_bytes, at, gpu.most_sets) for at in (measured, size))
        return own * here / there

    @cached_property
    def _column_ns(self) -> float:
        """Nanoseconds of a byte more that single ids read or write in the cache."""
        gpu = self.model.gpu
        widths = sorted({one.row_bytes for one in gpu.gather if one.dtype == "fp32"})
        low, high = (gpu.bag_ns("one", width, gpu.sets[0], self.batch) for width in (widths[0], widths[-1]))
        return max(0.0, (high - low) / max(2 * (widths[-1] - widths[0]), 1))

    def far(self, device: float) -> float:
        """Nanoseconds that processors wait longer when the caches hold no row, of tables of so many bytes in all.

        What the bytes take by the memory's bandwidth is not in it.
        """
        gpu = self.model.gpu
        size = max(device, 20.0 * max(gpu.l2, gpu.sets[0]))  # of less, the cache holds a part
        ns = {}
        for kind, ids in KINDS.items():
            near, far = self._ns(kind, gpu.sets[0], gpu.sets[0]), self._ns(kind, gpu.sets[-1], size)
            ns[kind] = max(0.0, self.model.apart(far, ids * self.row_bytes / gpu.copy_gbs) - near)
        return self.batch * self._mean(ns)

    def _mean(self, ns: Mapping[Kind, float]) -> float:
        """Over the bags' sizes; beyond the longest that was measured each id costs as much as the last ones."""
        first = ns["one"] if self.model.single else ns["bag1"]
        slope, less = (ns["bag32"] - ns["bag4"]) / 28, max(0.0, first - max(0.0, ns["bag4"] - first) / 3)
        points = ((0, less), (1, first), (4, ns["bag4"]), (32, max(ns["bag32"], ns["bag4"])))
        sizes, costs = [n for n, _ in points], [one for _, one in points]
        beyond = max(slope, 0.0)
        return sum(share * (float(np.interp(n, sizes, costs)) + beyond * max(0, n - 32)) for n, share in self._bags)

    def longest(self, alike: int) -> int:
        """Ids of the longest bag, of look-ups of which so many are alike: a batch has one of it more often than not."""
        left = 0.0
        for n, share in sorted(self._bags, reverse=True):
            left += share * self.batch * alike
            if left >= 0.5:
                return n
        return 1

    def chain_ns(self, longest: int, missed: float) -> float:
        """How much longer than one single id the longest bag waits."""
        if self.model.single:
            return 0.0
        gpu = self.model.gpu
        return max(0.0, gpu.alone_us(longest, self.table.dim, self.batch, missed) - gpu.launched_us(1)) * 1e3

    def host_chain_ns(self, longest: int) -> float:
        """The same on rows in host memory."""
        gpu = self.model.gpu
        return max(0.0, gpu.host_us(longest) - gpu.launched_us(1)) * 1e3


def _first(hits: Floats) -> Floats:
    """Share of the hits of a place that are its first, where it is hit so often on average: (1 - exp(-h)) / h."""
    some = np.maximum(hits, 1e-9)
    found: Floats = -np.expm1(-some) / some
    return found
