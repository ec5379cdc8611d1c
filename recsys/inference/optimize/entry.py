"""Optimise a model in place, and put it back."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from recsys.errors import ConfigError, DataError
from recsys.inference.optimize.compiled import Compiled
from recsys.inference.optimize.finding import find
from recsys.inference.optimize.report import Report
from recsys.inference.optimize.sites import Site, Switch
from recsys.inference.optimize.work import OptimizeConfig, Work

__all__ = ["OptimizedModule", "optimize"]


_ALONE = threading.Lock()
"""Torch traces one model at a time."""


class OptimizedModule:
    """A model whose look-ups and network run where they are fastest; call it as the model is called.

    Inputs that are not as the sample was (another type, a length that the model fixed) run module by module, with
    look-ups in the place of its embedding modules; so does everything where the network could not be compiled. Any
    number of threads may call it at once; the network of a call runs on one. It is for inference: results have no
    gradients, what is changed in the model afterwards, such as weights, is not seen, and hooks that only watch are not
    called where the network is compiled. Under autocast everything runs module by module.

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
                given = _positional(self._names, args, kwargs)
                found = None if torch.is_autocast_enabled("cpu") else compiled.run(*given)
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
    Tracing changes how all of torch's modules are called: let no other thread call one meanwhile.

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
    with _ALONE, torch.inference_mode(False):
        sites, left = find(module, switch)
        for site in sites:
            site.module.forward = site.forward
        try:
            work = Work(module, sites, switch, config or OptimizeConfig())
            compiled, report = work.do(*_positional(names, args, kwargs), left)
        except BaseException:
            _remove(sites)
            raise
    return OptimizedModule(module, sites, compiled, names, report)


def _remove(sites: Sequence[Site]) -> None:
    for site in sites:
        if getattr(vars(site.module).get("forward"), "__self__", None) is site:  # nobody has replaced it since
            del site.module.forward


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
