"""Shapes of a graph's tensors: sizes that are known, and symbols for those that may vary."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import sympy
import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import Interpreter, Node

from recsys.inference.network import example

__all__ = ["Conditions", "Shape", "at", "conditions", "hints", "least", "sizes", "solved"]

_KEPT = 4096
"""Answers that are kept for each set of lengths."""
Shape = tuple[Any, ...]
"""Sizes that are known, and symbols for those that may vary."""


def sizes(value: Tensor) -> Shape:
    """Its shape; a symbol that can be one number only is that number."""
    return tuple(int(n) if isinstance(n, int) or n.node.expr.is_number else n for n in value.shape)


def at(size: Any, symbols: Mapping[str, int], others: int | None = None) -> int:
    """A size, from what its symbols stand for; `others`: what those stand for that are not among them."""
    if isinstance(size, int):
        return size
    found = size.node.expr
    return int(found.subs({symbol: symbols.get(str(symbol), others) for symbol in found.free_symbols}))


def solved(shapes: Iterable[Shape], actual: Iterable[Sequence[int]]) -> dict[str, int] | None:
    """What each symbol stands for; None where there is a contradiction."""
    found: dict[str, int] = {}
    for shape, here in zip(shapes, actual, strict=True):
        for n, size in zip(shape, here, strict=True):
            if (n if isinstance(n, int) else found.setdefault(str(n), size)) != size:
                return None
    return found


def conditions(program: ExportedProgram, least: int) -> tuple[Any, ...]:
    """What tracing asked of lengths and found true, beside which of them are alike: ``s0 > 10``, ``Mod(s0, 2) = 0``.

    A branch that Python did not take is in no graph, so that a graph holds only where these do.

    Args:
        program: As exported.
        least: What no length that varies may be below, as tracing took for granted.
    """
    values = (node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder")
    shapes: Iterator[Shape] = (tuple(value.shape) for value in values if isinstance(value, Tensor))
    symbols = [n.node for shape in shapes for n in shape if not isinstance(n, int)]
    if not symbols:
        return ()
    known = symbols[0].shape_env
    found = [guard.expr.xreplace(known.replacements) for guard in known.guards]
    found += [sympy.Ge(symbol.expr, least) for symbol in symbols if least]
    return tuple(dict.fromkeys(one for one in found if one is not sympy.true))


class Conditions:
    """Whether lengths fit what was asked of them. Answers are kept: to work one out takes some 100 µs."""

    def __init__(self, asked: Sequence[Any]) -> None:
        self._of: dict[tuple[str, ...], list[Any]] = {}
        for one in asked:
            self._of.setdefault(tuple(sorted(map(str, one.free_symbols))), []).append(one)
        self._known: dict[tuple[str, ...], dict[tuple[int, ...], bool]] = {names: {} for names in self._of}

    def hold(self, lengths: Mapping[str, int]) -> bool:
        """Whether all do; one of a length that is not given does not."""
        return all(self._hold(names, lengths) for names in self._of)

    def _hold(self, names: tuple[str, ...], lengths: Mapping[str, int]) -> bool:
        """Whether those do that are about these lengths."""
        if not all(name in lengths for name in names):
            return False
        key, known = tuple(lengths[name] for name in names), self._known[names]
        found = known.get(key)
        if found is None:
            if len(known) >= _KEPT:
                known.clear()
            found = known[key] = all(_true(one, lengths) for one in self._of[names])
        return found


def _true(one: Any, lengths: Mapping[str, int]) -> bool:
    return one.subs({symbol: lengths[str(symbol)] for symbol in one.free_symbols}) is sympy.true


def hints(shape: Shape) -> list[int]:
    """What the sample had."""
    return [n if isinstance(n, int) else int(n.node.hint) for n in shape]


class _Ones(Interpreter):
    """Runs a graph with every length that may vary at 1, and compares shapes with what compilers take them for."""

    def run_node(self, n: Node) -> Any:
        """What the node gives."""
        found = super().run_node(n)
        value = n.meta.get("val")
        if isinstance(found, Tensor) and isinstance(value, Tensor):
            expected = [at(size, {}, 1) for size in value.shape]
            if list(found.shape) != expected:
                raise ValueError(f"{n} is {list(found.shape)} and not {expected}")
        return found


def least(program: ExportedProgram) -> int:
    """1, or 2 where a length of 1 is a case of its own, as it is for `squeeze`: tracing takes it to be more."""
    try:
        with torch.no_grad():
            _Ones(program.module(check_guards=False)).run(*example(program, 1))
    except (ValueError, RuntimeError, IndexError):
        return 2
    return 1
