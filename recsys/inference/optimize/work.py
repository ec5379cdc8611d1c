"""The steps of an optimisation: place tables, compile the network, and check that the scores are what they were."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.export import ExportedProgram

from recsys.config import Config
from recsys.errors import DataError, RecsysError
from recsys.inference.backends import Backend, Precision, load
from recsys.inference.choice import SIZES, Choice, choose
from recsys.inference.optimize.compiled import Compiled
from recsys.inference.optimize.cutting import Cut, cut
from recsys.inference.optimize.finding import place, placed
from recsys.inference.optimize.groups import Group, grouped
from recsys.inference.optimize.layout import Layout, layout
from recsys.inference.optimize.report import Left, Report
from recsys.inference.optimize.sites import Site, Switch
from recsys.inference.optimize.tracing import Call, Recording, UntraceableError, playing, said, trace

__all__ = ["OptimizeConfig", "Work"]

_TOLERANCE = 1e-5
"""Of scores, of which the largest is 1 or below; larger ones may be off in proportion."""
_MOST = SIZES[-1]
"""Largest batch that is measured: larger ones run as it does."""

_HEAVY = 1 << 30
"""Bytes of a network's weights from which on nothing is compiled of itself: there are tables among them, which were
left as they were."""


class OptimizeConfig(Config):
    """How a model is optimised."""

    backend: Literal["auto"] | Backend = "auto"
    """What runs the network; by default what is fastest here for each batch size, measured once."""
    precision: Precision = "fp32"
    """Of the network's matrix products. Nothing checks what others than fp32 do to the scores."""
    cores: int = Field(default=1, ge=0)
    """Among which look-ups may be shared out, where `recsys profile` has measured the machine; 0: one gathers all."""


