"""Put the ids of several calls together, feature by feature, as the kernels take them.

Each form has a way of its own, which takes as many steps of torch for 26 tables as for one; `parts`, table by table,
is what they must equal.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import accumulate

import torch
from torch import Tensor

from recsys.data.batch import JaggedIds
from recsys.errors import DataError
from recsys.inference.optimize.cutting import Column, Where
from recsys.inference.optimize.sites import Ask
from recsys.inference.optimize.tracing import Call

__all__ = ["Gather", "Ids", "gathering", "parts"]

Ids = tuple[JaggedIds, tuple[int, ...]]
"""Ids of all features of a group, and the shape of the bags of each."""
Gather = Callable[[Sequence[Tensor]], Ids]
"""From the inputs' tensors, and those that were computed from them."""
_KEPT = 64
"""Shapes whose offsets are kept."""


def gathering(calls: Sequence[Call], where: Sequence[Sequence[Where]]) -> Gather:
    """How the ids of calls of one kind are put together.

    Args:
        calls: Of one form, all with weights and padding or all without.
        where: For each call where its tensors are.
    """
    first = calls[0].ask
    if first.form == "keyed":
        return _keyed(first, [at for at in where[0] if isinstance(at, int)])
    if first.form == "ones":
        columns = [at[0] for at in where if isinstance(at[0], Column)]
        if len(columns) == len(where) and len({(one.leaf, one.flat) for one in columns}) == 1:
            return _columns(columns, (1,) * (len(first.bags) - 1))
        return parts(calls, where)
    padded = calls[0].site.module.padding_idx is not None
    if first.form == "bags":
        return parts(calls, where) if padded else _bags(calls, where)
    if not padded:
        return _rows(first.weighted, where)
    return parts(calls, where) if first.weighted else _padded(calls, where)


def _keyed(ask: Ask, where: Sequence[int]) -> Gather:
    """A KeyedJaggedTensor's own tensors."""
    keys = ask.keys

    def gather(tensors: Sequence[Tensor]) -> Ids:
        ids = JaggedIds(keys, *(tensors[k] for k in where))
        return ids, (ids.size,)

    return gather


def _columns(columns: Sequence[Column], shape: tuple[int, ...]) -> Gather:
    """Columns of one tensor of ids; bags are [B, *shape]."""
    features, places = _names(columns), [column.at for column in columns]
    leaf, first, last = columns[0].leaf, places[0], places[-1] + 1
    index = None if places == list(range(first, last)) else torch.tensor(places)

    def gather(tensors: Sequence[Tensor]) -> Ids:
        ids = tensors[leaf].t()
        picked = ids[first:last] if index is None else ids[index]
        return JaggedIds(features, picked.reshape(-1)), (ids.shape[1], *shape)

    return gather


def _rows(weighted: bool, where: Sequence[Sequence[Where]]) -> Gather:
    """[B, L] ids of each call; L may differ. Their offsets are known from their shapes."""
    features = _names(where)
    known: dict[tuple[torch.Size, ...], Tensor] = {}

    def gather(tensors: Sequence[Tensor]) -> Ids:
        ids = [_read(tensors, at[0]) for at in where]
        shapes = tuple(one.shape for one in ids)
        if any(bags != shapes[0][0] for bags, _ in shapes):
            raise DataError("the calls have different numbers of bags")
        offsets = known.get(shapes)
        if offsets is None:
            if len(known) >= _KEPT:
                known.clear()
            lengths = torch.cat([torch.full((bags,), length) for bags, length in shapes])
            offsets = known[shapes] = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
        weights = _weights(ids, [_read(tensors, at[1]) for at in where]) if weighted else None
        return JaggedIds(features, _flat(ids), offsets, weights), (shapes[0][0],)

    return gather


def _bags(calls: Sequence[Call], where: Sequence[Sequence[Where]]) -> Gather:
    """Ids and offsets of each call; offsets that do not ascend are found by the kernels."""
    features, weighted, last = _names(where), calls[0].ask.weighted, bool(calls[0].site.module.include_last_offset)

    def gather(tensors: Sequence[Tensor]) -> Ids:
        ids = [_read(tensors, at[0]) for at in where]
        *starts, end = accumulate((one.shape[0] for one in ids), initial=0)
        own = [_read(tensors, at[1]) for at in where]
        if len({one.shape for one in own}) > 1:
            raise DataError("the calls have different numbers of bags")
        offsets = torch.stack(own) + torch.tensor(starts).unsqueeze(1)
        ends = torch.tensor([*starts[1:], end])
        begun = bool((offsets[:, 0] == torch.tensor(starts)).all()) if offsets.shape[1] else not end
        if not begun or (last and not bool((offsets[:, -1] == ends).all())):
            raise DataError("offsets must go from 0 to the number of ids")
        inner = offsets[:, :-1] if last else offsets
        bounds = torch.cat([inner.reshape(-1), ends[-1:]])
        weights = _weights(ids, [_read(tensors, at[2]) for at in where]) if weighted else None
        return JaggedIds(features, _flat(ids), bounds, weights), (inner.shape[1],)

    return gather


def _padded(calls: Sequence[Call], where: Sequence[Sequence[Where]]) -> Gather:
    """[B, L] ids of each call, of which those that are padding belong to no bag."""
    features, slow = _names(where), parts(calls, where)
    padding = torch.tensor([call.site.module.padding_idx for call in calls]).view(-1, 1, 1)

    def gather(tensors: Sequence[Tensor]) -> Ids:
        own = [_read(tensors, at[0]) for at in where]
        if len({one.shape for one in own}) > 1:
            return slow(tensors)
        ids = torch.stack(own)
        kept = ids != padding
        offsets = torch.cat([torch.zeros(1, dtype=torch.int64), kept.sum(2).view(-1).cumsum(0)])
        return JaggedIds(features, ids[kept], offsets), (ids.shape[1],)

    return gather


def _names(where: Sequence[object]) -> tuple[str, ...]:
    return tuple(map(str, range(len(where))))


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([one.reshape(-1) for one in tensors])


def _weights(ids: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:
    if any(one.shape != weight.shape for one, weight in zip(ids, weights, strict=True)):
        raise DataError("the weights do not fit the ids")
    return _flat(weights)


def _read(tensors: Sequence[Tensor], at: Where) -> Tensor:
    if isinstance(at, int):
        return tensors[at]
    return tensors[at.leaf][:, at.at] if at.flat else tensors[at.leaf][:, at.at : at.at + 1]


def parts(calls: Sequence[Call], where: Sequence[Sequence[Where]]) -> Gather:
    """Tensors of each call, put one behind the other."""
    features = _names(where)

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
