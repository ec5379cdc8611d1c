"""A model larger than the GPU's memory: latency by the memory that its tables may take there.

All rows lie in pinned host memory once; what a budget allows is copied to the GPU as well. Hot rows are those of a
sample of ids, and what is measured are ids of other samples. Times are by the clock, from ids that GPU and CPU both
have, as in a session, until all columns are filled on the GPU. Beside ours: the best plan without the CPU, all rows on
the host, random rows on the GPU, and the CPU's own look-ups on all cores, into its own memory.

The bound is max(HBM bytes ÷ HBM bandwidth, host bytes ÷ link bandwidth) for the best hot rows of that budget, known
from what the ids were drawn from. The link gives that bandwidth to rows that lie one behind the other; beside it stands
the bound with as many rows a second as it was measured to give of rows that are spread over so much host memory.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from tqdm import tqdm

from recsys.bench.card import machine
from recsys.bench.gpu_draw import sample
from recsys.bench.gpu_larger_rig import LINE, LargerRig, at_random, placed
from recsys.dataflow.gpu_cost import GpuCostModel
from recsys.dataflow.gpu_default import room
from recsys.dataflow.gpu_plan import GpuPlan, Where
from recsys.dataflow.gpu_planner import plan
from recsys.dataflow.gpu_platform import GpuPlatform
from recsys.dataflow.heat import Heat, assumed, counted
from recsys.dataflow.kernels.gpu.rows import free_bytes
from recsys.dataflow.knapsack import Knapsack
from recsys.dataflow.workload import Workload, refuse_too_big

__all__ = ["BUDGETS", "measure"]

BUDGETS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)
"""Shares of the memory that tables may take on the GPU."""

ON_CPU: tuple[Where, ...] = ("shared", "cpu")
"""Where tables lie of which the CPU adds up rows."""

Row = Mapping[str, Any]


def measure(
    gpu: GpuPlatform,
    device: torch.device,
    workload: Workload,
    batch: int = 2048,
    budgets: Sequence[float] = BUDGETS,
    calls: int = 200,
    counted_ids: int = 4_000_000_000,
    began: Callable[[Row], None] = lambda _: None,
    found: Callable[[Row], None] = lambda _: None,
) -> dict[str, Any]:
    """Measure a workload that need not fit the GPU, batch by batch.

    Args:
        gpu: As it was measured.
        device: The same.
        workload: Its tables have one dim and one dtype, and must fit host memory.
        batch: Examples.
        budgets: Shares of the memory that is free.
        calls: Batches that are timed.
        counted_ids: Ids of the sample that hot rows are counted in. Of few, many rows look hot that were hit by chance.
        began: Called with what is known before the budgets are measured.
        found: Called with each budget's row as soon as it was measured.

    Raises:
        ConfigError: When the tables do not fit host memory, or a launch gives other numbers than the slow way.
    """
    refuse_too_big(workload)
    start = time.perf_counter()
    rig = LargerRig(workload, device, batch, calls)
    filled_s = time.perf_counter() - start
    heat, examples = _count(workload, device, counted_ids)
    counted_s = time.perf_counter() - start - filled_s
    if device.type == "cuda":
        torch.cuda.empty_cache()  # what counting left is in the way of one large piece
    room_bytes = room(free_bytes(device))
    size = min(room_bytes, workload.bytes) + LINE * len(workload.tables)
    memory = torch.empty(size, dtype=torch.uint8, device=device)
    about = {
        "bench": "gpu-larger",
        "machine": machine(["triton"]),
        "gpu": gpu.gpu,
        "platform": gpu.fingerprint,
        "workload": workload.name,
        "table_bytes": workload.bytes,
        "free_bytes": room_bytes,
        "batch": batch,
        "calls": calls,
        "batches": len(rig.drawn),
        "counted_examples": examples,
        "seconds": {"fill": round(filled_s, 1), "count": round(counted_s, 1)},
        "host": rig.times(placed(rig, {table.name: False for table in workload.tables}, memory)),
        "cpu": rig.cpu_times(),
        "absent": {"fbgemm-lru": "its cache keeps rows in managed memory, which is never used here"},
    }
    began(about)
    model, alone = (GpuCostModel(workload, one) for one in (gpu, gpu.model_copy(update={"cpu": None})))
    rows = []
    for budget in tqdm(budgets, desc="budgets", unit="budget", disable=None):
        size = int(budget * room_bytes)
        made = plan(model, heat, size, batches=[batch], ids=f"counted in {examples:,} examples")
        ours = _times(rig, made, memory)
        link = made
        if any(table.place in ON_CPU for table in made.tables):
            link = plan(alone, heat, size, batches=[batch])
        row = {
            "budget": budget,
            "bytes": size,
            "places": dict(Counter(table.place for table in made.tables)),
            **_told(made, model, size, batch),
            "link_predicted_us": link.schedules[0].predicted_us,
            "ours": ours,
            "link": ours if link is made else _times(rig, link, memory),
            "random": rig.times(placed(rig, at_random(workload, size, device), memory)),
        }
        rows.append(row)
        found(row)
    return {**about, "rows": rows}


def _times(rig: LargerRig, made: GpuPlan, memory: torch.Tensor) -> dict[str, float]:
    """Of what a plan says."""
    hot = {table.name: made.hot_rows(table.name) for table in made.tables}
    return rig.times(placed(rig, hot, memory, {table.name for table in made.tables if table.place in ON_CPU}))


def _count(workload: Workload, device: torch.device, ids: int) -> tuple[dict[str, Heat], int]:
    """Heat of the tables by a sample of ids, and its examples."""
    examples = max(1, int(ids / max(sum(lookup.ids.mean for lookup in workload.lookups), 1)))
    generator = torch.Generator(device).manual_seed(3)
    hits: dict[str, npt.NDArray[np.int64]] = {}
    for lookup in tqdm(workload.lookups, desc="count", unit="look-up", disable=None):
        rows = workload.table(lookup.table).rows
        total = torch.zeros(rows, dtype=torch.int64, device=device)
        step = max(1, int(20_000_000 / max(lookup.ids.mean, 1e-9)))
        for at in range(0, examples, step):
            values, _ = sample(lookup.ids, rows, min(step, examples - at), generator)
            total += torch.bincount(values, minlength=rows)
        hits[lookup.table] = hits.get(lookup.table, 0) + total.cpu().numpy()
    # The plans of a budget have the same hot rows, and to find these takes most of the time.
    heat = {name: replace(one, chosen=lru_cache(1)(one.chosen)) for name, one in counted(hits, examples).items()}
    return heat, examples


def _told(made: GpuPlan, model: GpuCostModel, size: int, batch: int) -> dict[str, float]:
    """What was predicted, and the bound of the best hot rows by what the ids are drawn from."""
    workload, load = model.workload, model.load(batch)
    truth = assumed(workload)
    hot = Knapsack(truth, {table.name: table.row_bytes for table in workload.tables}, remapped=False).hot(size)
    far = {name: 1 - truth[name].share(n) for name, n in hot.items()}
    host = sum(load.row_bytes[k] * far[n.table] for k, n in enumerate(workload.lookups))
    near = float(load.row_bytes.sum()) - host + batch * sum(n.ids.mean * 8 for n in workload.lookups)
    near += batch * sum(table.dim * 4 for table in workload.tables)
    bound = max(near / model.gpu.copy_gbs, host / model.gpu.to_gpu_gbs) / 1e3
    region = sum((table.rows - hot[table.name]) * table.row_bytes for table in workload.tables)
    row_bytes = workload.tables[0].row_bytes
    read = max(near / model.gpu.copy_gbs, host / row_bytes * model.gpu.host_row_ns(row_bytes, region)) / 1e3
    ids = sum(n.ids.mean for n in workload.lookups)
    return {
        "predicted_us": made.schedules[0].predicted_us,
        "bound_us": round(bound, 2),
        "read_bound_us": round(read, 2),
        "host_share": round(sum(n.ids * (1 - n.near) for n in made.lookups) / ids, 6),
        "best_host_share": round(sum(n.ids.mean * far[n.table] for n in workload.lookups) / ids, 6),
        "used_bytes": made.used()[0],
    }
