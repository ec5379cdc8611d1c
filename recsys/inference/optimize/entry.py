"""Optimise a model: place its tables, compile its network, and check that it gives what it gave."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from recsys.config import Config
from recsys.errors import ConfigError, DataError
from recsys.inference.backends import Backend, Precision, load
from recsys.inference.choice import SIZES, Choice, choose
from recsys.inference.optimize.compiled import Compiled
from recsys.inference.optimize.cutting import cut
from recsys.inference.optimize.finding import find, place, placed
from recsys.inference.optimize.groups import grouped
from recsys.inference.optimize.layout import Layout, layout
from recsys.inference.optimize.report import Report
from recsys.inference.optimize.sites import Site, Switch
from recsys.inference.optimize.tracing import Call, Recording, UntraceableError, playing, trace

__all__ = ["OptimizeConfig", "OptimizedModule", "optimize"]


class OptimizeConfig(Config):
    """How a model is optimised."""

    backend: Literal["auto"] | Backend = "auto"
    """What runs the network; by default what is fastest here for each batch size, measured once."""
    precision: Precision = "fp32"
    """Of the network's matrix products. Nothing checks what others than fp32 do to the scores."""
    cores: int = Field(default=1, ge=0)
    """Among which look-ups may be shared out, where `recsys profile` has measured the machine; 0: one gathers all."""


class OptimizedModule:
    """A model whose look-ups and network run where they are fastest; call it as the model is called.

    Inputs that are not as the sample was (another type, a length that the model fixed) run module by module, with
    look-ups in the place of its embedding modules; so does everything where the network could not be compiled. Any
    number of threads may call it at once. It is for inference: results have no gradients, and what is changed in the
    model afterwards, such as weights, is not seen.

    Attributes:
        report: What was done.
        apart: How many calls ran module by module so far, though the network is compiled.
    """

    def __init__(
        self, module: nn.Module, sites: Sequence[Site], compiled: Compiled | None, names: Sequence[str], report: Report
    ) -> None:
        self.report, self.apart = report, 0
        self._module, self._sites, self._compiled, self._names = module, tuple(sites), compiled, tuple(names)
        self._lock = threading.Lock()
        self._closed = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the model gives.

        Raises:
            ConfigError: After `revert` or `close`.
        """
        if self._closed:
            raise ConfigError("this model was put back as it was: optimise it again with recsys.optimize")
        compiled = self._compiled
        with torch.no_grad():
            if compiled is not None:
                found = compiled.run(*_positional(self._names, args, kwargs))
                if found is not None:
                    return found[0]
                with self._lock:
                    self.apart += 1
            return self._module(*args, **kwargs)

    def revert(self) -> nn.Module:
        """Put the model back as it was and return it; the copies of its tables are given back."""
        self._closed = True
        _remove(self._sites)
        self._sites, self._compiled = (), None
        return self._module

    def close(self) -> None:
        """The same as `revert`. Closing twice does nothing."""
        self.revert()

    def __enter__(self) -> OptimizedModule:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def optimize(
    module: nn.Module, sample: tuple[Any, ...] | Mapping[str, Any], config: OptimizeConfig | None = None
) -> OptimizedModule:
    """Make a model of yours fast: its embedding modules look up as ours do, and its network is compiled.

    `nn.Embedding`, `nn.EmbeddingBag` and torchrec's `EmbeddingBagCollection`, float or quantised, are replaced in
    place: the rows are copied to huge pages, and the modules call our kernels. The model's Python is then traced once,
    so that all look-ups of a batch become one call, and the rest a graph without tables for the back end that is
    measured fastest. Scores are the model's own. What could not be done stays as it was, and the report says why.

    Args:
        module: In evaluation mode.
        sample: Arguments of a call, as a tuple or as a dict of keywords, of 2 rows or more. Look-ups are planned from
            its ids: real ones, and many, tell most.
        config: By default, `OptimizeConfig()`.

    Raises:
        ConfigError: When the model is in training mode, its tables do not fit into memory twice, or the back end that
            was asked for cannot run its network.
        DataError: When the sample is no such thing.
        MissingExtraError: When the back end that was asked for is not installed.
    """
    if any(one.training for one in module.modules()):
        raise ConfigError("the model is in training mode, which would stay in its graph: call .eval() on it first")
    args, kwargs = _sample(sample)
    names = _parameters(module)
    switch = Switch()
    sites, left = find(module, switch)
    for site in sites:
        site.module.forward = site.forward
    try:
        return _Work(module, sites, switch, config or OptimizeConfig()).run(
            *_positional(names, args, kwargs), names, left
        )
    except BaseException:
        _remove(sites)
        raise


def _remove(sites: Sequence[Site]) -> None:
    for site in sites:
        vars(site.module).pop("forward", None)


def _sample(sample: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if isinstance(sample, tuple):
        return sample, {}
    if isinstance(sample, Mapping) and all(isinstance(name, str) for name in sample):
        return (), dict(sample)
    kind = type(sample).__name__
    raise DataError(f"expected the sample as a tuple of arguments or a dict of keywords, got a {kind}: write (x,)")


def _parameters(module: nn.Module) -> list[str]:
    """Names of the parameters that may be given by position."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    return [name for name, one in inspect.signature(module.forward).parameters.items() if one.kind in kinds]


