"""Choose the back end for every batch size by measuring all that are here, once for a machine and a network."""

from __future__ import annotations

import contextlib
import importlib.metadata
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import torch
from pydantic import Field
from torch.export import ExportedProgram
from tqdm import tqdm

from recsys.config import Config
from recsys.errors import ConfigError, DataError, RecsysError
from recsys.files import read_json, write_json
from recsys.inference.backends import ENGINES, Backend, Engine, Precision, absent, cache_folder, discard, load
from recsys.inference.network import digest, eager, example

__all__ = ["SIZES", "Choice", "checked", "choose", "measured"]

Times = dict[Backend, float]

SIZES = (1, 8, 64, 512)
"""Batch sizes that are measured; a batch runs as the smallest of these that holds it does."""
_TOLERANCE: dict[Precision, float] = {"fp32": 1e-4, "bf16": 0.1, "int8": 0.5}
"""How far scores of normal inputs may be off, as a share of the largest: a coarse look for engines that are broken."""
_CHECKED = (1, 3, 8)
"""Rows of the batches that engines are looked at with."""
_DAY = 86_400
_SECONDS = 0.25
"""For each size and back end."""


class Choice:
    """The engines of a network by batch size.

    Attributes:
        engines: Those that are used, by the largest batch that each serves; ascending.
        us: Measured microseconds: batch size -> back end -> µs; empty where nothing was to choose.
        left: Why other back ends are not used, by their name.
    """

    def __init__(
        self, engines: Mapping[int, tuple[Backend, Engine]], us: Mapping[int, Times], left: Mapping[Backend, str]
    ) -> None:
        self.engines = dict(sorted(engines.items()))
        self.us, self.left = us, left

    def engine(self, size: int) -> Engine:
        """The engine for a batch of that many."""
        return self._found(size)[1]

    def backend(self, size: int) -> Backend:
        """Its name."""
        return self._found(size)[0]

    def _found(self, size: int) -> tuple[Backend, Engine]:
        found = [one for most, one in self.engines.items() if size <= most]
        return found[0] if found else next(reversed(self.engines.values()))


def choose(program: ExportedProgram, precision: Precision, most: int, show: bool = True) -> Choice:
    """The fastest back end for every size up to `most`; what was measured before is remembered.

    Raises:
        RecsysError: When no back end can run the network in that precision.
    """
    able, left = _able(precision)
    if not able:
        raise RecsysError(f"no back end can run a network as {precision} here: {'; '.join(left.values())}")
    try:
        memory = _memory(program, precision, most)
    except DataError as error:  # a folder that cannot be made, as in a container
        if "eager" not in able:
            raise
        engine = load("eager", precision, program)
        return Choice({most: ("eager", engine)}, {}, {**left, **dict.fromkeys(("aoti", "onnx"), str(error))})
    known = _remembered(memory, able, _sizes(most))
    if known is not None:
        with contextlib.suppress(Exception):  # what was built is gone and cannot be built again: see what can
            engines = {name: load(name, precision, program) for name in set(_best(known.us).values())}
            return _choice(engines, known.us, {**left, **known.failed})
    engines, failed = _loaded(able, program, precision, show)
    us = {size: _measure(engines, program, size) for size in _sizes(most)}
    with contextlib.suppress(DataError):  # a folder that is there and cannot be written to
        write_json(memory, _Memory(versions=_versions(), at=time.time(), failed=failed, us=us).model_dump(mode="json"))
    return _choice(engines, us, {**left, **failed})


def _choice(engines: Mapping[Backend, Engine], us: dict[int, Times], left: Mapping[Backend, str]) -> Choice:
    return Choice({size: (name, engines[name]) for size, name in _best(us).items()}, us, left)


def _best(us: Mapping[int, Times]) -> dict[int, Backend]:
    return {size: min(found, key=found.__getitem__) for size, found in us.items()}


def measured(program: ExportedProgram, precision: Precision, most: int) -> bool:
    """Whether `choose` has the answer ready."""
    try:
        return _remembered(_memory(program, precision, most), _able(precision)[0], _sizes(most)) is not None
    except DataError:
        return False


def _sizes(most: int) -> list[int]:
    return sorted({min(size, most) for size in SIZES})


def _able(precision: Precision) -> tuple[list[Backend], dict[Backend, str]]:
    """The back ends that can run here, and why others cannot."""
    backends = [backend for backend, kind in ENGINES if kind == precision]
    left = {name: reason for name in backends if (reason := absent(name, precision))}
    return [name for name in backends if name not in left], left


