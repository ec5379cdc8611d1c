"""A plan for GPUs: for every table where its rows lie, on which GPU, and as what they are stored."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Literal, Self

import torch
from pydantic import Field, PrivateAttr, model_validator
from torch import Tensor

from recsys.config import Config
from recsys.dataflow.gpu_hot import RANGES, bits_of, checked, packed, ranges, read_hot, unpacked
from recsys.dataflow.plan import AnyTable, RowRange, check_tables
from recsys.dataflow.workload import BYTES, MOST, Dtype
from recsys.errors import ConfigError
from recsys.files import read_json, replacing, write_json

__all__ = ["GpuLookup", "GpuPlan", "GpuSchedule", "GpuTable", "HotFile", "Where", "bytes_on_gpu", "is_gpu_plan"]

Where = Literal["device", "host", "split", "shared", "cpu"]
"""Where a table lies:

- device: all of it in the GPU's memory;
- host: all of it in pinned host memory, which the GPU reads over the link;
- split: its hot rows in the GPU's memory, the others in pinned host memory;
- shared: its hot rows in the GPU's memory; the others in host memory, added up by the CPU: both add to the same sums;
- cpu: in host memory, and its look-ups are done by the CPU, which sends their results: worth it for long bags.
"""

MOST_GPUS = 65_536
WORD = 32
"""Rows of a word of the remap, which takes 8 bytes on the GPU."""


def bytes_on_gpu(rows: int, dim: int, dtype: Dtype, hot: int) -> int:
    """Bytes of a table of which so many rows are on the GPU: these, and the remap where it lies in two places."""
    row = dim * BYTES[dtype] + (8 if dtype == "int8" else 0)
    return hot * row + (8 * -(-rows // WORD) if 0 < hot < rows else 0)


class GpuTable(Config):
    """A table and where it lies."""

    name: str
    rows: int = Field(ge=1, le=MOST)
    dim: int = Field(ge=1, le=MOST)
    dtype: Dtype = "fp32"
    place: Where = "device"
    gpu: int = Field(default=0, ge=0)
    """Which of the plan's GPUs has it, or gets what the CPU looked up."""
    hot_rows: int = Field(default=0, ge=0)
    """How many rows are in the GPU's memory."""
    hot: tuple[RowRange, ...] = ()
    """Where only some are, which rows these are: [first, last), ascending. None here: they stand in the plan's file."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        fits = 0 < self.hot_rows < self.rows if self.mixed else self.hot_rows == self.rows * (self.place == "device")
        if not fits:
            raise ValueError(f"table `{self.name}`: {self.hot_rows} hot rows of {self.rows} are not `{self.place}`")
        if self.hot and not self.mixed:
            raise ValueError(
                f"table `{self.name}`: ranges of hot rows belong to `split` and `shared` tables, it is `{self.place}`"
            )
        if any(not 0 <= a < b <= self.rows for a, b in self.hot) or any(b > c for (_, b), (c, _) in pairwise(self.hot)):
            raise ValueError(f"table `{self.name}`: `hot` must hold ranges [first, last) of its rows that ascend")
        if self.hot and sum(b - a for a, b in self.hot) != self.hot_rows:
            raise ValueError(f"table `{self.name}`: the ranges of `hot` do not hold {self.hot_rows} rows")
        return self

    @property
    def mixed(self) -> bool:
        """Whether some of its rows are in the GPU's memory and the others are not."""
        return self.place in ("split", "shared")

    @property
    def bytes(self) -> int:
        """On the GPU."""
        return bytes_on_gpu(self.rows, self.dim, self.dtype, self.hot_rows)


class GpuLookup(Config):
    """A look-up of the plan."""

    name: str
    table: str
    ids: float = Field(ge=0)
    """In a bag, on average."""
    near: float = Field(default=1.0, ge=0, le=1)
    """Predicted share of its ids whose rows are in the GPU's memory."""
    predicted_us: float = Field(default=0.0, ge=0)
    """Its part of the time, for the largest batch."""


