"""A network's program as a module on a GPU, its linear layers in the form that the GPU's products like."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node

from recsys.inference.backends import Precision
from recsys.inference.cuda.fused import constant, fuse
from recsys.inference.network import copied

__all__ = ["Form", "on_device"]

_COLUMNS: dict[Precision, int] = {"bf16": 8, "tf32": 4}
"""Tensor cores read rows that begin at multiples of 16 bytes; rows of 429 columns would be read one by one."""


Form = Literal["products", "sums", "fused"]
"""Of linear layers: calls of a library that is made for matrices; for a batch of one row, whose products read each
weight once, sums that a compiler fuses with what stands between them; or kernels of our own, with what follows them."""


def on_device(program: ExportedProgram, device: torch.device, precision: Precision, form: Form) -> GraphModule:
    """A copy of the program there.

    Args:
        program: On the CPU; it stays as it is.
        device: Where its weights go.
        precision: Of its linear layers; all between them stays float32.
        form: Of its linear layers.
    """
    module = copied(program).module(check_guards=False)
    assert isinstance(module, GraphModule)
    module._forward_pre_hooks.clear()  # they look at whether inputs fit
    if form == "fused":
        fuse(module, precision)
    for node in list(module.graph.nodes):
        if node.target is torch.ops.aten.linear.default and (form != "products" or precision in _COLUMNS):
            _replace(module, node, precision, form)
    module.graph.eliminate_dead_code()
    _move(module, device)
    module.recompile()
    module.requires_grad_(False)
    return module


def _replace(module: GraphModule, node: Node, precision: Precision, form: Form) -> None:
    """Put a layer with weights of its own in the place of a linear one, if its weights are weights."""
    x, *given = node.args
    weights = [constant(module, one) for one in given]
    if weights[0] is None or (len(given) > 1 and given[1] is not None and weights[1] is None):
        return
    weight, bias = weights[0], weights[1] if len(weights) > 1 else None
    rows = x.meta["val"].dim() == 2 if isinstance(x, Node) else False
    sums = rows and (form == "sums" or (form == "fused" and len(weight) == 1))
    layer = _Sums(weight, bias, precision) if sums else _Padded(weight, bias, precision)
    name = f"linear_of_{node.name}"
    module.add_submodule(name, layer)
    with module.graph.inserting_before(node):
        new = module.graph.call_module(name, (x,))
    new.meta["val"] = node.meta["val"]
    node.replace_all_uses_with(new)
    module.graph.erase_node(node)


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
    """A linear layer of one row, or to one column, as sums over the columns of its weights, added up in float32."""

    def __init__(self, weight: Tensor, bias: Tensor | None, precision: Precision) -> None:
        super().__init__()
        self.rounded = precision == "bf16"
        self.register_buffer("weight", weight.to(torch.bfloat16) if self.rounded else weight.clone())
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        """[1, in] -> [1, out] or [B, in] -> [B, 1], float32."""
        if self.rounded:
            x = x.to(torch.bfloat16).float()
        found = (self.weight.float() * x).sum(dim=1)
        return (found if self.bias is None else found + self.bias).view(-1, len(self.weight))


def _move(module: GraphModule, device: torch.device) -> None:
    """Move weights, constants, and what the graph makes anew."""
    module.to(device)
    for node in module.graph.nodes:
        if "device" in node.kwargs:
            node.kwargs = {**node.kwargs, "device": device}
        node.args = tuple(device if isinstance(one, torch.device) else one for one in node.args)
        value = constant(module, node)
        if value is not None and value.device != device:  # a constant that is no buffer
            *path, name = str(node.target).split(".")
            setattr(module.get_submodule(".".join(path)), name, value.to(device))
