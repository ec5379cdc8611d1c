"""The network of a model as a program of its own: from the look-ups' output to scores, without tables.

It is kept as `torch.export` keeps it (``.pt2``): a graph of torch's operators and raw weights. A file can be anybody's,
and torch runs what stands in one: `recsys.inference.foreign` says what is read of it. What torch then reads is an
archive made anew of that: two readers of one file may differ.
"""

from __future__ import annotations

import hashlib
import io
import struct
import warnings
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from sympy import Expr, Symbol
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import Graph, GraphModule, Node

from recsys.errors import CheckpointError
from recsys.files import replacing
from recsys.inference.foreign import RefusedError, anew, worked_out

__all__ = [
    "check",
    "copied",
    "digest",
    "eager",
    "example",
    "flops",
    "half",
    "inputs",
    "load",
    "read",
    "tidied",
    "write",
]

_ONLY = "a network is read as its models' operators and raw weights only"


def tidied(program: ExportedProgram) -> ExportedProgram:
    """Without example inputs, which would be pickled, and without the paths of files that the model was made from."""
    program.example_inputs = None
    program._guards_code = []
    for module in program.graph_module.modules():
        for node in module.graph.nodes if isinstance(module, GraphModule) else ():
            node.meta.pop("stack_trace", None)
    return program


def write(program: ExportedProgram, path: Path) -> None:
    """Write a program as a ``.pt2``.

    Raises:
        DataError: When the disk refuses.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(_saved(program).getvalue())


def _saved(program: ExportedProgram) -> io.BytesIO:
    content = io.BytesIO()
    torch.export.save(program, content)
    content.seek(0)
    return content


def read(path: Path) -> ExportedProgram:
    """Read what `write` wrote.

    Raises:
        CheckpointError: When the file is none, holds what would be unpickled or run, or was made by a torch whose
            programs this one does not read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            content = anew(archive)
    except RefusedError as error:
        raise CheckpointError(f"{path}: {error}; {_ONLY}") from None
    except (OSError, zipfile.BadZipFile, ValueError, RuntimeError, EOFError, struct.error) as error:
        raise CheckpointError(f"{path}: not a network's file: {error}") from None
    try:
        return worked_out(load(content))
    except RefusedError as error:
        raise CheckpointError(f"{path}: {error}; {_ONLY}") from None
    except Exception as error:  # torch raises all kinds
        what = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise CheckpointError(f"{path}: torch {torch.__version__} cannot read this network: {what}") from None


def load(content: io.BytesIO | str) -> ExportedProgram:
    """A program that this process, or the one that called it, has written: nothing is looked at."""
    with warnings.catch_warnings():  # torch 2.11 warns of the buffers that it reads weights from
        warnings.simplefilter("ignore")
        return torch.export.load(content)


