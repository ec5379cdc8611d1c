"""The GPU's kernel against float64: on a GPU where there is one, else by Triton's interpreter on the CPU."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from recsys.data.batch import JaggedIds
from recsys.dataflow.kernels.gpu.kernels import GpuKernels, GpuSlot, _Group
from recsys.dataflow.kernels.gpu.rows import GpuRows
from recsys.dataflow.kernels.reference import Slot
from recsys.dataflow.storage import dequantise, quantise
from recsys.dataflow.workload import Dtype
from recsys.errors import DataError, MissingExtraError
from tests.dataflow.kernels.gpu.problems import DIMS, TOLERANCE, Buffer, Problem, error, exact, kernels, problems
from tests.dataflow.slots import ids, slots, width

DTYPES: tuple[Dtype, ...] = ("fp32", "fp16", "int8")
EXAMPLES = 40 if torch.cuda.is_available() else 100  # on a GPU nearly each is compiled anew
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


@settings(max_examples=EXAMPLES)
@given(problems())
def test_any_look_ups_give_float64_and_leave_other_columns_alone(device: torch.device, problem: Problem) -> None:
    problem.check(device)


@pytest.mark.parametrize("dim", DIMS)
def test_single_ids_come_out_bit_by_bit(dim: int, device: torch.device) -> None:
    """Of int8 a GPU rounds the sum of product and bias once, where torch rounds twice."""
    for dtype in DTYPES:
        found = slots([dim] * 2, (50, 1), dtype)
        batch = ids(found, 9)
        buffer, unknown = one_launch(found, batch, device)
        read = dict(zip("01", (slot.rows.read() for slot in found), strict=True))
        for slot in found:
            values, _, _ = batch.feature(slot.feature)
            known = (values >= 0) & (values < len(slot.rows.data))
            expected = read[slot.name][torch.where(known, values, 0)]
            got = buffer[:, slot.column : slot.column + dim].float()
            once = dtype == "int8" and device.type == "cuda"
            torch.testing.assert_close(got, expected, rtol=0, atol=1e-6 if once else 0)
        assert unknown > 0


def one_launch(found: list[Slot], batch: JaggedIds, device: torch.device, mean: float = 1.0) -> tuple[Tensor, int]:
    """What the columns then hold, and how many ids were out of range."""
    buffer = Buffer.made(batch.size, width(found), torch.float32, device)
    unknown = torch.zeros(1, dtype=torch.int32, device=device)
    moved = batch.to(device)
    kernels(found, device, ids=mean).launch(moved.values, moved.offsets, moved.weights, buffer.x, unknown)
    return buffer.written(), int(unknown)


@pytest.mark.parametrize("mean", [1.0, 30.0])
def test_empty_bags_are_zeros(mean: float, device: torch.device) -> None:
    summed, other = slots([16, 3])
    found = [summed, replace(other, pooling="mean")]
    offsets = torch.zeros(2 * 5 + 1, dtype=torch.int64)
    x, unknown = one_launch(found, JaggedIds(("0", "1"), torch.zeros(0, dtype=torch.int64), offsets), device, mean)
    for slot in found:
        assert (x[:, slot.column : slot.column + slot.rows.dim] == 0).all()
    assert unknown == 0


def test_ids_before_the_first_bag_and_behind_the_last_are_not_read(device: torch.device) -> None:
    found = slots([16], (10,))
    values, offsets = torch.tensor([99, 1, 2, 3, 99]), torch.tensor([1, 3, 4])
    x, unknown = one_launch(found, JaggedIds(("0",), values, offsets), device)
    rows = found[0].rows.data.double()
    torch.testing.assert_close(x[:, 1:17], torch.stack([rows[1] + rows[2], rows[3]]), rtol=0, atol=1e-6)
    assert unknown == 0


def test_no_examples_are_no_launch(device: torch.device) -> None:
    found = slots([16, 64])
    for offsets in (None, torch.zeros(1, dtype=torch.int64)):
        x, unknown = one_launch(found, JaggedIds(("0", "1"), torch.zeros(0, dtype=torch.int64), offsets), device)
        assert (x.shape, unknown) == ((0, width(found)), 0)


def test_ids_that_lie_apart_are_refused(device: torch.device) -> None:
    slot = GpuSlot("a", 0, GpuRows(5, 4, "fp32", torch.randn(5, 4, device=device)), 0)
    made = GpuKernels([slot], device)
    x, unknown = torch.zeros(2, 4, device=device), torch.zeros(1, dtype=torch.int32, device=device)
    values, offsets, weights = torch.zeros(4, dtype=torch.int64), torch.tensor([0, 9, 1, 9, 2]), torch.ones(4)
    values, offsets, weights = (one.to(device) for one in (values, offsets, weights))
    made.launch(values[:2], offsets[::2].contiguous(), weights[:2], x, unknown)
    with pytest.raises(DataError, match=r"`values` of ids must lie one after the other in memory: pass values\.cont"):
        made.launch(values[::2], None, None, x, unknown)
    with pytest.raises(DataError, match="`offsets` of ids"):
        made.launch(values[:2], offsets[::2], None, x, unknown)
    with pytest.raises(DataError, match="`weights` of ids"):
        made.launch(values[:2], None, weights[::2], x, unknown)


@pytest.mark.parametrize(("start", "first", "most"), [(0, 0, 4), (8, 0, 2), (4, 0, 1), (0, 2, 2), (2, 0, 1)])
def test_wide_stores_are_for_output_that_begins_on_16_bytes(start: int, first: int, most: int) -> None:
    """Somebody else's memory may begin anywhere."""
    memory = bytearray(256)
    start += -torch.frombuffer(memory, dtype=torch.uint8).data_ptr() % 16
    x = torch.frombuffer(memory, dtype=torch.float32, count=24, offset=start).view(2, 12)[:, first:]
    slot = GpuSlot("a", 0, GpuRows(5, 4, "fp32", torch.zeros(5, 4)), 4)
    assert _Group([slot], torch.device("cpu")).aligned(x) == most


