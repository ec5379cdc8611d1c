"""Plans lose nothing, keep what they promise, and are the best where that can be checked."""

from __future__ import annotations

import itertools
import math
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import Bounds, LinearConstraint, milp

from recsys.dataflow.plan import DataFlowPlan, Piece, Schedule
from recsys.dataflow.planner import Costs, plan, symmetric
from recsys.dataflow.workload import Ids, Workload, WorkloadLookup, WorkloadTable
from recsys.errors import ConfigError
from tests.dataflow.test_plan import counts
from tests.dataflow.toy_costs import ToyCosts


def workload(*tables: tuple[int, int, int], latency_us: float | None = None) -> Workload:
    """A look-up of each table, told as (rows, dim, ids in a bag)."""
    return Workload(
        name="w",
        tables=tuple(WorkloadTable(name=f"t{i}", rows=rows, dim=dim) for i, (rows, dim, _) in enumerate(tables)),
        lookups=tuple(
            WorkloadLookup(name=f"c{i}", table=f"t{i}", ids=Ids(bags=((ids, 1.0),)))
            for i, (_, _, ids) in enumerate(tables)
        ),
        batch_sizes=(1, 64, 512),
        latency_us=latency_us,
    )


CRITEO = workload(
    *((rows, 16, 1) for rows in (1460, 583, 10131227, 2202608, 305, 24, 12517, 633, 3, 93145, 5683, 8351593))
)


def predicted(schedule: Schedule, costs: Costs) -> float:
    """What the costs say of a schedule's pieces, each core's asked at once."""
    cores: dict[int | None, list[Piece]] = {}
    for piece in schedule.pieces:
        cores.setdefault(piece.core, []).append(piece)
    loads = []
    for pieces in cores.values():
        us = [float(one) for one in costs.core_us(pieces, schedule.batch)]
        us = [one + (costs.reduce_us(p, schedule.batch) if p.rows else 0.0) for one, p in zip(us, pieces, strict=True)]
        np.testing.assert_allclose([piece.predicted_us for piece in pieces], us, rtol=1e-9)
        loads.append(sum(us))
    return max(loads) + costs.wake_us(len(cores))


TABLES = st.tuples(
    st.sampled_from([1, 2, 3, 40, 1000, 30_000, 500_000]), st.sampled_from([1, 16, 64]), st.integers(0, 30)
)


@settings(max_examples=40)
@given(
    tables=st.lists(TABLES, min_size=1, max_size=7),
    shared=st.booleans(),
    cores=st.sampled_from([1, 2, 3, 5, 8, 17]),
    batch=st.sampled_from([1, 2, 7, 64, 1000]),
    cache=st.sampled_from([1 << 12, 1 << 18, 1 << 21, 1 << 26]),
    threads_us=st.sampled_from([0.0, 1.0, 20.0]),
)
def test_a_plan_loses_nothing_and_is_no_slower_than_the_symmetric_one(
    tables: list[tuple[int, int, int]], shared: bool, cores: int, batch: int, cache: int, threads_us: float
) -> None:
    work = workload(*tables)
    if shared:  # all look-ups read one table
        work = work.model_copy(update={"lookups": tuple(x.model_copy(update={"table": "t0"}) for x in work.lookups)})
    costs = ToyCosts(work, cache=cache, threads_us=threads_us)
    best, even = plan(work, costs, cores, [batch]), symmetric(work, costs, cores, batch)
    for found in (best, even):
        schedule = found.schedules[0]
        for bags in (1, batch, batch + 3):
            assert all((one == 1).all() for one in counts(found, schedule, bags).values())
        assert schedule.predicted_us == pytest.approx(predicted(schedule, costs), rel=1e-9)
        assert schedule.bound_us <= schedule.predicted_us
        found.check(work.tables)
    assert best.schedules[0].predicted_us <= even.schedules[0].predicted_us
    evens = [symmetric(work, costs, n, batch).schedules[0] for n in {1, 2, 4, 8, 16, cores} if n <= cores]
    least = min(one.predicted_us for one in evens)
    assert best.schedules[0].symmetric_us == even.schedules[0].symmetric_us == least <= even.schedules[0].predicted_us


@dataclass
class Fixed:
    """Costs that add up: a whole look-up takes what it takes, wherever."""

    us: dict[str, float]
    fingerprint: str = "fixed"
    error: float = 0.0

    def core_us(self, pieces: Sequence[Piece], batch: int) -> list[float]:
        return [
            self.us[piece.lookup] * len(piece.bags(batch)) / batch if piece.strategy == "gather" else math.inf
            for piece in pieces
        ]

    def reduce_us(self, piece: Piece, batch: int) -> float:
        return 0.0

    def wake_us(self, cores: int) -> float:
        return 0.0

    def crowd(self, cores: int, batch: int) -> float:
        return 1.0

    def floor_us(self, batch: int) -> float:
        return 0.0


