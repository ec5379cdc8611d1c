"""Run a plan: every look-up of a batch, written into the network's input."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal, Protocol

import torch
from torch import Tensor

from recsys.data.batch import Batch, JaggedIds
from recsys.dataflow.gpu_plan import GpuPlan
from recsys.dataflow.kernels import cpu, fbgemm
from recsys.dataflow.kernels.cpu import CpuKernels
from recsys.dataflow.kernels.fbgemm import FbgemmKernels
from recsys.dataflow.kernels.reference import ReferenceKernels, Slot
from recsys.dataflow.plan import DataFlowPlan
from recsys.dataflow.platform import read_cores
from recsys.dataflow.storage import Rows, Source, Storage
from recsys.dataflow.workload import Dtype
from recsys.errors import ConfigError, DataError
from recsys.layers.tables import EmbeddingTables, TableSpec

__all__ = ["Executor", "Kernels", "TableExecutor", "kernels", "sources"]


class Executor(Protocol):
    """Fills the embedding columns of the network's input."""

    def lookup(self, ids: JaggedIds, x: Tensor) -> None:
        """Look up B bags of every feature and write into x [B, width] in place."""


class Kernels(Protocol):
    """Serves a list of slots."""

    def look_up(self, ids: JaggedIds, x: Tensor) -> int:
        """Fill the slots' columns of x [B, width]; how many ids were out of range."""


Kernel = Literal["cpu", "fbgemm", "reference"]
KERNELS: dict[Kernel, Callable[[Sequence[Slot]], Kernels]] = {
    "cpu": CpuKernels,
    "fbgemm": FbgemmKernels,
    "reference": ReferenceKernels,
}


class TableExecutor:
    """All look-ups of a model's tables, by a plan.

    It gives the numbers of `EmbeddingTables.forward`: exactly for float32 rows that are not pooled, else up to the
    order of sums. `of` copies the tables of a trained model into memory of its own.

    Core k of a plan is the k-th of `read_cores()`. A plan of another machine gives the same numbers, if not as soon as
    one that was made here.

    Args:
        spec: What is looked up where.
        rows: The stored rows of every table, by name; they must be as the plan says.
        plan: Made for these tables; by default one core gathers all of them. Kernels other than the C++ ones take
            nothing from it.
        kernel: By default the C++ kernels where they were built, else FBGEMM's where it is installed, else plain torch.
        unknown: What an id out of range does: it reads row 0, or the batch is refused. Both are counted.
        features: Of the batches, if they hold some of the features only: look-ups that read others are left out, and
            the rest fill the columns that they always fill.

    Attributes:
        unknown_ids: Ids out of range so far.

    Raises:
        ConfigError: When the plan is for other tables or more cores than there are, or the kernel is not here.
    """

    def __init__(
        self,
        spec: TableSpec,
        rows: Mapping[str, Rows],
        plan: DataFlowPlan | None = None,
        kernel: Literal["auto"] | Kernel = "auto",
        unknown: Literal["row 0", "raise"] = "row 0",
        features: Sequence[str] | None = None,
    ) -> None:
        if plan is not None:
            _check(plan, spec)
        self.layout = spec.layout
        self.rows = rows
        self.unknown_ids, self._lock = 0, threading.Lock()
        self._raise = unknown == "raise"
        self._position = {name: f for f, name in enumerate(spec.features if features is None else features)}
        self.kernel: Kernel = kernel if kernel != "auto" else _best(one.dtype for one in rows.values())
        pooled = self._slots(spec)
        self._kernels = (
            _planned(pooled, plan) if plan is not None and self.kernel == "cpu" else KERNELS[self.kernel](pooled)
        )
        self._sequences = {slot: found for slot in self.layout.sequences if (found := self._unpooled(spec, slot))}

    @classmethod
    def of(
        cls,
        tables: EmbeddingTables,
        plan: DataFlowPlan | None = None,
        kernel: Literal["auto"] | Kernel = "auto",
        unknown: Literal["row 0", "raise"] = "row 0",
    ) -> TableExecutor:
        """An executor of a trained model's tables, with a copy of their rows on huge pages.

        Raises:
            ConfigError: Also when they do not fit into memory.
            DataError: When a table holds numbers that cannot be stored as the plan says.
        """
        if plan is not None:
            _check(plan, tables.spec)
        return cls(tables.spec, Storage(sources(tables, plan)).tables, plan, kernel, unknown)

    def _slots(self, spec: TableSpec) -> list[Slot]:
        """Where each look-up's columns begin: those of one field stand one after the other."""
        filled: dict[str, int] = {}
        slots = []
        for lookup in spec.pooled:
            rows = self.rows[lookup.table]
            column = self.layout.slices[lookup.slot].start + filled.get(lookup.slot, 0)
            filled[lookup.slot] = filled.get(lookup.slot, 0) + rows.dim
            pooling: Literal["sum", "mean"] = "mean" if lookup.pooling == "mean" else "sum"
            if lookup.feature in self._position:
                slots.append(Slot(lookup.name, self._position[lookup.feature], rows, column, pooling))
        return slots

    def _unpooled(self, spec: TableSpec, slot: str) -> tuple[list[int], int, Kernels] | None:
        """Features, width and kernels of the unpooled look-ups of a field, each of which reads a feature of its own."""
        lookups = [n for n in spec.lookups if n.slot == slot and n.feature in self._position]
        slots: list[Slot] = []
        width = 0
        for lookup in lookups:
            rows = self.rows[lookup.table]
            slots.append(Slot(lookup.name, len(slots), rows, width))
            width += rows.dim
        if not slots:
            return None
        return [self._position[lookup.feature] for lookup in lookups], width, KERNELS[self.kernel](slots)

    def lookup(self, ids: JaggedIds, x: Tensor) -> None:
        """Fill the columns of the pooled look-ups.

        Args:
            ids: B bags of every feature.
            x: [B, width] float32, filled in place; the numbers' columns stay as they are.

        Raises:
            DataError: When `x` does not fit, or ids are out of range and shall not be.
        """
        self._count(self._kernels.look_up(ids, x))

    def _count(self, unknown: int) -> None:
        if unknown:
            with self._lock:
                self.unknown_ids += unknown
            if self._raise:
                raise DataError(
                    f"{unknown} ids of the batch are out of their tables' range: encode with the model's schema"
                )

    def sequences(self, ids: JaggedIds) -> dict[str, tuple[Tensor, Tensor]]:
        """For each unpooled look-up its name -> (rows [B, L, dim], lengths [B]); L is the longest bag, at least 1."""
        return {name: self._sequence(ids, *found) for name, found in self._sequences.items()}

    def _sequence(self, ids: JaggedIds, features: list[int], width: int, kernels: Kernels) -> tuple[Tensor, Tensor]:
        found = [ids.feature(f) for f in features]
        values, lengths = torch.cat([one[0] for one in found]), found[0][1]
        lengths = None if lengths is None else lengths.long()
        rows = torch.empty(len(found[0][0]), width)
        self._count(kernels.look_up(JaggedIds(tuple(map(str, features)), values), rows))
        if lengths is None:
            return rows.unsqueeze(1), torch.ones(len(rows), dtype=torch.int64)
        steps = torch.arange(max(int(lengths.max()) if lengths.numel() else 0, 1))
        present = steps < lengths.unsqueeze(1)
        padded = rows.new_zeros(*present.shape, width)
        padded[present] = rows
        return padded, lengths

    def __call__(self, batch: Batch, out: Tensor | None = None) -> tuple[Tensor, dict[str, tuple[Tensor, Tensor]]]:
        """What `EmbeddingTables.forward` gives: x [B, width] and the unpooled look-ups."""
        x = torch.empty(len(batch), self.layout.width) if out is None else out
        x[:, self.layout.dense] = batch.dense
        self.lookup(batch.ids, x)
        return x, self.sequences(batch.ids)


