"""A GPU as it was measured: what its look-ups cost, in a file that people can read and edit."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal, Self

import numpy as np
from pydantic import Field, model_validator

from recsys.config import Config, compact_toml, nearest, read_toml
from recsys.dataflow.platform import Points
from recsys.dataflow.workload import Dtype
from recsys.errors import ConfigError
from recsys.shelves import shelf

__all__ = ["KINDS", "CpuReading", "Gathered", "GpuPlatform", "Kind", "default_path", "find"]

Kind = Literal["one", "bag1", "bag4", "bag32"]
KINDS: dict[Kind, int] = {"one": 1, "bag1": 1, "bag4": 4, "bag32": 32}
"""How look-ups are measured, and ids in a bag of each: `one` without offsets, the others with."""


class Gathered(Config):
    """Rows of one size read at random by a launch that fills the GPU, into an output that its caches hold."""

    row_bytes: int = Field(ge=1)
    working_set: int = Field(ge=1)
    """Bytes that the ids fall on, all of them alike."""
    one_ns: float = Field(gt=0)
    """Nanoseconds of a bag, by kind: see `KINDS`."""
    bag1_ns: float = Field(gt=0)
    bag4_ns: float = Field(gt=0)
    bag32_ns: float = Field(gt=0)


class CpuReading(Config):
    """What look-ups of the CPU cost beside it, all cores together: bags of 32 ids on rows far from any cache."""

    cores: int = Field(ge=1)
    call_us: float = Field(gt=0)
    """Of a call that looks up next to nothing."""
    row_ns: Points = Field(min_length=1)
    """(row bytes, ns of an id)."""

    def ns(self, row_bytes: float) -> float:
        """Nanoseconds of an id."""
        return _line(self.row_ns, row_bytes)


class GpuPlatform(Config):
    """A measured GPU: times are of all of it, of the kernel of `recsys.dataflow.kernels.gpu` in captured graphs."""

    version: Literal[1] = 1
    gpu: str
    """Its name."""
    memory: int = Field(ge=1)
    """Bytes of it."""
    processors: int = Field(ge=1)
    """Streaming multiprocessors."""
    l2: int = Field(ge=0)
    """Bytes of the second cache."""
    shared: int = Field(ge=0)
    """Bytes of shared memory of a processor."""
    driver: str = ""
    torch: str = ""
    seconds: float = 0.0
    """How long it took to measure."""
    spread: float = 0.0
    """Median over all readings of (slowest - fastest) / median."""
    launch_us: float = Field(gt=0)
    """A launch without a graph, by the clock of the CPU."""
    replay_us: float = Field(gt=0)
    """A graph that does next to nothing, replayed again and again."""
    kernel_us: float = Field(gt=0)
    """What a further kernel that does next to nothing adds to a graph."""
    latency_us: Points
    """(ids, µs of a launch of one bag of so many ids on rows that no cache holds)."""
    host_latency_us: Points
    """The same on rows in pinned host memory."""
    copy_gbs: float = Field(gt=0)
    """Bytes a nanosecond that a copy reads and writes."""
    to_gpu_gbs: float = Field(gt=0)
    """Bytes a nanosecond over the link, from pinned memory."""
    to_host_gbs: float = Field(gt=0)
    shared_gbs: float | None = Field(default=None, gt=0)
    """Bytes a nanosecond gathered from shared memory by all processors."""
    host_ns: Points
    """(row bytes, ns of a row read from pinned host memory by the kernel)."""
    remap_ns: float = Field(ge=0)
    """What an id costs more where its table lies on GPU and host, so that its place is looked up first."""
    remap_us: float = Field(ge=0)
    """The same of a single one: what it waits longer."""
    dtype_cost: dict[Dtype, float]
    """Time of a row that the caches hold ÷ that of a float32 row of as many columns."""
    write_ns: Points
    """(bytes of an output, ns of a KiB of it), filled by single ids of a table that a cache holds."""
    gather: tuple[Gathered, ...]
    cpu: CpuReading | None = None

    @model_validator(mode="after")
    def _complete(self) -> Self:
        points = [(one.row_bytes, one.working_set) for one in self.gather]
        sizes, sets = {a for a, _ in points}, {b for _, b in points}
        if not points or not len(points) == len(set(points)) == len(sizes) * len(sets):
            raise ValueError("`gather` must hold each row size with each working set once, and at least one")
        for name in ("latency_us", "host_latency_us", "host_ns", "write_ns"):
            if not getattr(self, name):
                raise ValueError(f"`{name}` must not be empty")
        if "fp32" not in self.dtype_cost or min(self.dtype_cost.values()) <= 0:
            raise ValueError("`dtype_cost` must hold times above 0, that of fp32 among them")
        return self

    @property
    def fingerprint(self) -> str:
        """Short hash of what the GPU is, not of what was measured."""
        facts = f"{self.gpu}|{self.memory >> 30}|{self.processors}"
        return hashlib.sha256(facts.encode()).hexdigest()[:12]

    @cached_property
    def sets(self) -> list[int]:
        """Working sets of the readings, ascending."""
        return sorted({one.working_set for one in self.gather})

    def bag_ns(self, kind: Kind, row_bytes: float, working_set: float) -> float:
        """Nanoseconds of a bag: between row sizes straight, between sets by their logarithms, outside as at the edge.

        Rows larger than the largest cost in proportion.
        """
        widths, table = self._tables[kind]
        at = [float(np.interp(np.log(max(working_set, 1.0)), np.log(self.sets), row)) for row in table]
        return _line(tuple(zip(widths, at, strict=True)), row_bytes)

    @cached_property
    def _tables(self) -> dict[Kind, tuple[list[int], list[list[float]]]]:
        widths = sorted({one.row_bytes for one in self.gather})
        found = {(one.row_bytes, one.working_set): one for one in self.gather}
        return {
            kind: (widths, [[getattr(found[w, size], f"{kind}_ns") for size in self.sets] for w in widths])
            for kind in KINDS
        }

    def host_row_ns(self, row_bytes: float) -> float:
        """Nanoseconds of a row in pinned host memory."""
        return _line(self.host_ns, row_bytes)

    def alone_us(self, ids: float, host: bool = False) -> float:
        """Microseconds of a launch of one bag: what it waits for, since nothing is busy."""
        points = self.host_latency_us if host else self.latency_us
        counts, us = [n for n, _ in points], [one for _, one in points]
        slope = (us[-1] - us[0]) / max(counts[-1] - counts[0], 1)
        return float(np.interp(ids, counts, us)) + max(0.0, slope) * max(0.0, ids - counts[-1])

    def filled_ns(self, output: float) -> float:
        """Nanoseconds of a KiB of an output of so many bytes, filled from a table that a cache holds."""
        sizes, ns = zip(*self.write_ns, strict=True)
        return float(np.interp(np.log(max(output, 1.0)), np.log(sizes), ns))

    def toml(self) -> str:
        """The platform as TOML, a line for each quantity and each reading."""
        return compact_toml(self.model_dump(mode="json", exclude_none=True), ("gather",))

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a GPU's TOML file.

        Raises:
            ConfigError: When it is absent or says what cannot be.
        """
        values = read_toml(path)
        if "gpu" not in values and "cpu" in values:
            raise ConfigError(f"{path}: this is a CPU's platform: measure a GPU with `recsys profile --device cuda`")
        if values.get("version", 1) != 1:
            raise ConfigError(
                f"{path}: expected version 1, got {values['version']!r}: measure again with `recsys profile`"
            )
        return cls.parse(values, str(path))


