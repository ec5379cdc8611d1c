"""A plan: for every table, row range and share of the batch, the core that looks it up and how."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from recsys.config import Config
from recsys.dataflow.workload import Dtype

__all__ = ["DataFlowPlan", "Piece", "PlannedTable", "Schedule", "Strategy"]

Strategy = Literal["gather", "resident", "stream", "vector"]
"""How a core reads rows, after arXiv 2507.01676 (its GM, L1, GM-UB and L1-UB):

- gather: row by row from memory, with prefetch;
- resident: the same from rows that one core owns, so that its private cache holds them;
- stream: ids sorted by tiles of the table, then tile by tile;
- vector: many ids at once by vector gathers, for rows of a few columns.
"""


class Piece(Config):
    """A part of a look-up that one core does."""

    lookup: str
    core: int | None = None
    """Index of a core of the platform; None: whichever is free first."""
    strategy: Strategy = "gather"
    rows: tuple[int, int] | None = None
    """[first, last) of the table's rows; ids elsewhere are another piece's. None: all rows."""
    share: tuple[float, float] = (0.0, 1.0)
    """[from, to) of the batch, as shares: bag b of B belongs to it when floor(from B) <= b < floor(to B)."""
    predicted_us: float = Field(default=0.0, ge=0)


class Schedule(Config):
    """What runs where for batches of up to `batch` examples."""

    batch: int = Field(ge=1)
    pieces: tuple[Piece, ...]
    predicted_us: float = Field(ge=0)
    """Until the last core is done."""
    bound_us: float = Field(ge=0)
    """No plan of these pieces can be faster: the work shared out evenly, or the largest indivisible piece."""


class PlannedTable(Config):
    """A table that the plan was made for."""

    name: str
    rows: int = Field(ge=1)
    dim: int = Field(ge=1)
    dtype: Dtype = "fp32"


class DataFlowPlan(Config):
    """Where every table lives and how it is looked up."""

    version: Literal[1] = 1
    workload: str
    platform: str
    """Fingerprint of the platform that it was made for."""
    cores: int = Field(ge=1)
    tables: tuple[PlannedTable, ...]
    schedules: tuple[Schedule, ...]
    """Ascending by batch; a larger batch than the last runs by the last."""
