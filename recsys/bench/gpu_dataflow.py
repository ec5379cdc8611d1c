"""Look-ups on a GPU: what the cost model predicts beside what was measured, over workloads, batches and ids.

A launch is measured in a graph of several, each over ids of its own, replayed again and again: so were the readings
that the model predicts from.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from recsys.bench.card import machine
from recsys.bench.dataflow import Distribution, with_ids
from recsys.bench.gpu_draw import block, draw, expected, filled, slots
from recsys.data.batch import JaggedIds
from recsys.dataflow.gpu_cost import GpuCostModel
from recsys.dataflow.gpu_default import room
from recsys.dataflow.gpu_platform import GpuPlatform
from recsys.dataflow.gpu_timing import graph_times
from recsys.dataflow.kernels.gpu.kernels import GpuKernels
from recsys.dataflow.kernels.gpu.rows import GpuRows, free_bytes
from recsys.dataflow.storage import Rows
from recsys.dataflow.workload import Dtype, Workload
from recsys.errors import ConfigError

__all__ = ["WORKLOADS", "fitting", "measure"]

WORKLOADS: tuple[tuple[str, int | None], ...] = (
    ("criteo-kaggle", 16),
    ("criteo-kaggle", 64),
    ("mlperf-dlrm-v2", 64),
    ("mlperf-dlrm-v2", 128),
    ("uniform-200", None),
)
"""Published workloads and dims."""
BATCHES = (1, 64, 512, 2048, 8192, 65536)
ROTATED = 6
MOST_IDS = 100_000_000
"""Of a graph's batches together; larger batches take turns by fewer, or are left out."""
CHECKED = 32
"""Bags of which every column is compared with the slow way, before anything is timed."""


