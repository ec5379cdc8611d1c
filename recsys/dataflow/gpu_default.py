"""Where tables lie that do not fit a GPU and that nobody planned: as many hits as fit, nothing being measured."""

from __future__ import annotations

from collections.abc import Mapping

from recsys.dataflow.gpu_plan import GpuLookup, GpuPlan, GpuTable
from recsys.dataflow.heat import even
from recsys.dataflow.knapsack import Knapsack
from recsys.dataflow.storage import Rows
from recsys.layers.tables import TableSpec

__all__ = ["default_plan", "room"]


def room(memory: int) -> int:
    """Bytes of a GPU's memory that tables may take: the rest is left to activations, graphs and the driver."""
    return max(0, memory - max(1 << 30, memory // 16))


def default_plan(spec: TableSpec, rows: Mapping[str, Rows], gpu: str, memory: int, ids: Mapping[str, float]) -> GpuPlan:
    """A plan by the look-ups' ids a byte of their tables, all rows of a table being alike.

    Args:
        spec: What is looked up.
        rows: The stored rows of every table.
        gpu: Its name.
        memory: Bytes of it that are free.
        ids: Look-up -> ids in a bag, on average; by default one.
    """
    hits = dict.fromkeys(rows, 0.0)
    for lookup in spec.lookups:
        hits[lookup.table] += ids.get(lookup.name, 1.0)
    heat = {name: even(len(one.data), hits[name]) for name, one in rows.items()}
    size = {name: one.data.shape[1] * one.data.element_size() for name, one in rows.items()}
    hot = Knapsack(heat, size).hot(room(memory))
    return GpuPlan(
        workload="the model",
        gpu=gpu,
        memory=room(memory),
        tables=tuple(_table(name, rows[name], hot[name]) for name in rows),
        lookups=tuple(GpuLookup(name=n.name, table=n.table, ids=ids.get(n.name, 1.0)) for n in spec.pooled),
    )


def _table(name: str, rows: Rows, hot: int) -> GpuTable:
    count = len(rows.data)
    split = 0 < hot < count
    return GpuTable(
        name=name,
        rows=count,
        dim=rows.dim,
        dtype=rows.dtype,
        place="split" if split else "device" if hot else "host",
        hot_rows=hot,
        hot=((0, hot),) if split else (),
    )
