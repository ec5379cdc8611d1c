"""Run a model's Python once more, without its look-ups: what they are asked, and what is done with what they give.

`torch.export` traces it with what each look-up gives as an input of its own, so that the graph knows nothing of tables:
what leads from the model's inputs to ids can be told from what leads from rows to scores.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.fx import GraphModule, Node
from torch.fx.experimental import _config as fx_config

from recsys.errors import RecsysError
from recsys.inference.optimize.graphs import arguments
from recsys.inference.optimize.layout import Layout, layout
from recsys.inference.optimize.shapes import conditions
from recsys.inference.optimize.sites import Ask, Site, Switch, Tape

__all__ = ["Call", "Recording", "Trace", "UntraceableError", "playing", "trace"]


class UntraceableError(Exception):
    """Why a model cannot be taken apart: it then runs module by module."""


@dataclass(frozen=True)
class Call:
    """A call of an embedding module."""

    site: Site
    ask: Ask

    @property
    def width(self) -> int:
        """Columns of what it gives."""
        return sum(self.site.dims)


@dataclass
class Recording:
    """Lets modules answer by themselves, and keeps what they were asked.

    Attributes:
        calls: In order.
        odd: The first module that was asked what look-ups cannot do.
    """

    calls: list[Call] = field(default_factory=list)
    odd: str = ""

    def play(self, site: Site, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """What the module gives."""
        ask = site.ask(*args, **kwargs)
        if ask is None:
            self.odd = self.odd or site.name
        else:
            self.calls.append(Call(site, ask))
        return site.original(*args, **kwargs)


@dataclass
class _Playing:
    """Answers with what was prepared for each call, in the order that was recorded."""

    calls: Sequence[Call]
    outs: Sequence[Tensor]
    asks: list[Ask] = field(default_factory=list)

    def play(self, site: Site, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        k = len(self.asks)
        ask = site.ask(*args, **kwargs)
        if ask is None or k >= len(self.calls) or self.calls[k].site is not site or self.calls[k].ask.form != ask.form:
            raise UntraceableError(f"`{site.name}` is called differently from time to time")
        self.asks.append(ask)
        return site.give(ask, self.outs[k])


@contextmanager
def playing(switch: Switch, tape: Tape) -> Iterator[None]:
    """Within it a tape plays on this thread."""
    before, switch.tape = switch.tape, tape
    try:
        yield
    finally:
        switch.tape = before


@dataclass(frozen=True)
class Trace:
    """A model's graph.

    Attributes:
        graph: Its placeholders are the inputs' tensors, then what the calls give.
        leaves: The placeholders of inputs.
        outs: The placeholders of what calls give, [*bags, columns].
        results: The nodes of what the model gives.
        asked: For each call the nodes of its tensors.
        layout: Of what the model gives.
        conditions: What its Python asked of lengths and found true, of their symbols.
    """

    graph: GraphModule
    leaves: tuple[Node, ...]
    outs: tuple[Node, ...]
    results: tuple[Node, ...]
    asked: tuple[tuple[Node, ...], ...]
    layout: Layout
    conditions: tuple[Any, ...]


@dataclass
class _Seen:
    """What a trace met; in an object of its own, since torch puts a module's attributes back after tracing."""

    layout: Layout | None = None
    calls: int = 0


