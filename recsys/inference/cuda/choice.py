"""Choose what runs a network on a GPU for every batch size, by measuring, once for a GPU and a network."""

from __future__ import annotations

import contextlib
import re
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.export import ExportedProgram
from tqdm import tqdm

from recsys.config import Config
from recsys.errors import ConfigError, DataError, RecsysError
from recsys.files import read_json, write_json
from recsys.inference.backends import Backend, Engine, Precision, cache_folder
from recsys.inference.choice import Choice
from recsys.inference.cuda.engines import GPU_ENGINES
from recsys.inference.cuda.lane import Lane
from recsys.inference.cuda.rows import network_input
from recsys.inference.network import digest, eager, example
from recsys.layers.tables import InputLayout

__all__ = ["choose"]

_SIZES = (1, 8, 64, 512, 2048)
"""Batch sizes that are measured beside the largest; a batch runs as the smallest of these that holds it does."""
_TOLERANCE: dict[Precision, float] = {"fp32": 1e-4, "tf32": 0.02, "bf16": 0.1}
"""How far scores of normal inputs may be off, as a share of the largest: a coarse look for engines that are broken."""
_SECONDS = 0.05
"""For each size and back end."""
_REPLAYS = 10
"""In a row, so that the processor's part is not what is measured."""
_DAY = 86_400


def choose(
    program: ExportedProgram,
    layout: InputLayout,
    precision: Precision,
    most: int,
    device: torch.device,
    backend: Literal["auto"] | Backend = "auto",
    show: bool = True,
) -> Choice:
    """The fastest back end for every size up to `most`, or the one that is named; what was measured is remembered.

    Networks that read unpooled sequences are run by eager torch: lengths differ from batch to batch, and so would what
    is compiled.

    Raises:
        RecsysError: When no back end runs the network, or the one that is named does not.
    """
    if layout.sequences or backend != "auto":
        name: Backend = backend if backend != "auto" else "eager"
        return Choice({most: (name, _checked(name, program, layout, precision, device))}, {}, {})
    sizes = sorted({min(size, most) for size in (*_SIZES, most)})
    memory = _memory(program, precision, most, device)
    known = None if memory is None else _remembered(memory, sizes)
    if known is not None:
        with contextlib.suppress(RecsysError):  # it does not compile any more: see what does
            best = set(_best(known.us).values())
            engines = {name: _checked(name, program, layout, precision, device) for name in best}
            return _choice(engines, known.us, known.failed)
    engines, failed = _engines(program, layout, precision, device, show)
    bar = tqdm(sizes[::-1], desc=f"measure the network on the GPU as {precision}, once", disable=None if show else True)
    us = {size: _measured(engines, layout, program, precision, size, device) for size in bar}
    if memory is not None:
        with contextlib.suppress(DataError):  # a folder that is there and cannot be written to
            write_json(memory, _Memory(at=time.time(), failed=failed, us=us).model_dump(mode="json"))
    return _choice(engines, us, failed)


def _choice(
    engines: Mapping[Backend, Engine], us: Mapping[int, dict[Backend, float]], left: Mapping[Backend, str]
) -> Choice:
    return Choice({size: (name, engines[name]) for size, name in _best(us).items()}, dict(sorted(us.items())), left)


def _best(us: Mapping[int, Mapping[Backend, float]]) -> dict[int, Backend]:
    return {size: min(found, key=found.__getitem__) for size, found in us.items()}


class _Memory(Config):
    """What was measured: the contents of a file that anybody may have spoilt."""

    at: float = Field(gt=0)
    """Seconds since 1970."""
    failed: dict[Backend, str]
    us: dict[int, dict[Backend, Annotated[float, Field(gt=0)]]]


