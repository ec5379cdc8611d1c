"""Predict what a batch's look-ups cost on a GPU: from its measured readings and the ids' statistics.

A launch takes

    t = a + (c^p + s^p + m^p + l^p)^(1/p),

a: what a launch of one id takes; c: what the longest bag waits longer, its ids being read some at a time; s: what the
processors need when the caches hold everything; m: what the GPU's memory needs; l: what the link to host memory needs.
These overlap, the better the larger p.

*Readings.* s and m of a row are told apart by readings from a small and from a large working set: m^p = far^p - near^p.
p, and how many bytes the second cache really holds, are those by which the working sets between are told best.

*Which ids the second cache holds.* A launch does look-up after look-up. Of a look-up that passes no more bytes than the
cache holds, all but the first hit of a row find it there. Of one that passes more, those within m bags of the last hit
do, m bags passing as many bytes as it holds. First hits find what the batch before left there: all, where a batch
passes no more than the cache holds; none, where it passes twice as much.

Rows in host memory count as rows of the GPU as well, and tables that lie there as if they had a remap: what they cost
its processors is much the same, and beside the link it is little. So more rows on the GPU never take longer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from recsys.dataflow.gpu_platform import GpuPlatform
from recsys.dataflow.gpu_work import ID_BYTES, GpuWork
from recsys.dataflow.workload import Dtype, Workload, WorkloadTable

__all__ = ["GpuCostModel", "Load", "Place", "Predicted"]

Floats = npt.NDArray[np.float64]

LANES = 8
"""Ids of a long bag that are read at a time."""
EXPONENTS = (1.0, 1.25, 1.5, 2.0, 3.0, 4.0, 6.0)
"""Of these p is chosen."""
CACHES = tuple(k / 20 for k in range(4, 25))
"""Of these the share of the second cache that holds rows."""


@dataclass(frozen=True)
class Place:
    """Where the rows of a table lie, as far as it costs something.

    Attributes:
        host: Share of its ids that are read over the link.
        split: It has a remap.
        cpu: Its look-ups are the CPU's.
    """

    host: float = 0.0
    split: bool = False
    cpu: bool = False


@dataclass(frozen=True)
class Predicted:
    """µs of a batch's look-ups.

    Attributes:
        us: Until all columns are filled.
        gpu_us: Of the GPU's launches.
        cpu_us: Of the CPU's look-ups, with the copy of what they give; 0: it has none.
        lookups: [look-ups] what each has a part of; they sum to `gpu_us` and, of the CPU's, to `cpu_us`.
        bound_us: No less: bytes of the GPU's memory and of the link by what these give at most.
    """

    us: float
    gpu_us: float
    cpu_us: float
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
        self.cache, self.power = _fit(gpu)
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
        passed = sum(slot.own for slot in slots)
        written = batch * sum(slot.table.dim for slot in slots) * model.out_bytes
        per_kib = model.apart(model.gpu.filled_ns(passed), 4 * model.gpu.bag_ns("one", 256, model.gpu.sets[0]))
        device = sum(table.rows * table.row_bytes for table in tables.values())
        misses = [slot.miss(passed) for slot in slots]
        out = written / 1024 * per_kib / max(1, batch * sum(slot.table.dim for slot in slots))  # of a column
        self.near = np.array([slot.near() for slot in slots])
        self.far = np.array(
            [slot.far(device) * miss + batch * slot.table.dim * out for slot, miss in zip(slots, misses, strict=True)]
        )
        self.link = np.array([slot.ids * model.gpu.host_row_ns(slot.table.row_bytes) for slot in slots])
        self.remap = np.array([slot.ids * model.gpu.remap_ns for slot in slots])
        self.chain = np.array([slot.chain_ns(False) for slot in slots])
        self.host_chain = np.array([slot.chain_ns(True) for slot in slots])
        self.bytes = np.array(
            [slot.ids * (slot.table.row_bytes * miss + ID_BYTES) for slot, miss in zip(slots, misses, strict=True)]
        )
        self.bytes += np.array([batch * slot.table.dim * model.out_bytes for slot in slots]) * (per_kib > 0)
        self.host_bytes = np.array([slot.ids * slot.table.row_bytes for slot in slots])
        self.miss = np.array(misses)

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
        cpu = np.array([place.cpu for place in own], dtype=bool) & here
        gpu_us, lookups = self._gpu_us(
            here & ~cpu, np.array([place.host for place in own]), np.array([place.split for place in own], dtype=bool)
        )
        cpu_us = 0.0
        if cpu.any():
            cpu_us, parts = self._cpu_us(cpu)
            lookups[cpu] = parts[cpu]
        return Predicted(max(gpu_us, cpu_us), gpu_us, cpu_us, lookups, self._bound_us(here & ~cpu, own))

    def _gpu_us(self, here: npt.NDArray[np.bool_], host: Floats, split: npt.NDArray[np.bool_]) -> tuple[float, Floats]:
        gpu, total, lookups = self.model.gpu, 0.0, np.zeros(len(self.slots))
        for group in self.groups:
            own = group[here[group]]
            if not len(own):
                continue
            mapped = split[own] | (host[own] > 0)
            waits = gpu.alone_us(1) * 1e3 + gpu.remap_us * 1e3 * bool(mapped.any())
            chance = 1 - (1 - host[own]) ** LANES
            chains = self.chain[own] + chance * np.maximum(self.host_chain[own] - self.chain[own], 0.0)
            parts = np.stack(
                [
                    self.near[own] + self.remap[own] * mapped,
                    self.far[own],
                    self.link[own] * host[own],
                    np.where(np.arange(len(own)) == chains.argmax(), chains, 0.0),
                ]
            )
            ns, each = _together(parts, self.model.power)
            total += (waits + ns) / 1e3
            lookups[own] = (each + waits / len(own)) / 1e3
        return total, lookups

    def _cpu_us(self, cpu: npt.NDArray[np.bool_]) -> tuple[float, Floats]:
        """The call, its rows, and the copy of the columns."""
        gpu, read = self.model.gpu, self.model.gpu.cpu
        assert read is not None
        ids = np.array([slot.ids for slot in self.slots])
        ns = np.array([read.ns(slot.table.row_bytes) for slot in self.slots])
        columns = np.array([slot.table.dim for slot in self.slots])
        each = (ids * ns + self.batch * columns * 4 / gpu.to_gpu_gbs) / 1e3 * cpu
        fixed = read.call_us + 2 * gpu.alone_us(1)
        return float(each.sum()) + fixed, each + fixed / cpu.sum()

    def _bound_us(self, here: npt.NDArray[np.bool_], own: list[Place]) -> float:
        gpu, host = self.model.gpu, np.array([place.host for place in own])
        return (
            float(max(self.bytes[here].sum() / gpu.copy_gbs, (self.host_bytes * host)[here].sum() / gpu.to_gpu_gbs))
            / 1e3
        )


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


def _fit(gpu: GpuPlatform) -> tuple[float, float]:
    """Bytes that the second cache holds, and p: those by which the readings are told best."""
    if not gpu.l2 or len(gpu.sets) < 3:
        return float(gpu.l2), 2.0
    widths = sorted({one.row_bytes for one in gpu.gather})
    sets = np.array(gpu.sets, dtype=np.float64)
    curves = [np.array([gpu.bag_ns(kind, w, size) for size in sets]) for w in widths for kind in ("one", "bag32")]

    def off(cache: float, power: float) -> float:
        missed = 1 - np.minimum(1.0, cache / sets)
        total = 0.0
        for ns in curves:
            near = ns[0]
            far = max(ns[-1] ** power - near**power, 0.0) ** (1 / power)
            told = (near**power + (missed * far) ** power) ** (1 / power)
            total += float(np.abs(np.log(told / ns)).sum())
        return total

    _, cache, power = min((off(share * gpu.l2, p), share * gpu.l2, p) for share in CACHES for p in EXPONENTS)
    return cache, power
