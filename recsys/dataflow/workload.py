"""A workload: the tables of a model, how they are looked up, and what their ids look like."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from recsys.config import Config, compact_toml, nearest, read_toml
from recsys.errors import ConfigError
from recsys.machine import available_memory
from recsys.shelves import shelf

__all__ = [
    "BATCH_SIZES",
    "BYTES",
    "Dtype",
    "Ids",
    "Workload",
    "WorkloadLookup",
    "WorkloadTable",
    "published",
    "refuse_too_big",
]

Dtype = Literal["fp32", "fp16", "int8"]

BYTES: dict[Dtype, int] = {"fp32": 4, "fp16": 2, "int8": 1}
"""Bytes of a column; an int8 row has 8 more: its scale and its bias, float32 each."""

MOST = 2**62
"""Larger numbers than this, of rows or bags, are no numbers of anything and do not fit into 64 bits."""

BATCH_SIZES = (1, 64, 512, 2048, 8192)
"""What is planned and measured where nobody says otherwise."""


class Ids(Config):
    """What the ids of one look-up look like: how many a bag holds, and how they fall on the rows."""

    bags: tuple[tuple[int, float], ...] = ((1, 1.0),)
    """(ids in a bag, share of the bags), ascending; the shares sum to 1."""
    distribution: Literal["uniform", "zipf", "equal", "measured"] = "zipf"
    """`equal`: every id is the same row, the extreme case."""
    exponent: float = Field(default=1.05, gt=0)
    """Of `zipf`: the k-th hottest row is hit in proportion to k^-exponent."""
    hot: tuple[tuple[int, float], ...] = ()
    """Of `measured`, the hot-row curve: (n, share of ids that fall on the n hottest rows), ascending, up to share 1."""
    unique: tuple[tuple[int, float], ...] = ()
    """(batch size, distinct ids ÷ ids of the batch), where it was measured."""
    source: str = "assumed"
    """Where the figures come from, or that they are assumed."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        for name, points, least in (("bags", self.bags, 0), ("hot", self.hot, 1), ("unique", self.unique, 1)):
            if any(not least <= n <= MOST or not 0 <= share <= 1 for n, share in points):
                raise ValueError(f"`{name}` must hold pairs (n, share) with 2^62 >= n >= {least} and 0 <= share <= 1")
            if any(a[0] >= b[0] for a, b in pairwise(points)):
                raise ValueError(f"`{name}` must ascend")
        if abs(sum(share for _, share in self.bags) - 1) > 1e-6:
            raise ValueError(f"the shares of `bags` must sum to 1, got {sum(share for _, share in self.bags):g}")
        if (self.distribution == "measured") != bool(self.hot):
            raise ValueError("`hot`, the hot-row curve, belongs to distribution `measured` and to no other")
        shares = [share for _, share in self.hot]
        if self.hot and (shares[0] == 0 or shares[-1] != 1 or shares != sorted(shares)):
            raise ValueError("the shares of `hot` must be above 0, not descend, and end with 1")
        return self

    @property
    def mean(self) -> float:
        """Ids in a bag, on average."""
        return sum(n * share for n, share in self.bags)


class WorkloadTable(Config):
    """A table of `rows` rows of `dim` columns."""

    name: str
    rows: int = Field(ge=1, le=MOST)
    dim: int = Field(ge=1, le=MOST)
    dtype: Dtype = "fp32"

    @property
    def row_bytes(self) -> int:
        """Bytes of one stored row."""
        return self.dim * BYTES[self.dtype] + (8 if self.dtype == "int8" else 0)


class WorkloadLookup(Config):
    """One feature's bags read from one table."""

    name: str
    table: str
    pooling: Literal["sum", "mean", "none"] = "sum"
    """`none`: a bag's rows stay apart, for a network that reads sequences. They are read as for a sum, and all of them
    are written."""
    weighted: bool = False
    """Every id comes with a weight."""
    ids: Ids = Ids()


