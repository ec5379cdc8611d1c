"""A simple cost model of an imagined machine, to plan with: linear in bags and ids, with one private cache a core."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from recsys.dataflow.plan import Piece
from recsys.dataflow.workload import Workload, WorkloadLookup, WorkloadTable


@dataclass
class ToyCosts:
    """Rows in the cache take 1.5 ns, others 15; what a core reads shares its cache; resident rows come first there."""

    workload: Workload
    cache: int = 2 << 20
    start_us: float = 0.05
    near_ns: float = 1.5
    far_ns: float = 15.0
    scan_ns: float = 0.5
    """Looking at an id that may be another piece's."""
    add_ns: float = 2.0
    """Adding one partial sum to the output."""
    threads_us: float = 4.0
    fingerprint: str = "toy"
    error: float = 0.0
    calls: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.lookups: dict[str, tuple[WorkloadLookup, WorkloadTable]] = {
            lookup.name: (lookup, self.workload.table(lookup.table)) for lookup in self.workload.lookups
        }
        self.ids = {lookup.name: sum(n * share for n, share in lookup.ids.bags) for lookup in self.workload.lookups}

    def core_us(self, pieces: Sequence[Piece], batch: int) -> list[float]:
        self.calls += 1
        kept: dict[object, int] = {}
        passing: dict[object, int] = {}
        for piece in pieces:
            if piece.strategy != "stream":
                place = kept if piece.strategy == "resident" else passing
                place[self.lookups[piece.lookup][1].name, piece.rows] = self.bytes(piece)
        left = self.cache - sum(kept.values())
        hit = min(1.0, max(left, 0) / (sum(passing.values()) or 1))
        return [self.piece_us(piece, batch, left, hit) for piece in pieces]

    def bytes(self, piece: Piece) -> int:
        table = self.lookups[piece.lookup][1]
        return (table.rows if piece.rows is None else piece.rows[1] - piece.rows[0]) * table.row_bytes

    def piece_us(self, piece: Piece, batch: int, left: int, hit: float) -> float:
        table = self.lookups[piece.lookup][1]
        seen = len(piece.bags(batch)) * self.ids[piece.lookup]
        read = seen
        fixed = self.start_us
        if piece.rows is not None:
            read *= (piece.rows[1] - piece.rows[0]) / table.rows
            fixed += seen * self.scan_ns / 1000
        row = hit * self.near_ns + (1 - hit) * self.far_ns
        if piece.strategy == "resident":
            return fixed + read * self.near_ns / 1000 if left >= 0 else math.inf
        if piece.strategy == "stream":
            return fixed + self.start_us * 5 + self.bytes(piece) / 2e4 + read * 2 * self.near_ns / 1000
        if piece.strategy == "vector":
            return fixed + read * row * (0.8 if hit == 1 else 1.1) / 1000 if table.dim <= 16 else math.inf
        return fixed + read * row / 1000

    def reduce_us(self, piece: Piece, batch: int) -> float:
        return 0.0 if piece.rows is None else len(piece.bags(batch)) * self.add_ns / 1000

    def crowd(self, cores: int, batch: int) -> float:
        return 1.0

    def floor_us(self, batch: int) -> float:
        return 0.0

    def wake_us(self, cores: int) -> float:
        return 0.0 if cores == 1 else self.threads_us + 0.05 * cores