class Work:
    """An optimisation of one model, whose sites stand in the place of its forwards."""

    def __init__(self, module: nn.Module, sites: Sequence[Site], switch: Switch, config: OptimizeConfig) -> None:
        self.module, self.sites, self.switch, self.config = module, sites, switch, config

    def do(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], left: Sequence[Left]
    ) -> tuple[Compiled | None, Report]:
        """All steps; no `Compiled` where the model runs module by module."""
        leaves: list[Tensor] = []
        given = layout((args, kwargs), "the sample", leaves)
        tape = Recording()
        with playing(self.switch, tape), torch.no_grad():
            expected = self.module(*args, **kwargs)
        _check_rows(leaves, tape.calls)
        storage = place(self.sites)
        about = tuple(placed(self.sites)), tuple(left), storage.pages
        try:
            self._check_look_ups((args, kwargs), expected)
            if tape.odd:
                raise UntraceableError(f"the sample asks `{tape.odd}` what look-ups cannot do")
            parts = cut(trace(self.module, given, leaves, tape.calls, self.switch), tape.calls, leaves)
            groups = self._groups(parts, tape.calls, leaves)
            compiled = self._compiled(given, parts, groups, (args, kwargs), expected)
        except UntraceableError as error:
            return None, Report(*about, "not planned, one core gathers all", len(tape.calls), str(error))
        plans = "; ".join(dict.fromkeys(group.plan for group in groups))
        choice = compiled.choice
        backends = {most: name for most, (name, _) in choice.engines.items()}
        return compiled, Report(*about, plans, len(groups), "", backends, choice.us, choice.left)

    def _check_look_ups(self, call: tuple[Any, Any], expected: Any) -> None:
        """Module by module, with look-ups in their places, the model gives what it gave.

        Raises:
            UntraceableError: When it gives something else each time, whoever looks up.
            RecsysError: When look-ups give other rows.
        """
        with torch.no_grad():
            off = _off(self.module(*call[0], **call[1]), expected)
            if off <= 1:
                return
            with playing(self.switch, Recording()):
                again = _off(self.module(*call[0], **call[1]), expected)
        if not again <= 1:
            raise UntraceableError("it gives something else each time")
        raise RecsysError(
            f"look-ups give other rows than its modules: scores are off by {off:.2g} times what is allowed"
        )

    def _groups(self, parts: Cut, calls: Sequence[Call], leaves: Sequence[Tensor]) -> list[Group]:
        with torch.no_grad():
            tensors = leaves if parts.ids is None else [*leaves, *parts.ids(*leaves)]
        return grouped(parts, calls, tensors, self.config.cores)

    def _compiled(
        self, given: Layout, parts: Cut, groups: Sequence[Group], call: tuple[Any, Any], expected: Any
    ) -> Compiled:
        """On back ends that give the sample's scores."""
        choice = self._choice(parts.network)
        compiled = Compiled(given, parts, groups, choice)
        wrong = self._wrong(compiled, call, expected)
        if not wrong:
            return compiled
        if self.config.backend != "auto" or "eager" in wrong:
            raise UntraceableError(next(iter(wrong.values())))
        compiled = Compiled(given, parts, groups, self._eager(parts.network, {**choice.left, **wrong}))
        for why in self._wrong(compiled, call, expected).values():
            raise UntraceableError(why)
        return compiled

    def _choice(self, program: ExportedProgram) -> Choice:
        backend, precision = self.config.backend, self.config.precision
        if backend != "auto":
            return Choice({_MOST: (backend, load(backend, precision, program))}, {}, {})
        weights = sum(one.nbytes for one in program.state_dict.values())
        if weights > _HEAVY:
            why = f"the network holds {weights:,} bytes of weights, and what is compiled would hold them again"
            return self._eager(program, dict.fromkeys(("aoti", "onnx"), why))
        try:
            return choose(program, precision, _MOST)
        except RecsysError:
            raise
        except Exception as error:  # compilers raise all kinds of foreign graphs
            return self._eager(program, dict.fromkeys(("aoti", "onnx"), said(error)))

    def _eager(self, program: ExportedProgram, left: Mapping[Backend, str]) -> Choice:
        return Choice({_MOST: ("eager", load("eager", self.config.precision, program))}, {}, left)

    def _wrong(self, compiled: Compiled, call: tuple[Any, Any], expected: Any) -> dict[Backend, str]:
        """Why back ends cannot be used, by their name: with fp32 those that give other scores."""
        found = dict(compiled.each(*call))
        if not found:
            raise UntraceableError("the sample does not fit its own graph")
        off = {name: _off(one, expected) for name, one in found.items()}
        exact = self.config.precision == "fp32"
        return {
            name: f"its graph gives other scores, by {n:.2g} times what is allowed"
            for name, n in off.items()
            if exact and not n <= 1
        }


def _off(found: Any, expected: Any) -> float:
    """How far results are off, as a multiple of what they may be."""
    ours: list[Tensor] = []
    theirs: list[Tensor] = []
    try:
        layout(found, "the result", ours), layout(expected, "the result", theirs)
    except DataError:  # a KeyedTensor, say, which no graph gives
        return 0.0
    return max((_apart(one, other) for one, other in zip(ours, theirs, strict=True)), default=0.0)


def _apart(one: Tensor, other: Tensor) -> float:
    if one.shape != other.shape:
        return float("inf")
    one, other = one.double(), other.double()
    same = (one == other) | (one.isnan() & other.isnan())  # infinities have no difference
    if bool(same.all()):
        return 0.0
    largest = float(torch.where(other.isfinite(), other, 0).abs().max())
    return float(torch.where(same, 0, one - other).abs().max()) / (_TOLERANCE * max(1.0, largest))


def _check_rows(leaves: Sequence[Tensor], calls: Sequence[Call]) -> None:
    rows = [call.ask.bags[0] for call in calls if call.ask.bags] or [one.shape[0] for one in leaves if one.dim()]
    if rows and max(rows) < 2:
        raise DataError(
            f"the sample has {max(rows)} rows: give 2 or more, so that it shows what varies with their number"
        )
