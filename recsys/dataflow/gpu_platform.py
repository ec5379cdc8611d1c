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

__all__ = ["KINDS", "Alone", "CpuReading", "Gathered", "GpuPlatform", "Kind", "Linked", "default_path", "find"]

Kind = Literal["one", "bag1", "bag4", "bag32"]
KINDS: dict[Kind, int] = {"one": 1, "bag1": 1, "bag4": 4, "bag32": 32}
"""How look-ups are measured, and ids in a bag of each: `one` without offsets, the others with."""


class Gathered(Config):
    """Rows of one kind read at random by a launch that fills the GPU, into an output that its caches hold.

    The output of float32 rows is float32, of others float16.
    """

    dtype: Dtype = "fp32"
    row_bytes: int = Field(ge=1)
    bags: int = Field(ge=1)
    """Of a look-up: a kernel has other block shapes for small batches than for large ones."""
    working_set: int = Field(ge=1)
    """Bytes that the ids fall on, all of them alike."""
    one_ns: float = Field(gt=0)
    """Nanoseconds of a bag, by kind: see `KINDS`."""
    bag1_ns: float = Field(gt=0)
    bag4_ns: float = Field(gt=0)
    bag32_ns: float = Field(gt=0)


class Alone(Config):
    """A launch in which one bag alone holds ids, among so many: what it waits for, since nothing is busy.

    A short bag can wait longer than a long one, of which many ids are read at a time.
    """

    dim: int = Field(ge=1)
    bags: int = Field(ge=1)
    near_us: Points = Field(min_length=1)
    """(ids, µs) on rows that the caches hold."""
    far_us: Points = Field(min_length=1)
    """The same on rows that no cache holds."""


class Linked(Config):
    """Rows in pinned host memory, read by the kernel.

    The more memory they are spread over, the fewer a second: the GPU remembers only so many pages' addresses.
    """

    row_bytes: int = Field(ge=1)
    region: int = Field(ge=1)
    """Bytes of host memory that the ids fall on, all of them alike."""
    ns: float = Field(gt=0)


class CpuReading(Config):
    """What look-ups of the CPU cost beside it, all cores together: bags of 32 ids on rows far from any cache."""

    cores: int = Field(ge=1)
    call_us: float = Field(gt=0)
    """Of a call that looks up next to nothing."""
    row_ns: Points = Field(min_length=1)
    """(row bytes, ns of an id)."""
    scan_ns: float = Field(default=0.2, gt=0)
    """ns of an id that is dropped, since the GPU has its row."""

    def ns(self, row_bytes: float) -> float:
        """Nanoseconds of an id."""
        return _line(self.row_ns, row_bytes)


