"""Predict what a batch's look-ups cost on a GPU: from its measured readings and the ids' statistics.

A launch takes

    t = a + c + (s^p + m^p)^(1/p) + l,

a: what a launch of one id of each look-up takes; c: what the longest bag waits longer, its ids being read some at a
time; s: what the processors need when the caches hold everything; m: what the GPU's memory needs for rows, and for ids
and output where the caches do not hold these; l: what the link to host memory needs. s and m overlap, the better the
larger p. c overlaps with nothing: before a memory is busy, and after, it is waited for. Nor does l: what waits for the
link keeps its place on a processor from what would not have to.

*Readings.* They are those of the nearest batch, for a kernel has other block shapes for small batches than for large
ones. m of a row is told from readings of a small and of a large working set: m^p = far^p - near^p. p is that by which
an output that memory takes, beside s, is told as it was measured; how many bytes the second cache holds of rows, that
by which the working sets between are told best.

*Which ids the second cache holds.* A launch does look-up after look-up. Of a look-up that passes no more bytes than the
cache holds, all but the first hit of a row find it there. Of one that passes more, those within m bags of the last hit
do, m bags passing as many bytes as it holds. First hits find what the batch before left there: all, where a batch
passes no more than the cache holds; none, where it passes twice as much.

*Rows in host memory* are the coldest ones. Each is read over the link once where the second cache holds it until it is
read again, and takes longer the more memory they lie in: that of all tables that have any there. They count as
rows of the GPU as well, and tables that lie there as if they had a remap: what they cost its processors is much the
same, and beside the link it is little. So more rows on the GPU never take longer.

*The CPU* works beside the GPU. Of its own tables it reads every row; of those that it shares with the GPU it looks at
every id, and reads the rows that the GPU does not have. What it gives is copied, and put or added where it belongs:

    t = max(t of the launch, t of the CPU) + t of the copy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from recsys.dataflow.gpu_fit import cache_of, power_of
from recsys.dataflow.gpu_platform import GpuPlatform
from recsys.dataflow.gpu_work import ID_BYTES, GpuWork
from recsys.dataflow.workload import Dtype, Workload, WorkloadTable

__all__ = ["GpuCostModel", "Load", "Place", "Predicted"]

Floats = npt.NDArray[np.float64]

LANES = 8
"""Ids of a long bag that are read at a time."""


@dataclass(frozen=True)
class Place:
    """Where the rows of a table lie, as far as it costs something.

    Attributes:
        host: Share of its ids that are read over the link.
        host_rows: Share of its rows from which these are read.
        split: It has a remap.
        cpu: Its look-ups are the CPU's.
        shared: What would be read over the link is read by the CPU, and added up there.
    """

    host: float = 0.0
    host_rows: float = 1.0
    split: bool = False
    cpu: bool = False
    shared: bool = False


@dataclass(frozen=True)
class Predicted:
    """µs of a batch's look-ups.

    Attributes:
        us: Until all columns are filled.
        gpu_us: Of the GPU's launches.
        cpu_us: Of the CPU's look-ups, which are done meanwhile; 0: it has none.
        copy_us: Of the copy of what these give, which follows, until it is where it belongs.
        lookups: [look-ups] what each has a part of; they sum to `gpu_us`, `cpu_us` and `copy_us`.
        bound_us: No less: bytes of the GPU's memory and of the link by what these give at most.
    """

    us: float
    gpu_us: float
    cpu_us: float
    copy_us: float
    lookups: Floats
    bound_us: float


class GpuCostModel:
    """Predicts microseconds on a GPU.

    Args:
        workload: What is looked up.
        gpu: What it was measured to need.
        out_bytes: Of a column of the output.
    """

    def __init__(self, workload: Workload, gpu: GpuPlatform, out_bytes: int = 4) -> None:
        self.workload, self.gpu, self.out_bytes = workload, gpu, out_bytes
        self.single = all(one.ids.bags == ((1, 1.0),) for one in workload.lookups)
        self.power = power_of(gpu)
        self.cache = cache_of(gpu, self.power)
        self._loads: dict[tuple[int, tuple[Dtype, ...]], Load] = {}

    @property
    def fingerprint(self) -> str:
        """Of the platform."""
        return self.gpu.fingerprint

    def load(self, batch: int, dtypes: Mapping[str, Dtype] | None = None) -> Load:
        """What a batch asks of a GPU.

        Args:
            batch: Examples.
            dtypes: Of tables that are stored otherwise than the workload says.
        """
        given = dtypes or {}
        key = batch, tuple(given.get(table.name, table.dtype) for table in self.workload.tables)
        if key not in self._loads:
            tables = {
                t.name: t.model_copy(update={"dtype": d}) for t, d in zip(self.workload.tables, key[1], strict=True)
            }
            self._loads[key] = Load(self, batch, tables)
        return self._loads[key]

    def apart(self, far: float, near: float) -> float:
        """What the memory needs of a time `far`, of which the processors need `near`."""
        return float(max(far**self.power - near**self.power, 0.0) ** (1 / self.power))


class Load:
    """What a batch of a workload asks of a GPU, look-up by look-up: ns beyond a launch's."""

    def __init__(self, model: GpuCostModel, batch: int, tables: Mapping[str, WorkloadTable]) -> None:
        self.model, self.batch, self.tables = model, batch, tables
        slots = [GpuWork(model, lookup, tables[lookup.table], batch) for lookup in model.workload.lookups]
        self.slots = slots
        gpu, passed = model.gpu, sum(slot.own for slot in slots)
        missed = [slot.missed(passed) for slot in slots]
        device = sum(table.rows * table.row_bytes for table in tables.values())
        alike = Counter(lookup.ids.bags for lookup in model.workload.lookups)
        longest = [
            slot.longest(alike[lookup.ids.bags]) for slot, lookup in zip(slots, model.workload.lookups, strict=True)
        ]
        outputs = np.array([batch * slot.table.dim * model.out_bytes for slot in slots])
        ids = np.array([slot.ids for slot in slots])
        self.miss = np.array([one.sum() for one in missed])
        self._missed = missed
        self.near = np.array([slot.near() for slot in slots])
        self.near += np.array([slot.far(device) for slot in slots]) * self.miss
        passing = (outputs + ids * ID_BYTES) * gpu.written(passed)
        self.bytes = ids * np.array([slot.row_bytes for slot in slots]) * self.miss + passing
        self.far = self.bytes / gpu.copy_gbs
        self.remap = ids * gpu.remap_ns
        waiting = 1 - (1 - self.miss) ** LANES
        self.chain = np.array([slot.chain_ns(n, w) for slot, n, w in zip(slots, longest, waiting, strict=True)])
        self.host_chain = np.array([slot.host_chain_ns(n) for slot, n in zip(slots, longest, strict=True)])
        self.row_bytes = ids * np.array([slot.table.row_bytes for slot in slots])
        self._ids = ids

    @cached_property
    def groups(self) -> list[npt.NDArray[np.int64]]:
        """Look-ups that one launch does: those whose rows are alike."""
        kinds: dict[tuple[int, str], list[int]] = {}
        for k, slot in enumerate(self.slots):
            kinds.setdefault((slot.table.dim, slot.table.dtype), []).append(k)
        return [np.array(own) for own in kinds.values()]

    def us(self, places: Mapping[str, Place] | None = None, only: Mapping[str, bool] | None = None) -> Predicted:
        """Microseconds, for tables that lie there; by default all on the GPU.

        Args:
            places: By table.
            only: Tables that this GPU has; by default all.
        """
        given = places or {}
        own = [given.get(slot.table.name, Place()) for slot in self.slots]
        here = np.array([only is None or only.get(slot.table.name, False) for slot in self.slots], dtype=bool)
        cpu = np.array([place.cpu for place in own], dtype=bool)
        shared = np.array([place.shared for place in own], dtype=bool) & ~cpu
        host = np.array([place.host for place in own])
        read = self._read(host) * (here & ~cpu)
        link = read * self._link_ns(own) * ~shared
        split = np.array([place.split for place in own], dtype=bool) | shared
        gpu_us, lookups = self._gpu_us(here & ~cpu, host * ~shared, link, split)
        cpu_us = copy_us = 0.0
        if ((cpu | shared) & here).any():
            cpu_us, copy_us, parts = self._cpu_us(cpu, shared, here, host)
            lookups += parts
        bound = self._bound_us(here & ~cpu, read, shared)
        return Predicted(max(gpu_us, cpu_us) + copy_us, gpu_us, cpu_us, copy_us, lookups, bound)

    def _read(self, host: Floats) -> Floats:
        """Rows that are read over the link, where so many of the ids, of the coldest rows, are on the host."""
        found = np.zeros(len(self.slots))
        for k in np.flatnonzero(host > 0):
            share, missed = (
                np.append(0.0, np.cumsum(one[::-1])) for one in (self.slots[k].steps.share, self._missed[k])
            )
            found[k] = self._ids[k] * np.interp(host[k], share, missed)
        return found

    def _link_ns(self, own: list[Place]) -> Floats:
        """Of a row that is read over the link."""
        places = {
            slot.table.name: place
            for slot, place in zip(self.slots, own, strict=True)
            if not (place.cpu or place.shared)
        }
        region = sum(
            self.tables[name].rows * self.tables[name].row_bytes * place.host_rows
            for name, place in places.items()
            if place.host > 0
        )
        return np.array([self.model.gpu.host_row_ns(slot.table.row_bytes, region) for slot in self.slots])

    def _gpu_us(
        self, here: npt.NDArray[np.bool_], host: Floats, link: Floats, split: npt.NDArray[np.bool_]
    ) -> tuple[float, Floats]:
        gpu, total, lookups = self.model.gpu, 0.0, np.zeros(len(self.slots))
        for group in self.groups:
            own = group[here[group]]
            if not len(own):
                continue
            mapped = split[own] | (host[own] > 0)
            waits = gpu.launched_us(len(own)) * 1e3 + gpu.remap_us * 1e3 * bool(mapped.any())
            chance = 1 - (1 - host[own]) ** LANES
            chains = self.chain[own] + chance * np.maximum(self.host_chain[own] - self.chain[own], 0.0)
            parts = np.stack([self.near[own] + self.remap[own] * mapped, self.far[own]])
            ns, each = _together(parts, self.model.power)
            each += link[own] + np.where(np.arange(len(own)) == chains.argmax(), chains, 0.0)
            total += (waits + float(chains.max() + link[own].sum()) + ns) / 1e3
            lookups[own] = (each + waits / len(own)) / 1e3
        return total, lookups

    def _cpu_us(
        self, cpu: npt.NDArray[np.bool_], shared: npt.NDArray[np.bool_], here: npt.NDArray[np.bool_], host: Floats
    ) -> tuple[float, float, Floats]:
        """The call and its rows; the copy of columns and what puts them where they belong; and look-ups' parts.

        One CPU works for all GPUs, and is done with all its look-ups at a time; copied are those of this GPU.
        """
        gpu, read = self.model.gpu, self.model.gpu.cpu
        assert read is not None
        ns = np.array([read.ns(slot.table.row_bytes) for slot in self.slots])
        rows = self._ids * (ns * np.where(shared, host, 1.0) + read.scan_ns * shared)
        columns = self.batch * np.array([slot.table.dim for slot in self.slots])
        passed = 4 + self.model.out_bytes * (1 + shared)  # of a column on the GPU: adding to it reads it as well
        copied = columns * (4 / gpu.to_gpu_gbs + passed / gpu.copy_gbs)
        work, own = cpu | shared, (cpu | shared) & here
        cpu_us, copy_us = rows * work / 1e3, copied * own / 1e3
        launches = gpu.replay_us + gpu.kernel_us  # a graph of its own, of two kernels
        each = (cpu_us + read.call_us / work.sum() + copy_us + launches / own.sum()) * own
        return float(cpu_us.sum()) + read.call_us, float(copy_us.sum()) + launches, each

    def _bound_us(self, here: npt.NDArray[np.bool_], read: Floats, shared: npt.NDArray[np.bool_]) -> float:
        """By bytes; rows that the CPU reads take none."""
        gpu, sizes = self.model.gpu, np.array([slot.table.row_bytes for slot in self.slots])
        near = self.bytes - read * np.array([slot.row_bytes for slot in self.slots]) * shared
        link = (read * sizes * ~shared).sum()
        return float(max(near[here].sum() / gpu.copy_gbs, link / gpu.to_gpu_gbs)) / 1e3


def _together(parts: Floats, power: float) -> tuple[float, Floats]:
    """(Σ_r R_r^p)^(1/p) of the sums R_r over look-ups, and each look-up's part of it: parts [resources, look-ups].

    The norm is homogeneous, so that its derivatives by the R_r tell who has which part (Euler).
    """
    sums = parts.sum(axis=1)
    most = float(sums.max(initial=0.0))
    if most <= 0:
        return 0.0, np.zeros(parts.shape[1])
    whole = most * float(((sums / most) ** power).sum() ** (1 / power))
    weights = (sums / whole) ** (power - 1)
    each: Floats = weights @ parts
    return whole, each