def _memory(program: ExportedProgram, precision: Precision, most: int) -> Path:
    return cache_folder() / f"{digest(program)[:32]}-{precision}-{most}.json"


class _Memory(Config):
    """What was measured: the contents of a file that anybody may have spoilt."""

    versions: dict[str, str]
    at: float = Field(gt=0)
    """Seconds since 1970."""
    failed: dict[Backend, str]
    us: dict[int, dict[Backend, Annotated[float, Field(gt=0)]]]


def _remembered(path: Path, backends: Sequence[Backend], sizes: Sequence[int]) -> _Memory | None:
    """What was measured before, if it was of these back ends, in these versions, and at these sizes.

    What failed is tried again after a day: a full disk is not for ever.
    """
    try:
        found = _Memory.model_validate(read_json(path))
    except (OSError, ValueError, RecursionError):  # pydantic's errors are of ValueError
        return None
    old = bool(found.failed) and abs(time.time() - found.at) > _DAY
    same = found.versions == _versions() and sorted(found.us) == list(sizes) and not old
    able = set(backends) - set(found.failed)
    whole = able and set(found.failed) <= set(backends) and all(set(row) == able for row in found.us.values())
    return found if same and whole else None


def _versions() -> dict[str, str]:
    """Of what is not in the name of the cache's folder."""
    try:
        return {"onnxruntime": importlib.metadata.version("onnxruntime")}
    except importlib.metadata.PackageNotFoundError:
        return {}


def _loaded(
    backends: Sequence[Backend], program: ExportedProgram, precision: Precision, show: bool
) -> tuple[dict[Backend, Engine], dict[Backend, str]]:
    """Engines, and why others failed."""
    engines: dict[Backend, Engine] = {}
    failed: dict[Backend, str] = {}
    bar = tqdm(backends, desc="build the network for this machine, once", disable=None if show else True)
    for name in bar:
        try:
            engines[name] = checked(name, precision, program)
        except Exception as error:  # a back end raises all kinds
            failed[name] = str(error) if isinstance(error, RecsysError) else f"{type(error).__name__}: {error}"[:300]
    if not engines:
        raise RecsysError(f"no back end runs this network as {precision}: {'; '.join(failed.values())}")
    return engines, failed


def checked(backend: Backend, precision: Precision, program: ExportedProgram) -> Engine:
    """An engine that gives the program's numbers, as near as its precision allows; of one that does not, nothing stays.

    Raises:
        MissingExtraError: When it cannot run here.
        ConfigError: When it cannot be built, or gives other numbers.
    """
    engine = load(backend, precision, program)
    off = max(_off(engine, program, size) for size in _CHECKED)
    if not off <= _TOLERANCE[precision]:
        with contextlib.suppress(DataError):
            discard(backend, precision, program)
        raise ConfigError(f"{backend} as {precision} gives other scores than eager torch, by {off:.2g}: use another")
    return engine


def _off(engine: Engine, program: ExportedProgram, size: int) -> float:
    """How far scores of normal inputs are off, as a share of the largest; infinite where only one is a number."""
    generator = torch.Generator().manual_seed(0)
    inputs = [
        torch.randn(one.shape, generator=generator) if one.is_floating_point() else torch.ones_like(one)
        for one in example(program, size)
    ]
    with torch.no_grad():
        expected = eager(program)(*inputs)
    out = torch.empty_like(expected)
    engine.bind(inputs, out)()
    finite = expected.isfinite()  # weights that are no numbers are said by `predict`
    if not torch.equal(out.isfinite(), finite):
        return math.inf
    off = torch.where(finite, out - expected, 0).abs().max()
    return float(off / torch.where(finite, expected, 0).abs().max().clamp(min=1))


def _measure(engines: Mapping[Backend, Engine], program: ExportedProgram, size: int) -> Times:
    """Median µs of each, interleaved."""
    inputs = example(program, size)
    with torch.no_grad():
        first = eager(program)(*inputs)
    runs = {name: engine.bind(inputs, torch.empty_like(first)) for name, engine in engines.items()}
    for run in runs.values():
        run()
    spent: dict[Backend, list[float]] = {name: [] for name in runs}
    until = time.perf_counter() + _SECONDS * len(runs)
    while time.perf_counter() < until or len(next(iter(spent.values()))) < 5:
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            spent[name].append(1e6 * (time.perf_counter() - start))
    return {name: round(statistics.median(found), 2) for name, found in spent.items()}
