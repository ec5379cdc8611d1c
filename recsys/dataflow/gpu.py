"""Run look-ups on a GPU: tables placed by a plan, and one launch for all of a batch's columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from recsys.dataflow.gpu_default import default_plan, room
from recsys.dataflow.gpu_plan import GpuPlan, Where
from recsys.dataflow.gpu_stage import CpuPart, Stage
from recsys.dataflow.kernels.gpu.kernels import GpuKernels, GpuSlot
from recsys.dataflow.kernels.gpu.rows import GpuRows, Hot, device_bytes, free_bytes, place, remap
from recsys.dataflow.kernels.reference import Slot
from recsys.dataflow.storage import Rows
from recsys.errors import ConfigError
from recsys.layers.tables import Lookup, TableSpec

__all__ = ["GpuExecutor", "check_plan", "cuda_device", "gpu_name"]


class GpuExecutor:
    """The pooled look-ups of a model's tables on a GPU.

    It gives the numbers of `recsys.dataflow.executor.TableExecutor`, up to the order of sums and x's dtype.

    Args:
        spec: What is looked up where.
        rows: The stored rows of every table, by name; they are copied, but for those whose look-ups are the CPU's. Of
            these, a table that is also read unpooled is copied to pinned host memory, where the GPU reads it.
        device: The GPU. With a CPU, Triton's interpreter does the work: for tests.
        hot: For each table, which rows lie on the device; by default all, or as the plan says.
        ids: Look-up -> ids in a bag, on average; by default as the plan says, or one.
        checked: Whether ids may be out of range: these read row 0, and are counted.
        plan: Where the tables lie. By default all of them on the device; where they do not fit, as many hits as fit
            (`recsys.dataflow.gpu_default`), and `note` says so.
        shared: The rows lie in memory that `recsys.dataflow.kernels.gpu.rows.pinned` gave: what stays on the host is
            read there, and not copied.

    Attributes:
        rows: Where the rows lie of every table that the GPU reads.
        plan: That was followed; None where `hot` told, or all is on the device.
        staged: Whether some look-ups are the CPU's: `stage` has buffers for them.
        note: What a user should know of how the tables were placed; empty: nothing.

    Raises:
        ConfigError: When the tables do not fit, or the plan is for others, for another GPU, or for several.
        MissingExtraError: When Triton is not here.
    """

    def __init__(
        self,
        spec: TableSpec,
        rows: Mapping[str, Rows],
        device: torch.device,
        hot: Mapping[str, Hot] | None = None,
        ids: Mapping[str, float] | None = None,
        checked: bool = True,
        plan: GpuPlan | None = None,
        shared: bool = False,
    ) -> None:
        self.layout, self.device, self.note = spec.layout, device, ""
        if plan is not None:
            check_plan(plan, spec, rows, device)
        elif hot is None and _bytes(rows) > room(free_bytes(device)):
            plan = default_plan(spec, rows, gpu_name(device), free_bytes(device), ids or {})
            self.note = _told(plan, _bytes(rows))
        self.plan = plan
        unpooled = {lookup.table for lookup in spec.lookups if lookup.pooling == "none"}  # the GPU reads their rows
        cpu, both = _on_cpu(plan, "cpu"), _on_cpu(plan, "shared") - unpooled
        near = {name: one for name, one in rows.items() if name not in cpu or name in unpooled}
        if plan is not None:
            hot = {name: plan.hot_rows(name) for name in near}
            ids = {lookup.name: lookup.ids for lookup in plan.lookups} | dict(ids or {})
        self.rows: dict[str, GpuRows] = place(near, hot or dict.fromkeys(near, True), device, shared, both)
        columns = _columns(spec, rows)
        position = {name: f for f, name in enumerate(spec.features)}
        self._kernels = GpuKernels(
            [
                GpuSlot(
                    n.name,
                    position[n.feature],
                    self.rows[n.table],
                    columns[n.name],
                    _pooling(n),
                    (ids or {}).get(n.name, 1.0),
                )
                for n in spec.pooled
                if n.table not in cpu
            ],
            device,
            checked,
        )
        skip = {name: one[:, 0].contiguous() for name in both if (one := _remap(plan, name)) is not None}
        away = [
            Slot(n.name, position[n.feature], rows[n.table], columns[n.name], _pooling(n), skip.get(n.table))
            for n in spec.pooled
            if n.table in cpu or n.table in skip
        ]
        self._cpu = CpuPart(away) if away else None
        self.staged = self._cpu is not None

    def prepare(self, batches: Sequence[int], single: bool) -> None:
        """Make what launches of batches of these sizes need; `single`: every bag holds one id."""
        for batch in batches:
            self._kernels.prepare(batch, single)

    def launch(
        self, values: Tensor, offsets: Tensor | None, weights: Tensor | None, x: Tensor, unknown: Tensor
    ) -> None:
        """Fill the columns of the GPU's look-ups; see `GpuKernels.launch`. All tensors lie on the device."""
        self._kernels.launch(values, offsets, weights, x, unknown)

    def stage(self, batch: int) -> Stage | None:
        """Buffers for the CPU's look-ups of batches of up to so many examples; None: it has none.

        `stage.fill(ids)` on the host, beside the GPU's `launch`; then `stage.launch(x)` fills the rest of x's columns.
        """
        return None if self._cpu is None else self._cpu.stage(batch, self.device)