class Workload(Config):
    """Tables, look-ups with their ids' statistics, and what is asked of them."""

    name: str
    about: str = ""
    """What it is, and the source of its figures."""
    tables: tuple[WorkloadTable, ...]
    lookups: tuple[WorkloadLookup, ...]
    batch_sizes: tuple[int, ...] = BATCH_SIZES
    latency_us: float | None = Field(default=None, gt=0)
    """The target for one batch's look-ups, if there is one."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        tables = [table.name for table in self.tables]
        for kind, names in (("table", tables), ("lookup", [lookup.name for lookup in self.lookups])):
            twice = {name for name in names if names.count(name) > 1}
            if twice:
                raise ValueError(f"two of kind {kind} are named `{min(twice)}`")
        for lookup in self.lookups:
            if lookup.table not in tables:
                raise ValueError(f"look-up `{lookup.name}` reads `{lookup.table}`: {nearest(lookup.table, tables)}")
        if not self.batch_sizes or min(self.batch_sizes) < 1 or max(self.batch_sizes) > MOST:
            raise ValueError(f"`batch_sizes` must hold sizes of 1 or more, got {list(self.batch_sizes)}")
        return self

    @property
    def bytes(self) -> int:
        """Bytes of all rows."""
        return sum(table.rows * table.row_bytes for table in self.tables)

    def table(self, name: str) -> WorkloadTable:
        """The table of that name."""
        return next(table for table in self.tables if table.name == name)

    def pooled(self) -> Workload:
        """The same without its unpooled look-ups: plans are made of the others."""
        return self.model_copy(update={"lookups": tuple(n for n in self.lookups if n.pooling != "none")})

    def cap(self, rows: int) -> Workload:
        """The same with tables of at most so many rows; its name and `about` say so.

        Raises:
            ConfigError: When `rows` is below 1.
        """
        _check_size("rows", rows)
        tables = tuple(table.model_copy(update={"rows": min(table.rows, rows)}) for table in self.tables)
        return self._altered(tables, f"cap{rows}", f"Here cut to tables of at most {rows:,} rows.")

    def with_dim(self, dim: int) -> Workload:
        """The same with tables of `dim` columns; its name and `about` say so.

        Raises:
            ConfigError: When `dim` is below 1.
        """
        _check_size("columns", dim)
        tables = tuple(table.model_copy(update={"dim": dim}) for table in self.tables)
        return self._altered(tables, f"dim{dim}", f"Here with tables of {dim} columns.")

    def _altered(self, tables: tuple[WorkloadTable, ...], suffix: str, told: str) -> Workload:
        if tables == self.tables:
            return self
        about = f"{self.about} {told}".lstrip()
        return self.model_copy(update={"name": f"{self.name}-{suffix}", "about": about, "tables": tables})

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a workload's TOML file.

        Raises:
            ConfigError: When it is absent or says what cannot be.
        """
        return cls.parse(read_toml(path), str(path))

    @classmethod
    def find(cls, name: str | Path) -> Self:
        """A published workload by name, or any by the path of its TOML file.

        Raises:
            ConfigError: When there is none; of a name, the message has the nearest.
        """
        path = Path(name)
        if path.is_file() or path.suffix == ".toml" or path.name != str(path):
            return cls.read(path)
        if path.name not in published():
            raise ConfigError(f"no such workload as `{name}`: {nearest(path.name, published())}")
        return cls.read(_shelf() / f"{name}.toml")

    def toml(self) -> str:
        """The workload as TOML, a line for each table and each look-up; defaults are left out."""
        return compact_toml(self.model_dump(mode="json", exclude_defaults=True), ("tables", "lookups"))


def _check_size(what: str, size: int) -> None:
    if size < 1:
        raise ConfigError(f"expected tables of at least 1 of {what}, got {size}")


def _shelf() -> Path:
    return shelf("dataflow") / "workloads"


def published() -> list[str]:
    """Names of the workloads that recsys brings along."""
    return sorted(path.stem for path in _shelf().glob("*.toml"))


def refuse_too_big(workload: Workload, available_bytes: int | None = None) -> None:
    """Refuse tables that do not fit into memory, before anything is allocated.

    Args:
        workload: What is to be made.
        available_bytes: By default what this machine can still give.

    Raises:
        ConfigError: With the sum, what there is, and the largest table.
    """
    available = available_memory() if available_bytes is None else available_bytes
    if workload.bytes > available:
        largest = max(workload.tables, key=lambda table: table.rows * table.row_bytes)
        raise ConfigError(
            f"the tables of `{workload.name}` need {workload.bytes / 1e9:.1f} GB ({workload.bytes:,} bytes) and "
            f"{available / 1e9:.1f} GB are available; the largest is `{largest.name}`, {largest.rows:,} rows of "
            f"{largest.row_bytes} bytes: cap the rows or take a smaller dim"
        )
