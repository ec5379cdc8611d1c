"""The network of a model as a program of its own: from the look-ups' output to scores, without tables.

It is kept as `torch.export` keeps it (``.pt2``): a graph of torch's operators and raw weights. A file can be anybody's,
so what reading one would run is looked at first: a member that is not of the kind that `write` makes, such as a pickle,
an operator that our models' networks do not have, or an expression of a shape that is more than one, is refused. What
torch then reads is an archive made anew of the members that were looked at: two readers of one file may differ.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import Graph, GraphModule, Node

from recsys.errors import CheckpointError
from recsys.files import replacing

__all__ = ["check", "digest", "eager", "example", "flops", "half", "inputs", "load", "read", "tidied", "write"]

_MEMBERS = re.compile(
    r"[^/]+/(archive_format|archive_version|byteorder|\.data/(version|serialization_id)|models/model\.json"
    r"|data/weights/(weight_\d+|model_weights_config\.json)"
    r"|data/constants/(tensor_\d+|model_constants_config\.json)|data/sample_inputs/model\.pt)"
)
_OPERATORS = frozenset(
    f"torch.ops.aten.{name}"
    for name in (
        "_assert_tensor_metadata.default", "add.Tensor", "addcmul.default", "arange.default", "cat.default",
        "dropout.default", "expand_as.default", "flatten.using_ints", "index.Tensor", "index_put_.default",
        "linear.default", "lt.Tensor", "matmul.default", "mul.Tensor", "new_zeros.default", "relu.default",
        "select.int", "sigmoid.default", "slice.Tensor", "square.default", "stack.default", "sub.Tensor",
        "sum.dim_IntList", "sym_size.int", "to.dtype", "transpose.int", "unsqueeze.default", "view.default",
    )
)  # fmt: skip
"""What the networks of our models are made of; `index_put_` fills zeros that the graph itself has made."""
_EXPRESSION = re.compile(
    r"((Symbol|Integer|Mul|Add|Pow|Max|Min|FloorDiv|Mod)\(|'[su]\d+'|(positive|integer)=True|-?\d+|[(), ])*"
)


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
            trouble = next(_troubles(archive), None)
            content = None if trouble else _anew(archive)
    except (OSError, zipfile.BadZipFile, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not a network's file: {error}") from None
    if content is None:
        raise CheckpointError(f"{path}: {trouble}; a network is read as its models' operators and raw weights only")
    try:
        return load(content)
    except Exception as error:  # torch raises all kinds
        what = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise CheckpointError(f"{path}: torch {torch.__version__} cannot read this network: {what}") from None


def load(content: io.BytesIO | str) -> ExportedProgram:
    """A program that this process, or the one that called it, has written: nothing is looked at."""
    with warnings.catch_warnings():  # torch 2.11 warns of the buffers that it reads weights from
        warnings.simplefilter("ignore")
        return torch.export.load(content)


def _anew(archive: zipfile.ZipFile) -> io.BytesIO:
    """An archive of the same members and nothing else."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as made:
        for member in archive.infolist():
            made.writestr(member.filename, archive.read(member))
    content.seek(0)
    return content


def _troubles(archive: zipfile.ZipFile) -> Iterator[str]:
    """What in an archive is not as `write` makes it."""
    if len(set(archive.namelist())) < len(archive.namelist()):
        yield "holds two members of one name"
    for member in archive.infolist():
        name = member.filename.partition("/")[2]
        if member.compress_type != zipfile.ZIP_STORED:
            yield f"holds `{name}` compressed"
        if not _MEMBERS.fullmatch(member.filename):
            yield f"holds `{name}`"
        elif name.endswith(".pt") and member.file_size:
            yield f"holds pickled inputs, `{name}`"
        elif name.endswith("_config.json"):
            entries = json.loads(archive.read(member))["config"].values()
            if any(entry.get("use_pickle") is not False for entry in entries):
                yield f"holds pickled weights, by `{name}`"
        elif name.endswith("model.json"):
            yield from _graph_troubles(json.loads(archive.read(member)))


def _graph_troubles(graph: Any) -> Iterator[str]:
    """Operators and expressions that torch would look up or evaluate by their text."""
    if isinstance(graph, list):
        for item in graph:
            yield from _graph_troubles(item)
    if not isinstance(graph, dict):
        return
    for key, value in graph.items():
        if key == "target" and isinstance(value, str) and value not in _OPERATORS:
            yield f"has operator `{value[:80]}`"
        elif key == "expr_str" and not _EXPRESSION.fullmatch(str(value)):
            yield f"has expression `{str(value)[:80]}`"
        elif key == "guards_code" and value:
            yield "has code"
        else:
            yield from _graph_troubles(value)


def digest(program: ExportedProgram) -> str:
    """A checksum of all that a program computes: its operators and its weights."""
    found = hashlib.sha256(str(program.graph).encode())
    for name, value in sorted({**program.state_dict, **program.constants}.items()):
        found.update(name.encode())
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


def half(program: ExportedProgram) -> ExportedProgram:
    """The same program with bfloat16 matrix products of linear layers; all between them stays float32.

    Weights, inputs and outputs of a product have 8 bits of mantissa, its sums are float32.
    """
    program = load(_saved(program))  # a copy
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
    expected: list[tuple[torch.dtype, list[int | None]]] = [(torch.float32, [None, width])]
    for dim in sequences:
        expected += [(torch.float32, [None, None, dim]), (torch.int64, [None])]
    found = [(one.dtype, _sizes(one)) for one in inputs(program)]
    (last,) = (node for node in program.graph.nodes if node.op == "output")
    given = [node.meta["val"] for node in last.args[0]]
    told = [(one.dtype, _sizes(one)) for one in given]
    if found != expected or told != [(dtype, [None, tasks])]:
        raise CheckpointError(
            f"the network reads {found} and gives {told}, expected {expected} and {[(dtype, [None, tasks])]}"
        )


def _sizes(value: Tensor) -> list[int | None]:
    """None for lengths that vary."""
    return [n if isinstance(n, int) else None for n in value.shape]


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