def _memory(program: ExportedProgram, precision: Precision, most: int, device: torch.device) -> Path | None:
    """Where it is remembered, by network, precision and GPU; None where nothing can be."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    gpu = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    try:
        return cache_folder() / f"{digest(program)[:32]}-{precision}-{most}-{gpu}.json"
    except DataError:
        return None


def _remembered(path: Path, sizes: Sequence[int]) -> _Memory | None:
    """What was measured before at these sizes, if it is whole. What failed is tried again after a day."""
    try:
        found = _Memory.model_validate(read_json(path))
    except (OSError, ValueError, RecursionError):
        return None
    able = set(GPU_ENGINES) - set(found.failed)
    old = bool(found.failed) and abs(time.time() - found.at) > _DAY
    whole = able and sorted(found.us) == list(sizes) and all(set(row) == able for row in found.us.values())
    return found if whole and not old else None


def _engines(
    program: ExportedProgram, layout: InputLayout, precision: Precision, device: torch.device, show: bool
) -> tuple[dict[Backend, Engine], dict[Backend, str]]:
    """Those that run the network, and why others do not."""
    engines: dict[Backend, Engine] = {}
    failed: dict[Backend, str] = {}
    bar = tqdm(GPU_ENGINES, desc=f"compile the network for the GPU as {precision}", disable=None if show else True)
    for name in bar:
        try:
            engines[name] = _checked(name, program, layout, precision, device)
        except RecsysError as error:
            failed[name] = str(error)
    if not engines:
        raise ConfigError(f"no back end runs this network on {device}: {'; '.join(failed.values())}")
    return engines, failed


def _checked(
    backend: Backend, program: ExportedProgram, layout: InputLayout, precision: Precision, device: torch.device
) -> Engine:
    """An engine that gives the program's numbers, as near as its precision allows.

    Raises:
        ConfigError: When it cannot be made, or gives other numbers.
    """
    try:
        engine = GPU_ENGINES[backend](program, precision, device)
        off = max(_off(engine, program, layout, precision, size, device) for size in (64, 1))
    except Exception as error:  # a compiler raises all kinds
        told = " ".join(str(error).split())[:300]
        raise ConfigError(f"{backend} does not run this network on {device}: {type(error).__name__}: {told}") from None
    if not off <= _TOLERANCE[precision]:
        raise ConfigError(f"{backend} as {precision} gives other numbers on {device}, off by {off:.2g} of the largest")
    return engine


def _off(
    engine: Engine,
    program: ExportedProgram,
    layout: InputLayout,
    precision: Precision,
    size: int,
    device: torch.device,
) -> float:
    """How far scores of normal inputs are off, as a share of the largest, where these are numbers."""
    generator = torch.Generator().manual_seed(0)
    inputs = [
        torch.randn(one.shape, generator=generator) if one.is_floating_point() else torch.ones_like(one)
        for one in example(program, size)
    ]
    with torch.no_grad():
        expected = eager(program)(*inputs)
    out = _run(engine, inputs, layout, precision, torch.empty_like(expected, device=device)).cpu()
    finite = expected.isfinite()
    if not torch.equal(out.isfinite(), finite):
        return float("inf")
    off = torch.where(finite, out - expected, 0).abs().max()
    return float(off / torch.where(finite, expected, 0).abs().max().clamp(min=1))


def _run(engine: Engine, inputs: list[Tensor], layout: InputLayout, precision: Precision, out: Tensor) -> Tensor:
    """What an engine gives of inputs on the CPU, as sessions give it x: with columns left out beside it."""
    x = network_input(len(out), layout, out.device)
    x.copy_(inputs[0])
    lane = Lane(out.device, precision)
    lane.run(lane.captured(engine.bind([x, *(one.to(out.device) for one in inputs[1:])], out)))
    lane.wait()
    return out


def _measured(
    engines: Mapping[Backend, Engine],
    layout: InputLayout,
    program: ExportedProgram,
    precision: Precision,
    size: int,
    device: torch.device,
) -> dict[Backend, float]:
    """Median µs of each, of graphs that run one after the other."""
    x = network_input(size, layout, device)
    with torch.no_grad():
        first = eager(program)(torch.zeros(1, layout.width))
    out = torch.zeros(size, first.shape[1], dtype=first.dtype, device=device)
    lane = Lane(device, precision)
    runs = {name: lane.captured(engine.bind([x], out)) for name, engine in engines.items()}
    spent: dict[Backend, list[float]] = {name: [] for name in runs}
    until = time.perf_counter() + _SECONDS * len(runs)
    while time.perf_counter() < until or len(next(iter(spent.values()))) < 3:
        for name, run in runs.items():
            start = time.perf_counter()
            for _ in range(_REPLAYS):
                lane.run(run)
            lane.wait()
            spent[name].append(1e6 * (time.perf_counter() - start) / _REPLAYS)
    return {name: round(statistics.median(found), 2) for name, found in spent.items()}
