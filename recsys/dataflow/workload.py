"""A workload: the tables of a model, how they are looked up, and what their ids look like."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from recsys.config import Config, nearest, read_toml

__all__ = ["BYTES", "Dtype", "Ids", "Workload", "WorkloadLookup", "WorkloadTable"]

Dtype = Literal["fp32", "fp16", "int8"]

BYTES: dict[Dtype, int] = {"fp32": 4, "fp16": 2, "int8": 1}
"""Bytes of a column; an int8 row has 8 more: its scale and its bias, float32 each."""


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
    source: str = ""
    """Where the figures come from, or that they are assumed."""


class WorkloadTable(Config):
    """A table of `rows` rows of `dim` columns."""

    name: str
    rows: int = Field(ge=1)
    dim: int = Field(ge=1)
    dtype: Dtype = "fp32"

    @property
    def row_bytes(self) -> int:
        """Bytes of one stored row."""
        return self.dim * BYTES[self.dtype] + (8 if self.dtype == "int8" else 0)


class WorkloadLookup(Config):
    """One feature's bags read from one table, pooled."""

    name: str
    table: str
    pooling: Literal["sum", "mean"] = "sum"
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
    batch_sizes: tuple[int, ...] = (1, 64, 512, 2048, 8192)
    latency_us: float | None = None
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
        return self

    @property
    def bytes(self) -> int:
        """Bytes of all rows."""
        return sum(table.rows * table.row_bytes for table in self.tables)

    def table(self, name: str) -> WorkloadTable:
        """The table of that name."""
        return next(table for table in self.tables if table.name == name)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a workload's TOML file.

        Raises:
            ConfigError: When it is absent or says what cannot be.
        """
        return cls.parse(read_toml(path), str(path))
