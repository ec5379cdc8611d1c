"""Shapes of a graph's tensors: sizes that are known, and symbols for those that may vary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import Interpreter, Node

from recsys.inference.network import example

__all__ = ["Shape", "at", "hints", "least", "sizes"]

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
