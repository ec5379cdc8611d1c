"""A model larger than the GPU's memory: latency by the memory that its tables may take there.

All rows lie in pinned host memory once; what a budget allows is copied to the GPU as well. Hot rows are those of a
sample of ids, and what is measured are ids of other samples. Beside ours: all rows on the host, random rows on the
GPU, and the CPU's own look-ups on all cores. The bound is max(HBM bytes ÷ HBM bandwidth, host bytes ÷ link bandwidth)
for the best hot rows of that budget, known from what the ids were drawn from.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from tqdm import tqdm

from recsys.bench.card import machine
from recsys.bench.gpu_draw import BLOCK, Drawn, block, draw, expected, filled, sample, slots
from recsys.data.batch import JaggedIds
from recsys.dataflow.gpu_cost import GpuCostModel
from recsys.dataflow.gpu_default import room
from recsys.dataflow.gpu_plan import GpuPlan
from recsys.dataflow.gpu_planner import plan
from recsys.dataflow.gpu_platform import GpuPlatform
from recsys.dataflow.gpu_timing import captured
from recsys.dataflow.heat import Heat, assumed, counted
from recsys.dataflow.kernels.cpu import CpuKernels, isas
from recsys.dataflow.kernels.gpu.kernels import GpuKernels
from recsys.dataflow.kernels.gpu.rows import GpuRows, free_bytes, pinned, remap
from recsys.dataflow.kernels.reference import Slot
from recsys.dataflow.knapsack import Knapsack
from recsys.dataflow.plan import spread
from recsys.dataflow.platform import read_cores
from recsys.dataflow.storage import Rows, view
from recsys.dataflow.workload import Workload, refuse_too_big
from recsys.errors import ConfigError

__all__ = ["BUDGETS", "measure"]

BUDGETS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""Shares of the memory that tables may take on the GPU."""
CHECKED = 16
_LINE = 64
_PIECE = 1 << 20
"""Rows that are gathered at a time."""


def measure(
    gpu: GpuPlatform,
    device: torch.device,
    workload: Workload,
    batch: int = 2048,
    budgets: Sequence[float] = BUDGETS,
    calls: int = 200,
    counted_ids: int = 200_000_000,
) -> dict[str, Any]:
    """Measure a workload that need not fit the GPU, batch by batch.

    Args:
        gpu: As it was measured.
        device: The same.
        workload: Its tables have one dim and one dtype, and must fit host memory.
        batch: Examples.
        budgets: Shares of the memory that is free.
        calls: Batches that are timed, each with ids of its own.
        counted_ids: Ids of the sample that hot rows are counted in.

    Raises:
        ConfigError: When the tables do not fit host memory, or a launch gives other numbers than the slow way.
    """
    refuse_too_big(workload)
    about = {"machine": machine(["triton"]), "gpu": gpu.gpu, "platform": gpu.fingerprint}
    start = time.perf_counter()
    rig = _Rig(workload, device, batch, calls)
    filled_s = time.perf_counter() - start
    heat, examples = _count(workload, device, counted_ids)
    counted_s = time.perf_counter() - start - filled_s
    room_bytes = room(free_bytes(device))
    memory = torch.empty(
        min(room_bytes, workload.bytes) + _LINE * len(workload.tables), dtype=torch.uint8, device=device
    )
    alone = gpu.model_copy(update={"cpu": None})
    model = GpuCostModel(workload, alone)
    rows = []
    for budget in tqdm(budgets, desc="budgets", unit="budget", disable=None):
        size = int(budget * room_bytes)
        made = plan(model, heat, size, batches=[batch], ids=f"counted in {examples:,} examples")
        ours = {table.name: made.hot_rows(table.name) for table in made.tables}
        at_random = _random(workload, size, device)
        rows.append(
            {
                "budget": budget,
                "bytes": size,
                **_told(made, model, size, batch),
                "ours": rig.times(_placed(rig, ours, memory)),
                "random": rig.times(_placed(rig, at_random, memory)),
            }
        )
    host = rig.times(_placed(rig, {table.name: False for table in workload.tables}, memory))
    return {
        "bench": "gpu-larger",
        **about,
        "workload": workload.name,
        "table_bytes": workload.bytes,
        "free_bytes": room_bytes,
        "batch": batch,
        "calls": calls,
        "counted_examples": examples,
        "seconds": {"fill": round(filled_s, 1), "count": round(counted_s, 1)},
        "host": host,
        "cpu": rig.cpu_times(),
        "absent": {"fbgemm-lru": "its cache keeps rows in managed memory, which is never used here"},
        "rows": rows,
    }


