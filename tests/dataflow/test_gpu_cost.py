"""The cost model tells its own readings, and what is more takes longer."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.dataflow.gpu_cost import GpuCostModel, Place
from recsys.dataflow.gpu_platform import KINDS
from recsys.dataflow.workload import Dtype, Ids, Workload
from tests.dataflow.gpu_made import CACHE, POWER, SETS, gpu, workload, workloads


def test_cache_and_exponent_are_found_from_the_readings() -> None:
    model = GpuCostModel(workload([10]), gpu())
    assert model.cache == pytest.approx(CACHE, rel=0.05)
    assert model.power == pytest.approx(POWER, rel=0.02)


@pytest.mark.parametrize("size", SETS)
def test_a_workload_like_a_probe_takes_what_the_probe_took(size: int) -> None:
    """Long bags of one table; near the cache's size the output, which the probe does not have, takes room in it."""
    made = gpu(write_ns=((1 << 22, 1e-6),))
    found = GpuCostModel(workload([size // 256], ids=32, distribution="uniform"), made).load(1 << 15).us()
    expected = made.alone_us(32, 64, 1 << 15) + made.bag_ns("bag32", 256, size, 1 << 15) * (1 << 15) / 1e3
    assert found.us == pytest.approx(expected, rel=0.5 if size in SETS[1:3] else 0.1)


@settings(max_examples=40)
@given(workloads(), st.floats(0, 1), st.floats(0, 1), st.booleans())
def test_more_rows_on_the_host_never_take_less(drawn: Workload, a: float, b: float, shared: bool) -> None:
    load = GpuCostModel(drawn, gpu()).load(drawn.batch_sizes[0])
    low, high = sorted((a, b))
    near, far = (
        load.us({t.name: Place(host=host, host_rows=host, split=True, shared=shared) for t in drawn.tables})
        for host in (low, high)
    )
    assert near.us <= far.us + 1e-9
    assert load.us().us <= near.us + 1e-9


@settings(max_examples=40)
@given(workloads(), st.integers(1, 4))
def test_larger_batches_take_longer_and_look_ups_have_parts_of_all(drawn: Workload, times: int) -> None:
    model = GpuCostModel(drawn, gpu())
    batch = drawn.batch_sizes[0]
    small, large = model.load(batch).us(), model.load(batch * 4 * times).us()
    assert small.us <= large.us * 1.05  # which rows the cache holds changes with the batch
    assert sum(small.lookups) == pytest.approx(small.us)
    assert (small.lookups >= 0).all()


@pytest.mark.parametrize("dtype", ["fp16", "int8"])
def test_smaller_rows_that_come_from_memory_take_less(dtype: Dtype) -> None:
    made = workload([50_000_000], dim=128, ids=32, distribution="uniform")
    model = GpuCostModel(made, gpu())
    assert model.load(8192, {"t0": dtype}).us().us < 0.8 * model.load(8192).us().us


def test_equal_ids_are_found_in_the_cache_and_uniform_ones_are_not() -> None:
    miss = {
        kind: float(GpuCostModel(workload([10_000_000], distribution=kind), gpu()).load(65536).miss[0])
        for kind in ("equal", "zipf", "uniform")
    }
    assert miss["equal"] < 0.01
    assert miss["equal"] < miss["zipf"] < 0.7 < miss["uniform"]


def test_the_cpu_works_beside_the_gpu() -> None:
    load = GpuCostModel(workload([10_000_000] * 2, dim=128, ids=100, distribution="uniform"), gpu()).load(512)
    host = {"t0": Place(host=1.0), "t1": Place()}
    both = load.us({**host, "t0": Place(cpu=True)})
    assert both.us == max(both.gpu_us, both.cpu_us) + both.copy_us < load.us(host).us
    assert sum(both.lookups) == pytest.approx(both.gpu_us + both.cpu_us + both.copy_us)


def test_of_a_shared_table_the_cpu_sees_all_ids_and_reads_some_rows() -> None:
    made = gpu()
    assert made.cpu is not None
    load = GpuCostModel(workload([10_000_000], dim=128, ids=100, distribution="uniform"), made).load(512)
    some, few, none = (load.us({"t0": Place(host=host, split=True, shared=True)}) for host in (0.5, 0.1, 0.0))
    ids = 512 * 100
    assert none.cpu_us == pytest.approx(made.cpu.call_us + ids * made.cpu.scan_ns / 1e3)
    assert few.cpu_us - none.cpu_us == pytest.approx(0.1 * ids * made.cpu.ns(512) / 1e3)
    assert some.us == max(some.gpu_us, some.cpu_us) + some.copy_us
    assert some.copy_us == few.copy_us > 512 * 512 / made.to_gpu_gbs / 1e3
    assert sum(some.lookups) == pytest.approx(some.gpu_us + some.cpu_us + some.copy_us)
    assert some.us < load.us({"t0": Place(host=0.5, split=True)}).us  # its rows do not pass the link
    assert load.us().us < none.us


def test_one_cpu_works_for_all_gpus() -> None:
    load = GpuCostModel(workload([1_000_000] * 3, dim=128, ids=100), gpu()).load(512)
    places = {"t0": Place(cpu=True), "t1": Place(host=0.5, split=True, shared=True), "t2": Place()}
    both, *each = (load.us(places, only) for only in (None, {"t0": True}, {"t1": True}, {"t2": True}))
    assert [one.cpu_us for one in each] == [both.cpu_us, both.cpu_us, 0.0]
    assert each[2].us == each[2].gpu_us
    assert 0 == each[2].copy_us < each[0].copy_us < both.copy_us
    assert sum(one.lookups.sum() for one in each) == pytest.approx(
        sum(one.gpu_us + one.copy_us for one in each) + both.cpu_us
    )


def test_each_kind_of_rows_is_a_launch_of_its_own() -> None:
    model = GpuCostModel(workload([100, 100]), gpu())
    mixed = model.load(1, {"t1": "fp16"}).us().us
    assert mixed == pytest.approx(2 * model.load(1).us().us, rel=0.01)


def test_rows_of_much_host_memory_take_longer_than_rows_of_little() -> None:
    load = GpuCostModel(workload([100_000_000], ids=32, distribution="uniform"), gpu()).load(2048)
    much, little = (load.us({"t0": Place(host=0.5, host_rows=rows, split=True)}).us for rows in (0.5, 0.01))
    assert much > 2 * little


def test_readings_are_those_of_the_batchs_block_shapes() -> None:
    made = gpu()
    slow = [
        one.model_copy(update={"bags": 512, **{f"{kind}_ns": 2 * getattr(one, f"{kind}_ns") for kind in KINDS}})
        for one in made.gather
    ]
    both = gpu(gather=(*made.gather, *slow))
    asked = workload([1000], ids=32)
    told = [[GpuCostModel(asked, one).load(batch).near.sum() for batch in (512, 4096)] for one in (made, both)]
    assert told[1][0] == pytest.approx(2 * told[0][0])
    assert told[1][1] == pytest.approx(told[0][1])


def test_many_look_ups_of_one_id_wait_for_their_launch() -> None:
    made = gpu()
    one, many = (GpuCostModel(workload([10] * count), made).load(1).us().us for count in (1, 256))
    assert many - one == pytest.approx(made.launched_us(256) - made.launched_us(1), abs=0.05)


def test_the_longest_bag_is_found_among_all_look_ups_alike() -> None:
    asked = workload([1000] * 200)
    ids = Ids(bags=((1, 0.99), (100, 0.01)))
    many = asked.model_copy(update={"lookups": tuple(n.model_copy(update={"ids": ids}) for n in asked.lookups)})
    few = many.model_copy(update={"lookups": many.lookups[:1]})
    chains = [float(GpuCostModel(one, gpu()).load(1).chain.max()) for one in (few, many)]
    assert chains[0] == 0 < chains[1]


def test_a_host_row_is_read_once_where_the_cache_keeps_it() -> None:
    some = Place(host=1.0)
    us = {
        kind: GpuCostModel(workload([10_000_000], ids=32, distribution=kind), gpu()).load(2048).us({"t0": some}).us
        for kind in ("equal", "zipf", "uniform")
    }
    assert us["equal"] < 0.1 * us["zipf"] < us["zipf"] < 0.8 * us["uniform"]


@settings(max_examples=40)
@given(workloads(), st.floats(0, 1), st.booleans())
def test_nothing_is_faster_than_its_bound(drawn: Workload, host: float, shared: bool) -> None:
    load = GpuCostModel(drawn, gpu()).load(drawn.batch_sizes[0])
    found = load.us({t.name: Place(host=host, host_rows=host, split=True, shared=shared) for t in drawn.tables})
    assert found.bound_us <= found.us
