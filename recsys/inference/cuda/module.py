"""A network's program as a module on a GPU, its linear layers in the form that the GPU's products like."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node

from recsys.inference.backends import Precision
from recsys.inference.network import copied

__all__ = ["on_device"]

_COLUMNS: dict[Precision, int] = {"bf16": 8, "tf32": 4}
"""Tensor cores read rows that begin at multiples of 16 bytes; rows of 429 columns would be read one by one."""


def on_device(program: ExportedProgram, device: torch.device, precision: Precision, single: bool) -> GraphModule:
    """A copy of the program there.

    Args:
        program: On the CPU; it stays as it is.
        device: Where its weights go.
        precision: Of its linear layers; all between them stays float32.
        single: For a batch of one row, whose products read each weight once: they become sums that a compiler fuses
            with what stands between them, in place of calls of a library that is made for matrices.
    """
    module = copied(program).module(check_guards=False)
    assert isinstance(module, GraphModule)
    module._forward_pre_hooks.clear()  # they look at whether inputs fit
    for node in list(module.graph.nodes):
        if node.target is torch.ops.aten.linear.default and (single or precision in _COLUMNS):
            _replace(module, node, precision, single)
    module.graph.eliminate_dead_code()
    _move(module, device)
    module.recompile()
    module.requires_grad_(False)
    return module


def _replace(module: GraphModule, node: Node, precision: Precision, single: bool) -> None:
    """Put a layer with weights of its own in the place of a linear one, if its weights are weights."""
    x, *given = node.args
    weights = [_value(module, one) for one in given]
    if weights[0] is None or (len(given) > 1 and given[1] is not None and weights[1] is None):
        return
    weight, bias = weights[0], weights[1] if len(weights) > 1 else None
    rows = x.meta["val"].dim() == 2 if isinstance(x, Node) else False
    layer = _Sums(weight, bias, precision) if single and rows else _Padded(weight, bias, precision)
    name = f"linear_of_{node.name}"
    module.add_submodule(name, layer)
    with module.graph.inserting_before(node):
        new = module.graph.call_module(name, (x,))
    new.meta["val"] = node.meta["val"]
    node.replace_all_uses_with(new)
    module.graph.erase_node(node)


def _value(module: GraphModule, node: Any) -> Tensor | None:
    """The tensor that a node reads from the module; None where it is worked out."""
    if not isinstance(node, Node) or node.op != "get_attr":
        return None
    found: Any = module
    for name in str(node.target).split("."):
        found = getattr(found, name)
    return found.detach() if isinstance(found, Tensor) else None


class _Layer(nn.Module):
    weight: Tensor
    bias: Tensor | None


class _Padded(_Layer):
    """A linear layer whose weights have zeros beside and below, up to the next multiple of columns and rows."""

    def __init__(self, weight: Tensor, bias: Tensor | None, precision: Precision) -> None:
        super().__init__()
        self.out, step = len(weight), _COLUMNS.get(precision, 1)
        self.columns, self.rows = (-size % step for size in (weight.shape[1], len(weight)))
        self.rounded = precision == "bf16"
        dtype = torch.bfloat16 if self.rounded else torch.float32
        self.register_buffer("weight", F.pad(weight, (0, self.columns, 0, self.rows)).to(dtype))
        self.register_buffer("bias", None if bias is None else F.pad(bias, (0, self.rows)).to(dtype))

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] -> [..., out], float32."""
        if self.rounded:
            x = x.to(torch.bfloat16)
        if self.columns:
            x = F.pad(x, (0, self.columns))
        found = F.linear(x, self.weight, self.bias)
        if self.rows:
            found = found[..., : self.out]
        return found.float() if self.rounded else found


class _Sums(_Layer):
    """A linear layer of one row as sums over the columns of its weights, added up in float32."""

    def __init__(self, weight: Tensor, bias: Tensor | None, precision: Precision) -> None:
        super().__init__()
        self.rounded = precision == "bf16"
        self.register_buffer("weight", weight.to(torch.bfloat16) if self.rounded else weight.clone())
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        """[1, in] -> [1, out], float32."""
        if self.rounded:
            x = x.to(torch.bfloat16).float()
        found = (self.weight.float() * x).sum(dim=1)
        return (found if self.bias is None else found + self.bias)[None]


def _move(module: GraphModule, device: torch.device) -> None:
    """Move weights, constants, and what the graph makes anew."""
    module.to(device)
    for node in module.graph.nodes:
        if "device" in node.kwargs:
            node.kwargs = {**node.kwargs, "device": device}
        node.args = tuple(device if isinstance(one, torch.device) else one for one in node.args)
        value = _value(module, node)
        if value is not None and value.device != device:  # a constant that is no buffer
            *path, name = str(node.target).split(".")
            setattr(module.get_submodule(".".join(path)), name, value.to(device))