class _Rig:
    """All rows in host memory, and batches of ids."""

    def __init__(self, workload: Workload, device: torch.device, batch: int, calls: int) -> None:
        self.workload, self.device, self.batch, self.calls = workload, device, batch, calls
        dims = {(table.dim, table.dtype) for table in workload.tables}
        if len(dims) > 1:
            raise ConfigError(f"expected tables of one dim and dtype, `{workload.name}` has {len(dims)} kinds")
        self.dim, self.dtype = next(iter(dims))
        self.made = block(self.dim, self.dtype)
        self.near = self.made.to(device)
        host, at = pinned(sum(_whole(table.rows * table.row_bytes) for table in workload.tables)), 0
        self.host: dict[str, Rows] = {}
        for table in workload.tables:
            size = table.rows * table.row_bytes
            self.host[table.name] = view(host[at : at + size], table.rows, table.dim, table.dtype)
            filled(self.made, self.host[table.name].data)
            at += _whole(size)
        generator = torch.Generator(device).manual_seed(1)
        self.drawn = [draw(workload, batch, generator) for _ in range(calls)]
        self.width = self.dim * len(workload.lookups)
        self.x = torch.empty(batch, self.width, device=device)
        self.unknown = torch.zeros(1, dtype=torch.int32, device=device)

    def times(self, kernels: GpuKernels) -> dict[str, float]:
        """µs of a captured launch, its ids being new each time."""
        self._check(kernels)
        most = max(len(one.values) for one in self.drawn)
        values = torch.zeros(most, dtype=torch.int64, device=self.device)
        offsets = None if self.drawn[0].offsets is None else self.drawn[0].offsets.clone()
        kernels.prepare(self.batch, offsets is None)

        def launch() -> None:
            kernels.launch(values, offsets, None, self.x, self.unknown)

        def fill(one: Drawn) -> None:
            values[: len(one.values)].copy_(one.values)
            if offsets is not None and one.offsets is not None:
                offsets.copy_(one.offsets)

        fill(self.drawn[0])
        if self.device.type != "cuda":
            return _figures([_wall(fill, one) + _wall(launch) for one in self.drawn])
        graph, stream = captured([launch], self.device), torch.cuda.current_stream(self.device)
        events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in self.drawn]  # type: ignore[no-untyped-call]
        for one, (start, end) in zip(self.drawn, events, strict=True):
            fill(one)
            start.record(stream)
            graph.replay()
            end.record(stream)
        stream.synchronize()
        return _figures([start.elapsed_time(end) * 1e3 for start, end in events])

    def _check(self, kernels: GpuKernels) -> None:
        """Every column of some bags is what the slow way gives."""
        drawn = draw(self.workload, CHECKED, torch.Generator(self.device).manual_seed(2))
        x = torch.full((CHECKED, self.width), torch.nan, device=self.device)
        kernels.prepare(CHECKED, drawn.offsets is None)
        kernels.launch(drawn.values, drawn.offsets, None, x, self.unknown)
        numbers = Rows(self.made, self.dim, self.dtype).read().to(self.device)
        right = expected(numbers, [table.dim for table in self.workload.tables], drawn, CHECKED)
        off = float((x - right).norm() / right.norm())
        if not off < 1e-5 or int(self.unknown):
            raise ConfigError(
                f"look-ups of rows in two places are off by {off:g}, {int(self.unknown)} unknown ids: a bug"
            )

    def cpu_times(self) -> dict[str, float] | None:
        """µs of the CPU's own look-ups into its memory, on as many cores as are best."""
        if not isas():
            return None
        cpus = [core.cpu for core in read_cores()]
        names = [lookup.name for lookup in self.workload.lookups]
        own = [Slot(n.name, f, self.host[n.table], f * self.dim) for f, n in enumerate(self.workload.lookups)]
        x, found = torch.empty(self.batch, self.width), []
        for cores in sorted({len(cpus), max(1, len(cpus) // 2)}):
            kernels = CpuKernels(own, cpus=cpus[:cores], schedules=[spread(names, cores)])
            times = []
            for one in self.drawn[: max(2, self.calls // 4)]:
                offsets = None if one.offsets is None else one.offsets.cpu()
                ids = JaggedIds(tuple(names), one.values.cpu(), offsets)
                start = time.perf_counter()
                kernels.look_up(ids, x)
                times.append((time.perf_counter() - start) * 1e6)
            found.append({**_figures(times[len(times) // 5 :]), "cores": cores})
        return min(found, key=lambda one: one["p50_us"])


def _whole(size: int) -> int:
    """Bytes of the lines that hold so many."""
    return -(-size // _LINE) * _LINE


def _wall(call: Callable[..., None], *arguments: object) -> float:
    start = time.perf_counter()
    call(*arguments)
    return (time.perf_counter() - start) * 1e6


def _figures(times: Sequence[float]) -> dict[str, float]:
    """Of the later ones: the first tenth warms up."""
    kept = np.array(times[len(times) // 10 :])
    return {f"p{q}_us": round(float(np.percentile(kept, q)), 2) for q in (50, 99)}


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
    return counted(hits, examples), examples


def _random(workload: Workload, size: int, device: torch.device) -> dict[str, Tensor | bool]:
    """Rows of all tables alike, chosen by chance; with the remaps of all tables they fit."""
    words = sum(8 * -(-table.rows // 32) for table in workload.tables)
    share = max(0.0, min(1.0, (size - words) / workload.bytes * 0.999))
    generator = torch.Generator(device).manual_seed(4)
    if share > 0.998:
        return {table.name: True for table in workload.tables}
    found: dict[str, Tensor | bool] = {}
    for table in workload.tables:
        found[table.name] = (torch.rand(table.rows, device=device, generator=generator) < share).cpu()
    return found


def _placed(rig: _Rig, hot: Mapping[str, Tensor | bool], memory: Tensor) -> GpuKernels:
    """Kernels of tables whose hot rows are in the GPU's memory: made there, since all rows are of one block."""
    held, at = {}, 0
    for name, rows in rig.host.items():
        count, row = len(rows.data), rows.data.shape[1] * rows.data.element_size()
        chosen = hot[name]
        if not isinstance(chosen, bool) and bool(chosen.all()) | bool(~chosen.any()):
            chosen = bool(chosen.any())
        if chosen is False:
            held[name] = GpuRows(count, rows.dim, rows.dtype, None, rows.data)
            continue
        number = count if chosen is True else int(chosen.sum())
        near = view(memory[at : at + number * row], number, rows.dim, rows.dtype).data
        at += _whole(number * row)
        if chosen is True:
            held[name] = GpuRows(count, rows.dim, rows.dtype, filled(rig.near, near))
            continue
        _gather(rig.near, chosen.to(memory.device), near)
        held[name] = GpuRows(
            count, rows.dim, rows.dtype, near, rows.data, remap(chosen).to(memory.device), whole_host=True
        )
    return GpuKernels(slots(rig.workload, held), rig.device)


def _gather(made: Tensor, chosen: Tensor, to: Tensor) -> None:
    ids = chosen.nonzero().squeeze(1) % BLOCK
    for at in range(0, len(ids), _PIECE):
        to[at : at + _PIECE] = made[ids[at : at + _PIECE]]


def _told(made: GpuPlan, model: GpuCostModel, size: int, batch: int) -> dict[str, float]:
    """What was predicted, and the bound of the best hot rows by what the ids are drawn from."""
    workload, load = model.workload, model.load(batch)
    truth = assumed(workload)
    hot = Knapsack(truth, {table.name: table.row_bytes for table in workload.tables}, remapped=False).hot(size)
    far = {name: 1 - truth[name].share(n) for name, n in hot.items()}
    host = sum(load.host_bytes[k] * far[n.table] for k, n in enumerate(workload.lookups))
    near = float(load.host_bytes.sum()) - host + batch * sum(n.ids.mean * 8 for n in workload.lookups)
    near += batch * sum(table.dim * 4 for table in workload.tables)
    bound = max(near / model.gpu.copy_gbs, host / model.gpu.to_gpu_gbs) / 1e3
    ids = sum(n.ids.mean for n in workload.lookups)
    return {
        "predicted_us": made.schedules[0].predicted_us,
        "bound_us": round(bound, 2),
        "host_share": round(sum(n.ids * (1 - n.near) for n in made.lookups) / ids, 6),
        "best_host_share": round(sum(n.ids.mean * far[n.table] for n in workload.lookups) / ids, 6),
        "used_bytes": made.used()[0],
    }