def digest(program: ExportedProgram) -> str:
    """A checksum of all that compiled code is made of: operators, inputs, lengths that vary and weights."""
    found = hashlib.sha256(str(program.graph).encode())
    names: dict[str, str] = {}
    for node in program.graph.nodes:
        if node.op == "placeholder":
            value = node.meta["val"]
            told = node.name, value.dtype, _lengths(value.shape, names), _lengths(value.stride(), names)
            found.update(str(told).encode())
    for spec in (*program.graph_signature.input_specs, *program.graph_signature.output_specs):
        found.update(str((spec.kind, spec.arg, spec.target)).encode())
    ranges = {names.get(str(one), ""): (str(of.lower), str(of.upper)) for one, of in program.range_constraints.items()}
    found.update(str(sorted(ranges.items())).encode())
    for name, value in sorted({**program.state_dict, **program.constants}.items()):
        found.update(str((name, value.dtype, *value.shape)).encode())
        found.update(value.detach().contiguous().flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()


def eager(program: ExportedProgram) -> Callable[..., Tensor]:
    """The program as a function, run operator by operator, without a look at whether inputs fit.

    Looking takes half as long again as a small network itself.
    """
    module = program.module(check_guards=False)
    module._forward_pre_hooks.clear()
    run: Callable[..., Tensor] = module.forward
    return run


def flops(program: ExportedProgram) -> float:
    """Floating-point operations of a row in linear layers: ``2 · Σ rows · columns`` of their weights."""
    layers = [node for node in program.graph.nodes if node.target is torch.ops.aten.linear.default]
    return 2.0 * sum(int(layer.args[1].meta["val"].numel()) for layer in layers)


def copied(program: ExportedProgram) -> ExportedProgram:
    """The same program with weights of its own."""
    return load(_saved(program))


def half(program: ExportedProgram) -> ExportedProgram:
    """The same program with bfloat16 matrix products of linear layers; all between them stays float32.

    Weights, inputs and outputs of a product have 8 bits of mantissa, its sums are float32.
    """
    program = copied(program)
    graph = program.graph_module.graph
    for node in list(graph.nodes):
        if node.target is torch.ops.aten.linear.default:
            _halve(graph, node)
    program.graph_module.recompile()
    return program


def _halve(graph: Graph, node: Node) -> None:
    with graph.inserting_before(node):
        node.args = tuple(None if one is None else _cast(graph, one, torch.bfloat16) for one in node.args)
    node.meta["val"] = node.meta["val"].to(torch.bfloat16)
    with graph.inserting_after(node):
        back = _cast(graph, node, torch.float32)
    node.replace_all_uses_with(back, delete_user_cb=lambda user: user is not back)


def _cast(graph: Graph, node: Any, dtype: torch.dtype) -> Node:
    cast = graph.call_function(torch.ops.aten.to.dtype, (node, dtype))
    cast.meta["val"] = node.meta["val"].to(dtype)
    return cast


def check(program: ExportedProgram, width: int, sequences: Sequence[int], tasks: int, dtype: torch.dtype) -> None:
    """Make sure that a program reads and gives what a session will hand it: engines are given addresses.

    Args:
        program: From x [B, width] and, for each of `sequences`, rows [B, L, dim] and lengths [B] to [B, tasks].
        width: Columns of x.
        sequences: Dims of the unpooled look-ups.
        tasks: Columns of what it gives.
        dtype: Of what it gives.

    Raises:
        CheckpointError: When it does not.
    """
    batch = "length 0"
    expected: list[tuple[torch.dtype, list[int | str]]] = [(torch.float32, [batch, width])]
    for k, dim in enumerate(sequences, 1):
        expected += [(torch.float32, [batch, f"length {k}", dim]), (torch.int64, [batch])]
    names: dict[str, str] = {}
    found = [(one.dtype, _lengths(one.shape, names)) for one in inputs(program)]
    (last,) = (node for node in program.graph.nodes if node.op == "output")
    given = [node.meta["val"] for node in last.args[0]]
    told = [(one.dtype, _lengths(one.shape, names)) for one in given]
    scores = [(dtype, [batch, tasks])]
    if found != expected or told != scores:
        raise CheckpointError(f"the network reads {found} and gives {told}, expected {expected} and {scores}")


def _lengths(sizes: Sequence[int | torch.SymInt], names: dict[str, str]) -> list[int | str]:
    """Sizes or strides; what varies gets names that are the same in each process, in the order of their appearance."""
    return [n if isinstance(n, int) else _length(n.node.expr, names) for n in sizes]


def _length(expression: Expr, names: dict[str, str]) -> str:
    for one in sorted(map(str, expression.free_symbols)):
        names.setdefault(one, f"length {len(names)}")
    return str(expression.xreplace({one: Symbol(names[str(one)]) for one in expression.free_symbols}))


def inputs(program: ExportedProgram) -> list[Tensor]:
    """Stand-ins for its inputs, which have their shapes and types."""
    names = program.graph_signature.user_inputs
    return [node.meta["val"] for node in program.graph.nodes if node.op == "placeholder" and node.name in names]


def example(program: ExportedProgram, size: int = 3) -> tuple[Tensor, ...]:
    """Inputs of zeros, `size` long in every length that may vary."""
    return tuple(
        torch.zeros([n if isinstance(n, int) else size for n in value.shape], dtype=value.dtype)
        for value in inputs(program)
    )
