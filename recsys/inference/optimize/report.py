"""What was done to a model, as rows and as a table of text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from recsys.dataflow.workload import Dtype
from recsys.inference.backends import Backend

__all__ = ["Left", "Placed", "Report"]


@dataclass(frozen=True)
class Placed:
    """A module whose look-ups are done by ours.

    Attributes:
        name: Its path in the model.
        kind: Its class.
        tables: How many it reads.
        rows: Of all of them.
        dims: Their columns.
        dtypes: How they are stored.
        bytes: Of rows that no module above it has stored already.
    """

    name: str
    kind: str
    tables: int
    rows: int
    dims: tuple[int, ...]
    dtypes: tuple[Dtype, ...]
    bytes: int


@dataclass(frozen=True)
class Left:
    """A module that stays as it was, and why."""

    name: str
    kind: str
    why: str


@dataclass(frozen=True)
class Report:
    """What was done to a model.

    Attributes:
        placed: Modules whose look-ups are done by ours.
        left: Embedding modules that stay as they were.
        pages: What pages the rows got: `huge`, or why not.
        plan: How look-ups were planned.
        calls: Look-up calls of a batch; as many as there are modules where the model runs module by module.
        eager: Why the model runs module by module; empty where its network was compiled.
        backends: The back end of batches of up to so many, where the network was compiled.
        us: Measured microseconds of the network: batch size -> back end -> µs; empty where nothing was to choose.
        unused: Why other back ends were not in the choice.
    """

    placed: tuple[Placed, ...]
    left: tuple[Left, ...]
    pages: str
    plan: str
    calls: int
    eager: str = ""
    backends: Mapping[int, Backend] = field(default_factory=dict)
    us: Mapping[int, Mapping[Backend, float]] = field(default_factory=dict)
    unused: Mapping[Backend, str] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """Of all rows that were stored."""
        return sum(one.bytes for one in self.placed)

    def backend(self, rows: int) -> Backend | None:
        """What runs the network for a batch of so many; None where it was not compiled."""
        if not self.backends:
            return None
        most = max(self.backends)  # more rows run as the most that were measured do
        return self.backends[min(size for size in self.backends if size >= min(rows, most))]

    def __str__(self) -> str:
        """A table of the modules, then a line for each other thing."""
        return "\n".join([*self._modules(), *self._lines()])

    def _modules(self) -> list[str]:
        cells = [("module", "kind", "tables", "rows", "dim", "stored as", "bytes")]
        for one in self.placed:
            dims = ", ".join(map(str, one.dims))
            sizes = f"{one.tables:,}", f"{one.rows:,}", dims, ", ".join(one.dtypes), f"{one.bytes:,}"
            cells.append((one.name, one.kind, *sizes))
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        lines = ["  ".join(cell.ljust(n) for cell, n in zip(row, widths, strict=True)).rstrip() for row in cells]
        return lines if self.placed else ["no embedding module was replaced"]

    def _lines(self) -> Iterator[str]:
        for one in self.left:
            yield f"left as it was: {one.name} ({one.kind}): {one.why}"
        if self.placed:
            yield f"look-ups: {self.calls} calls a batch, {self.bytes:,} bytes on pages: {self.pages}; {self.plan}"
        if self.eager:
            yield f"network: module by module, since {self.eager}"
        for most, backend in self.backends.items():
            times = ", ".join(f"{name} {us:,.0f} µs" for name, us in self.us.get(most, {}).items())
            yield f"network, batches of up to {most:,}: {backend}" + (f" ({times})" if times else "")
        for name, why in self.unused.items():
            yield f"not used: {name}: {why}"