def _line(points: Sequence[tuple[int, float]], row_bytes: float) -> float:
    """Between points straight, before the first as there, behind the last in proportion."""
    widths, ns = [width for width, _ in points], [one for _, one in points]
    return float(np.interp(row_bytes, widths, ns)) * max(1.0, row_bytes / widths[-1])


def default_path() -> Path:
    """Where `recsys profile --device cuda` writes and `recsys plan --device cuda` looks."""
    from recsys.data.cache import root  # brings pyarrow along, which a plan does not need

    return root() / "gpu.toml"


def find(name: str | Path | None = None) -> GpuPlatform:
    """The GPU that the user names, by file or as one that recsys brings along, or what was measured here.

    Raises:
        ConfigError: When there is none.
    """
    if name is None:
        path = default_path()
        if not path.is_file():
            raise ConfigError(
                "no GPU has been measured here: run `recsys profile --device cuda`, or name a file with --platform"
            )
        return GpuPlatform.read(path)
    path, folder = Path(name), shelf("dataflow") / "gpus"
    known = sorted(one.stem for one in folder.glob("*.toml"))
    if path.is_file() or path.suffix or path.name != str(path):
        return GpuPlatform.read(path)
    if path.name not in known:
        raise ConfigError(f"no such GPU as `{path}`: {nearest(path.name, known)}")
    return GpuPlatform.read(folder / f"{path}.toml")