def _on_cpu(plan: GpuPlan | None, place: Where) -> set[str]:
    """Tables that a plan has there."""
    return set() if plan is None else {table.name for table in plan.tables if table.place == place}


def _remap(plan: GpuPlan | None, name: str) -> Tensor | None:
    """Of a table's hot rows, where the GPU has some of them."""
    hot = plan is not None and plan.hot_rows(name)
    return None if isinstance(hot, bool) else remap(hot)


def _columns(spec: TableSpec, rows: Mapping[str, Rows]) -> dict[str, int]:
    """Where each look-up's columns begin: those of one field stand one after the other."""
    filled: dict[str, int] = {}
    found = {}
    for lookup in spec.pooled:
        found[lookup.name] = spec.layout.slices[lookup.slot].start + filled.get(lookup.slot, 0)
        filled[lookup.slot] = filled.get(lookup.slot, 0) + rows[lookup.table].dim
    return found


def _pooling(lookup: Lookup) -> Literal["sum", "mean"]:
    return "mean" if lookup.pooling == "mean" else "sum"


def _bytes(rows: Mapping[str, Rows]) -> int:
    return sum(device_bytes(one, True) for one in rows.values())


def _told(plan: GpuPlan, size: int) -> str:
    near = sum(table.bytes for table in plan.tables)
    return (
        f"the tables need {size / 1e9:.1f} GB and {plan.gpu} has {plan.memory / 1e9:.1f} GB for them: {near / 1e9:.1f} "
        "GB lie there, the rest is read from host memory, without knowing which rows are hot; `recsys plan --device "
        "cuda --data DATA` finds these, and is faster"
    )


def check_plan(plan: GpuPlan, spec: TableSpec, rows: Mapping[str, Rows], device: torch.device) -> None:
    """Make sure that the plan is for these tables and this GPU, and does each of the pooled look-ups.

    Raises:
        ConfigError: With the first difference.
    """
    plan.check(spec.tables)
    planned = {lookup.name: lookup.table for lookup in plan.lookups}
    pooled = {lookup.name: lookup.table for lookup in spec.pooled}
    if planned != pooled:
        odd = sorted(planned.items() ^ pooled.items())[0][0]
        raise ConfigError(f"the plan for `{plan.workload}` and the model differ in look-up `{odd}`: make a new plan")
    for table in plan.tables:
        if rows[table.name].dtype != table.dtype:
            raise ConfigError(
                f"the plan has table `{table.name}` as {table.dtype}, it is stored as {rows[table.name].dtype}: store "
                "it as the plan says (`recsys export --plan` does), or make a new plan"
            )
    if plan.gpus > 1:
        raise ConfigError(
            f"the plan for `{plan.workload}` is for {plan.gpus} GPUs, and one runs it: plan with --gpus 1"
        )
    here = gpu_name(device)
    if plan.gpu != here:
        raise ConfigError(
            f"the plan for `{plan.workload}` was made for {plan.gpu}, this is {here}: plan again, or use --device cpu"
        )


def gpu_name(device: torch.device) -> str:
    """The name of a GPU, as plans have it."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "Triton's interpreter"


def cuda_device() -> torch.device:
    """The GPU that torch sees first.

    Raises:
        ConfigError: When there is none.
    """
    if not torch.cuda.is_available():
        why = "this torch is built without CUDA" if torch.version.cuda is None else "no driver or no card answers"
        raise ConfigError(f"no GPU is here ({why}): use --device cpu, or run this where `nvidia-smi` shows one")
    return torch.device("cuda", torch.cuda.current_device())