def fitting(workload: Workload, memory: int) -> Workload:
    """The same, its tables cut to as many rows as fit."""
    if workload.bytes <= memory:
        return workload
    low, high = 1, max(table.rows for table in workload.tables)
    while high - low > 1000:
        middle = (low + high) // 2
        low, high = (middle, high) if workload.cap(middle).bytes <= memory else (low, middle)
    return workload.cap(low // 1000 * 1000 or low)


def measure(
    gpu: GpuPlatform,
    device: torch.device,
    workloads: Sequence[Workload],
    dtype: Dtype = "fp32",
    batches: Sequence[int] = BATCHES,
    ids: Sequence[Distribution] = ("zipf", "uniform", "equal"),
) -> dict[str, Any]:
    """Predict and measure the look-ups of workloads whose tables all lie on the GPU.

    Args:
        gpu: As it was measured.
        device: The same.
        workloads: Tables are cut to as many rows as fit.
        dtype: How rows are stored. The output is float16 where rows are.
        batches: Sizes.
        ids: How ids fall on the rows.

    Raises:
        ConfigError: When a launch gives other numbers than the slow way.
    """
    rows = [row for one in workloads for row in _workload(gpu, device, one, dtype, batches, ids)]
    off = [row["off"] for row in rows]
    errors = {"median_error": 50, "p90_error": 90, "worst_error": 100}
    summary = {name: round(float(np.percentile(off, q)), 4) for name, q in errors.items()} if off else {}
    model = GpuCostModel(workloads[0], gpu)
    fit = {"cache": int(model.cache), "power": model.power}
    about = {"machine": machine(["triton"]), "gpu": gpu.gpu, "platform": gpu.fingerprint}
    return {"bench": "gpu-dataflow", **about, "dtype": dtype, **summary, **fit, "rows": rows}


def _workload(
    gpu: GpuPlatform,
    device: torch.device,
    workload: Workload,
    dtype: Dtype,
    batches: Sequence[int],
    ids: Sequence[Distribution],
) -> Iterator[dict[str, Any]]:
    tables = tuple(table.model_copy(update={"dtype": dtype}) for table in workload.tables)
    workload = fitting(workload.model_copy(update={"tables": tables}), room(free_bytes(device)) * 4 // 5)
    dim = workload.tables[0].dim
    made = block(dim, dtype)
    near = made.to(device)
    held = {
        t.name: GpuRows(t.rows, t.dim, dtype, filled(near, near.new_empty(t.rows, made.shape[1])))
        for t in workload.tables
    }
    kernels = GpuKernels(slots(workload, held), device)
    numbers = Rows(made, dim, dtype).read().to(device)
    width = dim * len(workload.lookups)
    with tqdm(total=len(ids) * len(batches), desc=workload.name, unit="run", disable=None) as bar:
        for distribution in ids:
            drawn = with_ids(workload, distribution)
            _check(kernels, drawn, numbers, device, width)
            model = GpuCostModel(drawn, gpu, 2 if dtype == "fp16" else 4)
            for batch in batches:
                row = _run(model, kernels, batch, device, width, dtype)
                bar.update()
                if row is not None:
                    yield {"workload": workload.name, "dim": dim, "ids": distribution, "batch": batch, **row}


def _check(kernels: GpuKernels, workload: Workload, numbers: Tensor, device: torch.device, width: int) -> None:
    """Every column of some bags is what the slow way gives."""
    batch = draw(workload, CHECKED, torch.Generator(device).manual_seed(1))
    x, unknown = (
        torch.full((CHECKED, width), torch.nan, device=device),
        torch.zeros(1, dtype=torch.int32, device=device),
    )
    kernels.prepare(CHECKED, batch.offsets is None)
    kernels.launch(batch.values, batch.offsets, None, x, unknown)
    right = expected(numbers, [table.dim for table in workload.tables], batch, CHECKED)
    off = float((x - right).norm() / right.norm())
    if not off < 1e-5 or int(unknown):
        raise ConfigError(f"look-ups of `{workload.name}` are off by {off:g}, with {int(unknown)} unknown ids: a bug")


def _run(
    model: GpuCostModel, kernels: GpuKernels, batch: int, device: torch.device, width: int, dtype: Dtype
) -> dict[str, Any] | None:
    count = batch * sum(lookup.ids.mean for lookup in model.workload.lookups)
    rotated = int(min(ROTATED, MOST_IDS // max(count, 1)))
    if rotated < 1:
        return None
    generator = torch.Generator(device).manual_seed(0)
    x = torch.empty(batch, width, dtype=torch.float16 if dtype == "fp16" else torch.float32, device=device)
    unknown = torch.zeros(1, dtype=torch.int32, device=device)
    sets = [draw(model.workload, batch, generator) for _ in range(max(rotated, 2))]
    kernels.prepare(batch, sets[0].offsets is None)
    launches = [partial(kernels.launch, one.values, one.offsets, None, x, unknown) for one in sets]
    times = graph_times(launches, device, passes=3)
    us, load = statistics.median(times), model.load(batch)
    told = load.us()
    return {
        "predicted_us": round(told.us, 2),
        "us": round(us, 2),
        "off": round(abs(told.us / us - 1), 4),
        "bound_us": round(told.bound_us, 2),
        "tbs": round(_bytes(model, batch, sets) / us / 1e6, 3),
        "miss": round(float(load.miss @ load.near / max(load.near.sum(), 1e-9)), 3),
        "near_us": round(float(load.near.sum()) / 1e3, 2),
        "far_us": round(float(load.far.sum()) / 1e3, 2),
        "chain_us": round(float(load.chain.max()) / 1e3, 2),
    }


def _bytes(model: GpuCostModel, batch: int, sets: Sequence[JaggedIds]) -> float:
    """Counted: rows read, ids, and output, whatever caches do."""
    ids = sum(len(one.values) for one in sets) / len(sets)
    row = model.workload.tables[0].row_bytes
    return ids * (row + 8) + batch * sum(t.dim for t in model.workload.tables) * model.out_bytes
