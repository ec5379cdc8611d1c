"""What a model must know of its data, and what the encoder counts on the way."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from recsys.data.schema import Side

__all__ = ["Counts", "IdInput", "Inputs", "Task"]


@dataclass(frozen=True)
class IdInput:
    """What a model must know of the ids of a feature, or of one of its hashes."""

    name: str
    table: str
    rows: int
    kind: str
    side: Side
    shares: str | None = None
    reserved: int = 1
    """Rows at the table's start that stand for no value: unknown, and in a vocabulary's table missing."""
    part: int = 1
    """Which of the feature's hashes it is, from 1."""
    parts: int = 1
    """How many ids of the feature, side by side in `Inputs.ids`, make one embedding: its hashes."""

    @property
    def feature(self) -> str:
        """The feature whose id it is; the first part has its name."""
        return self.name.partition(":")[0]


@dataclass(frozen=True)
class Task:
    """What a model must know of a label; a regression task's logit is ``(label - shift) / scale``."""

    name: str
    kind: Literal["binary", "regression"] = "binary"
    weight: float = 1.0
    shift: float = 0.0
    scale: float = 1.0


@dataclass(frozen=True)
class Inputs:
    """What a model must know of its data: numbers, id features and tasks."""

    dense: tuple[str, ...]
    ids: tuple[IdInput, ...]
    tasks: tuple[Task, ...]


@dataclass
class Counts:
    """What the encoder met: per feature, how many values were missing, how many unknown, how many lists were cut."""

    rows: int = 0
    values: dict[str, int] = field(default_factory=dict)
    missing: dict[str, int] = field(default_factory=dict)
    unknown: dict[str, int] = field(default_factory=dict)
    cut: dict[str, int] = field(default_factory=dict)

    def add(self, feature: str, values: int, missing: int, unknown: int = 0, cut: int = 0) -> None:
        """Count one batch of a feature."""
        told = ((self.values, values), (self.missing, missing), (self.unknown, unknown), (self.cut, cut))
        for counter, n in told:
            counter[feature] = counter.get(feature, 0) + int(n)

    def merge(self, other: Counts) -> None:
        """Add what another one counted."""
        self.rows += other.rows
        for name, values in other.values.items():
            self.add(name, values, other.missing[name], other.unknown[name], other.cut[name])

    def sentences(self) -> list[str]:
        """One line for each feature with something to say."""
        lines = []
        for name, values in self.values.items():
            told = [
                f"{n:,} {what} ({n / values:.1%})"
                for what, n in (("unknown", self.unknown[name]), ("missing", self.missing[name]))
                if n
            ]
            if told:
                lines.append(f"{name}: {', '.join(told)} of {values:,} values")
            if self.cut[name]:
                lines.append(f"{name}: {self.cut[name]:,} rows had more values than max_length, and kept their last")
        return lines