class GpuPlatform(Config):
    """A measured GPU: times are of all of it, of the kernel of `recsys.dataflow.kernels.gpu` in captured graphs."""

    version: Literal[2] = 2
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
    slots_us: Points
    """(look-ups, µs of a launch of one single id of each), on rows that no cache holds."""
    host_latency_us: Points
    """(ids, µs of a launch of one bag of so many ids), on rows in pinned host memory."""
    copy_gbs: float = Field(gt=0)
    """Bytes a nanosecond that a copy reads and writes."""
    to_gpu_gbs: float = Field(gt=0)
    """Bytes a nanosecond over the link, from pinned memory."""
    to_host_gbs: float = Field(gt=0)
    shared_gbs: float | None = Field(default=None, gt=0)
    """Bytes a nanosecond gathered from shared memory by all processors."""
    remap_ns: float = Field(ge=0)
    """What an id costs more where its table lies on GPU and host, so that its place is looked up first."""
    remap_us: float = Field(ge=0)
    """The same of a single one: what it waits longer."""
    write_ns: Points
    """(bytes of an output, ns of a KiB of it), filled by single ids of tables that a cache holds, 128 bytes each."""
    alone: tuple[Alone, ...] = Field(min_length=1)
    host: tuple[Linked, ...]
    gather: tuple[Gathered, ...]
    cpu: CpuReading | None = None

    @model_validator(mode="after")
    def _complete(self) -> Self:
        for kind in {(one.dtype, one.bags) for one in self.gather} or {("fp32", 0)}:
            own = [one for one in self.gather if (one.dtype, one.bags) == kind]
            _refuse_gaps("gather", [(one.row_bytes, one.working_set) for one in own])
        if all(one.dtype != "fp32" for one in self.gather):
            raise ValueError("`gather` must hold readings of fp32 rows")
        _refuse_gaps("host", [(one.row_bytes, one.region) for one in self.host])
        for name in ("slots_us", "host_latency_us", "write_ns"):
            if not getattr(self, name):
                raise ValueError(f"`{name}` must not be empty")
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

    @cached_property
    def batches(self) -> list[int]:
        """Bags of a look-up of the readings, ascending."""
        return sorted({one.bags for one in self.gather})

    @cached_property
    def most_sets(self) -> int:
        """Bags of a look-up of those readings of float32 rows that have most working sets."""
        kept = {(one.bags, one.working_set) for one in self.gather if one.dtype == "fp32"}
        return max(self.batches, key=lambda bags: sum(one == bags for one, _ in kept))

    def bag_ns(self, kind: Kind, row_bytes: float, working_set: float, batch: int, dtype: Dtype = "fp32") -> float:
        """Nanoseconds of a bag: between row sizes straight, between sets by their logarithms, outside as at the edge.

        Rows larger than the largest cost in proportion. Of batches, the reading is that of the nearest by ratio. A
        dtype that was not measured counts as float32.
        """
        stored = dtype if any(key[0] == dtype for key in self._tables) else "fp32"
        bags = _nearest(sorted({key[1] for key in self._tables if key[0] == stored}), batch)
        sets, widths, table = self._tables[stored, bags, kind]
        at = [float(np.interp(np.log(max(working_set, 1.0)), np.log(sets), row)) for row in table]
        return _line(tuple(zip(widths, at, strict=True)), row_bytes)

    @cached_property
    def _tables(self) -> dict[tuple[Dtype, int, Kind], tuple[list[int], list[int], list[list[float]]]]:
        found: dict[tuple[Dtype, int, Kind], tuple[list[int], list[int], list[list[float]]]] = {}
        for dtype, bags in {(one.dtype, one.bags) for one in self.gather}:
            own = {(o.row_bytes, o.working_set): o for o in self.gather if (o.dtype, o.bags) == (dtype, bags)}
            widths, sets = sorted({width for width, _ in own}), sorted({size for _, size in own})
            for kind in KINDS:
                ns = [[float(getattr(own[w, size], f"{kind}_ns")) for size in sets] for w in widths]
                found[dtype, bags, kind] = sets, widths, ns
        return found

    def host_row_ns(self, row_bytes: float, region: float) -> float:
        """Nanoseconds of a row in pinned host memory, of which rows are read from so many bytes."""
        widths, regions = (sorted({getattr(one, name) for one in self.host}) for name in ("row_bytes", "region"))
        found = {(one.row_bytes, one.region): one.ns for one in self.host}
        log = np.log(max(region, 1.0))
        return _line(
            [(w, float(np.interp(log, np.log(regions), [found[w, r] for r in regions]))) for w in widths], row_bytes
        )

    def alone_us(self, ids: float, dim: int, batch: int, missed: float = 1.0) -> float:
        """Microseconds of a launch of one bag, of which it waits for the memory so often as `missed` says."""
        bags = _nearest(sorted({one.bags for one in self.alone}), batch)
        own = {one.dim: one for one in self.alone if one.bags == bags}
        one = own[_nearest(sorted(own), dim)]
        near, far = _waits(one.near_us, ids), _waits(one.far_us, ids)
        return near + missed * max(0.0, far - near)

    def host_us(self, ids: float) -> float:
        """The same of rows in pinned host memory."""
        return _waits(self.host_latency_us, ids)

    def launched_us(self, slots: int) -> float:
        """Microseconds of a launch of one single id of each of so many look-ups."""
        return _waits(self.slots_us, slots)

    def written(self, passed: float) -> float:
        """Share of an output that goes to the GPU's memory, where a batch goes through so many bytes."""
        sizes, ns = zip(*self.write_ns, strict=True)
        least = np.minimum.accumulate(ns[::-1])[::-1]  # small outputs pay for the launch's ends
        if least[-1] <= least[0]:
            return 0.0
        found = float(np.interp(np.log(max(passed, 1.0)), np.log(sizes), least))
        return (found - float(least[0])) / float(least[-1] - least[0])

    def toml(self) -> str:
        """The platform as TOML, a line for each quantity and each reading."""
        return compact_toml(self.model_dump(mode="json", exclude_none=True), ("alone", "host", "gather"))

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a GPU's TOML file.

        Raises:
            ConfigError: When it is absent or says what cannot be.
        """
        values = read_toml(path)
        if "gpu" not in values and "cpu" in values:
            raise ConfigError(f"{path}: this is a CPU's platform: measure a GPU with `recsys profile --device cuda`")
        if values.get("version", 2) != 2:
            raise ConfigError(
                f"{path}: expected version 2, got {values['version']!r}: measure again with `recsys profile`"
            )
        return cls.parse(values, str(path))


def _refuse_gaps(name: str, points: Sequence[tuple[int, int]]) -> None:
    """See that each of the first stands with each of the second, once."""
    if not points or not len(points) == len(set(points)) == len({a for a, _ in points}) * len({b for _, b in points}):
        second = "region" if name == "host" else "working set"
        raise ValueError(f"`{name}` must hold each row size with each {second} once, and at least one")


def _nearest(sizes: Sequence[int], wanted: float) -> int:
    """By their ratio; of two alike the larger."""
    return min(sizes, key=lambda size: (abs(np.log(size / max(wanted, 1))), -size))


def _waits(points: Sequence[tuple[int, float]], count: float) -> float:
    """Between points straight, before the first as there, behind the last on as from the first to it."""
    counts, us = [n for n, _ in points], [one for _, one in points]
    slope = (us[-1] - us[0]) / max(counts[-1] - counts[0], 1)
    return float(np.interp(count, counts, us)) + max(0.0, slope) * max(0.0, count - counts[-1])


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