def _best(dtypes: Iterable[Dtype]) -> Kernel:
    """The fastest that is here and reads rows of these dtypes."""
    if cpu.native:
        return "cpu"
    return "fbgemm" if fbgemm.installed() and "int8" not in dtypes else "reference"


def kernels(slots: Sequence[Slot], plan: DataFlowPlan | None = None) -> Kernels:
    """The fastest kernels that are here, for slots wherever their rows and columns lie.

    Args:
        slots: What to look up. With a plan their names are those of its look-ups, each once.
        plan: By default one core gathers all.

    Raises:
        ConfigError: When the plan is for other look-ups, or more cores than there are.
    """
    kind = _best(slot.rows.dtype for slot in slots)
    return _planned(slots, plan) if plan is not None and kind == "cpu" else KERNELS[kind](slots)


def sources(tables: EmbeddingTables, plan: DataFlowPlan | GpuPlan | None = None) -> dict[str, Source]:
    """The rows of a trained model to be stored as a plan says (by default as float32), collision weights folded in."""
    dtypes: Mapping[str, Dtype] = {} if plan is None else {table.name: table.dtype for table in plan.tables}
    found = {name: tables.table(name) for name in tables.tables}
    return {name: Source(rows, dtypes.get(name, "fp32"), collision) for name, (rows, collision) in found.items()}


def _check(plan: DataFlowPlan, spec: TableSpec) -> None:
    """Make sure that the plan is for these tables and does each of the pooled look-ups."""
    plan.check(spec.tables)
    planned = {lookup.name: lookup.table for lookup in plan.lookups}
    pooled = {lookup.name: lookup.table for lookup in spec.pooled}
    if planned != pooled:
        odd = sorted(planned.items() ^ pooled.items())[0][0]
        raise ConfigError(f"the plan for `{plan.workload}` and the model differ in look-up `{odd}`: make a new plan")


def _planned(slots: Sequence[Slot], plan: DataFlowPlan) -> Kernels:
    """Kernels for the cores of a plan."""
    cpus = [core.cpu for core in read_cores()]
    if plan.cores > len(cpus):
        raise ConfigError(f"the plan is for {plan.cores} cores, this process has {len(cpus)}: plan again for these")
    return CpuKernels(slots, cpus=cpus[: plan.cores], schedules=plan.schedules)
