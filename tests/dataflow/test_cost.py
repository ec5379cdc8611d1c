"""The cost model on a made-up machine, where what it should say can be worked out."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.dataflow.cost import CostModel
from recsys.dataflow.plan import Piece, Strategy
from recsys.dataflow.workload import Dtype, Ids, Workload, WorkloadLookup, WorkloadTable
from tests.dataflow.test_platform import SETS, machine

UNIFORM, EQUAL = Ids(distribution="uniform"), Ids(distribution="equal")


def workload(rows: int, dim: int = 16, ids: Ids = UNIFORM, count: int = 1, dtype: Dtype = "fp32") -> Workload:
    names = [f"t{k}" for k in range(count)]
    return Workload(
        name="made",
        tables=tuple(WorkloadTable(name=name, rows=rows, dim=dim, dtype=dtype) for name in names),
        lookups=tuple(WorkloadLookup(name=name, table=name, ids=ids) for name in names),
    )


def us(
    what: Workload,
    batch: int,
    strategy: Strategy = "gather",
    rows: tuple[int, int] | None = None,
    share: tuple[float, float] = (0.0, 1.0),
) -> float:
    pieces = [Piece(lookup=x.name, strategy=strategy, rows=rows, share=share) for x in what.lookups]
    return sum(CostModel(what, machine()).core_us(pieces, batch))


def test_a_tiny_table_costs_the_nearest_reading_the_ids_and_the_write() -> None:
    batch = 256
    expected = batch * (2 + 8 / 16) / 1e3 + 0.01  # 1 row; an output in the nearest cache
    assert us(workload(1, ids=EQUAL), batch) == pytest.approx(expected, rel=0.02)


def test_ids_that_fall_evenly_on_a_large_table_cost_what_was_measured() -> None:
    rows = SETS[2] // 64
    found = us(workload(rows), 1 << 16) - (1 << 16) * (8 / 16 + 2) / 1e3
    assert found / (1 << 16) * 1e3 == pytest.approx(8, rel=0.35)


def test_hot_rows_cost_less_than_even_ones_and_equal_ones_least() -> None:
    even, zipf, equal = (us(workload(1 << 20, ids=Ids(distribution=d)), 4096) for d in ("uniform", "zipf", "equal"))
    assert equal < zipf < even


def test_more_of_everything_costs_more() -> None:
    base = us(workload(10_000, ids=Ids(bags=((5, 1.0),))), 512)
    assert us(workload(10_000, ids=Ids(bags=((10, 1.0),))), 512) > base
    assert us(workload(10_000, ids=Ids(bags=((5, 1.0),)), dim=64), 512) > base
    assert us(workload(10_000, ids=Ids(bags=((5, 1.0),)), dtype="int8", dim=16), 512) > 0
    assert us(workload(10_000, ids=Ids(bags=((0, 0.5), (10, 0.5)))), 512) > base  # ragged


def test_half_of_the_bags_take_about_half_of_the_time() -> None:
    """A little less, perhaps: their output is smaller."""
    what = workload(100_000, ids=Ids(distribution="zipf"))
    assert us(what, 2048, share=(0.0, 0.5)) == pytest.approx(us(what, 2048) / 2, rel=0.1)


def test_resident_is_ruled_out_where_the_rows_do_not_stay() -> None:
    assert us(workload(1000), 64, "resident") == us(workload(1000), 64)
    assert us(workload(1 << 20), 64, "resident") == math.inf


def test_vector_serves_single_columns_only() -> None:
    assert us(workload(1000, dim=1), 64, "vector") < us(workload(1000, dim=1), 64)
    assert us(workload(1000, dim=2), 64, "vector") == math.inf
    assert us(workload(1000, dim=1, ids=Ids(bags=((2, 1.0),))), 64, "vector") == math.inf


def test_a_range_of_rows_costs_the_look_at_every_id() -> None:
    what = workload(1000)
    tenth = us(what, 1000, rows=(0, 100))
    written = 1000 * 2 * 0.77  # an output of 64 KB, and as much of rows
    assert tenth == pytest.approx((900 * 2 + 100 * (2 + 6 + 1) + written) / 1e3 + 0.01, rel=0.1)
    assert CostModel(what, machine()).reduce_us(Piece(lookup="t0", rows=(0, 100)), 1000) == 0
    bags = workload(1000, ids=Ids(bags=((3, 1.0),)))
    assert CostModel(bags, machine()).reduce_us(Piece(lookup="t0", rows=(0, 100)), 1000) == pytest.approx(1.0)


def test_waking_cores_adds_to_the_call() -> None:
    costs = CostModel(workload(10), machine())
    assert [costs.wake_us(n) for n in (1, 2, 3, 4, 8)] == [1, 11, 16, 21, 31]
    noisy = CostModel(workload(10), machine(wake_us=[(2, 10.0), (4, 8.0)]))
    assert noisy.wake_us(2) <= noisy.wake_us(4)


def test_a_crowd_slows_down_by_what_was_measured_of_so_many_cores() -> None:
    crowded = machine(crowd=[(n, size, 1 + n * k / 4) for n in (2, 4) for k, size in enumerate((1 << 10, 1 << 40))])
    costs = CostModel(workload(1000), crowded)
    assert 1 < costs.crowd(4, 64) < costs.crowd(4, 1 << 16) < 2
    assert costs.crowd(1, 64) == 1
    assert costs.crowd(2, 64) - 1 == pytest.approx((costs.crowd(4, 64) - 1) / 2)
    assert costs.crowd(2, 64) < costs.crowd(3, 64) < costs.crowd(4, 64) == costs.crowd(64, 64)
    assert CostModel(workload(1000), machine()).crowd(4, 64) == 1
    equal = CostModel(workload(1000, ids=Ids(distribution="equal")), crowded)
    assert equal.crowd(4, 64) == equal.crowd(4, 1 << 16)  # the rows read stay the same, however large the output is


def test_an_output_past_the_caches_is_not_written_faster_than_memory_takes_it() -> None:
    what = workload(1000)  # one id a bag, rows of 64 bytes
    costs = CostModel(what, machine(past=[(64, 1.0)], write_gbs=16.0))
    assert costs.floor_us(1 << 20) == pytest.approx((1 << 20) * 64 / 16 / 1e3)
    assert costs.floor_us(64) == 0  # goes through the caches
    assert CostModel(what, machine(past=[(64, 1.0)])).floor_us(1 << 20) == 0


def test_no_bags_cost_next_to_nothing() -> None:
    assert us(workload(10), 1, share=(0.0, 0.5)) == 0.01


@settings(max_examples=40, deadline=None)
@given(
    rows=st.lists(st.integers(1, 10**7), min_size=2, max_size=6),
    dim=st.sampled_from([1, 8, 16, 64, 200]),
    batch=st.sampled_from([1, 64, 2048]),
    bag=st.integers(1, 40),
    distribution=st.sampled_from(["zipf", "uniform", "equal"]),
)
def test_company_never_makes_a_piece_faster(rows: list[int], dim: int, batch: int, bag: int, distribution: str) -> None:
    ids = Ids.parse({"bags": [[bag, 1.0]], "distribution": distribution}, "ids")
    what = Workload(
        name="made",
        tables=tuple(WorkloadTable(name=str(k), rows=n, dim=dim) for k, n in enumerate(rows)),
        lookups=tuple(WorkloadLookup(name=str(k), table=str(k), ids=ids) for k in range(len(rows))),
    )
    costs = CostModel(what, machine())
    pieces = [Piece(lookup=str(k)) for k in range(len(rows))]
    together = costs.core_us(pieces, batch)
    alone = [costs.core_us([piece], batch)[0] for piece in pieces]
    assert np.isfinite(together).all()
    assert all(a <= t * 1.0001 + 1e-9 for a, t in zip(alone, together, strict=True))
