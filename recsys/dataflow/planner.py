"""Choose for every look-up the cores, rows, shares of the batch and strategies that end soonest together.

Each batch size is planned by itself, for all cores and for fewer of them, since waking a core costs. A look-up stays
whole, or its bags are shared out, or its rows are cut into ranges, so that each fits a core's cache and every core adds
its partial sums; then the ranges have the same shares. `recsys.dataflow.search` says how the search goes. The symmetric
plan, in which every core does all look-ups for its share of the batch, and a single core are weighed too. Predictions
err, and a core that was woken for nothing is a loss: more cores are taken only where that is predicted to end sooner by
more than the error, and plans that are not symmetric only for more than twice as much. Of a large batch waking is a
small part: there the error speaks for more cores, since such as crowd each other at worst bring nothing.

*The bound.* Let cost(p) be what a piece p costs alone on a core, and fraction(p) its part of its look-up's rows. Over
its pieces of all bags, with its rows cut into 1, 2, 4, ... up to k equal ranges, a look-up takes at least
w = min cost(p) / fraction(p) of core time; and some core does one of its bags, which takes at least s = min cost of a
piece of one bag. So k cores take at least wake(k) + crowd(k) max(sum of w / k, largest s), and the bound is the least
of these over k. Each piece is weighed as if it had a cache for itself: where the tables that want to be near a core are
larger than all caches together, no plan comes close.

Hot rows are not split from cold ones. Nothing in a workload says that rows are stored hottest first, and on a CPU
there is little to gain: each core's caches keep the hot rows by themselves, while a range of rows is served by
`stream`, which looks at every id and sorts its own. Over whole tables it takes several times as long as `gather`
(`recsys bench strategies`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from tqdm import tqdm

from recsys.dataflow.plan import DataFlowPlan, Piece, PlannedLookup, PlannedTable, Schedule
from recsys.dataflow.search import search
from recsys.dataflow.weigh import Core, Costs, Meter, last
from recsys.dataflow.workload import Workload
from recsys.errors import ConfigError

__all__ = ["Costs", "plan", "symmetric"]

RISK = 4
"""Times of waking that are at stake with more cores, against what predictions may be off by."""


def plan(workload: Workload, costs: Costs, cores: int, batches: Sequence[int] | None = None) -> DataFlowPlan:
    """The plan that is predicted to end soonest, as far as the costs can tell plans apart.

    Than a symmetric plan it is predicted to be later by less than twice `Costs.error`, if at all; but for the waking of
    cores where what they share is the limit (`Costs.floor_us`).

    Args:
        workload: Tables, look-ups and their ids.
        costs: Predictions for the platform.
        cores: How many cores it may use.
        batches: Batch sizes to plan for; the workload's own by default.

    Raises:
        ConfigError: When there is nothing to plan, or the costs are no costs.
    """
    sizes = sorted(set(workload.batch_sizes if batches is None else batches))
    return _plan(workload, costs, cores, sizes, _fastest)


def symmetric(workload: Workload, costs: Costs, cores: int, batch: int) -> DataFlowPlan:
    """The plan in which every core does all look-ups for its share of the batch, each by its fastest strategy.

    Raises:
        ConfigError: When there is nothing to plan, or the costs are no costs.
    """
    return _plan(workload, costs, cores, [batch], _symmetric)


def _plan(
    workload: Workload, costs: Costs, cores: int, batches: Sequence[int], choose: Callable[[Meter, int], list[Core]]
) -> DataFlowPlan:
    if cores < 1 or not batches or min(batches) < 1 or not workload.lookups:
        raise ConfigError(
            f"expected look-ups, batch sizes and cores to plan for, got {len(workload.lookups)} look-ups, "
            f"batches {list(batches)} and {cores} cores"
        )

    def schedule(batch: int) -> Schedule:
        meter = Meter(workload, costs, batch)
        return _schedule(meter, choose(meter, cores), cores)

    return DataFlowPlan(
        workload=workload.name,
        platform=costs.fingerprint,
        cores=cores,
        tables=tuple(PlannedTable(name=t.name, rows=t.rows, dim=t.dim, dtype=t.dtype) for t in workload.tables),
        lookups=tuple(PlannedLookup(name=lookup.name, table=lookup.table) for lookup in workload.lookups),
        latency_us=workload.latency_us,
        schedules=tuple(map(schedule, tqdm(batches, desc=workload.name, disable=None if len(batches) > 1 else True))),
    )


def _fastest(meter: Meter, most: int) -> list[Core]:
    """What each core does: the best search for all cores or fewer, if it beats the symmetric plan by enough.

    That is by twice the error, since plans of two kinds do not err alike. With 200 tables, 8,192 bags and two cores
    that divided the tables among them, such a plan was predicted to end 11 % sooner and ended 5 to 8 % later: cores
    that go through the same tables may find in a cache that they share what the other one has just read, and no
    prediction knows of that.
    """
    best, trust = _best_symmetric(meter, most), 1 - meter.costs.error
    least = (1 - 2 * meter.costs.error) * meter.predicted(best)
    found: dict[int, list[Core]] = {}
    for cores in sorted(_numbers(most)[1:], key=lambda n: (meter.bound(n), n)):
        reached = min(map(meter.predicted, found.values()), default=math.inf)
        if meter.bound(cores) < min(least, reached / trust):
            found[cores] = search(meter, cores)
    for _, one in sorted(found.items()):
        if meter.predicted(one) < least:
            best, least = one, trust * meter.predicted(one)
    return best


def _best_symmetric(meter: Meter, most: int) -> list[Core]:
    """The symmetric plan on one core, or on more where they are worth it; each has a bag of its own.

    Let gain be what more cores are predicted to save, and off what predictions may be off by. More are taken where
    ``gain > off``: then they save in any case. And where ``gain + off > RISK * wake``: what they save at best is then
    so many times what waking them costs.
    """
    first, *others = (_symmetric(meter, cores) for cores in _numbers(min(most, meter.batch)))
    best, least = first, meter.predicted(first)
    for one in others:
        us, off = meter.predicted(one), meter.costs.error * least
        if least - us > min(off, RISK * meter.costs.wake_us(len(one)) - off):
            best, least = one, min(us, least)
    return best


def _numbers(most: int) -> list[int]:
    """Of cores: 1, 2, 4, … and all."""
    return sorted({1 << i for i in range(most.bit_length())} | {most})


def _symmetric(meter: Meter, cores: int) -> list[Core]:
    bags = [(k + 1) * meter.batch // cores - k * meter.batch // cores for k in range(cores)]
    full = meter.fill(whole._replace(bags=max(bags)) for whole in meter.wholes())
    return [meter.core(part._replace(bags=n) for part in full.parts if n) for n in bags]


def _schedule(meter: Meter, cores: Sequence[Core], most: int) -> Schedule:
    predicted, floor = _limited(meter, cores), meter.costs.floor_us(meter.batch)
    return Schedule(
        batch=meter.batch,
        pieces=tuple(_pieces(meter, cores)),
        predicted_us=predicted,
        bound_us=min(predicted, *(max(meter.bound(n), floor) for n in range(1, most + 1))),
        symmetric_us=min(_limited(meter, _symmetric(meter, n)) for n in _numbers(min(most, meter.batch))),
    )


def _limited(meter: Meter, cores: Sequence[Core]) -> float:
    """µs of the whole plan, with what all cores share as the limit.

    Plans are chosen without it: more cores than the memory keeps busy cost next to nothing, and where others use the
    machine, too, the memory may be faster the next moment.
    """
    wake = meter.costs.wake_us(sum(bool(core.parts) for core in cores))
    return wake + max(meter.predicted(cores) - wake, meter.costs.floor_us(meter.batch))


def _pieces(meter: Meter, cores: Sequence[Core]) -> list[Piece]:
    """The cores' parts with their bags settled; what an executor may do in one go stands together."""
    wake = meter.costs.wake_us(sum(bool(core.parts) for core in cores))
    crowd = (_limited(meter, cores) - wake) / (last(cores) or 1.0)
    dims = {lookup.name: meter.workload.table(lookup.table).dim for lookup in meter.workload.lookups}
    taken: dict[tuple[int, tuple[int, int], int], int] = {}
    found = []
    for k, core in enumerate(cores):
        pieces = []
        for part, us in zip(core.parts, core.times, strict=True):
            first = taken.get(part.key, part.first)
            taken[part.key] = first + part.bags
            pieces.append(meter.piece(part, first, k, us * crowd))
        found += sorted(pieces, key=lambda piece: (piece.share, piece.strategy, dims[piece.lookup]))
    return found
