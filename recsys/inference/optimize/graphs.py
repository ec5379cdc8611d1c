"""Cut parts out of a graph, and read neighbouring columns of a buffer at once."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node

__all__ = ["Span", "above", "arguments", "extract", "merge", "sliced"]

_ATEN = torch.ops.aten
_END = 2**63 - 1
_SPLITS: tuple[Any, ...] = (_ATEN.split_with_sizes.default, _ATEN.split.Tensor)


def above(nodes: Iterable[Node], until: Iterable[Node] = ()) -> set[Node]:
    """These nodes and all that they are computed from, without what lies beyond `until`."""
    found, waiting, stop = set(), list(nodes), set(until)
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting += [] if node in stop else node.all_input_nodes
    return found


def extract(
    source: GraphModule, inputs: Sequence[Node], outputs: Sequence[Node], begin: Callable[[Graph], Mapping[Node, Node]]
) -> GraphModule:
    """The part of a graph that computes `outputs`, a tuple.

    Args:
        source: Stays as it is.
        inputs: Placeholders that it keeps, all of them and in this order.
        outputs: Nodes of `source`.
        begin: Writes what comes first, and says which nodes of `source` it stands for.
    """
    graph = Graph()
    env = dict(begin(graph))
    needed = above(outputs, env)
    for node in inputs:
        env[node] = graph.node_copy(node)
    for node in source.graph.nodes:
        if node in needed and node not in env:
            env[node] = graph.node_copy(node, env.__getitem__)
    graph.output(tuple(env[node] for node in outputs))
    return GraphModule(source, graph)


@dataclass(frozen=True)
class Span:
    """Columns [start, stop) of a tensor's last dimension, whose rank is that of the tensor."""

    base: Node
    start: int
    stop: int
    rank: int

    @property
    def width(self) -> int:
        """How many columns."""
        return self.stop - self.start

    def part(self, start: int, stop: int) -> Span:
        """Columns of these columns; negative ones count from the end, as in a slice."""
        first, last, _ = slice(start, stop).indices(self.width)
        return Span(self.base, self.start + first, self.start + max(first, last), self.rank)


def arguments(node: Node, *defaults: Any) -> tuple[Any, ...]:
    """A node's arguments; the last of `defaults` stand for those at the end that it leaves out."""
    given: tuple[Any, ...] = node.args
    return (*given, *defaults[len(given) - 1 :])


def sliced(node: Node) -> tuple[Any, ...] | None:
    """Source, dimension, start and stop of a slice without steps; None for what is none."""
    if node.target is not _ATEN.slice.Tensor:
        return None
    source, dim, start, stop, step = arguments(node, 0, 0, _END, 1)
    found = source, dim, start or 0, _END if stop is None else stop
    return found if step == 1 and all(isinstance(n, int) for n in found[1:]) else None


def span_of(node: Node, known: Mapping[Node, Span]) -> Span | None:
    """The columns that a node reads, if it is a slice or a piece of a split of what has known columns."""
    if node.target is operator.getitem:
        return _piece(node, known)
    words = sliced(node)
    source = known.get(words[0]) if words else None
    if words is None or source is None:
        return None
    _, dim, start, stop = words
    if dim % source.rank == source.rank - 1:
        return source.part(start, stop)
    return source if (start, stop) == (0, _END) else None


def _piece(node: Node, known: Mapping[Node, Span]) -> Span | None:
    """Of a split along the columns."""
    split, k = arguments(node)
    if not isinstance(split, Node) or split.target not in _SPLITS:
        return None
    whole, sizes, dim = arguments(split, None, 0)
    source = known.get(whole)
    if source is None or dim % source.rank != source.rank - 1:
        return None
    if isinstance(sizes, int):
        return source.part(k * sizes, (k + 1) * sizes)
    start = sum(sizes[:k])
    return source.part(start, start + sizes[k])