def indivisible(us: Sequence[float]) -> tuple[Workload, Fixed]:
    """Look-ups that cannot be cut: one row, and one bag a batch."""
    return workload(*((1, 1, 1) for _ in us)), Fixed({f"c{i}": one for i, one in enumerate(us)})


def by_brute_force(us: Sequence[float], cores: int) -> float:
    loads = (np.bincount(who, us, cores).max() for who in itertools.product(range(cores), repeat=len(us)))
    return float(min(loads))


def by_integer_programme(us: Sequence[float], cores: int) -> float:
    """Least T with x[i, k] in {0, 1}: sum over k of x[i, k] is 1, sum over i of us[i] x[i, k] is at most T."""
    n = len(us)
    once, load = np.zeros((n, n * cores + 1)), np.zeros((cores, n * cores + 1))
    for i, k in itertools.product(range(n), range(cores)):
        once[i, i * cores + k] = 1
        load[k, i * cores + k] = us[i]
    load[:, -1] = -1
    whole = np.ones(n * cores + 1)
    whole[-1] = 0
    found = milp(
        c=1 - whole,
        constraints=[LinearConstraint(once, 1, 1), LinearConstraint(load, -np.inf, 0)],
        integrality=whole.astype(np.int64),
        bounds=Bounds(0, np.append(np.ones(n * cores), np.inf)),
        options={"mip_rel_gap": 1e-9},
    )
    assert found.x is not None
    return float(found.x[-1])


@settings(max_examples=40)
@given(
    us=st.lists(st.integers(1, 20).map(float) | st.floats(0.01, 100), min_size=1, max_size=8), cores=st.integers(2, 3)
)
def test_small_cases_are_optimal(us: list[float], cores: int) -> None:
    work, costs = indivisible(us)
    schedule = plan(work, costs, cores, [1]).schedules[0]
    best = by_brute_force(us, cores)
    assert schedule.predicted_us == pytest.approx(best, rel=2e-4)
    assert schedule.bound_us <= best * (1 + 1e-9)
    assert by_integer_programme(us, cores) == pytest.approx(best, rel=1e-6)


@settings(max_examples=25)
@given(tables=st.lists(TABLES, min_size=2, max_size=4), cache=st.sampled_from([1 << 12, 1 << 18, 1 << 21]))
def test_no_assignment_of_whole_look_ups_is_faster_where_cores_have_caches(
    tables: list[tuple[int, int, int]], cache: int
) -> None:
    work = workload(*tables)
    costs = ToyCosts(work, cache=cache, threads_us=0)
    ways = ("gather", "resident", "stream", "vector")
    choices = [[Piece(lookup=x.name, core=0, strategy=way) for way in ways] for x in work.lookups]
    loads: dict[tuple[Piece, ...], float] = {}

    def load(pieces: tuple[Piece, ...]) -> float:
        key = tuple(sorted(pieces, key=lambda piece: piece.lookup))
        if key not in loads:
            loads[key] = sum(costs.core_us(key, 1))
        return loads[key]

    best = math.inf
    for pieces in itertools.product(*choices):
        for who in itertools.product((0, 1), repeat=len(pieces)):
            sides = (tuple(itertools.compress(pieces, [w == side for w in who])) for side in (0, 1))
            best = min(best, max(costs.wake_us(1) + load(side) for side in sides))
    schedule = plan(work, costs, 2, [1]).schedules[0]
    assert schedule.bound_us <= best + costs.wake_us(2)
    assert schedule.predicted_us <= (best + costs.wake_us(2)) * (1 + 2e-4)


def test_what_can_be_cut_is_shared_out_evenly() -> None:
    work, costs = indivisible([30.0, 7.0, 1.0])
    schedule = plan(work, costs, 4, [1000]).schedules[0]
    assert schedule.predicted_us == pytest.approx(38 / 4, rel=0.01)
    assert schedule.bound_us == pytest.approx(38 / 4)


def test_a_large_table_is_cut_by_rows_where_ranges_fit_caches() -> None:
    work = workload((30_000, 64, 100))
    costs = ToyCosts(work, cache=2 << 20)
    assert work.bytes > costs.cache
    schedule = plan(work, costs, 4, [512]).schedules[0]
    assert [piece.rows for piece in schedule.pieces] == [(k * 7500, (k + 1) * 7500) for k in range(4)]
    assert {piece.share for piece in schedule.pieces} == {(0.0, 1.0)}
    assert schedule.predicted_us < 0.5 * (schedule.symmetric_us or 0)


