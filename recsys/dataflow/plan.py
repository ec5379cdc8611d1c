"""A plan: for every look-up, row range and share of the batch, the core that does it and how."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Literal, Protocol, Self

from pydantic import Field, model_validator

from recsys.config import Config
from recsys.dataflow.workload import MOST, Dtype
from recsys.errors import ConfigError
from recsys.files import read_json, write_json

__all__ = [
    "AnyTable",
    "DataFlowPlan",
    "Piece",
    "PlannedLookup",
    "PlannedTable",
    "RowRange",
    "Schedule",
    "Strategy",
    "check_tables",
    "spread",
]

Strategy = Literal["gather", "resident", "stream", "vector"]
"""How a core reads rows, after arXiv 2507.01676 (its GM, L1, GM-UB and L1-UB):

- gather: row by row from memory, with prefetch;
- resident: the same from rows that one core owns, so that its private cache holds them;
- stream: ids sorted by tiles of the table, then tile by tile;
- vector: many ids at once by vector gathers, for rows of a few columns.
"""

RowRange = tuple[int, int]
"""[first, last) of a table's rows."""


class Piece(Config):
    """A part of a look-up that one core does."""

    lookup: str
    core: int = Field(default=0, ge=0, le=MOST)
    """Index of a core of the platform."""
    strategy: Strategy = "gather"
    rows: RowRange | None = None
    """[first, last) of the table's rows; ids elsewhere are another piece's. None: all rows."""
    share: tuple[float, float] = (0.0, 1.0)
    """[from, to) of the batch, as shares: bag b of B belongs to it when floor(from B) <= b < floor(to B).

    Pieces of a look-up that hold the same bags, of different rows, have the same share.
    """
    predicted_us: float = Field(default=0.0, ge=0)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if not 0 <= self.share[0] < self.share[1] <= 1:
            raise ValueError(f"`share` must be [from, to) with 0 <= from < to <= 1, got {self.share}")
        if self.rows is not None and not 0 <= self.rows[0] < self.rows[1]:
            raise ValueError(f"`rows` must be [first, last) with 0 <= first < last, got {self.rows}")
        return self

    def bags(self, batch: int) -> range:
        """Its bags of a batch of that many. Neighbours that share a boundary meet exactly, whatever the batch."""
        return range(math.floor(self.share[0] * batch), math.floor(self.share[1] * batch))


class Schedule(Config):
    """What runs where for batches of up to `batch` examples."""

    batch: int = Field(ge=1, le=MOST)
    pieces: tuple[Piece, ...]
    predicted_us: float = Field(ge=0)
    """Until the last core is done."""
    bound_us: float = Field(ge=0)
    """No plan of the pieces that were weighed can be faster: see `recsys.dataflow.planner`."""
    symmetric_us: float | None = Field(default=None, ge=0)
    """Predicted for the symmetric plan, in which every core does all look-ups for its share of the batch, on the best
    of 1, 2, 4, … and all cores, as far as there are bags for them."""

    def loads(self) -> dict[int, float]:
        """Core -> predicted µs of its pieces, ascending by core."""
        found: dict[int, float] = {}
        for piece in self.pieces:
            found[piece.core] = found.get(piece.core, 0.0) + piece.predicted_us
        return dict(sorted(found.items()))


def spread(lookups: Iterable[str], cores: int) -> Schedule:
    """Every core gathers all look-ups for an even share of the batch: what can be done where nothing was measured."""
    shares = [(k / cores, (k + 1) / cores) for k in range(cores)]
    pieces = tuple(Piece(lookup=name, core=k, share=share) for k, share in enumerate(shares) for name in lookups)
    return Schedule(batch=1, pieces=pieces, predicted_us=0.0, bound_us=0.0)


class PlannedTable(Config):
    """A table that the plan was made for."""

    name: str
    rows: int = Field(ge=1, le=MOST)
    dim: int = Field(ge=1, le=MOST)
    dtype: Dtype = "fp32"


class PlannedLookup(Config):
    """A look-up of the plan and the table that it reads: pieces name look-ups, rows belong to tables."""

    name: str
    table: str


class AnyTable(Protocol):
    """What a plan compares: a table of a workload, of a model or of another plan."""

    @property
    def name(self) -> str:
        """By which tables are told apart."""
        ...

    @property
    def rows(self) -> int:
        """How many."""
        ...

    @property
    def dim(self) -> int:
        """Columns."""
        ...


def check_tables(workload: str, planned: Iterable[AnyTable], tables: Iterable[AnyTable]) -> None:
    """Make sure that the plan for a workload was made for these tables: same names, rows and dims, in any order.

    Raises:
        ConfigError: With the first difference.
    """

    def stranger(difference: str) -> ConfigError:
        return ConfigError(f"the plan for `{workload}` was made for other tables: {difference}; make a new plan")

    left = {table.name: table for table in planned}
    for table in tables:
        own = left.pop(table.name, None)
        if own is None:
            raise stranger(f"it has no table `{table.name}`")
        for what in ("rows", "dim"):
            there, here = getattr(own, what), getattr(table, what)
            if there != here:
                raise stranger(f"`{what}` of table `{table.name}` is {there} in the plan and {here} here")
    if left:
        raise stranger(f"its table `{next(iter(left))}` is not here")