class GpuSchedule(Config):
    """What batches of a size are predicted to take."""

    batch: int = Field(ge=1, le=MOST)
    predicted_us: float = Field(ge=0)
    """Until all columns are filled: the slower of GPU and CPU, and the copy, of the GPU that is last."""
    gpus: tuple[float, ...]
    """µs of each GPU's launches."""
    cpu_us: float = Field(default=0.0, ge=0)
    """µs of the CPU's look-ups, done meanwhile."""
    copy_us: float = Field(default=0.0, ge=0)
    """µs of the copy of what they give, which follows, until it is put or added where it belongs."""
    bound_us: float = Field(ge=0)
    """No placement in that memory can be faster: bytes by what the memory and the link give at most."""


class HotFile(Config):
    """Where hot rows of split and shared tables stand: a safetensors file beside the plan, a bit for each row."""

    file: str
    sha256: str

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if Path(self.file).name != self.file or self.file in ("", ".", ".."):
            raise ValueError(f"`hot.file` must be the name of a file beside the plan, got {self.file!r}")
        return self


class GpuPlan(Config):
    """Where every table lies for its look-ups on GPUs."""

    version: Literal[1] = 1
    kind: Literal["gpu"] = "gpu"
    workload: str
    gpu: str
    """Name of the GPU that it was made for."""
    platform: str = ""
    """Fingerprint of the measured GPU; empty: nothing was measured."""
    gpus: int = Field(default=1, ge=1, le=MOST_GPUS)
    """How many of it."""
    memory: int = Field(ge=0)
    """Bytes that tables may take on each."""
    ids: str = "assumed"
    """Where it is known from which rows are hot."""
    latency_us: float | None = Field(default=None, gt=0)
    """The target for the largest batch; where it is met, the fewest bytes that meet it are taken."""
    tables: tuple[GpuTable, ...]
    lookups: tuple[GpuLookup, ...] = Field(min_length=1)
    schedules: tuple[GpuSchedule, ...] = ()
    """Ascending by batch."""
    hot: HotFile | None = None

    _hot: dict[str, bytes] = PrivateAttr(default_factory=dict)
    """Hot rows that no ranges tell: a bit for each row, the lowest first."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        names = [table.name for table in self.tables]
        for kind, all_ in (("table", names), ("look-up", [lookup.name for lookup in self.lookups])):
            if len(set(all_)) < len(all_):
                raise ValueError(f"two of kind {kind} are named `{next(n for n in all_ if all_.count(n) > 1)}`")
        there = set(names)
        for lookup in self.lookups:
            if lookup.table not in there:
                raise ValueError(f"look-up `{lookup.name}` reads `{lookup.table}`, which is none of the plan's tables")
        for table in self.tables:
            if table.gpu >= self.gpus:
                raise ValueError(f"table `{table.name}` is on GPU {table.gpu} of {self.gpus} (from 0 on)")
        for gpu, used in enumerate(self.used()):
            if used > self.memory:
                raise ValueError(f"the tables of GPU {gpu} take {used:,} bytes, `memory` allows {self.memory:,}")
        if any(a.batch >= b.batch for a, b in pairwise(self.schedules)):
            raise ValueError(f"`schedules` must ascend by batch, got {[one.batch for one in self.schedules]}")
        return self

    def used(self) -> list[int]:
        """Bytes that tables take on each GPU."""
        return [sum(table.bytes for table in self.tables if table.gpu == gpu) for gpu in range(self.gpus)]

    def with_hot(self, hot: Mapping[str, Tensor]) -> Self:
        """The same with its tables' hot rows, bool [rows] of each that is mixed; the plan itself holds few ranges.

        Raises:
            ConfigError: When a table's are missing or not as many as the plan says.
        """
        tables, kept = [], {}
        for table in self.tables:
            if table.mixed and not table.hot:
                if table.name not in hot:
                    raise ConfigError(f"the plan for `{self.workload}` lacks the hot rows of table `{table.name}`")
                rows = checked(table.name, table.rows, table.hot_rows, hot[table.name])
                runs = ranges(rows)
                if len(runs) <= RANGES:
                    table = table.model_copy(update={"hot": runs})
                else:
                    kept[table.name] = bits_of(rows)
            tables.append(table)
        found = self.model_copy(update={"tables": tuple(tables), "hot": None})
        found._hot = kept
        return found

    def hot_rows(self, name: str) -> Tensor | bool:
        """Which rows of a table are in the GPU's memory: bool [rows], or all of them or none."""
        table = next(table for table in self.tables if table.name == name)
        if not table.mixed:
            return table.place == "device"
        if not table.hot:
            return unpacked(self._hot[name], table.rows)
        found = torch.zeros(table.rows, dtype=torch.bool)
        for first, last in table.hot:
            found[first:last] = True
        return found

    def check(self, tables: Iterable[AnyTable]) -> None:
        """Make sure that the plan was made for these tables, in any order.

        Raises:
            ConfigError: With the first difference.
        """
        check_tables(self.workload, self.tables, tables)

    def write(self, path: Path) -> None:
        """Write the plan as JSON, and hot rows beside it. The plan appears when all is there.

        Raises:
            DataError: When the disk refuses.
        """
        before, hot = _hot_file(path), None
        if self._hot:
            content = packed(self._hot)
            digest = hashlib.sha256(content).hexdigest()
            hot = HotFile(file=f"{path.stem}.{digest[:8]}.safetensors", sha256=digest)
            with replacing(path.parent / hot.file) as temporary:
                temporary.write_bytes(content)
        named = self.model_copy(update={"hot": hot})
        write_json(path, named.model_dump(mode="json", exclude_none=True))
        if before is not None and (hot is None or before.name != hot.file):
            before.unlink(missing_ok=True)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a plan, and check that it can be.

        Raises:
            ConfigError: When the file is absent, no plan for GPUs, one that cannot be, or its hot rows are not as they
                were written.
        """
        values = _values(path)
        if not isinstance(values, dict) or values.get("kind") != "gpu":
            raise ConfigError(f"{path}: expected a plan for a GPU: make one with `recsys plan --device cuda`")
        try:
            found = cls.parse(values, str(path))
        except ConfigError as error:  # a foreign file can have a problem a line, and any names
            message = "".join(letter if letter.isprintable() else "?" for letter in str(error))
            raise ConfigError(message if len(message) <= 500 else f"{message[:500]} ...") from None
        missing = [table for table in found.tables if table.mixed and not table.hot]
        if missing and found.hot is None:
            raise ConfigError(f"{path}: it does not say which rows of table `{missing[0].name}` are hot")
        if found.hot is not None and missing:
            wanted = [(table.name, table.rows, table.hot_rows) for table in missing]
            found._hot = read_hot(path.parent / found.hot.file, found.hot.sha256, wanted)
        return found


def is_gpu_plan(path: Path) -> bool:
    """Whether a file is a plan for GPUs, and not for a CPU's cores.

    Raises:
        ConfigError: When it cannot be read.
    """
    values = _values(path)
    return isinstance(values, dict) and values.get("kind") == "gpu"


def _values(path: Path) -> object:
    try:
        values: object = read_json(path)
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except (ValueError, OSError, RecursionError) as error:
        raise ConfigError(f"{path}: not a readable JSON file: {error}") from None
    return values


def _hot_file(path: Path) -> Path | None:
    """That of the plan that is there, if one is."""
    try:
        values = _values(path)
        hot = HotFile.parse(values["hot"], "") if isinstance(values, dict) and "hot" in values else None
    except (ConfigError, TypeError, ValueError):
        return None
    ours = hot is not None and hot.file == f"{path.stem}.{hot.sha256[:8]}.safetensors"
    return path.parent / hot.file if hot is not None and ours else None
