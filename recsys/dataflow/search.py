"""Search for the parts of look-ups, and the cores that do them, that end soonest together.

Longest first, then steps that ease the core that ends last, then ruin and recreate: some look-ups are taken out, cut
and placed anew, and what is better stays. Effort is counted in pieces weighed, not in seconds, and the seed of chance
is fixed: the same input gives the same plan.

Tried without gain: accepting slightly worse plans on the way, improving several starts, placing by bytes instead of at
random, changing strategies without moving anything. Four times the effort gains about half a percent.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence

from recsys.dataflow.weigh import Core, Meter, Part, last

__all__ = ["search"]

EFFORT = 60_000
"""Pieces weighed after the start, about."""

ROUNDS = 1000
"""Most rounds of ruin and recreate."""

STEP = 1500
"""Pieces weighed for one step, about: with hundreds of parts on a core not every trade can be tried."""

WIDTH = 4
"""Cores that the last one trades with: so many that end first, and so many that share a look-up with it."""

TRIES = 16
"""Trades with one core after which the best that helps is taken."""

GAIN = 0.01
"""Share of its time by which a step must ease the core that ends last: less is not worth a cut."""

EVEN = 0.02
"""A trade after which both cores end this close to their mean is taken at once."""

ENOUGH = 1e-4
"""Share by which a plan may be above the bound for the search to end."""

MANY = 4
"""Most parts in a start, for each look-up or core: more would crowd the caches that they were cut for."""


def search(meter: Meter, cores: int) -> list[Core]:
    """What each of `cores` cores does."""
    target = (meter.bound(cores) - meter.costs.wake_us(cores)) / meter.costs.crowd(cores, meter.batch)
    best = min((_dealt(meter, cores, parts) for parts in _starts(meter, cores, target)), key=_worth)
    stop = meter.weighed + EFFORT
    best = _improved(meter, best, stop)
    chance = random.Random(0)
    for _ in range(ROUNDS):
        if meter.weighed >= stop or last(best) <= target * (1 + ENOUGH):
            break
        new = _improved(meter, _ruined(meter, best, target, chance), stop)
        if _worth(new) < _worth(best):
            best = new
    return best


def _worth(cores: Sequence[Core]) -> tuple[float, float]:
    """Less is better: when the last core is done, then the work of all."""
    return last(cores), sum(core.load for core in cores)


def _starts(meter: Meter, cores: int, target: float) -> list[tuple[Part, ...]]:
    """Parts to begin with, longest first: rows whole or cut as is cheapest, bags by how much a core can do."""
    wholes = meter.wholes()
    cheapest = [max(_cuts(whole, cores), key=lambda n: _saved(meter, whole, n)) for whole in wholes]
    found: dict[tuple[Part, ...], None] = {}
    for counts in ([1] * len(wholes), cheapest):
        for limit in (target, target / 2):
            parts = [part for whole, n in zip(wholes, counts, strict=True) for part in _parts(meter, whole, n, limit)]
            found[tuple(sorted(parts, key=lambda part: (-meter.us(part), part)))] = None
    first, *others = found
    return [first, *(parts for parts in others if len(parts) <= MANY * max(len(wholes), cores))]


def _cuts(whole: Part, cores: int) -> list[int]:
    """Into how many ranges its rows may be cut: powers of two."""
    return [1 << i for i in range(min(cores, whole.rows[1]).bit_length())]


def _parts(meter: Meter, whole: Part, count: int, limit: float = math.inf) -> list[Part]:
    """Its rows cut into `count` ranges, and its bags so that a part takes about `limit` µs or less."""
    rows = _bounds(whole.rows[1], count)
    n = math.ceil(meter.us(whole._replace(rows=rows[0])) / limit) if limit > 0 else 1
    bags = _bounds(whole.bags, max(1, min(n, whole.bags)))
    return [Part(whole.lookup, r, a if count > 1 else 0, b - a) for r in rows for a, b in bags]


def _saved(meter: Meter, whole: Part, count: int) -> float:
    """µs of a cut into so many ranges of rows that as many shares of the bags take more."""
    shared = (meter.us(whole._replace(bags=b - a)) for a, b in _bounds(whole.bags, min(count, whole.bags)))
    return sum(shared) - sum(map(meter.us, _parts(meter, whole, count)))


def _bounds(size: int, count: int) -> list[tuple[int, int]]:
    """[0, size) in `count` ranges."""
    return [(i * size // count, (i + 1) * size // count) for i in range(count)]


def _dealt(meter: Meter, cores: int, parts: Iterable[Part]) -> list[Core]:
    """One part after the other to the core that has least to do so far, each counted as if it were alone there.

    What they take together is asked once for each core: asked after each part, hundreds of them would take seconds.
    """
    given: list[list[Part]] = [[] for _ in range(cores)]
    loads = [(0.0, k) for k in range(cores)]
    for part in parts:
        load, k = loads[0]
        given[k].append(part)
        heapq.heapreplace(loads, (load + meter.us(part), k))
    return [meter.fill(own) for own in given]


def _placed(meter: Meter, cores: Iterable[Core], parts: Iterable[Part]) -> list[Core]:
    """One part after the other on the core that is then done soonest."""
    cores = list(cores)
    for part in parts:
        at, best = -1, cores[0]
        tried: set[Core] = set()
        for k in sorted(range(len(cores)), key=lambda k: cores[k].load):
            if at >= 0 and cores[k].load + meter.us(part) >= best.load:
                break
            if cores[k] not in tried:  # idle cores are all the same
                tried.add(cores[k])
                new = meter.put(cores[k], part)
                if at < 0 or new.load < best.load:
                    at, best = k, new
        cores[at] = best
    return cores


def _ruined(meter: Meter, cores: Sequence[Core], target: float, chance: random.Random) -> list[Core]:
    """Some look-ups, one of them of the core that ends last, cut and placed anew in any order."""
    busy = [core for core in cores if core.parts]
    others = chance.choices(busy, k=chance.choice((1, 2, 4, 8)))
    gone = {chance.choice(core.parts).lookup for core in (max(busy, key=lambda core: core.load), *others)}
    wholes = meter.wholes()
    parts = []
    for lookup in sorted(gone):
        now = len({part.rows for core in cores for part in core.parts if part.lookup == lookup})
        count = chance.choice([n for n in _cuts(wholes[lookup], len(cores)) if n in (1, now // 2, now, now * 2)])
        parts += _parts(meter, wholes[lookup], count, target * chance.choice((0.5, 1.0, math.inf)))
    chance.shuffle(parts)
    return _placed(meter, (meter.core(p for p in core.parts if p.lookup not in gone) for core in cores), parts)


def _improved(meter: Meter, cores: Sequence[Core], stop: int) -> list[Core]:
    """Local search: steps that ease the core that ends last, while there are any."""
    cores = list(cores)
    step = _eased(meter, cores)
    while step:
        for k, core in step.items():
            cores[k] = core
        step = _eased(meter, cores) if meter.weighed < stop else {}
    return cores


_Pair = tuple[Core, Core]
_Trades = Callable[[Meter, Core, Core, float], Iterator[_Pair | None]]


def _eased(meter: Meter, cores: Sequence[Core]) -> dict[int, Core]:
    """What a step changes: the core that ends last trades with another so that both end sooner than it did."""
    *order, late = sorted(range(len(cores)), key=lambda k: cores[k].load)
    held = {part.lookup for part in cores[late].parts}
    sharing = [k for k in order[WIDTH:] if any(part.lookup in held for part in cores[k].parts)]
    trades: _Trades
    for trades in (_handed, _swapped):
        stop = meter.weighed + STEP
        for k in order[:WIDTH] + sharing[:WIDTH]:
            found = _best(meter, trades, cores[late], cores[k], stop)
            if found is not None:
                return {late: found[0], k: found[1]}
    return {}


def _best(meter: Meter, trades: _Trades, giver: Core, taker: Core, stop: int) -> _Pair | None:
    """The best of the first few trades, if one helps."""
    goal, even = giver.load * (1 - GAIN), (giver.load + taker.load) / 2 * (1 + EVEN)
    best: _Pair | None = None
    for tried, pair in enumerate(trades(meter, giver, taker, goal)):
        if pair is not None and last(pair) < goal:
            best, goal = pair, last(pair)
        if goal <= even or meter.weighed > stop or (best is not None and tried >= TRIES):
            break
    return best


def _handed(meter: Meter, giver: Core, taker: Core, goal: float) -> Iterator[_Pair | None]:
    """The taker gets a part, or so many of its bags that both end together."""
    for us, part in sorted(zip(giver.times, giver.parts, strict=True), reverse=True):
        rest = meter.core(giver.without(part))
        if taker.load + meter.us(part) < goal:
            yield rest, meter.put(taker, part)
        bags = _even(part, us, giver, taker) if meter.uncut(part) else 0
        for _ in range(2):  # the second time it is known what the taker pays besides
            if 0 < bags < part.bags:
                pair = meter.put(rest, part._replace(bags=part.bags - bags)), meter.put(taker, part._replace(bags=bags))
                yield pair
                bags += _even(part, us, *pair)


def _even(part: Part, us: float, giver: Core, taker: Core) -> int:
    """How many bags of the part level two cores."""
    gap = giver.load - taker.load
    return round(part.bags * gap / 2 / us) if us > 0 and math.isfinite(gap) else 0


def _swapped(meter: Meter, giver: Core, taker: Core, goal: float) -> Iterator[_Pair | None]:
    """A part of the one for a part of the other; None where that helps not even the giver."""
    given, taken = (sum(map(meter.us, core.parts)) for core in (giver, taker))
    for _, part in sorted(zip(giver.times, giver.parts, strict=True), reverse=True):
        for other in taker.parts:
            eased = meter.us(part) - meter.us(other)
            if part.key == other.key or given - eased >= goal or taken + eased >= goal:
                continue
            new = meter.put(meter.core(giver.without(part)), other)
            yield (new, meter.put(meter.core(taker.without(other)), part)) if new.load < goal else None