def test_tables_that_fit_one_cache_but_not_all_are_kept_apart() -> None:
    work = workload(*((6000, 64, 20) for _ in range(4)))
    schedule = plan(work, ToyCosts(work, cache=2 << 20), 4, [512]).schedules[0]
    assert sorted(piece.core for piece in schedule.pieces) == [0, 1, 2, 3]
    assert {piece.rows for piece in schedule.pieces} == {None}


def test_small_batches_stay_on_one_core() -> None:
    found = plan(CRITEO, ToyCosts(CRITEO), 16)
    assert [len(schedule.loads()) for schedule in found.schedules] == [1, 8, 16]


def test_fewer_cores_are_woken_where_each_one_costs() -> None:
    @dataclass
    class Dear(ToyCosts):
        def wake_us(self, cores: int) -> float:
            return 2.0 * (cores - 1)

    schedule = plan(CRITEO, Dear(CRITEO), 64, [512]).schedules[0]
    assert 2 <= len(schedule.loads()) <= 8


@pytest.mark.parametrize(("error", "cores"), [(0.0, 2), (0.2, 2), (0.6, 1)])
def test_more_cores_must_gain_more_than_predictions_may_be_off(error: float, cores: int) -> None:
    work = workload(*((30_000, 64, 100) for _ in range(4)))
    schedule = plan(work, ToyCosts(work, error=error, threads_us=0), 2, [1]).schedules[0]
    assert len(schedule.loads()) == cores
    assert schedule.predicted_us <= (schedule.symmetric_us or 0)


def test_of_plans_that_predictions_cannot_tell_apart_the_one_on_fewer_cores_is_taken() -> None:
    @dataclass
    class Slow(Fixed):
        def wake_us(self, cores: int) -> float:
            return {1: 0.0, 2: 2.0}.get(cores, 21.0)

    work, costs = indivisible([10.0] * 8)
    for error, cores in ((0.1, 2), (0.0, 4)):
        schedule = plan(work, Slow(costs.us, error=error), 4, [1]).schedules[0]  # 42 µs on two, 41 on four
        assert len(schedule.loads()) == cores
        assert schedule.bound_us <= schedule.predicted_us < (schedule.symmetric_us or 0)


@pytest.mark.parametrize(("error", "cores"), [(0.09, 2), (0.1, 1)])
def test_a_plan_that_is_not_symmetric_must_gain_twice_what_predictions_may_be_off(error: float, cores: int) -> None:
    @dataclass
    class Woken(Fixed):
        def wake_us(self, cores: int) -> float:
            return 0.0 if cores == 1 else 25.0

    work, costs = indivisible([10.0] * 8)  # 65 µs on two cores, 80 on one
    schedule = plan(work, Woken(costs.us, error=error), 2, [1]).schedules[0]
    assert len(schedule.loads()) == cores


@pytest.mark.parametrize(("us", "crowd", "cores"), [(9000, 1.9, 2), (150, 1.9, 1), (9000, 2.1, 2), (9000, 2.5, 1)])
def test_a_large_batch_takes_more_cores_unless_they_are_clearly_slower(us: float, crowd: float, cores: int) -> None:
    @dataclass
    class Crowded(Fixed):
        def wake_us(self, cores: int) -> float:
            return 0.0 if cores == 1 else 10.0

        def crowd(self, cores: int, batch: int) -> float:
            return 1.0 if cores == 1 else times

    times = crowd
    costs = Crowded({"c0": us}, error=0.2)
    schedule = plan(workload((1, 1, 1)), costs, 2, [2]).schedules[0]
    assert len(schedule.loads()) == cores


def test_what_all_cores_share_limits_every_plan() -> None:
    @dataclass
    class Shared(ToyCosts):
        def floor_us(self, batch: int) -> float:
            return 500.0

    costs = Shared(CRITEO)
    schedule = plan(CRITEO, costs, 16, [512]).schedules[0]
    cores = len(schedule.loads())
    assert schedule.predicted_us == pytest.approx(500 + costs.wake_us(cores))
    assert schedule.bound_us <= schedule.predicted_us
    assert max(schedule.loads().values()) == pytest.approx(500)


@pytest.mark.parametrize("cores", [1, 2, 64])
def test_a_plan_for_any_machine_is_made_and_read_on_this_one(cores: int, tmp_path: Path) -> None:
    found = plan(CRITEO, ToyCosts(CRITEO), cores)
    found.write(tmp_path / "plan.json")
    assert DataFlowPlan.read(tmp_path / "plan.json") == found
    assert found.cores == cores
    assert [schedule.batch for schedule in found.schedules] == [1, 64, 512]


