"""Calls of embedding modules that are looked up together: one call of the kernels for each group."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from recsys.data.batch import JaggedIds
from recsys.dataflow.executor import Kernels, kernels
from recsys.dataflow.kernels.reference import Slot
from recsys.errors import DataError
from recsys.inference.optimize.cutting import Cut
from recsys.inference.optimize.planning import planned
from recsys.inference.optimize.sites import Ask
from recsys.inference.optimize.tracing import Call

__all__ = ["Group", "grouped"]

Ids = tuple[JaggedIds, tuple[int, ...]]
"""Ids of all features of a group, and the shape of the bags of each."""
Gather = Callable[[Sequence[Tensor]], Ids]
"""From the inputs' tensors, and those that were computed from them."""


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
        members.setdefault(_kind(cut, call.ask, k), []).append(k)
    return [_group(cut, calls, found, tensors, cores) for found in members.values()]


def _kind(cut: Cut, ask: Ask, k: int) -> object:
    """Calls of one kind go together: those of one KeyedJaggedTensor, and others of one form, in one buffer."""
    buffer = cut.places[k].buffer
    if ask.form == "keyed":
        return buffer, cut.asked[k], ask.keys
    return buffer, ask.form == "ones"


def _group(cut: Cut, calls: Sequence[Call], members: Sequence[int], tensors: Sequence[Tensor], cores: int) -> Group:
    slots: list[Slot] = []
    for position, k in enumerate(members):
        features = calls[k].ask.keys or ("-",) * position + ("",)
        slots += calls[k].site.slots(features, cut.places[k].column, f"{k} {calls[k].site.name}")
    gather = _gather(cut, calls, members)
    plan, said = planned(slots, gather(tensors)[0], cores) if cores else (None, "not planned, one core gathers all")
    return Group(cut.places[members[0]].buffer, gather, kernels(slots, plan), said)


def _gather(cut: Cut, calls: Sequence[Call], members: Sequence[int]) -> Gather:
    first = calls[members[0]].ask
    if first.form == "keyed":
        return _keyed(first, cut.asked[members[0]])
    columns = [cut.columns[k] for k in members]
    start = columns[0]
    if first.form == "ones" and start is not None and columns == [(start[0], start[1] + k) for k in range(len(members))]:
        return _columns(start[0], start[1], len(members))
    return _parts([calls[k] for k in members], [cut.asked[k] for k in members])


def _keyed(ask: Ask, where: Sequence[int]) -> Gather:
    """A KeyedJaggedTensor's own tensors."""
    keys, count = ask.keys, len(ask.keys)

    def gather(tensors: Sequence[Tensor]) -> Ids:
        ids = JaggedIds(keys, *(tensors[k] for k in where))
        return ids, (ids.size,)

    return gather


def _columns(leaf: int, first: int, count: int) -> Gather:
    """Columns that lie side by side in one tensor of ids."""
    features, last = tuple(map(str, range(count))), first + count

    def gather(tensors: Sequence[Tensor]) -> Ids:
        ids = tensors[leaf]
        return JaggedIds(features, ids.t()[first:last].reshape(-1)), (ids.shape[0],)

    return gather


def _parts(calls: Sequence[Call], where: Sequence[Sequence[int]]) -> Gather:
    """Tensors of each call, put one behind the other."""
    features = tuple(map(str, range(len(calls))))

    def gather(tensors: Sequence[Tensor]) -> Ids:
        parts, bags = [], None
        for call, places in zip(calls, where, strict=True):
            own = tuple(tensors[k] for k in places)
            ask = replace(call.ask, tensors=own, bags=call.site.bags(call.ask.form, own))
            part = call.site.part(ask)
            if part is None or bags not in (None, ask.bags):
                raise DataError("offsets do not fit the ids")
            bags = ask.bags
            parts.append(part)
        assert bags is not None
        return JaggedIds.stack(features, parts), bags

    return gather
