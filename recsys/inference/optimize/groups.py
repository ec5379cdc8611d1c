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
from recsys.inference.optimize.cutting import Column, Cut, Where
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
    where = [cut.asked[k] for k in members]
    if first.form == "keyed":
        return _keyed(first, [at for at in where[0] if isinstance(at, int)])
    columns = [at[0] for at in where if isinstance(at[0], Column)] if first.form == "ones" else []
    if len(columns) == len(where) and len({(one.leaf, one.flat) for one in columns}) == 1:
        return _columns(columns, (1,) * (len(first.bags) - 1))
    return _parts([calls[k] for k in members], where)


def _keyed(ask: Ask, where: Sequence[int]) -> Gather:
    """A KeyedJaggedTensor's own tensors."""
    keys = ask.keys

    def gather(tensors: Sequence[Tensor]) -> Ids:
        ids = JaggedIds(keys, *(tensors[k] for k in where))
        return ids, (ids.size,)

    return gather


def _columns(columns: Sequence[Column], shape: tuple[int, ...]) -> Gather:
    """Columns of one tensor of ids; bags are [B, *shape]."""
    features, places = tuple(map(str, range(len(columns)))), [column.at for column in columns]
    leaf, first, last = columns[0].leaf, places[0], places[-1] + 1
    index = None if places == list(range(first, last)) else torch.tensor(places)

    def gather(tensors: Sequence[Tensor]) -> Ids:
        ids = tensors[leaf].t()
        picked = ids[first:last] if index is None else ids[index]
        return JaggedIds(features, picked.reshape(-1)), (ids.shape[1], *shape)

    return gather


def _read(tensors: Sequence[Tensor], at: Where) -> Tensor:
    if isinstance(at, int):
        return tensors[at]
    return tensors[at.leaf][:, at.at] if at.flat else tensors[at.leaf][:, at.at : at.at + 1]


def _parts(calls: Sequence[Call], where: Sequence[Sequence[Where]]) -> Gather:
    """Tensors of each call, put one behind the other."""
    features = tuple(map(str, range(len(calls))))

    def gather(tensors: Sequence[Tensor]) -> Ids:
        parts, bags = [], None
        for call, places in zip(calls, where, strict=True):
            own = tuple(_read(tensors, at) for at in places)
            ask = replace(call.ask, tensors=own, bags=call.site.bags(call.ask.form, own))
            part = call.site.part(ask)
            if part is None or bags not in (None, ask.bags):
                raise DataError("offsets do not fit the ids")
            bags = ask.bags
            parts.append(part)
        assert bags is not None
        return JaggedIds.stack(features, parts), bags

    return gather
