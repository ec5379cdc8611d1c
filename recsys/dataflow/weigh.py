"""What the parts of a plan are predicted to cost: in company, alone, and at the very least."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, get_args

from recsys.dataflow.plan import Piece, RowRange, Strategy
from recsys.dataflow.workload import Workload
from recsys.errors import ConfigError

__all__ = ["Core", "Costs", "Meter", "Part", "last"]

STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)

ASKED = 4
"""A question to the costs weighs as much as so many of the pieces that it is about."""


class Costs(Protocol):
    """What a platform is predicted to need.

    Cores are alike, and so are a table's rows: ranges of one length cost the same. The bound relies on one thing more:
    a piece is never faster in company than alone.
    """

    @property
    def fingerprint(self) -> str:
        """Of the platform."""
        ...

    @property
    def error(self) -> float:
        """Share by which predictions of two plans may be off: a plan that gains less over a simpler one is no gain."""
        ...

    def core_us(self, pieces: Sequence[Piece], batch: int) -> Sequence[float]:
        """Predicted µs of each piece when one core does all of these for this batch, sharing its private cache.

        inf where a strategy is ruled out; `gather` never is. The pieces' own `core` says nothing here.
        """
        ...

    def reduce_us(self, piece: Piece, batch: int) -> float:
        """µs that its core needs besides to add the sums of a piece of some rows to those of the other rows."""
        ...

    def wake_us(self, cores: int) -> float:
        """µs that a call takes besides, with the waking and awaiting of so many cores; never less for more cores."""
        ...

    def crowd(self, cores: int, batch: int) -> float:
        """How many times longer work takes while so many cores are at it; at least 1."""
        ...

    def floor_us(self, batch: int) -> float:
        """µs that the work takes at least, on however many cores: what they share limits it."""
        ...


class Part(NamedTuple):
    """Some bags of a row range of a look-up, done in one way."""

    lookup: int
    rows: RowRange
    first: int
    """The first bag, where rows are cut: all ranges must have the same shares. Else 0: it is settled at the end."""
    bags: int
    strategy: Strategy = "gather"

    @property
    def key(self) -> tuple[int, RowRange, int]:
        """What a core has once at most: more bags of it are added to those that it has."""
        return self[:3]


@dataclass(frozen=True, eq=False, slots=True)
class Core:
    """All that one core does."""

    parts: tuple[Part, ...]
    """Sorted."""
    times: tuple[float, ...]
    """Predicted µs of each part, with adding up."""
    load: float
    """Their sum."""

    def without(self, part: Part) -> tuple[Part, ...]:
        """The other parts."""
        return tuple(other for other in self.parts if other.key != part.key)


def last(cores: Iterable[Core]) -> float:
    """µs until the last core is done."""
    return max(core.load for core in cores)


class Meter:
    """The costs of one workload and batch, each asked once.

    Attributes:
        rows: Look-up -> rows of its table.
        weighed: How much was asked, in pieces.
    """

    def __init__(self, workload: Workload, costs: Costs, batch: int) -> None:
        self.workload, self.costs, self.batch = workload, costs, batch
        self.rows = [workload.table(lookup.table).rows for lookup in workload.lookups]
        self.weighed = 0
        self._cores: dict[tuple[Part, ...], Core] = {(): Core((), (), 0.0)}
        self._pieces: dict[Part, Piece] = {}
        self._alone: dict[tuple[int, int, int], list[tuple[float, Strategy]]] = {}
        self._work, self._item = [math.inf] * len(self.rows), [math.inf] * len(self.rows)
        self._floors: list[tuple[float, float]] = []

    def wholes(self) -> list[Part]:
        """Every look-up in one part."""
        return [Part(lookup, (0, rows), 0, self.batch) for lookup, rows in enumerate(self.rows)]

    def uncut(self, part: Part) -> bool:
        """Whether it has all rows; then its bags may be shared out anyhow."""
        return part.rows == (0, self.rows[part.lookup])

    def core(self, parts: Iterable[Part]) -> Core:
        """A core that does these."""
        key = tuple(sorted(parts))
        found = self._cores.get(key)
        if found is None:
            found = self._cores[key] = self._weigh(key)
        return found

    def _weigh(self, parts: tuple[Part, ...]) -> Core:
        self.weighed += len(parts) + ASKED
        for part in parts:
            if part not in self._pieces:
                self._pieces[part] = self.piece(part, part.first)
        pieces = [self._pieces[part] for part in parts]
        times = tuple(
            float(us) + (self.costs.reduce_us(piece, self.batch) if piece.rows else 0.0)
            for piece, us in zip(pieces, self.costs.core_us(pieces, self.batch), strict=True)
        )
        load = sum(times)
        if not load >= 0 or min(times) < 0 or (load == math.inf and all(part.strategy == "gather" for part in parts)):
            name = self.workload.lookups[parts[0].lookup].name
            raise ConfigError(
                f"platform `{self.costs.fingerprint}` predicts what is no time for `{name}` and {len(parts) - 1} more "
                f"pieces on one core: {times[:8]} µs"
            )
        return Core(parts, times, load)

    def piece(self, part: Part, first: int, core: int = 0, us: float = 0.0) -> Piece:
        """The part as a piece of a plan, from bag `first` on."""
        return Piece(
            lookup=self.workload.lookups[part.lookup].name,
            core=core,
            strategy=part.strategy,
            rows=None if self.uncut(part) else part.rows,
            share=(_share(first, self.batch), _share(first + part.bags, self.batch)),
            predicted_us=us,
        )

    def alone(self, part: Part) -> list[tuple[float, Strategy]]:
        """µs on a core of its own by each strategy that can do it, fastest first.

        Asked of a half, a quarter, ... of all bags; what is between costs in proportion to the next above.
        """
        halved = ((self.batch - 1) // (part.bags - 1)).bit_length() - 1 if part.bags > 1 else self.batch.bit_length()
        bags = -(-self.batch // (1 << halved))
        key = part.lookup, part.rows[1] - part.rows[0], bags
        if key not in self._alone:
            one = part._replace(first=0, bags=bags)
            times = [(self.core((one._replace(strategy=way),)).load / bags, way) for way in STRATEGIES]
            self._alone[key] = sorted((pair for pair in times if pair[0] < math.inf), key=lambda pair: pair[0])
        return [(us * part.bags, way) for us, way in self._alone[key]]

    def us(self, part: Part) -> float:
        """What the part takes on a core of its own."""
        return self.alone(part)[0][0]

    def put(self, core: Core, part: Part) -> Core:
        """The core with the part too, by the strategy that is fastest in this company."""
        here = next((other for other in core.parts if other.key == part.key), None)
        if here is not None:
            core, part = self.core(core.without(part)), part._replace(bags=part.bags + here.bags)
        best: Core | None = None
        for us, way in self.alone(part):
            if best is not None and core.load + us >= best.load:
                break
            new = self.core((*core.parts, part._replace(strategy=way)))
            if best is None or new.load < best.load:
                best = new
        assert best is not None
        if best.load == math.inf:  # what rested in the cache has no room any more
            best = self.core(other._replace(strategy="gather") for other in best.parts)
        return best

    def fill(self, parts: Iterable[Part]) -> Core:
        """A core with these and nothing else: all by gather, or each by what is fastest for it alone."""
        own: dict[tuple[int, RowRange, int], Part] = {}
        for part in parts:
            here = own.get(part.key)
            own[part.key] = part if here is None else here._replace(bags=here.bags + part.bags)
        gather = [part._replace(strategy="gather") for part in own.values()]
        alone = [part._replace(strategy=self.alone(part)[0][1]) for part in gather]
        return min(self.core(gather), self.core(alone), key=lambda core: core.load)

    def predicted(self, cores: Sequence[Core]) -> float:
        """µs of the whole plan."""
        count = sum(bool(core.parts) for core in cores)
        return self.costs.wake_us(count) + last(cores) * self.costs.crowd(count, self.batch)

    def bound(self, cores: int) -> float:
        """No plan for so many cores takes less; `recsys.dataflow.planner` says what it is."""
        while len(self._floors) < cores.bit_length():
            self._floors.append(self._floor(1 << len(self._floors)))
        work, item = self._floors[cores.bit_length() - 1]
        return self.costs.wake_us(cores) + max(work / cores, item) * self.costs.crowd(cores, self.batch)

    def _floor(self, pieces: int) -> tuple[float, float]:
        """(µs of all look-ups at their cheapest, the largest single item), each cut into up to so many pieces."""
        for whole, rows in zip(self.wholes(), self.rows, strict=True):
            for cut in (1 << i for i in range(pieces.bit_length())):
                longest, shortest = -(-rows // cut), rows // cut
                bags = -(-self.batch * cut // pieces)
                if shortest and bags:
                    part = whole._replace(rows=(0, longest), bags=bags)
                    work = self.us(part) * rows / longest * self.batch / bags
                    self._work[whole.lookup] = min(self._work[whole.lookup], work)
                    item = self.us(whole._replace(rows=(0, shortest), bags=1))
                    self._item[whole.lookup] = min(self._item[whole.lookup], item)
        return sum(self._work), max(self._item)


def _share(bags: int, batch: int) -> float:
    """The least number whose product with `batch` has `bags` as its whole part, for `Piece.share`."""
    share = bags / batch
    while math.floor(share * batch) < bags:
        share = math.nextafter(share, 2.0)
    return share