def merge(graph: Graph, known: Mapping[Node, Span]) -> None:
    """Where what lies side by side in a buffer is read in pieces and joined again, read it at once.

    Done for `cat` along the columns, and for rows that `stack` or `unsqueeze` and `cat` put below each other. ONNX
    Runtime would run every slice by itself: 26 of them take longer than a network of one row.
    """
    spans, rows = dict(known), {node: span for node, span in known.items() if _is_row(node, span)}
    for node in list(graph.nodes):
        span = span_of(node, spans)
        if span is not None:
            spans[node] = span
            if node.args[0] in rows:
                rows[node] = span
        elif node.target is _ATEN.unsqueeze.default:
            _unsqueezed(node, spans, rows)
        elif node.target is _ATEN.cat.default:
            _join(graph, node, spans, rows)
        elif node.target is _ATEN.stack.default:
            _stack(graph, node, spans)
    graph.eliminate_dead_code()


def _is_row(node: Node, span: Span) -> bool:
    """Whether it is [B, 1, columns]."""
    return span.rank == 3 and isinstance(node.meta["val"].shape[1], int) and node.meta["val"].shape[1] == 1


def _unsqueezed(node: Node, spans: Mapping[Node, Span], rows: dict[Node, Span]) -> None:
    source, dim = arguments(node)
    if source in spans and spans[source].rank == 2 and dim in (1, -2):
        rows[node] = spans[source]


def _join(graph: Graph, node: Node, spans: dict[Node, Span], rows: Mapping[Node, Span]) -> None:
    parts, dim = arguments(node, 0)
    ranks = {spans[one].rank for one in parts if one in spans}
    with graph.inserting_before(node):
        if ranks and dim in (-1, max(ranks) - 1):
            joined = [_read(graph, run, spans) for run in _runs(parts, spans, equal=False)]
        elif dim in (1, -2) and any(one in rows for one in parts):
            joined = [_read_rows(graph, run, rows) for run in _runs(parts, rows, equal=True)]
        else:
            return
    if len(joined) == 1:  # alone it needs no joining
        node.replace_all_uses_with(joined[0])
    else:
        node.args = (joined, dim)


def _stack(graph: Graph, node: Node, spans: Mapping[Node, Span]) -> None:
    """Rows [B, columns] below each other."""
    parts, dim = arguments(node, 0)
    flat = dim in (1, -2) and len(parts) > 1 and all(one in spans and spans[one].rank == 2 for one in parts)
    if flat and len(_runs(parts, spans, equal=True)) == 1:
        with graph.inserting_before(node):
            node.replace_all_uses_with(_read_rows(graph, parts, spans))


def _runs(parts: Sequence[Node], spans: Mapping[Node, Span], equal: bool) -> list[list[Node]]:
    """Neighbours that lie side by side, together; `equal`: and have as many columns."""
    found: list[list[Node]] = []
    for part in parts:
        here, before = spans.get(part), spans.get(found[-1][-1]) if found else None
        if (
            here
            and before
            and here.base is before.base
            and here.start == before.stop
            and (not equal or here.width == before.width)
        ):
            found[-1].append(part)
        else:
            found.append([part])
    return found


def _read(graph: Graph, run: Sequence[Node], spans: dict[Node, Span]) -> Node:
    """The columns of a run."""
    if len(run) == 1:
        return run[0]
    first, last = spans[run[0]], spans[run[-1]]
    if first.start == 0 and last.stop == first.base.meta["val"].shape[-1]:
        return first.base
    read = graph.call_function(_ATEN.slice.Tensor, (first.base, first.rank - 1, first.start, last.stop))
    spans[read] = Span(first.base, first.start, last.stop, first.rank)
    return read


def _read_rows(graph: Graph, run: Sequence[Node], rows: Mapping[Node, Span]) -> Node:
    """[B, run, columns]."""
    if len(run) == 1:
        return run[0]
    flat = _read(graph, run, dict(rows))
    return graph.call_function(_ATEN.reshape.default, (flat, [-1, len(run), rows[run[0]].width]))
