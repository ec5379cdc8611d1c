"""Cut a traced model in two: what computes ids, and the network behind the look-ups, with buffers as its inputs."""

from __future__ import annotations

import operator
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram
from torch.fx import Graph, GraphModule, Node

from recsys.inference.network import tidied
from recsys.inference.optimize.graphs import Span, above, arguments, extract, merge, sliced
from recsys.inference.optimize.layout import Layout
from recsys.inference.optimize.shapes import Shape, hints, least, sizes
from recsys.inference.optimize.tracing import Call, Trace, UntraceableError, said

__all__ = ["Column", "Cut", "Place", "Where", "cut"]

_END = 2**63 - 1


@dataclass(frozen=True)
class Column:
    """A column of the input tensor at index `leaf`: [B], or [B, 1] if `flat` is False."""

    leaf: int
    at: int
    flat: bool


Where = int | Column
"""Index of a tensor, or a column of one."""


@dataclass(frozen=True)
class Place:
    """Where a call's rows go: columns from `column` on, of the buffer at index `buffer`."""

    buffer: int
    column: int


@dataclass(frozen=True)
class Cut:
    """A model in two parts.

    Attributes:
        ids: From the inputs' tensors to those that are neither among them nor columns of them; None if all are.
        asked: For each call, where its tensors are. Behind the inputs' tensors count those that `ids` gives.
        places: For each call, where its rows go.
        widths: Columns of each buffer.
        leaves: Indices of the inputs' tensors that the network reads beside the buffers.
        network: From buffers [*bags, columns] and these tensors to one float32 tensor.
        given: Shapes of the inputs' tensors, whoever reads them.
        inputs: Shapes of buffers and tensors.
        results: Shapes of what the model gives. Several results are flattened and joined by the network.
        layout: Of what the model gives.
        least: The least length that may vary: 2 where the graph does something else for 1.
        bags: Shapes of the buffers without their columns.
        conditions: What lengths must be for it to be the model's graph.
    """

    ids: GraphModule | None
    asked: tuple[tuple[Where, ...], ...]
    places: tuple[Place, ...]
    widths: tuple[int, ...]
    leaves: tuple[int, ...]
    network: ExportedProgram
    given: tuple[Shape, ...]
    inputs: tuple[Shape, ...]
    results: tuple[Shape, ...]
    layout: Layout
    least: int
    bags: tuple[Shape, ...]
    conditions: tuple[Any, ...]


def cut(found: Trace, calls: Sequence[Call], leaves: Sequence[Tensor]) -> Cut:
    """Cut a trace.

    Args:
        found: What was traced.
        calls: The calls of its look-ups.
        leaves: The tensors of the sample's inputs.

    Raises:
        UntraceableError: When ids depend on rows, or what it gives is not float32.
    """
    _check(found)
    ids, where = _ids(found)
    places, widths, bags = _places(found, calls)
    kept = [k for k, leaf in enumerate(found.leaves) if leaf in above(found.results)]
    begun = _Beginning(found, calls, places, widths, bags)
    module = begun.network([found.leaves[k] for k in kept])
    shapes = [
        *((*bag, width) for bag, width in zip(bags, widths, strict=True)),
        *(_shape(found.leaves[k]) for k in kept),
    ]
    samples = [
        *(torch.zeros(hints((*bag, width)), dtype=torch.float32) for bag, width in zip(bags, widths, strict=True)),
        *(leaves[k] for k in kept),
    ]
    program = _program(module, samples, shapes)
    return Cut(
        ids,
        tuple(tuple(where[node] for node in nodes) for nodes in found.asked),
        tuple(places),
        tuple(widths),
        tuple(kept),
        program,
        tuple(map(_shape, found.leaves)),
        tuple(shapes),
        tuple(map(_shape, found.results)),
        found.layout,
        least(program),
        tuple(bags),
        found.conditions,
    )


def _check(found: Trace) -> None:
    if above(node for nodes in found.asked for node in nodes) & set(found.outs):
        raise UntraceableError("some of its ids depend on what was looked up before")
    if not found.results:
        raise UntraceableError("it gives no tensor")
    odd = next((node for node in found.results if node.meta["val"].dtype is not torch.float32), None)
    if odd is not None:
        raise UntraceableError(f"it gives {odd.meta['val'].dtype}, and not float32 alone")


def _shape(node: Node) -> Shape:
    return sizes(node.meta["val"])


def _ids(found: Trace) -> tuple[GraphModule | None, dict[Node, Where]]:
    """What computes the tensors that are not inputs, and where each of them is found."""
    asked = [node for nodes in found.asked for node in nodes]
    where: dict[Node, Where] = {leaf: k for k, leaf in enumerate(found.leaves)}
    where |= {node: column for node in asked if (column := _column(node, found)) is not None}
    computed = [node for node in dict.fromkeys(asked) if node not in where]
    where |= {node: len(found.leaves) + k for k, node in enumerate(computed)}
    if not computed:
        return None, where
    return extract(found.graph, found.leaves, computed, lambda graph: {}), where


