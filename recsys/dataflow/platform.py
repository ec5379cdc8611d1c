"""A platform: what a machine's look-ups were measured to cost, in a file that people can read and edit."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal, Self, get_args

import numpy as np
import numpy.typing as npt
from pydantic import AfterValidator, Field, model_validator

from recsys.config import Config, compact_toml, nearest, read_toml
from recsys.dataflow.workload import Dtype
from recsys.errors import ConfigError
from recsys.machine import read_machine
from recsys.shelves import shelf

__all__ = ["Core", "Pages", "Platform", "Reading", "Written", "default_path", "here", "read_cores"]

Pages = Literal["huge", "4k"]

_CPUS = Path("/sys/devices/system/cpu")
_NODES = Path("/sys/devices/system/node")


def _ascending(points: tuple[tuple[int, float], ...]) -> tuple[tuple[int, float], ...]:
    if any(a >= b for (a, _), (b, _) in pairwise(points)):
        raise ValueError(f"sizes must ascend, got {[size for size, _ in points]}")
    return points


Points = Annotated[
    tuple[tuple[Annotated[int, Field(ge=1)], Annotated[float, Field(ge=0)]], ...], AfterValidator(_ascending)
]
"""(size, what was measured there), ascending."""


class Core(Config):
    """A CPU as the system numbers it, and what it shares with others."""

    cpu: int
    core: int = 0
    """CPUs of one core are its hardware threads (SMT)."""
    node: int = 0
    """The memory node (NUMA) that is near."""
    l1: int = Field(default=32 << 10, ge=1)
    l2: int = Field(default=1 << 20, ge=1)
    l3: int = Field(default=32 << 20, ge=1)
    """Bytes of the data caches; that of the second level is taken to be private."""
    l3_cpus: int = Field(default=1, ge=1)
    """How many CPUs share the third one."""


class Reading(Config):
    """Rows of one size read at random from a working set, by one core."""

    row_bytes: int = Field(ge=1)
    working_set: int = Field(ge=1)
    """Bytes that the ids fall on, all of them alike."""
    pages: Pages = "huge"
    one_ns: float = Field(gt=0)
    """Nanoseconds of a bag of one id, written to a place in the nearest cache."""
    more_ns: float = Field(gt=0)
    """Nanoseconds of an id of a long bag."""


class Written(Config):
    """What it costs to write a pooled row where so much was read and written since, over the nearest cache."""

    row_bytes: int = Field(ge=1)
    output: int = Field(ge=1)
    one_ns: float = Field(ge=0)
    """Of single ids, which go from look-up to look-up."""
    more_ns: float = Field(ge=0)
    """Of bags, which go look-up by look-up."""


class Platform(Config):
    """A measured machine. Times are of one core unless said; ns are of one id or one bag."""

    version: Literal[2] = 2
    cpu: str
    isa: str
    """The instruction set of the kernels that were measured."""
    cores: tuple[Core, ...]
    seconds: float = 0.0
    """How long it took to measure."""
    spread: float = 0.0
    """Median over all readings of (largest - smallest) / lower quartile, over the passes."""
    call_us: float = Field(gt=0)
    """A call of the executor that looks up next to nothing."""
    lookup_us: float = Field(ge=0)
    """What each further look-up adds to a call."""
    wake_us: Points = ()
    """(cores, µs that sharing a batch out among them adds), of threads that slept."""
    crowd: tuple[tuple[int, int, float], ...] = ()
    """(cores, working set that they read from together, the time of each ÷ alone)."""
    write_gbs: float | None = Field(default=None, gt=0)
    """Bytes a nanosecond of all cores together that write an output past the caches."""
    edge_ns: float = Field(default=0.0, ge=0)
    """What a bag adds where its columns meet those of another core: both cores write to neighbouring lines."""
    read_gbs: float = Field(gt=0)
    """Bytes a nanosecond of reading memory in order."""
    bag_ns: Points
    """(row bytes, ns of a bag beside its ids), for bags of one length."""
    ragged_ns: float = Field(ge=0)
    """What a bag adds where lengths vary: the processor cannot foresee its end."""
    column_ns: dict[Dtype, Annotated[float, Field(ge=0)]]
    """What turning a column into float32 adds, over a float32 row of as many bytes."""
    scan_ns: float = Field(gt=0)
    """An id that strategy `stream` finds to be another range's."""
    sort_ns: float = Field(gt=0)
    """An id that it sorts by tile."""
    add_ns: Points
    """(row bytes, ns of adding a row of a tile to its bag)."""
    vector: Points = ()
    """(working set, ns of an id by strategy `vector`); none where the processor has no kernel for it."""
    fresh: Points
    """(row bytes, ns of a bag of one id), of rows far from any cache in pages that are near."""
    scatter: Points
    """(bytes of pages, ns of a bag of one id), of rows of 64 bytes that lie alone in their 4 KB pages."""
    past: Points = ()
    """(row bytes, ns that writing a row past the caches adds), as single ids of whole lines are in a large output."""
    gather: tuple[Reading, ...]
    write: tuple[Written, ...]

    @model_validator(mode="after")
    def _complete(self) -> Self:
        for pages in ("huge", "4k"):
            found = [(r.row_bytes, r.working_set) for r in self.gather if r.pages == pages]
            if not _is_grid(found) or (pages == "huge" and not found):
                raise ValueError(f"`gather` must hold each row size with each working set once, for {pages} pages")
        if not _is_grid([(w.row_bytes, w.output) for w in self.write]):
            raise ValueError("`write` must hold each row size with each output once")
        if set(self.column_ns) != set(get_args(Dtype)):
            raise ValueError(f"`column_ns` must hold {', '.join(get_args(Dtype))}")
        if any(cores < 2 for cores, _ in self.wake_us):
            raise ValueError("`wake_us` is of 2 cores or more")
        if any(cores < 2 or size < 1 or not times >= 1 for cores, size, times in self.crowd):
            raise ValueError("`crowd` is how many times longer work takes, 1 or more, of 2 cores or more")
        if self.crowd and not _is_grid([(cores, size) for cores, size, _ in self.crowd]):
            raise ValueError("`crowd` must hold each number of cores with each working set once")
        for name in ("cores", "write", "bag_ns", "add_ns", "fresh", "scatter"):
            if not getattr(self, name):
                raise ValueError(f"`{name}` must not be empty")
        return self

    @property
    def fingerprint(self) -> str:
        """Short hash of what the machine is, not of what was measured."""
        facts = f"{self.cpu}|{len(self.cores)}|{[(c.core, c.node, c.l1, c.l2, c.l3, c.l3_cpus) for c in self.cores]}"
        return hashlib.sha256(facts.encode()).hexdigest()[:12]

    @property
    def private(self) -> int:
        """Bytes of cache that a core has for itself: the second level, where hardware threads do not share it."""
        first = self.cores[0]
        return first.l2 // sum(1 for core in self.cores if core.core == first.core and core.node == first.node)

    def one_ns(self, row_bytes: float, working_set: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Nanoseconds of a bag of one id, for each working set."""
        return self._surfaces[0](row_bytes, working_set)

    def more_ns(self, row_bytes: float, working_set: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Nanoseconds of an id of a long bag, for each working set."""
        return self._surfaces[1](row_bytes, working_set)

    def write_ns(self, row_bytes: float, output: float, single: bool) -> float:
        """Nanoseconds that writing a pooled row to an output of so many bytes adds; `single`: bags of one id."""
        return float(self._surfaces[3 if single else 2](row_bytes, np.array([output]))[0])

    @cached_property
    def _surfaces(self) -> tuple[_Surface, ...]:
        huge = [r for r in self.gather if r.pages == "huge"]
        return (
            _Surface([(r.row_bytes, r.working_set, r.one_ns) for r in huge]),
            _Surface([(r.row_bytes, r.working_set, r.more_ns) for r in huge]),
            _Surface([(w.row_bytes, w.output, w.more_ns) for w in self.write]),
            _Surface([(w.row_bytes, w.output, w.one_ns) for w in self.write]),
        )

    def toml(self) -> str:
        """The platform as TOML, a line for each quantity and each reading."""
        return compact_toml(self.model_dump(mode="json", exclude_none=True), ("cores", "gather", "write"))

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a platform's TOML file.

        Raises:
            ConfigError: When it is absent or says what cannot be.
        """
        values = read_toml(path)
        if values.get("version", 2) != 2:
            raise ConfigError(
                f"{path}: expected version 2, got {values['version']!r}: measure again with `recsys profile`"
            )
        return cls.parse(values, str(path))


def _is_grid(points: Sequence[tuple[int, int]]) -> bool:
    """Whether each of the one goes with each of the other, once."""
    sizes, others = {a for a, _ in points}, {b for _, b in points}
    return len(points) == len(set(points)) == len(sizes) * len(others)


class _Surface:
    """Readings over (row bytes, size), interpolated between the row bytes and between the sizes' logarithms.

    Outside they are as at the edge, but a row larger than the largest costs in proportion.
    """

    def __init__(self, points: Sequence[tuple[int, int, float]]) -> None:
        self.rows = sorted({row for row, _, _ in points})
        self.sizes = np.log(sorted({size for _, size, _ in points}))
        found = {(row, size): ns for row, size, ns in points}
        sizes = sorted({size for _, size, _ in points})
        self.ns = np.array([[found[row, size] for size in sizes] for row in self.rows])

    def __call__(self, row_bytes: float, size: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        beyond = max(1.0, row_bytes / self.rows[-1])
        log = np.log(np.maximum(size, 1.0))
        at_rows = np.array([np.interp(log, self.sizes, row) for row in self.ns])
        place = float(np.interp(row_bytes, self.rows, np.arange(len(self.rows))))
        low = min(int(place), max(len(self.rows) - 2, 0))
        high = min(low + 1, len(self.rows) - 1)
        found: npt.NDArray[np.float64] = at_rows[low] + (at_rows[high] - at_rows[low]) * (place - low)
        return found * beyond


def read_cores() -> tuple[Core, ...]:
    """The CPUs that this process may use: first one hardware thread of each core, then the others."""
    allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    cores = [_read_core(cpu) for cpu in allowed]
    seen: dict[tuple[int, int], int] = {}
    order = {core.cpu: seen.setdefault((core.node, core.core), 0) for core in cores}
    for core in cores:
        order[core.cpu] = seen[core.node, core.core]
        seen[core.node, core.core] += 1
    return tuple(sorted(cores, key=lambda core: (order[core.cpu], core.cpu)))


def _read_core(cpu: int) -> Core:
    folder = _CPUS / f"cpu{cpu}"
    caches = {}
    for index in sorted(folder.glob("cache/index*")):
        if _text(index / "type") in ("Data", "Unified"):
            caches[_text(index / "level")] = (_bytes(_text(index / "size")), _text(index / "shared_cpu_list"))
    nodes = [int(node.name[4:]) for node in sorted(_NODES.glob("node[0-9]*")) if (node / f"cpu{cpu}").exists()]
    core = _text(folder / "topology" / "core_id")
    facts = {
        name: caches[level][0] for name, level in (("l1", "1"), ("l2", "2"), ("l3", "3")) if caches.get(level, (0,))[0]
    }
    shared = _count(caches["3"][1]) if "3" in caches else 1
    return Core(
        cpu=cpu, core=int(core) if core.isdigit() else cpu, node=nodes[0] if nodes else 0, l3_cpus=shared, **facts
    )


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8").strip() if path.is_file() else ""


def _bytes(text: str) -> int:
    """``2048K`` as a number; 0 for nothing."""
    unit = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}.get(text[-1:], 1)
    digits = text.rstrip("KMG")
    return int(digits) * unit if digits.isdigit() else 0


def _count(cpus: str) -> int:
    """How many CPUs a list such as ``0-3,8`` names; at least 1."""
    ends = [part.partition("-") for part in cpus.split(",") if part]
    return max(1, sum(int(last or first) - int(first) + 1 for first, _, last in ends))


def _named(path: Path) -> Platform:
    folder = shelf("dataflow") / "platforms"
    known = sorted(one.stem for one in folder.glob("*.toml"))
    if path.is_file() or path.suffix or path.name != str(path):
        return Platform.read(path)
    if path.name not in known:
        raise ConfigError(f"no such platform as `{path}`: {nearest(path.name, known)}")
    return Platform.read(folder / f"{path}.toml")


def default_path() -> Path:
    """Where `recsys profile` writes and `recsys plan` looks."""
    from recsys.data.cache import root  # brings pyarrow along, which a plan does not need

    return root() / "platform.toml"


def here(name: str | Path | None = None) -> Platform:
    """The platform that the user names, by file or as one that recsys brings along, or what `recsys profile` measured.

    Raises:
        ConfigError: When there is none, or the one that `recsys profile` wrote is of another machine.
    """
    if name is not None:
        return _named(Path(name))
    path = default_path()
    if not path.is_file():
        raise ConfigError("this machine has not been measured: run `recsys profile`, or name a file with --platform")
    found = Platform.read(path)
    if found.cpu != read_machine()["cpu"] or len(found.cores) != len(read_cores()):
        cores = len(found.cores)
        raise ConfigError(f"{path} is of another machine ({found.cpu}, {cores} cores): run `recsys profile` again")
    return found
