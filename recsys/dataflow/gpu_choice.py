"""What a planner decided, as a plan for GPUs with its predictions; see `recsys.dataflow.gpu_planner`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from recsys.dataflow.gpu_cost import GpuCostModel, Load, Place, Predicted
from recsys.dataflow.gpu_plan import GpuLookup, GpuPlan, GpuSchedule, GpuTable, Where
from recsys.dataflow.heat import Heat
from recsys.dataflow.knapsack import Knapsack
from recsys.dataflow.workload import Dtype, Workload

__all__ = ["Choice", "places_of", "row_bytes", "written_out"]


@dataclass(frozen=True)
class Choice:
    """What was decided: for each table its dtype, its GPU and its hot rows (None: the CPU's), and what it takes.

    Of the tables in `shared` the CPU adds up the rows that are not hot.
    """

    dtypes: Mapping[str, Dtype]
    hot: Mapping[str, int | None]
    gpu: Mapping[str, int]
    us: float
    shared: frozenset[str] = frozenset()
    predicted: Sequence[Predicted] = field(default=(), compare=False)


def row_bytes(workload: Workload, dtypes: Mapping[str, Dtype]) -> dict[str, int]:
    """Bytes of a stored row of each table."""
    return {t.name: t.model_copy(update={"dtype": dtypes[t.name]}).row_bytes for t in workload.tables}


def places_of(
    heat: Mapping[str, Heat], hot: Mapping[str, int | None], shared: Collection[str] = ()
) -> dict[str, Place]:
    """Where tables lie that have so many hot rows; None: their look-ups are the CPU's. It adds up the rest of others.

    A table of which no row is hot counts as shared, too, if it would be: so that more hot rows never take longer.
    """
    return {name: _place(heat[name], n, name in shared) for name, n in hot.items()}


def _place(heat: Heat, hot: int | None, shared: bool) -> Place:
    if hot is None:
        return Place(cpu=True)
    rows = int(heat.rows.sum())
    host = 1 - heat.share(hot)
    return Place(host, host_rows=1 - hot / max(rows, 1), split=0 < hot < rows, shared=shared and hot < rows)


def written_out(
    model: GpuCostModel,
    heat: Mapping[str, Heat],
    found: Choice,
    memory: int,
    gpus: int,
    sizes: Sequence[int],
    latency_us: float | None,
    ids: str,
) -> GpuPlan:
    """The plan, without its hot rows."""
    workload = model.workload
    us = np.sum([one.lookups for one in found.predicted], axis=0)
    places = places_of(heat, found.hot, found.shared)
    lookups = [
        GpuLookup(
            name=lookup.name,
            table=lookup.table,
            ids=lookup.ids.mean,
            near=0.0 if places[lookup.table].cpu else 1 - places[lookup.table].host,
            predicted_us=round(float(part), 4),
        )
        for lookup, part in zip(workload.lookups, us, strict=True)
    ]
    return GpuPlan(
        workload=workload.name,
        gpu=model.gpu.gpu,
        platform=model.fingerprint,
        gpus=gpus,
        memory=memory,
        ids=ids,
        latency_us=latency_us,
        tables=tuple(
            GpuTable(
                name=table.name,
                rows=table.rows,
                dim=table.dim,
                dtype=found.dtypes[table.name],
                place=_where(table.rows, found.hot[table.name], table.name in found.shared),
                gpu=found.gpu[table.name],
                hot_rows=found.hot[table.name] or 0,
            )
            for table in workload.tables
        ),
        lookups=tuple(lookups),
        schedules=tuple(_schedule(model, heat, found, memory, gpus, size) for size in sizes),
    )


def _where(rows: int, hot: int | None, shared: bool) -> Where:
    if hot == rows:
        return "device"
    if not hot:
        return "cpu" if shared or hot is None else "host"
    return "shared" if shared else "split"


def _schedule(
    model: GpuCostModel, heat: Mapping[str, Heat], found: Choice, memory: int, gpus: int, batch: int
) -> GpuSchedule:
    load = model.load(batch, found.dtypes)
    places = places_of(heat, found.hot, found.shared)
    told = [load.us(places, {name: at == k for name, at in found.gpu.items()}) for k in range(gpus)]
    us = max(one.us for one in told)
    return GpuSchedule(
        batch=batch,
        predicted_us=round(us, 3),
        gpus=tuple(round(one.gpu_us, 3) for one in told),
        cpu_us=round(max(one.cpu_us for one in told), 3),
        copy_us=round(max(one.copy_us for one in told), 3),
        bound_us=round(min(us, _bound_us(model, heat, found, memory, gpus, load)), 3),
    )


def _bound_us(
    model: GpuCostModel, heat: Mapping[str, Heat], found: Choice, memory: int, gpus: int, load: Load
) -> float:
    """µs of the best hot rows in all memory, with no remap and nothing but bytes in the way; the CPU's for nothing.

    Of several GPUs each has a part of the bytes, but a table is one GPU's: the one of most bytes takes no less.
    """
    names = {name: heat[name] for name, n in found.hot.items() if n is not None}
    cpu: dict[str, int | None] = {name: None for name, n in found.hot.items() if n is None}
    if not names:
        return 0.0
    size = row_bytes(model.workload, found.dtypes)

    def least(own: Mapping[str, Heat], room: int) -> float:
        hot = Knapsack(own, size, remapped=False).hot(room)
        return load.us(places_of(heat, {**cpu, **hot}, found.shared), dict.fromkeys(own, True)).bound_us

    alone = [least({name: one}, memory) for name, one in names.items()] if gpus > 1 else []
    return max(least(names, memory * gpus) / gpus, *alone, 0.0)