def _column(node: Node, found: Trace) -> Column | None:
    """Which column of which input a node is, if it is one."""
    rank, at = node.meta["val"].dim(), None
    if node.target is torch.ops.aten.unsqueeze.default and arguments(node)[1] in (1, -1):
        node = arguments(node)[0]
    while node not in found.leaves:
        step = _step(node)
        if step is None or (at is not None and step[1] is not None):
            return None
        node, at = step[0], at if step[1] is None else step[1]
    if at is None or at < 0 or node.meta["val"].dim() != 2 or rank > 2:
        return None
    return Column(found.leaves.index(node), at, rank == 1)


def _step(node: Node) -> tuple[Node, int | None] | None:
    """What a node takes one column of (None: all of it), and which; None where it does something else."""
    aten = torch.ops.aten
    if node.target is operator.getitem:
        pieces, k = arguments(node)
        source, *how = arguments(pieces)
        alone = [pieces.target, *how] in ([aten.unbind.int, 1], [aten.split.Tensor, 1, 1])
        return (source, k) if alone else None
    if node.target is aten.select.int:
        source, dim, at = arguments(node)
        return (source, at) if dim == 1 and isinstance(at, int) else None
    words = sliced(node) or ()
    if words[1:] == (0, 0, _END):
        return words[0], None
    return (words[0], words[2]) if words and words[1] == 1 and words[3] == words[2] + 1 else None


def _places(found: Trace, calls: Sequence[Call]) -> tuple[list[Place], list[int], list[Shape]]:
    """A buffer for each shape of bags; calls fill columns side by side, in order."""
    places: list[Place] = []
    widths: list[int] = []
    bags: list[Shape] = []
    known: dict[tuple[str, ...], int] = {}
    for node, call in zip(found.outs, calls, strict=True):
        shape = _shape(node)[:-1]
        k = known.setdefault(tuple(map(str, shape)), len(bags))
        if k == len(bags):
            bags.append(shape)
            widths.append(0)
        places.append(Place(k, widths[k]))
        widths[k] += call.width
    return places, widths, bags


@dataclass(frozen=True)
class _Beginning:
    """Buffers in the place of what calls give."""

    found: Trace
    calls: Sequence[Call]
    places: Sequence[Place]
    widths: Sequence[int]
    bags: Sequence[Shape]

    def network(self, leaves: Sequence[Node]) -> GraphModule:
        """From buffers and inputs to what the model gives."""
        module = extract(self.found.graph, leaves, self.found.results, self._begin)
        buffers = [node for node in module.graph.nodes if node.op == "placeholder"][: len(self.widths)]
        spans = {node: Span(node, 0, node.meta["val"].shape[-1], node.meta["val"].dim()) for node in buffers}
        merge(module.graph, spans)
        _join(module.graph)
        module.recompile()
        return module

    def _begin(self, graph: Graph) -> Mapping[Node, Node]:
        buffers = []
        for k, (bag, width) in enumerate(zip(self.bags, self.widths, strict=True)):
            node = graph.placeholder(f"rows_{k}")
            node.meta["val"] = torch.empty(hints((*bag, width)), dtype=torch.float32, device="meta")
            buffers.append(node)
        return {node: self._columns(graph, buffers, k) for k, node in enumerate(self.found.outs)}

    def _columns(self, graph: Graph, buffers: Sequence[Node], k: int) -> Node:
        place, width = self.places[k], self.calls[k].width
        buffer = buffers[place.buffer]
        if width == self.widths[place.buffer]:
            return buffer
        words = (buffer, len(self.bags[place.buffer]), place.column, place.column + width)
        return graph.call_function(torch.ops.aten.slice.Tensor, words)


def _join(graph: Graph) -> None:
    """One result, and not a tuple: engines give one tensor."""
    output = graph.output_node()
    (results,) = output.args
    assert isinstance(results, tuple)
    if len(results) == 1:
        output.args = results
        return
    aten = torch.ops.aten
    with graph.inserting_before(output):
        flat = [graph.call_function(aten.reshape.default, (one, [-1])) for one in results]
        output.args = (graph.call_function(aten.cat.default, (flat,)),)


def _program(module: GraphModule, samples: Sequence[Tensor], shapes: Sequence[Shape]) -> ExportedProgram:
    """Exported again, for batches from one row on; where one row is a case of its own, from two on."""
    symbols = {str(n): n for shape in shapes for n in shape if not isinstance(n, int)}
    if not all(n.node.expr.is_symbol for n in symbols.values()):
        raise UntraceableError("a length of its inputs is given by others")
    names = {name: Dim(f"n{k}", min=1) for k, name in enumerate(symbols)}
    tries: list[Mapping[str, Any]] = [names, dict.fromkeys(names, Dim.AUTO)]
    for k, dims in enumerate(tries):
        dynamic = [{i: dims[str(n)] for i, n in enumerate(shape) if not isinstance(n, int)} for shape in shapes]
        try:
            with torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return tidied(torch.export.export(module, tuple(samples), dynamic_shapes=tuple(dynamic), strict=False))
        except Exception as error:  # torch raises all kinds
            if k:
                raise UntraceableError(f"torch.export refuses its network: {said(error)}") from None
    raise AssertionError