def test_a_thousand_tables_are_one_launch(device: torch.device) -> None:
    found = slots([4] * 1000, (5, 1, 9))
    batch = ids(found, 2)
    x, unknown = one_launch(found, batch, device)
    expected, size, wrong = exact(found, batch, width(found))
    assert error(x, expected, size) < TOLERANCE[torch.float32]
    assert unknown == wrong > 0


def test_batches_larger_than_any_block_are_whole(device: torch.device) -> None:
    found = slots([16, 16])
    for longest in (None, 2):
        batch = ids(found, 1025, longest)
        x, unknown = one_launch(found, batch, device)
        expected, size, wrong = exact(found, batch, width(found))
        assert error(x, expected, size) < TOLERANCE[torch.float32]
        assert unknown == wrong > 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_tables_of_more_than_two_to_the_31_elements_are_read_to_their_end(dtype: Dtype, device: torch.device) -> None:
    """On a CPU, pages that nobody touches cost nothing."""
    dim, count = 64, (1 << 31) // 64 + 3
    stored = {"fp32": torch.float32, "fp16": torch.float16, "int8": torch.uint8}[dtype]
    try:
        data = torch.empty(count, dim + 8 * (dtype == "int8"), dtype=stored, device=device)
    except RuntimeError:
        pytest.skip(f"no memory for {count:,} rows of {dim} columns as {dtype}")
    picked = torch.tensor([0, 1, count // 2, count - 2, count - 1, count])
    rows = torch.randn(5, dim, generator=torch.Generator().manual_seed(0))
    chosen = quantise(rows) if dtype == "int8" else rows.to(stored)
    data[picked[:5].to(device)] = chosen.to(device)
    slot = GpuSlot("big", 0, GpuRows(count, dim, dtype, data), 0)
    x = torch.full((6, dim), float("nan"), device=device)
    unknown = torch.zeros(1, dtype=torch.int32, device=device)
    GpuKernels([slot], device).launch(picked.to(device), None, None, x, unknown)
    expected = dequantise(chosen) if dtype == "int8" else chosen.float()
    torch.testing.assert_close(x.cpu(), expected[[0, 1, 2, 3, 4, 0]], rtol=0, atol=1e-6)
    assert int(unknown) == 1


def test_output_far_behind_two_to_the_31_columns_is_written(device: torch.device) -> None:
    """Rows of x that lie so far apart that their places need 64 bits."""
    found = slots([16], (10,))
    stride = (1 << 30) + 8
    try:
        memory = torch.empty(3 * stride, dtype=torch.float16, device=device)
    except RuntimeError:
        pytest.skip("no memory for rows that far apart")
    x = memory.as_strided((3, 18), (stride, 1), 0)
    x.fill_(float("nan"))
    unknown = torch.zeros(1, dtype=torch.int32, device=device)
    values = torch.tensor([1, 2, 3])
    kernels(found, device).launch(values.to(device), None, None, x, unknown)
    torch.testing.assert_close(x[:, 1:17].cpu(), found[0].rows.data[values].half(), rtol=0, atol=0)
    assert x[:, [0, 17]].isnan().all()


def test_preparing_makes_the_work_of_a_launch(device: torch.device) -> None:
    found = slots([16, 64])
    made = kernels(found, device)
    made.prepare(9, single=True)
    before = [dict(group._work) for group in made._groups]
    batch = ids(found, 9).to(device)
    x, unknown = torch.zeros(9, width(found), device=device), torch.zeros(1, dtype=torch.int32, device=device)
    made.launch(batch.values, None, None, x, unknown)
    assert [group._work for group in made._groups] == before


def test_without_triton_one_sentence_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "recsys.dataflow.kernels.gpu.lookup", None)
    with pytest.raises(MissingExtraError, match="look-ups on a GPU need Triton"):
        GpuKernels([], torch.device("cpu"))


# --- on a GPU only


@needs_gpu
@pytest.mark.parametrize("longest", [None, 20])
def test_a_captured_graph_reads_the_ids_that_are_there_when_it_runs(longest: int | None, device: torch.device) -> None:
    found = slots([16, 64, 128], (1000, 50, 300), "fp16")
    batches = [ids(found, 100, longest, seed=seed) for seed in range(3)]
    most = max(len(batch.values) for batch in batches)
    values = torch.zeros(most, dtype=torch.int64, device=device)
    offsets = None if longest is None else torch.zeros(3 * 100 + 1, dtype=torch.int64, device=device)
    x, unknown = torch.empty(100, width(found), device=device), torch.zeros(1, dtype=torch.int32, device=device)
    made = kernels(found, device, ids=(longest or 2) / 2)
    made.launch(values, offsets, None, x, unknown)  # compiled now: a capture may not do so
    unknown.zero_()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        made.launch(values, offsets, None, x, unknown)
    total = 0
    for batch in batches:
        values[: len(batch.values)] = batch.values.to(device)
        if offsets is not None:
            offsets.copy_(batch.full_offsets())
        x.fill_(float("nan"))
        graph.replay()
        expected, size, wrong = exact(found, batch, width(found))
        total += wrong
        assert error(x.double().cpu(), expected, size) < TOLERANCE[torch.float32]
        assert int(unknown) == total


@needs_gpu
def test_two_streams_do_not_meet(device: torch.device) -> None:
    found = slots([64, 64], (5000, 300), "fp16")
    made = kernels(found, device)
    batches = [ids(found, 4096, seed=seed) for seed in range(2)]
    moved = [batch.to(device) for batch in batches]
    xs = [torch.full((4096, width(found)), float("nan"), device=device) for _ in batches]
    unknown = [torch.zeros(1, dtype=torch.int32, device=device) for _ in batches]
    made.prepare(4096, single=True)
    torch.cuda.synchronize()
    streams = [torch.cuda.Stream() for _ in batches]  # type: ignore[no-untyped-call]
    for _ in range(20):
        for stream, batch, x, count in zip(streams, moved, xs, unknown, strict=True):
            with torch.cuda.stream(stream):
                made.launch(batch.values, None, None, x, count)
    torch.cuda.synchronize()
    for batch, x, count in zip(batches, xs, unknown, strict=True):
        expected, size, wrong = exact(found, batch, width(found))
        assert error(x.double().cpu(), expected, size) < TOLERANCE[torch.float32]
        assert int(count) == 20 * wrong