class _Bare(nn.Module):
    """The model as a function of the tensors of its inputs and of what its calls give."""

    def __init__(self, model: nn.Module, given: Layout, calls: Sequence[Call], switch: Switch) -> None:
        super().__init__()
        self.model = model
        self._kept = given, calls, switch
        self.seen = _Seen()

    def forward(self, leaves: list[Tensor], outs: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        given, calls, switch = self._kept
        args, kwargs = given.make(leaves)
        tape = _Playing(calls, outs)
        with playing(switch, tape):
            value = self.model(*args, **kwargs)
        results: list[Tensor] = []
        self.seen.layout, self.seen.calls = layout(value, "the result", results), len(tape.asks)
        return results, [one for ask in tape.asks for one in ask.tensors]


def trace(model: nn.Module, given: Layout, leaves: Sequence[Tensor], calls: Sequence[Call], switch: Switch) -> Trace:
    """The graph of a model; any length of an input may vary unless the model fixes it, or it is 0 or 1 in the sample.

    Raises:
        UntraceableError: With the reason.
    """
    outs = [torch.zeros(*call.ask.bags, call.width, dtype=torch.float32) for call in calls]
    bare = _Bare(model, given, calls, switch)
    program, asked = _exported(bare, list(leaves), outs)
    signature = program.graph_signature
    if signature.buffers_to_mutate or signature.parameters_to_mutate or signature.user_inputs_to_mutate:
        raise UntraceableError("it changes its weights or its inputs")
    if bare.seen.calls != len(calls) or bare.seen.layout is None:
        raise UntraceableError("it looks up differently from time to time")
    graph = program.module(check_guards=False)
    return _taken_apart(graph, bare.seen.layout, len(leaves), calls, asked)


def _exported(bare: _Bare, leaves: list[Tensor], outs: list[Tensor]) -> tuple[Any, tuple[Any, ...]]:
    """The program, and what it asked of lengths.

    Torch takes a length that may vary to be neither 0 nor 1, and notes no question about that, but where it is told to
    be `oblivious` of it. Some models cannot be traced so; torch 2.11 cannot slice a dimension that varies.
    """
    tries = ((True, None), (True, 1), (False, None))
    for oblivious, most in tries:
        dims = [[_varying(x.shape[:most]) for x in leaves], [_varying(x.shape[:-1][:most]) for x in outs]]
        try:
            return _once(bare, (leaves, outs), dims, oblivious)
        except UntraceableError:
            raise
        except RecsysError as error:
            raise UntraceableError(str(error)) from None
        except Exception as error:  # torch raises all kinds
            if not oblivious:
                raise UntraceableError(f"torch.export refuses it: {said(error)}") from None
    raise AssertionError


def _varying(shape: Sequence[int]) -> dict[int, Any]:
    return {k: Dim.AUTO if n > 1 else Dim.STATIC for k, n in enumerate(shape)}


def _once(bare: _Bare, inputs: Any, dims: Any, oblivious: bool) -> tuple[Any, tuple[Any, ...]]:
    noted = fx_config.patch(backed_size_oblivious=oblivious)  # type: ignore[attr-defined]
    with torch.no_grad(), noted, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(bare, inputs, dynamic_shapes=dims, strict=False)
        asked = conditions(program, least=0 if oblivious else 2)
        # What changes tensors in place would be lost where the graph is cut: written without, if need be.
        return program.run_decompositions({}) if any(map(_mutates, program.graph.nodes)) else program, asked


def _mutates(node: Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and bool(schema.is_mutable)


def said(error: BaseException) -> str:
    """The first line of an error, in short."""
    line = next((line for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {line.strip()}"[:300]


def _taken_apart(
    graph: GraphModule, found: Layout, leaves: int, calls: Sequence[Call], asked_of_lengths: tuple[Any, ...]
) -> Trace:
    inputs = [node for node in graph.graph.nodes if node.op == "placeholder"]
    (given,) = arguments(graph.graph.output_node())
    outputs = list(given)
    counts = [len(call.ask.tensors) for call in calls]
    first = len(outputs) - sum(counts)
    asked, at = [], first
    for count in counts:
        asked.append(tuple(outputs[at : at + count]))
        at += count
    if not all(isinstance(node, Node) for node in outputs):
        raise UntraceableError("some of what it gives depends on no input")
    return Trace(
        graph,
        tuple(inputs[:leaves]),
        tuple(inputs[leaves:]),
        tuple(outputs[:first]),
        tuple(asked),
        found,
        asked_of_lengths,
    )
