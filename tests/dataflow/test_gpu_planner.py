"""Plans for GPUs fit, are the same every time, and gain by memory."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.dataflow.gpu_cost import GpuCostModel
from recsys.dataflow.gpu_plan import GpuPlan
from recsys.dataflow.gpu_planner import latencies, plan
from recsys.dataflow.gpu_platform import CpuReading, GpuPlatform, find
from recsys.dataflow.heat import assumed
from recsys.dataflow.workload import Dtype, Workload
from recsys.errors import ConfigError
from tests.dataflow.gpu_made import gpu, workload, workloads

FAR = gpu(
    host=tuple(one.model_copy(update={"ns": 1e5}) for one in gpu().host),
    cpu=CpuReading(cores=16, call_us=0.1, row_ns=((256, 3.0), (512, 4.5)), scan_ns=0.1),
)
"""The CPU is worth its while where batches are small, too."""
DTYPES = st.sampled_from([(), ("fp16",), ("fp32", "int8"), ("fp32", "fp16", "int8")])


def planned(made: Workload, memory: int, gpus: int = 1, dtypes: tuple[Dtype, ...] = (), cpu: bool = True) -> GpuPlan:
    return plan(GpuCostModel(made, gpu() if cpu else gpu(cpu=None)), assumed(made), memory, gpus, dtypes)


@settings(max_examples=60)
@given(workloads(), st.floats(0, 1.2), st.integers(1, 3), DTYPES)
def test_a_plan_fits_places_every_row_once_and_is_the_same_again(
    drawn: Workload, share: float, gpus: int, dtypes: tuple[Dtype, ...]
) -> None:
    memory = int(share * drawn.bytes / gpus)
    made = planned(drawn, memory, gpus, dtypes)
    assert max(made.used()) <= memory
    assert [table.name for table in made.tables] == [table.name for table in drawn.tables]
    for table in made.tables:
        hot = made.hot_rows(table.name)
        count = int(hot.sum()) if isinstance(hot, torch.Tensor) else table.rows * hot
        assert count == table.hot_rows
        assert table.place == "cpu" or table.gpu < gpus
        assert table.dtype in (dtypes or (drawn.table(table.name).dtype,))
    schedule = made.schedules[-1]
    assert 0 <= schedule.bound_us <= schedule.predicted_us
    meanwhile = max(*schedule.gpus, schedule.cpu_us)
    assert meanwhile - 1e-2 <= schedule.predicted_us <= meanwhile + schedule.copy_us + 1e-2
    assert gpus > 1 or schedule.predicted_us == pytest.approx(meanwhile + schedule.copy_us, abs=1e-2)
    again = planned(drawn, memory, gpus, dtypes)
    assert again == made


@settings(max_examples=60)
@given(workloads(), st.lists(st.floats(0, 1.2), min_size=2, max_size=6), DTYPES, st.sampled_from([gpu(), FAR]))
def test_more_memory_is_never_predicted_slower(
    drawn: Workload, shares: list[float], dtypes: tuple[Dtype, ...], made: GpuPlatform
) -> None:
    memories = [int(share * drawn.bytes) for share in sorted(shares)]
    model, heat = GpuCostModel(drawn, made), assumed(drawn)
    us = latencies(model, heat, memories, dtypes=dtypes)
    assert all(b <= a + 1e-6 for a, b in pairwise(us))
    assert plan(model, heat, memories[0], dtypes=dtypes).schedules[-1].predicted_us == pytest.approx(us[0], abs=1e-3)


def test_hot_rows_win_over_random_ones_and_small_tables_go_first() -> None:
    made = workload([4_000_000, 1000, 10], dim=128, ids=10)
    found = planned(made, made.bytes // 10, cpu=False)
    assert [table.place for table in found.tables] == ["split", "device", "device"]
    near = found.lookups[0].near
    assert near > 0.75
    chance = planned(
        workload([4_000_000, 1000, 10], dim=128, ids=10, distribution="uniform"), made.bytes // 10, cpu=False
    )
    assert chance.lookups[0].near == pytest.approx(0.1, abs=0.01)
    assert found.schedules[-1].predicted_us < chance.schedules[-1].predicted_us


def test_what_fits_lies_on_the_gpu() -> None:
    made = workload([4000, 1000, 10])
    assert {table.place for table in planned(made, made.bytes).tables} == {"device"}
    assert planned(made, made.bytes).schedules[-1].cpu_us == 0


def test_a_target_takes_the_fewest_bytes_that_meet_it() -> None:
    made = workload([1_000_000], dim=128, ids=10)
    model, heat = GpuCostModel(made, gpu()), assumed(made)
    least, most = (latencies(model, heat, [memory])[0] for memory in (made.bytes, made.bytes // 10))
    target = (least + most) / 2
    found = plan(model, heat, made.bytes, latency_us=target)
    assert found.schedules[-1].predicted_us <= target + 1e-3
    assert latencies(model, heat, [found.used()[0] - found.used()[0] // 50])[0] > target
    missed = plan(model, heat, made.bytes, latency_us=least / 2)
    assert missed.used() == [made.bytes]
    assert missed.latency_us == least / 2


def test_long_bags_of_rows_that_do_not_fit_are_the_cpus_where_the_link_is_slow() -> None:
    made = workload([1_000_000, 1_000_000], dim=128, ids=100, distribution="uniform")
    found = planned(made, made.bytes // 10)
    assert "cpu" in {table.place for table in found.tables}
    without = planned(made, made.bytes // 10, cpu=False)
    assert "cpu" not in {table.place for table in without.tables}
    assert found.schedules[-1].predicted_us < 0.8 * without.schedules[-1].predicted_us


def test_hot_rows_of_tables_that_do_not_fit_are_the_gpus_and_the_cpu_adds_up_the_others() -> None:
    made = workload([4_000_000, 4_000_000, 1000], dim=128, ids=50)
    found = planned(made, made.bytes // 4)
    assert "shared" in {table.place for table in found.tables}
    assert found.tables[2].place == "device"
    last = found.schedules[-1]
    assert 0 < last.copy_us < last.cpu_us < last.predicted_us
    without = planned(made, made.bytes // 4, cpu=False)
    assert {table.place for table in without.tables} == {"split", "device"}
    assert last.predicted_us < 0.8 * without.schedules[-1].predicted_us
    for table in found.tables:
        if table.place == "shared":
            assert int(torch.as_tensor(found.hot_rows(table.name)).sum()) == table.hot_rows > 0


def test_only_allowed_dtypes_are_taken_and_the_fastest_of_them() -> None:
    made = workload([1_000_000, 100], dim=128, ids=20, distribution="uniform")
    memory = made.bytes // 3
    assert {table.dtype for table in planned(made, memory).tables} == {"fp32"}
    us = {}
    choices: tuple[tuple[Dtype, ...], ...] = (("fp32",), ("fp16",), ("fp32", "fp16"))
    for dtypes in choices:
        us[dtypes] = planned(made, memory, dtypes=dtypes).schedules[-1].predicted_us
    assert us["fp32", "fp16"] <= min(us["fp32",], us["fp16",]) < us["fp32",]


def test_tables_are_spread_over_gpus_by_their_time() -> None:
    made = workload([100_000] * 12, dim=128, ids=20)
    one, four = planned(made, made.bytes), planned(made, made.bytes, gpus=4)
    assert sorted(table.gpu for table in four.tables) == sorted([0, 1, 2, 3] * 3)
    assert four.schedules[-1].predicted_us < 0.5 * one.schedules[-1].predicted_us
    tight = planned(made, made.bytes // 4, gpus=4)
    assert max(tight.used()) <= made.bytes // 4


@pytest.mark.parametrize("wrong", [{"gpus": 0}, {"batches": [0]}, {"batches": []}, {"memory": -1}])
def test_numbers_that_cannot_be_are_refused(wrong: dict[str, object]) -> None:
    made = workload([10])
    given_ = {"memory": 100, **wrong}
    with pytest.raises(ConfigError, match="expected look-ups, batch sizes, GPUs and memory"):
        plan(GpuCostModel(made, gpu()), assumed(made), **given_)  # type: ignore[arg-type]


def test_plans_for_the_h100_that_comes_along_are_sane() -> None:
    asked = workload([4_000_000, 400_000, 4_000_000], ids=20)
    model, heat = GpuCostModel(asked, find("h100")), assumed(asked)
    whole, half, none = (plan(model, heat, asked.bytes * share // 2, batches=[1, 2048]) for share in (2, 1, 0))
    assert {table.place for table in whole.tables} == {"device"}
    assert "split" in {table.place for table in half.tables}
    assert 1 < whole.schedules[0].predicted_us < 20
    us = [one.schedules[-1].predicted_us for one in (whole, half, none)]
    assert 5 < us[0] < us[1] < us[2] < 4000
    assert all(one.bound_us <= one.predicted_us for made in (whole, half, none) for one in made.schedules)


def test_the_bound_of_several_gpus_is_no_less_than_a_table_takes() -> None:
    asked = workload([4_000_000, 10], ids=20)
    model, heat = GpuCostModel(asked, gpu()), assumed(asked)
    one, four = (plan(model, heat, asked.bytes, gpus=count, batches=[8192]).schedules[0] for count in (1, 4))
    assert four.bound_us > 0.4 * one.bound_us
