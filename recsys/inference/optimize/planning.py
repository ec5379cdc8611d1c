"""Plan look-ups from the ids of a sample, where the machine has been measured."""

from __future__ import annotations

from collections.abc import Sequence

from recsys.data.batch import JaggedIds
from recsys.dataflow import platform
from recsys.dataflow.cost import CostModel
from recsys.dataflow.counting import measure
from recsys.dataflow.kernels.reference import Slot
from recsys.dataflow.plan import DataFlowPlan
from recsys.dataflow.planner import plan
from recsys.dataflow.workload import Workload, WorkloadLookup, WorkloadTable
from recsys.errors import ConfigError
from recsys.inference.choice import SIZES

__all__ = ["planned"]


def planned(slots: Sequence[Slot], ids: JaggedIds, cores: int) -> tuple[DataFlowPlan | None, str]:
    """The plan of a group of look-ups, and a line about it; None where the machine was not measured.

    Args:
        slots: Of names that differ.
        ids: What the sample asked.
        cores: How many it may use.
    """
    try:
        here = platform.here()
    except ConfigError as error:
        return None, f"not planned, one core gathers all ({error})"
    workload = _workload(slots, ids)
    found = plan(workload, CostModel(workload, here), cores, SIZES)
    used = max(len({piece.core for piece in schedule.pieces}) for schedule in found.schedules)
    return found, f"planned from the sample's ids for {used} of {cores} cores"


def _workload(slots: Sequence[Slot], ids: JaggedIds) -> Workload:
    tables = {slot.rows.data.data_ptr(): slot.rows for slot in slots}
    names = {at: f"table {k}" for k, at in enumerate(tables)}
    return Workload(
        name="sample",
        tables=tuple(
            WorkloadTable(name=names[at], rows=len(rows.data), dim=rows.dim, dtype=rows.dtype)
            for at, rows in tables.items()
        ),
        lookups=tuple(_lookup(slot, ids, names[slot.rows.data.data_ptr()]) for slot in slots),
        batch_sizes=SIZES,
    )


def _lookup(slot: Slot, ids: JaggedIds, table: str) -> WorkloadLookup:
    values, lengths, weights = ids.feature(slot.feature)
    bags = None if lengths is None else lengths.numpy()
    found = measure(values.numpy(), bags, len(slot.rows.data), SIZES, "the sample")
    return WorkloadLookup(name=slot.name, table=table, pooling=slot.pooling, weighted=weights is not None, ids=found)