def _positional(
    names: Sequence[str], args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The same call, with what may be given by position given so."""
    if not kwargs:
        return args, {}
    left, first = dict(kwargs), []
    for name in names[len(args) :]:
        if name not in left:
            break
        first.append(left.pop(name))
    return (*args, *first), left


class _Work:
    """One model on its way."""

    def __init__(self, module: nn.Module, sites: Sequence[Site], switch: Switch, config: OptimizeConfig) -> None:
        self.module, self.sites, self.switch, self.config = module, sites, switch, config
        self.plans: list[str] = []

    def run(
        self, args: tuple[Any, ...], kwargs: Mapping[str, Any], names: Sequence[str], left: Sequence[Any]
    ) -> OptimizedModule:
        leaves: list[Tensor] = []
        given = layout((args, kwargs), "the sample", leaves)
        tape = Recording()
        with playing(self.switch, tape), torch.no_grad():
            expected = self.module(*args, **kwargs)
        _check_rows(leaves, tape.calls)
        storage = place(self.sites)
        reason = ""
        compiled: Compiled | None = None
        try:
            if tape.odd:
                raise UntraceableError(f"the sample asks `{tape.odd}` what look-ups cannot do")
            compiled = self._compiled(given, leaves, tape.calls)
            self._compare(compiled, args, kwargs, expected)
        except UntraceableError as error:
            reason, compiled, self.plans = str(error), None, ["not planned, one core gathers all"]
        report = Report(
            tuple(placed(self.sites)),
            tuple(left),
            storage.pages,
            "; ".join(dict.fromkeys(self.plans)),
            len(tape.calls) if compiled is None else len(self.plans),
            reason,
            *(({}, {}, {}) if compiled is None else _chosen(compiled.choice)),
        )
        return OptimizedModule(self.module, self.sites, compiled, names, report)

    def _compiled(self, given: Layout, leaves: Sequence[Tensor], calls: Sequence[Call]) -> Compiled:
        parts = cut(trace(self.module, given, leaves, calls, self.switch), calls, leaves)
        with torch.no_grad():
            tensors = leaves if parts.ids is None else [*leaves, *parts.ids(*leaves)]
        groups = grouped(parts, calls, tensors, self.config.cores)
        self.plans = [group.plan for group in groups]
        return Compiled(given, parts, groups, self._choice(parts.network))

    def _choice(self, program: Any) -> Choice:
        backend, precision, most = self.config.backend, self.config.precision, SIZES[-1]
        if backend == "auto":
            return choose(program, precision, most)
        return Choice({most: (backend, load(backend, precision, program))}, {}, {})

    def _compare(self, compiled: Compiled, args: tuple[Any, ...], kwargs: Mapping[str, Any], expected: Any) -> None:
        """Make sure that the sample's scores are as they were."""
        with torch.no_grad():
            found = compiled.run(args, kwargs)
        if found is None:
            raise UntraceableError("the sample does not fit its own graph")
        ours: list[Tensor] = []
        theirs: list[Tensor] = []
        layout(found[0], "the result", ours), layout(expected, "the result", theirs)
        exact = self.config.precision == "fp32"
        for one, other in zip(ours, theirs, strict=True):
            off = float((one - other).abs().max()) if one.numel() else 0.0
            if exact and not off <= _TOLERANCE * max(1.0, float(other.abs().max())):
                raise UntraceableError(f"its graph gives other scores, by up to {off:.2g}")


_TOLERANCE = 1e-5
"""Of scores, of which the largest is 1 or below; larger ones may be off in proportion."""


def _chosen(choice: Choice) -> tuple[dict[int, Backend], Any, Any]:
    return {most: name for most, (name, _) in choice.engines.items()}, choice.us, choice.left


def _check_rows(leaves: Sequence[Tensor], calls: Sequence[Call]) -> None:
    rows = [call.ask.bags[0] for call in calls if call.ask.bags] or [one.shape[0] for one in leaves if one.dim()]
    if rows and max(rows) < 2:
        raise DataError(
            f"the sample has {max(rows)} rows: give 2 or more, so that it shows what varies with their number"
        )
