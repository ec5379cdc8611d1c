"""Calls of embedding modules that are looked up together: one call of the kernels for each group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from recsys.dataflow.executor import Kernels, kernels
from recsys.dataflow.kernels.reference import Slot
from recsys.inference.optimize.cutting import Cut
from recsys.inference.optimize.gathers import Gather, gathering
from recsys.inference.optimize.planning import planned
from recsys.inference.optimize.tracing import Call

__all__ = ["Group", "grouped"]


@dataclass(frozen=True)
class Group:
    """Look-ups that one call does.

    Attributes:
        buffer: Index of the buffer that it fills columns of.
        gather: Its ids.
        kernels: What looks them up.
        plan: How they are planned, as a line.
    """

    buffer: int
    gather: Gather
    kernels: Kernels
    plan: str


def grouped(cut: Cut, calls: Sequence[Call], tensors: Sequence[Tensor], cores: int) -> list[Group]:
    """Groups of the calls.

    Args:
        cut: The model in two parts.
        calls: Its look-ups.
        tensors: The sample's.
        cores: Among which they may be shared out; 0: they are not planned.
    """
    members: dict[object, list[int]] = {}
    for k, call in enumerate(calls):
        members.setdefault(_kind(cut, call, k), []).append(k)
    return [_group(cut, calls, found, tensors, cores) for found in members.values()]


def _kind(cut: Cut, call: Call, k: int) -> object:
    """Calls of one kind go together: those of one KeyedJaggedTensor, and others of one form, in one buffer."""
    buffer, ask, module = cut.places[k].buffer, call.ask, call.site.module
    if ask.form == "keyed":
        return buffer, cut.asked[k], ask.keys
    if ask.form == "ones":
        return buffer, ask.form
    return buffer, ask.form, ask.weighted, module.padding_idx is None, module.include_last_offset


def _group(cut: Cut, calls: Sequence[Call], members: Sequence[int], tensors: Sequence[Tensor], cores: int) -> Group:
    slots: list[Slot] = []
    for position, k in enumerate(members):
        features = calls[k].ask.keys or ("-",) * position + ("",)
        slots += calls[k].site.slots(features, cut.places[k].column, f"{k} {calls[k].site.name}")
    gather = gathering([calls[k] for k in members], [cut.asked[k] for k in members])
    plan, said = planned(slots, gather(tensors)[0], cores) if cores else (None, "not planned, one core gathers all")
    return Group(cut.places[members[0]].buffer, gather, kernels(slots, plan), said)
