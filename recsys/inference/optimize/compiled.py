"""A model that was cut in two, ready to run: ids, look-ups into one buffer, and the network bound to it."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from recsys.errors import DataError
from recsys.inference.backends import Backend, Run
from recsys.inference.choice import Choice
from recsys.inference.network import inputs
from recsys.inference.optimize.cutting import Cut
from recsys.inference.optimize.groups import Group
from recsys.inference.optimize.layout import Layout
from recsys.inference.optimize.shapes import Conditions, Shape, at, sizes, solved

__all__ = ["Compiled"]

_KEPT = 16
"""Shapes whose buffers a thread keeps, the last ones."""
_BYTES = 64 * 2**20
"""Bytes of buffers that a thread keeps, beside those that it needs now."""
Key = tuple[torch.Size | tuple[int, ...], ...]


@dataclass(frozen=True)
class _Bound:
    """Buffers of one thread for inputs of one shape, and the network bound to them.

    Attributes:
        inputs: Of the network: the buffers of rows, then what inputs beside them are copied to.
        flat: The buffers of rows, each as [bags, columns].
        out: What the network fills.
        shapes: Of what the model gives.
    """

    inputs: tuple[Tensor, ...]
    flat: tuple[Tensor, ...]
    out: Tensor
    shapes: tuple[tuple[int, ...], ...]
    run: Run


class _Space(threading.local):
    """What a thread has of its own; None for shapes that the program does not take."""

    def __init__(self) -> None:
        self.bound: dict[Key, _Bound | None] = {}


class Compiled:
    """Runs a cut model on inputs that are laid out as the sample was.

    Attributes:
        choice: The back end of each batch size.
    """

    def __init__(self, given: Layout, cut: Cut, groups: Sequence[Group], choice: Choice) -> None:
        self.choice = choice
        self._given, self._cut, self._groups = given, cut, tuple(groups)
        self._fits = _Fits(cut)
        self._space = _Space()

    def run(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any] | None:
        """What the model gives, alone in a tuple; None where the inputs are not as the sample was, or ids are wrong."""
        bound = self._filled(args, kwargs)
        if bound is None:
            return None
        bound.run()
        return (self._given_back(bound, bound.out.clone()),)

    def each(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Iterator[tuple[Backend, Any]]:
        """What the model gives by each of the back ends that were chosen; nothing where `run` gives None."""
        bound = self._filled(args, kwargs)
        for name, engine in dict(self.choice.engines.values()).items() if bound else ():
            assert bound is not None
            out = torch.zeros_like(bound.out)
            engine.bind(bound.inputs, out)()
            yield name, self._given_back(bound, out)

    def _filled(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> _Bound | None:
        """Buffers with all that the network reads."""
        leaves: list[Tensor] = []
        if not self._given.take((args, kwargs), leaves):
            return None
        try:
            tensors = leaves if self._cut.ids is None else [*leaves, *self._cut.ids(*leaves)]
            asked = [group.gather(tensors) for group in self._groups]
            if not self._fits.lengths([one.shape for one in leaves], self._bags([bags for _, bags in asked])):
                return None
            bound = self._bound((*(bags for _, bags in asked), *(leaves[k].shape for k in self._cut.leaves)))
            if bound is None:
                return None
            for group, (ids, _) in zip(self._groups, asked, strict=True):
                if group.kernels.look_up(ids, bound.flat[group.buffer]):
                    return None
        except (DataError, RuntimeError, IndexError):  # the module says what is wrong
            return None
        for buffer, k in zip(bound.inputs[len(bound.flat) :], self._cut.leaves, strict=True):
            buffer.copy_(leaves[k])
        return bound

    def _given_back(self, bound: _Bound, out: Tensor) -> Any:
        if len(bound.shapes) == 1:
            return self._cut.layout.make([out])
        parts = torch.split(out, [_count(shape) for shape in bound.shapes])
        return self._cut.layout.make([part.view(shape) for part, shape in zip(parts, bound.shapes, strict=True)])

    def _bound(self, key: Key) -> _Bound | None:
        known = self._space.bound
        if key not in known:
            fresh = self._bind(key)
            while known and (len(known) >= _KEPT or sum(map(_bytes, [fresh, *known.values()])) > _BYTES):
                known.pop(next(iter(known)))
            known[key] = fresh
        return known[key]

    def _bags(self, sizes: Sequence[Sequence[int]]) -> list[tuple[int, ...]]:
        """Of each buffer.

        Raises:
            DataError: When groups that fill one buffer do not have as many.
        """
        bags: dict[int, tuple[int, ...]] = {}
        for group, size in zip(self._groups, sizes, strict=True):
            if bags.setdefault(group.buffer, tuple(size)) != tuple(size):
                raise DataError("look-ups of one buffer have different numbers of bags")
        return [bags[k] for k in range(len(bags))]

    def _bind(self, key: Key) -> _Bound | None:
        n = len(self._groups)
        bags = self._bags(key[:n])
        shapes = [*((*bags[k], width) for k, width in enumerate(self._cut.widths)), *map(tuple, key[n:])]
        found = self._fits.results(shapes)
        if found is None:
            return None
        dtypes = [torch.float32] * len(bags) + [self._fits.dtypes[k] for k in range(len(bags), len(shapes))]
        with torch.inference_mode(False):  # what was made in that mode could not be written to outside of it
            inputs = [torch.zeros(shape, dtype=dtype) for shape, dtype in zip(shapes, dtypes, strict=True)]
            out = torch.zeros(found[0] if len(found) == 1 else sum(map(_count, found)), dtype=torch.float32)
        flat = tuple(x.view(-1, x.shape[-1]) for x in inputs[: len(bags)])
        batch = max((shape[0] for shape in shapes if shape), default=1)
        run = self.choice.engine(batch).bind(inputs, out)
        return _Bound(tuple(inputs), flat, out, tuple(found), run)


def _bytes(bound: _Bound | None) -> int:
    return 0 if bound is None else sum(one.nbytes for one in (*bound.inputs, bound.out))


def _count(shape: Sequence[int]) -> int:
    return list(accumulate(shape, lambda a, b: a * b, initial=1))[-1]


class _Fits:
    """Which shapes a program takes, and what the model gives for them.

    Attributes:
        dtypes: Of the program's inputs.
    """

    def __init__(self, cut: Cut) -> None:
        self._cut, self._conditions = cut, Conditions(cut.conditions)
        values = inputs(cut.network)
        self.dtypes = [value.dtype for value in values]
        self._shapes: list[Shape] = [sizes(value) for value in values]
        self._ranges = {str(symbol): found for symbol, found in cut.network.range_constraints.items()}

    def lengths(self, leaves: Sequence[Sequence[int]], bags: Sequence[Sequence[int]]) -> bool:
        """Whether the model was traced for inputs of these shapes, those that make ids too, and for these bags."""
        found = solved([*self._cut.given, *self._cut.bags], [*leaves, *bags])
        return found is not None and self._conditions.hold(found)

    def results(self, shapes: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]] | None:
        """Shapes of what the model gives for inputs of these; None where the program does not take them."""
        program, model = solved(self._shapes, shapes), solved(self._cut.inputs, shapes)
        if program is None or model is None:
            return None
        if any(n < self._cut.least or not self._covers(name, n) for name, n in program.items()):
            return None
        return [tuple(at(n, model) for n in shape) for shape in self._cut.results]

    def _covers(self, name: str, n: int) -> bool:
        found = self._ranges.get(name)
        return found is None or bool(found.lower <= n <= found.upper)
