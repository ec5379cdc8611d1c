"""Linear layers of a network's graph, each put together with what follows it element by element."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import GraphModule, Node

from recsys.inference.backends import Precision

__all__ = ["FusedLinear", "constant", "fuse"]

_FEWEST = 16
"""Columns of a layer; one with less, such as the last, is no product for tensor cores."""


class FusedLinear(nn.Module):
    """add + scale * act(linear(x)) * factor, as `recsys.inference.cuda.linear` has it.

    Args:
        weight: [N, K].
        bias: [N] or None.
        scale: Of one number or N, or None.
        relu: Whether act is one.
        precision: Of the product.
    """

    def __init__(
        self, weight: Tensor, bias: Tensor | None, scale: Tensor | None, relu: bool, precision: Precision
    ) -> None:
        from recsys.inference.cuda.linear import COLUMNS, linear, rounded

        super().__init__()
        self.out, self._linear, self._relu = len(weight), linear, relu
        more_columns, more_rows = (-size % COLUMNS for size in (weight.shape[1], len(weight)))
        weight = F.pad(weight, (0, more_columns, 0, more_rows))
        high = weight.to(torch.bfloat16) if precision == "bf16" else rounded(weight)
        self.register_buffer("high", high)
        self.register_buffer("low", rounded(weight - high) if precision == "fp32" else None)
        self.register_buffer("bias", None if bias is None else F.pad(bias, (0, more_rows)))
        self.register_buffer("scale", None if scale is None else F.pad(scale.expand(self.out), (0, more_rows)))

    def forward(self, x: Tensor, factor: Tensor | None = None, add: Tensor | None = None) -> Tensor:
        """[B, K] and others [B, N] -> [B, N], and zeros beside it up to the next multiple of 16 columns."""
        found: Tensor = self._linear(x, self.high, self.low, self.bias, self.scale, factor, add, self.out, self._relu)
        return found


def fuse(module: GraphModule, precision: Precision) -> None:
    """Put a `FusedLinear` in the place of each linear layer of rows, and of what can go with it."""
    filled: dict[Node, Node] = {}  # what a layer gives: the same with zeros beside it
    for node in list(module.graph.nodes):
        if node.target is not torch.ops.aten.linear.default or not _is_rows(node.args[0]):
            continue
        x, *given = node.args
        weight, bias = (*(constant(module, one) for one in given), None)[:2]
        if weight is None or len(weight) < _FEWEST or (bias is None and given[1:] not in ([], [None])):
            continue
        chain = _Chain(node)
        while len(chain.last.users) == 1 and _takes(chain, module, next(iter(chain.last.users))):
            pass
        layer = FusedLinear(weight, bias, chain.scale, chain.relu, precision)
        module.add_submodule(f"fused_{node.name}", layer)
        with module.graph.inserting_before(chain.last):
            whole = module.graph.call_module(f"fused_{node.name}", (filled.get(x, x), chain.factor, chain.add))
            own = module.graph.call_function(torch.ops.aten.slice.Tensor, (whole, 1, 0, layer.out))
        own.meta["val"], filled[own] = chain.last.meta["val"], whole
        chain.last.replace_all_uses_with(own)
    module.graph.eliminate_dead_code()


@dataclass
class _Chain:
    """A linear layer and what follows it, up to `last`."""

    last: Node
    relu: bool = False
    scale: Tensor | None = None
    factor: Node | None = None
    add: Node | None = None


def _takes(chain: _Chain, module: GraphModule, node: Node) -> bool:
    """Whether a node could go with the chain, and now does: ReLU comes first, and a sum is the end."""
    shape = chain.last.meta["val"].shape
    if node.kwargs or chain.add is not None or not _is_rows(node, shape):
        return False
    others: list[Any] = [one for one in node.args if one is not chain.last]
    if len(others) != len(node.args) - 1:
        return False
    alike = all(_is_rows(one, shape) for one in others)
    aten = torch.ops.aten
    if node.target is aten.relu.default and chain.scale is None and chain.factor is None:
        chain.relu = True
    elif node.target is aten.add.Tensor and alike:
        chain.add = others[0]
    elif node.target is aten.addcmul.default and alike and chain.factor is None and others[0] is node.args[0]:
        chain.add, chain.factor = others
    elif node.target is aten.mul.Tensor and alike and chain.factor is None:
        chain.factor = others[0]
    elif node.target is aten.mul.Tensor and not alike and chain.scale is None:
        scale = constant(module, others[0])
        if scale is None or scale.dim() > 1:
            return False
        chain.scale = scale
    else:
        return False
    chain.last = node
    return True


def _is_rows(node: Any, shape: torch.Size | None = None) -> bool:
    """Whether it is a node of float32 numbers of that shape, or of any [B, N]."""
    value = node.meta.get("val") if isinstance(node, Node) else None
    if not isinstance(value, Tensor) or value.dtype is not torch.float32:
        return False
    return value.dim() == 2 if shape is None else value.shape == shape


def constant(module: GraphModule, node: Any) -> Tensor | None:
    """The tensor that a node reads from the module; None where it is worked out."""
    if not isinstance(node, Node) or node.op != "get_attr":
        return None
    found: Any = module
    for name in str(node.target).split("."):
        found = getattr(found, name)
    return found.detach() if isinstance(found, Tensor) else None