class DataFlowPlan(Config):
    """Where every table lives and how it is looked up."""

    version: Literal[1] = 1
    workload: str
    platform: str
    """Fingerprint of the platform that it was made for."""
    cores: int = Field(ge=1)
    tables: tuple[PlannedTable, ...]
    lookups: tuple[PlannedLookup, ...] = Field(min_length=1)
    latency_us: float | None = None
    """The workload's target for one batch's look-ups, if it has one."""
    schedules: tuple[Schedule, ...] = Field(min_length=1)
    """Ascending by batch; a larger batch than the last runs by the last."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        rows = {table.name: table.rows for table in self.tables}
        for kind, names in (("table", [t.name for t in self.tables]), ("look-up", [x.name for x in self.lookups])):
            if len(set(names)) < len(names):
                raise ValueError(f"two of kind {kind} are named `{next(n for n in names if names.count(n) > 1)}`")
        for lookup in self.lookups:
            if lookup.table not in rows:
                raise ValueError(f"look-up `{lookup.name}` reads `{lookup.table}`, which is none of the plan's tables")
        batches = [schedule.batch for schedule in self.schedules]
        if any(a >= b for a, b in pairwise(batches)):
            raise ValueError(f"`schedules` must ascend by batch, got {batches}")
        for schedule in self.schedules:
            _check_schedule(schedule, self.cores, {lookup.name: rows[lookup.table] for lookup in self.lookups})
        return self

    def schedule(self, batch: int) -> Schedule:
        """The schedule for a batch of that many examples."""
        return next((s for s in self.schedules if s.batch >= batch), self.schedules[-1])

    def check(self, tables: Iterable[AnyTable]) -> None:
        """Make sure that the plan was made for these tables: same names, rows and dims, in any order.

        Raises:
            ConfigError: With the first difference.
        """
        check_tables(self.workload, self.tables, tables)

    def write(self, path: Path) -> None:
        """Write the plan as JSON, whole or not at all.

        Raises:
            DataError: When the disk refuses.
        """
        write_json(path, self.model_dump(mode="json", exclude_none=True))

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a plan and check that it does every look-up exactly once.

        Raises:
            ConfigError: When the file is absent, no plan, or a plan that cannot be.
        """
        try:
            values = read_json(path)
        except FileNotFoundError:
            raise ConfigError(f"{path}: no such file") from None
        except (ValueError, OSError, RecursionError) as error:
            raise ConfigError(f"{path}: not a readable JSON file: {error}") from None
        if not isinstance(values, dict):
            raise ConfigError(f"{path}: expected a plan, which is a JSON object, got a {type(values).__name__}")
        try:
            return cls.parse(values, str(path))
        except ConfigError as error:  # a foreign file can have a problem a line, and any names
            message = "".join(letter if letter.isprintable() else "?" for letter in str(error))
            raise ConfigError(message if len(message) <= 500 else f"{message[:500]} ...") from None


def _check_schedule(schedule: Schedule, cores: int, rows: dict[str, int]) -> None:
    """Every look-up is done once, on cores that there are; `rows`: look-up -> rows of its table."""
    where = f"schedule for {schedule.batch}"
    pieces: dict[str, list[Piece]] = {name: [] for name in rows}
    for piece in schedule.pieces:
        if piece.lookup not in pieces:
            raise ValueError(f"{where}: a piece is of look-up `{piece.lookup}`, which the plan does not have")
        if piece.core >= cores:
            raise ValueError(f"{where}: a piece of `{piece.lookup}` is on core {piece.core} of {cores} (from 0 on)")
        if piece.rows is not None and piece.rows[1] > rows[piece.lookup]:
            raise ValueError(
                f"{where}: a piece of `{piece.lookup}` ends at row {piece.rows[1]} of {rows[piece.lookup]}"
            )
        pieces[piece.lookup].append(piece)
    for name, own in pieces.items():
        trouble = _untiled(own, rows[name])
        if trouble:
            raise ValueError(f"{where}: look-up `{name}`: {trouble}")


def _untiled(pieces: Sequence[Piece], rows: int) -> str | None:
    """What keeps the pieces from covering [0, rows) x [0, 1) exactly once, in O(n log n)."""
    bands: dict[tuple[float, float], list[RowRange]] = {}
    for piece in pieces:
        bands.setdefault(piece.share, []).append(piece.rows or (0, rows))
    gap = _gap(sorted(bands), 0.0, 1.0)
    if gap:
        note = "; pieces of the same bags must have the same `share`" if "twice" in gap else ""
        return f"its bags {gap}{note}"
    gaps = (_gap(sorted(ranges), 0, rows) for ranges in bands.values())
    return next((f"its rows {gap}" for gap in gaps if gap), None)


def _gap(ranges: Sequence[tuple[float, float]], first: float, end: float) -> str | None:
    """What keeps sorted ranges from covering [first, end) exactly once."""
    for start, stop in [*ranges, (end, end)]:
        if start != first:
            how = "by no piece" if start > first else "twice"
            return f"from {min(start, first):.9g} to {max(start, first):.9g} are looked up {how}"
        first = stop
    return None