def test_the_target_and_the_platform_stand_in_the_plan() -> None:
    work = workload((1000, 16, 1), latency_us=5.0)
    found = plan(work, ToyCosts(work), 2, [64])
    assert (found.latency_us, found.platform, found.workload) == (5.0, "toy", "w")


def test_pieces_that_can_be_done_in_one_go_stand_together() -> None:
    work = workload(*((50, dim, 1) for dim in (64, 8, 32, 8, 32)))
    pieces = plan(work, ToyCosts(work), 1, [64]).schedules[0].pieces
    ways = ["gather", "gather", "gather", "vector", "vector"]
    assert [(p.strategy, p.lookup) for p in pieces] == list(zip(ways, ["c2", "c4", "c0", "c1", "c3"], strict=True))


SCRIPT = """
from recsys.dataflow.planner import plan
from tests.dataflow.test_planner import CRITEO
from tests.dataflow.toy_costs import ToyCosts
print(plan(CRITEO, ToyCosts(CRITEO), 6, [512]).model_dump_json())
"""


def test_the_same_input_gives_the_same_plan_in_any_process() -> None:
    plans = [
        subprocess.run(
            [sys.executable, "-c", SCRIPT],
            env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parents[2])},
            capture_output=True, text=True, check=True,
        ).stdout
        for seed in ("1", "2")
    ]  # fmt: skip
    assert plans[0] == plans[1]
    assert DataFlowPlan.model_validate_json(plans[0]) == plan(CRITEO, ToyCosts(CRITEO), 6, [512])


@dataclass
class Rests(Fixed):
    """What is resident is fast, and only possible alone."""

    def core_us(self, pieces: Sequence[Piece], batch: int) -> list[float]:
        resident = 0.5 if len(pieces) == 1 else math.inf
        factors = {"gather": 1.0, "resident": resident, "stream": math.inf, "vector": math.inf}
        return [self.us[piece.lookup] * factors[piece.strategy] for piece in pieces]


def test_what_rests_in_a_cache_makes_room() -> None:
    work = workload(*((1, 1, 1) for _ in range(5)))
    costs = Rests({f"c{i}": 2.0 for i in range(5)})
    schedule = plan(work, costs, 2, [1]).schedules[0]
    assert schedule.predicted_us == 6.0  # three and two; nobody is alone
    assert plan(workload((1, 1, 1), (1, 1, 1)), costs, 2, [1]).schedules[0].predicted_us == 1.0


BAD: dict[str, Callable[[Piece], float]] = {
    "not a number": lambda piece: math.nan,
    "negative": lambda piece: -1.0,
    "impossible": lambda piece: math.inf,
}


@pytest.mark.parametrize("bad", BAD)
def test_costs_that_are_none_are_refused(bad: str) -> None:
    class Broken(Fixed):
        def core_us(self, pieces: Sequence[Piece], batch: int) -> list[float]:
            return [BAD[bad](piece) for piece in pieces]

    work, costs = indivisible([1.0, 2.0])
    with pytest.raises(ConfigError, match="platform `fixed` predicts what is no time for `c0` and 0 more"):
        plan(work, Broken(costs.us), 2)


@pytest.mark.parametrize(("cores", "batches"), [(0, [1]), (-1, [1]), (1, []), (1, [0]), (1, [64, -1])])
def test_nothing_to_plan_is_said_so(cores: int, batches: list[int]) -> None:
    work, costs = indivisible([1.0])
    with pytest.raises(ConfigError, match="expected look-ups, batch sizes and cores to plan for"):
        plan(work, costs, cores, batches)
    with pytest.raises(ConfigError, match="got 0 look-ups"):
        symmetric(work.model_copy(update={"lookups": ()}), costs, 1, 64)


def test_the_symmetric_plan_gives_every_core_all_look_ups() -> None:
    schedule = symmetric(CRITEO, ToyCosts(CRITEO), 5, 512).schedules[0]
    for core in range(5):
        own = [piece for piece in schedule.pieces if piece.core == core]
        assert sorted(piece.lookup for piece in own) == sorted(lookup.name for lookup in CRITEO.lookups)
        assert {piece.bags(512) for piece in own} == {range(core * 512 // 5, (core + 1) * 512 // 5)}


def test_of_a_batch_smaller_than_the_cores_some_stay_idle() -> None:
    schedule = symmetric(CRITEO, ToyCosts(CRITEO), 5, 3).schedules[0]
    assert len(schedule.loads()) == 3
    assert all(len(piece.bags(3)) == 1 for piece in schedule.pieces)
