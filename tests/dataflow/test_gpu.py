"""The GPU's executor gives the numbers of the CPU's, wherever rows lie, and is never half there."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from recsys.data.batch import JaggedIds
from recsys.dataflow.executor import TableExecutor
from recsys.dataflow.gpu import GpuExecutor, cuda_device, gpu_name
from recsys.dataflow.gpu_plan import GpuLookup, GpuPlan, GpuTable, Where
from recsys.dataflow.kernels.gpu.rows import GpuRows, Hot, device_bytes, place
from recsys.dataflow.storage import Rows, Source, Storage
from recsys.dataflow.workload import Dtype
from recsys.errors import ConfigError
from recsys.layers.tables import Lookup, Table, TableSpec
from tests.helpers import jagged

PLACES: list[Where] = ["device", "host", "split", "cpu", "shared"]
SPEC = TableSpec(
    features=("a", "b", "c", "d", "e"),
    tables=(Table("t0", 40, 16), Table("t1", 70, 8), Table("t2", 7, 16), Table("t3", 100, 16)),
    lookups=(
        Lookup("a", "a", "t0"),
        Lookup("b", "b", "t1", "mean"),
        Lookup("c", "c", "t2", "sum", "both"),
        Lookup("d", "d", "t3", "sum", "both"),
        Lookup("e", "e", "t0", "mean"),
    ),
    dense=3,
)


def stored(dtype: Dtype = "fp32") -> dict[str, Rows]:
    generator = torch.Generator().manual_seed(0)
    return Storage({t.name: Source(torch.randn(t.rows, t.dim, generator=generator), dtype) for t in SPEC.tables}).tables


def hot_of(rows: int) -> Tensor:
    return torch.rand(rows, generator=torch.Generator().manual_seed(rows)) < 0.4


def hot_count(place: Where, rows: int) -> int:
    return rows if place == "device" else int(hot_of(rows).sum()) if place in ("split", "shared") else 0


def planned(places: list[Where], device: torch.device, dtype: Dtype = "fp32", **changed: Any) -> GpuPlan:
    tables = tuple(
        GpuTable(name=t.name, rows=t.rows, dim=t.dim, dtype=dtype, place=at, hot_rows=hot_count(at, t.rows))
        for t, at in zip(SPEC.tables, places, strict=True)
    )
    lookups = tuple(GpuLookup(name=n.name, table=n.table, ids=8.0 if n.name == "d" else 1.0) for n in SPEC.lookups)
    values: dict[str, Any] = {"workload": "w", "gpu": gpu_name(device), "memory": 1 << 20}
    made = GpuPlan(**(values | {"tables": tables, "lookups": lookups} | changed))
    return made.with_hot(
        {t.name: hot_of(t.rows) for t, at in zip(SPEC.tables, places, strict=True) if at in ("split", "shared")}
    )


def ids_of(size: int, seed: int = 0) -> JaggedIds:
    generator = torch.Generator().manual_seed(seed)

    def bag() -> list[int]:
        count = int(torch.randint(0, 12, (1,), generator=generator))
        return torch.randint(-1, 120, (count,), generator=generator).tolist()

    return jagged(SPEC.features, [[bag() for _ in range(size)] for _ in SPEC.features])


def run(executor: GpuExecutor, ids: JaggedIds, size: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, int]:
    """All columns of a poisoned buffer, and the ids that were unknown."""
    device = executor.device
    x = torch.full((size, SPEC.layout.width), 7.0, dtype=dtype, device=device)
    unknown = torch.zeros(1, dtype=torch.int32, device=device)
    executor.prepare([size], single=False)
    offsets = ids.full_offsets()
    executor.launch(ids.values.to(device), offsets.to(device), None, x, unknown)
    stage, more = executor.stage(size + 3), 0
    if stage is not None:
        more = stage.fill(ids)
        stage.launch(x)
    return x.cpu(), int(unknown) + more


def expected(rows: dict[str, Rows], ids: JaggedIds, size: int) -> tuple[Tensor, int]:
    executor = TableExecutor(SPEC, rows, kernel="reference")
    x = torch.full((size, SPEC.layout.width), 7.0)
    executor.lookup(ids, x)
    return x, executor.unknown_ids


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("shift", range(5))
def test_it_gives_the_cpus_numbers_wherever_rows_lie(device: torch.device, shift: int, dtype: Dtype) -> None:
    places = (PLACES[shift:] + PLACES[:shift])[:4]
    rows, ids = stored(dtype), ids_of(5, shift)
    executor = GpuExecutor(SPEC, rows, device, plan=planned(places, device, dtype))
    got, unknown = run(executor, ids, 5)
    right, counted = expected(rows, ids, 5)
    torch.testing.assert_close(got, right, rtol=1e-5, atol=1e-5)
    assert unknown == counted > 0
    assert set(executor.rows) == {t.name for t, at in zip(SPEC.tables, places, strict=True) if at != "cpu"}


@pytest.mark.parametrize("place_", PLACES)
def test_all_tables_may_lie_alike(device: torch.device, place_: Where) -> None:
    rows, ids = stored(), ids_of(3)
    executor = GpuExecutor(SPEC, rows, device, plan=planned([place_] * 4, device))
    torch.testing.assert_close(run(executor, ids, 3), expected(rows, ids, 3), rtol=1e-5, atol=1e-5)
    half, _ = run(executor, ids, 3, torch.float16)
    torch.testing.assert_close(half.float(), expected(rows, ids, 3)[0], rtol=2e-3, atol=2e-2)
    assert (executor.stage(4) is None) == (place_ not in ("cpu", "shared"))


def test_a_smaller_batch_uses_a_part_of_the_stage(device: torch.device) -> None:
    rows = stored()
    executor = GpuExecutor(SPEC, rows, device, plan=planned(["cpu"] * 4, device))
    stage = executor.stage(8)
    assert stage is not None
    for size in (8, 1, 0, 5):
        ids = ids_of(size, size)
        x = torch.full((size, SPEC.layout.width), 7.0, device=device)
        stage.fill(ids)
        stage.launch(x)
        torch.testing.assert_close(x.cpu(), expected(rows, ids, size)[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shared", [False, True])
def test_host_rows_may_stay_where_they_are(device: torch.device, shared: bool) -> None:
    rows = stored()
    hot: dict[str, Hot] = {"t0": True, "t1": False, "t2": torch.ones(7, dtype=torch.bool), "t3": hot_of(100)}
    if device.type == "cuda" and shared:
        pytest.skip("the rows are not pinned")
    placed = place(rows, hot, device, shared)
    t1, t3 = placed["t1"].host, placed["t3"]
    assert t1 is not None
    assert t3.host is not None
    assert (t1.data_ptr() == rows["t1"].data.data_ptr()) == shared
    assert (len(t3.host), t3.whole_host) == ((100, True) if shared else (100 - int(hot_of(100).sum()), False))
    assert placed["t2"].host is None  # all rows hot is no split
    executor, ids = GpuExecutor(SPEC, rows, device, hot=hot, shared=shared), ids_of(4)
    torch.testing.assert_close(run(executor, ids, 4), expected(rows, ids, 4), rtol=1e-5, atol=1e-5)


def test_a_plan_for_other_tables_or_gpus_is_refused(device: torch.device) -> None:
    rows, right = stored(), planned(["device"] * 4, device)

    def refused(plan: GpuPlan, message: str) -> None:
        with pytest.raises(ConfigError, match=message):
            GpuExecutor(SPEC, rows, device, plan=plan)

    refused(right.model_copy(update={"gpu": "NVIDIA H1000"}), "was made for NVIDIA H1000, this is")
    refused(right.model_copy(update={"gpus": 2}), "is for 2 GPUs, and one runs it")
    refused(right.model_copy(update={"lookups": right.lookups[1:]}), "differ in look-up `a`")
    refused(right.model_copy(update={"tables": right.tables[1:]}), "it has no table `t0`")
    refused(planned(["device"] * 4, device, "fp16"), "has table `t0` as fp16, it is stored as fp32")


def test_tables_that_do_not_fit_are_refused_or_placed_by_rule(
    device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, size = stored(), sum(device_bytes(one, True) for one in stored().values())
    monkeypatch.setattr("recsys.dataflow.kernels.gpu.rows.free_bytes", lambda device: size // 2)
    with pytest.raises(ConfigError, match=f"need {size:,} bytes on {device} and {size // 2:,} are free"):
        GpuExecutor(SPEC, rows, device, plan=planned(["device"] * 4, device))
    with pytest.raises(ConfigError, match="plan with a smaller --memory"):
        GpuExecutor(SPEC, rows, device, hot=dict.fromkeys(rows, True))
    monkeypatch.setattr("recsys.dataflow.gpu.free_bytes", lambda device: size // 2)
    monkeypatch.setattr("recsys.dataflow.gpu.room", lambda memory: memory)
    monkeypatch.setattr("recsys.dataflow.gpu_default.room", lambda memory: memory)
    executor, ids = GpuExecutor(SPEC, rows, device), ids_of(4)
    assert executor.plan is not None
    assert executor.plan.used()[0] <= size // 2
    assert {table.place for table in executor.plan.tables} >= {"device", "split"}
    assert "recsys plan --device cuda --data DATA" in executor.note
    torch.testing.assert_close(run(executor, ids, 4), expected(rows, ids, 4), rtol=1e-5, atol=1e-5)


def test_what_fits_needs_no_plan(device: torch.device) -> None:
    executor = GpuExecutor(SPEC, stored(), device)
    assert (executor.plan, executor.note) == (None, "")
    assert all(isinstance(one, GpuRows) and one.host is None for one in executor.rows.values())


def test_host_rows_that_do_not_fit_are_refused(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recsys.dataflow.kernels.gpu.rows.available_memory", lambda: 100)
    monkeypatch.setattr("recsys.dataflow.kernels.gpu.rows.free_bytes", lambda device: 1 << 30)
    with pytest.raises(ConfigError, match="copied to pinned memory, and 100 are available"):
        GpuExecutor(SPEC, stored(), device, plan=planned(["host"] * 4, device))


def test_a_driver_that_refuses_is_told_in_a_sentence(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    for error, message in (
        (torch.cuda.OutOfMemoryError("CUDA out of memory. Tried"), "the GPU's memory does not suffice"),
        (
            RuntimeError("CUDA error: an illegal address\nmore"),
            "the GPU's driver refused: CUDA error: an illegal address",
        ),
    ):

        def refuse(*given: object, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr("recsys.dataflow.kernels.gpu.rows._copied", refuse)
        with pytest.raises(ConfigError, match=message):
            GpuExecutor(SPEC, stored(), device)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_without_a_gpu_it_says_so() -> None:
    with pytest.raises(ConfigError, match="no GPU is here"):
        cuda_device()
