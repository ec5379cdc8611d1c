"""Block shapes of the GPU's kernel: a small table of what was measured to be fastest, which a user can extend."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from recsys.config import Config
from recsys.dataflow.workload import Dtype
from recsys.errors import RecsysError
from recsys.files import read_json, write_json

__all__ = ["Blocks", "Measured", "Shapes", "cached", "remember"]


@dataclass(frozen=True)
class Shapes:
    """How a launch is cut into programs; all are powers of two.

    Attributes:
        short: Bags of a block of short bags or single ids.
        long: Bags of a block of long bags.
        lanes: Ids of a long bag that are read at a time.
        warps: Of a program: 32 threads each.
    """

    short: int
    long: int = 4
    lanes: int = 8
    warps: int = 4

    def scaled(self, factor: float) -> Shapes:
        """For rows that are so many times narrower."""
        short, long = (min(max(1, int(n * factor)), 256) for n in (self.short, self.long))
        return Shapes(short, long, self.lanes, self.warps)


@dataclass(frozen=True)
class Measured:
    """The shapes that were fastest for batches of up to so many."""

    dim: int
    dtype: Dtype
    single: bool
    batch: int
    shapes: Shapes


_TABLE = (
    Measured(16, "fp16", True, 65_536, Shapes(128, warps=4)),
    Measured(64, "fp16", True, 65_536, Shapes(32, warps=4)),
    Measured(64, "fp16", False, 1024, Shapes(16, 1, 16, 1)),
    Measured(64, "fp16", False, 8192, Shapes(8, 2, 4, 1)),
    Measured(64, "fp16", False, 65_536, Shapes(16, 16, 1, 2)),
    Measured(128, "fp16", False, 1024, Shapes(8, 1, 8, 1)),
    Measured(128, "fp16", False, 8192, Shapes(8, 4, 2, 2)),
    Measured(128, "fp16", False, 65_536, Shapes(8, 8, 1, 2)),
)
"""Of an H100, Zipf's and uniform ids of Criteo's and of MLPerf's tables. Of few bags the longest say how long it takes:
their ids are read side by side. Of many, a thread that holds few columns leaves room for more threads."""


class Blocks:
    """Shapes by dim, dtype, kind of bags and batch: of the nearest that was measured.

    Args:
        own: What the user measured; it comes before the table that recsys brings along.
    """

    def __init__(self, own: Sequence[Measured] = ()) -> None:
        self._own = tuple(own)
        self._fixed: Shapes | None = None

    @classmethod
    def measured(cls, device: torch.device) -> Blocks:
        """Those for a GPU: what was measured on such a one here, and the table."""
        return cls(cached(_name(device)))

    @classmethod
    def fixed(cls, shapes: Shapes) -> Blocks:
        """The same for everything."""
        found = cls()
        found._fixed = shapes
        return found

    def shapes(self, dim: int, dtype: Dtype, single: bool, batch: int) -> Shapes:
        """For a launch."""
        if self._fixed is not None:
            return self._fixed
        own = [one for one in self._own if (one.dim, one.dtype, one.single) == (dim, dtype, single)]
        known = own or [one for one in _TABLE if one.single == single]
        width = _width(dim)
        nearest = min(abs(math.log2(_width(one.dim) / width)) for one in known)
        alike = [one for one in known if abs(math.log2(_width(one.dim) / width)) == nearest]
        found = min((one for one in alike if one.batch >= batch), key=lambda one: one.batch, default=None)
        found = found or max(alike, key=lambda one: one.batch)
        return found.shapes.scaled(_width(found.dim) / width)


def _width(dim: int) -> int:
    return 1 << (dim - 1).bit_length()


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "Triton's interpreter"


class _Entry(Config):
    dim: int
    dtype: Dtype
    single: bool
    batch: int
    shapes: dict[str, int]


class _File(Config):
    gpus: dict[str, tuple[_Entry, ...]]


def _path() -> Path:
    from recsys.data.cache import root  # brings pyarrow along

    return root() / "gpu-blocks.json"


def cached(gpu: str) -> list[Measured]:
    """What was measured here on GPUs of that name; nothing where the file is absent or spoilt."""
    return [
        Measured(one.dim, one.dtype, one.single, one.batch, Shapes(**one.shapes)) for one in _read().gpus.get(gpu, ())
    ]


def _read() -> _File:
    try:
        found = _File.parse(read_json(_path()), str(_path()))
        for entries in found.gpus.values():
            for one in entries:
                _check(Shapes(**one.shapes))
    except (OSError, ValueError, TypeError, RecursionError, RecsysError):
        return _File(gpus={})
    return found


def _check(shapes: Shapes) -> None:
    """A spoilt file must not reach the compiler."""
    if any(not 1 <= n <= 256 or n & (n - 1) for n in asdict(shapes).values()) or shapes.warps > 16:
        raise ValueError(f"expected powers of two up to 256, got {shapes}")


def remember(gpu: str, measured: Sequence[Measured]) -> None:
    """Keep what was measured on GPUs of that name: the newest for each dim, dtype, kind of bags and batch.

    Raises:
        DataError: When the disk refuses.
    """
    file = _read()
    kept: dict[tuple[Any, ...], Measured] = {
        (one.dim, one.dtype, one.single, one.batch): one for one in [*cached(gpu), *measured]
    }
    gpus: dict[str, Any] = {name: [one.model_dump() for one in entries] for name, entries in file.gpus.items()}
    gpus[gpu] = [asdict(one) for one in kept.values()]
    write_json(_path(), {"gpus": gpus})
