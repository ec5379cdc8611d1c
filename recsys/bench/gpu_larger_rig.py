"""What the benchmark of models larger than a GPU runs on: all rows pinned, and on the GPU what a budget allows."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from recsys.bench.gpu_draw import BLOCK, block, draw, expected, filled, slots
from recsys.data.batch import JaggedIds
from recsys.dataflow.gpu_stage import CpuPart
from recsys.dataflow.gpu_timing import captured
from recsys.dataflow.kernels.cpu import CpuKernels, isas
from recsys.dataflow.kernels.gpu.kernels import GpuKernels
from recsys.dataflow.kernels.gpu.rows import GpuRows, pinned, remap
from recsys.dataflow.kernels.reference import Slot
from recsys.dataflow.plan import spread
from recsys.dataflow.platform import read_cores
from recsys.dataflow.storage import Rows, view
from recsys.dataflow.workload import Workload
from recsys.errors import ConfigError

__all__ = ["LINE", "LargerRig", "Placed", "at_random", "placed"]

DIFFERENT = 40
"""Batches with ids of their own, that are timed in turn."""
CHECKED = 16
LINE = 64
"""Bytes at whose multiples tables begin."""
_PIECE = 1 << 20
"""Rows that are filled or gathered at a time."""


@dataclass(frozen=True)
class Placed:
    """What looks up: the GPU's kernels, and the CPU's part, if it has one."""

    gpu: GpuKernels
    cpu: CpuPart | None = None


class LargerRig:
    """All rows in host memory, and batches of ids.

    Args:
        workload: What is looked up; its tables have one dim and one dtype.
        device: The GPU.
        batch: Examples.
        calls: Batches that are timed.

    Raises:
        ConfigError: When tables are of several kinds, or the system does not pin so much memory.
    """

    def __init__(self, workload: Workload, device: torch.device, batch: int, calls: int) -> None:
        self.workload, self.device, self.batch, self.calls = workload, device, batch, calls
        dims = {(table.dim, table.dtype) for table in workload.tables}
        if len(dims) > 1:
            raise ConfigError(f"expected tables of one dim and dtype, `{workload.name}` has {len(dims)} kinds")
        self.dim, self.dtype = next(iter(dims))
        self.made = block(self.dim, self.dtype)
        self.near = self.made.to(device)
        self.host: dict[str, Rows] = {}
        pinned(sum(_whole(table.rows * table.row_bytes) for table in workload.tables), self._fill)
        generator = torch.Generator(device).manual_seed(1)
        self.drawn = [draw(workload, batch, generator) for _ in range(min(calls, DIFFERENT))]
        self.ids = [one.to("cpu") for one in self.drawn]
        self.width = self.dim * len(workload.lookups)
        self.x = torch.empty(batch, self.width, device=device)
        self.unknown = torch.zeros(1, dtype=torch.int32, device=device)

    def _fill(self, memory: Tensor) -> None:
        """All tables, written once: what a system's first touch of its memory takes is by far most of it."""
        at, step = 0, len(self.made) * max(1, _PIECE // len(self.made))
        with tqdm(total=round(len(memory) / 1e9, 2), desc="fill", unit="GB", disable=None) as bar:
            for table in self.workload.tables:
                size = table.rows * table.row_bytes
                self.host[table.name] = view(memory[at : at + size], table.rows, table.dim, table.dtype)
                for part in torch.split(self.host[table.name].data, step):  # each begins where the block does
                    filled(self.made, part)
                    bar.update(part.nbytes / 1e9)
                at += _whole(size)

    def times(self, made: Placed) -> dict[str, float]:
        """µs by the clock, until all columns are filled, of captured launches and what the CPU does beside them.

        Ids are new each time, and lie on both sides, as those of a session do.
        """
        self._check(made)
        most = max(len(one.values) for one in self.drawn)
        values = torch.zeros(most, dtype=torch.int64, device=self.device)
        offsets = None if self.drawn[0].offsets is None else self.drawn[0].offsets.clone()
        stage = None if made.cpu is None else made.cpu.stage(self.batch, self.device)
        made.gpu.prepare(self.batch, offsets is None)

        def fill(one: JaggedIds) -> None:
            values[: len(one.values)].copy_(one.values)
            if offsets is not None and one.offsets is not None:
                offsets.copy_(one.offsets)

        fill(self.drawn[0])
        first = self._ready(partial(made.gpu.launch, values, offsets, None, self.x, self.unknown))
        rest = None if stage is None else self._ready(partial(stage.launch, self.x))

        def run(ids: JaggedIds) -> None:
            first()
            if stage is not None and rest is not None:
                stage.fill(ids)
                rest()
            self._wait()

        found = []
        for turn in self._turns():
            fill(self.drawn[turn])
            self._wait()
            start = time.perf_counter()
            run(self.ids[turn])
            found.append((time.perf_counter() - start) * 1e6)
        return _figures(found)

    def _ready(self, launch: Callable[[], None]) -> Callable[[], None]:
        """What launches the same as a graph."""
        return captured([launch], self.device).replay if self.device.type == "cuda" else launch

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()

    def _turns(self) -> list[int]:
        """Which batches are timed, the same one again only after all others."""
        return [k % len(self.drawn) for k in range(self.calls)]

    def _check(self, made: Placed) -> None:
        """Every column of some bags is what the slow way gives."""
        drawn = draw(self.workload, CHECKED, torch.Generator(self.device).manual_seed(2))
        x = torch.full((CHECKED, self.width), torch.nan, device=self.device)
        made.gpu.prepare(CHECKED, drawn.offsets is None)
        made.gpu.launch(drawn.values, drawn.offsets, None, x, self.unknown)
        if made.cpu is not None:
            stage = made.cpu.stage(CHECKED, self.device)
            self.unknown += stage.fill(drawn.to("cpu"))
            stage.launch(x)
            self._wait()
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
            for turn in self._turns()[: max(2, self.calls // 4)]:
                start = time.perf_counter()
                kernels.look_up(self.ids[turn], x)
                times.append((time.perf_counter() - start) * 1e6)
            found.append({**_figures(times[len(times) // 5 :]), "cores": cores})
        return min(found, key=lambda one: one["p50_us"])


def _whole(size: int) -> int:
    """Bytes of the lines that hold so many."""
    return -(-size // LINE) * LINE


def _figures(times: Sequence[float]) -> dict[str, float]:
    """Of the later ones: the first tenth warms up."""
    kept = np.array(times[len(times) // 10 :])
    return {f"p{q}_us": round(float(np.percentile(kept, q)), 2) for q in (50, 99)}


def at_random(workload: Workload, size: int, device: torch.device) -> dict[str, Tensor | bool]:
    """Rows of all tables alike, chosen by chance, in so many bytes; with the remaps of all tables they fit."""
    words = sum(8 * -(-table.rows // 32) for table in workload.tables)
    share = max(0.0, min(1.0, (size - words) / workload.bytes * 0.999))
    generator = torch.Generator(device).manual_seed(4)
    if share > 0.998:
        return {table.name: True for table in workload.tables}
    found: dict[str, Tensor | bool] = {}
    for table in workload.tables:
        found[table.name] = (torch.rand(table.rows, device=device, generator=generator) < share).cpu()
    return found


def placed(rig: LargerRig, hot: Mapping[str, Tensor | bool], memory: Tensor, cpu: Collection[str] = ()) -> Placed:
    """Kernels of tables whose hot rows are in the GPU's memory: made there, since all rows are of one block.

    Args:
        rig: Its rows on the host, and its look-ups.
        hot: Which rows of each table the GPU has.
        memory: Where it has them.
        cpu: Tables whose other rows the CPU adds up; those of others are read over the link.
    """
    held: dict[str, GpuRows] = {}
    skip: dict[str, Tensor | None] = {}
    at = 0
    for name, rows in rig.host.items():
        count, row = len(rows.data), rows.data.shape[1] * rows.data.element_size()
        chosen = hot[name]
        if not isinstance(chosen, bool) and bool(chosen.all()) | bool(~chosen.any()):
            chosen = bool(chosen.any())
        if chosen is False and name in cpu:
            skip[name] = None
            continue
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
        words = remap(chosen)
        far = None if name in cpu else rows.data
        held[name] = GpuRows(count, rows.dim, rows.dtype, near, far, words.to(memory.device), far is not None)
        if name in cpu:
            skip[name] = words[:, 0].contiguous()
    return Placed(GpuKernels(slots(rig.workload, held), rig.device), _cpu_part(rig, skip))


def _cpu_part(rig: LargerRig, skip: Mapping[str, Tensor | None]) -> CpuPart | None:
    """Look-ups of the tables in `skip`, without the rows that it tells."""
    own = [
        Slot(n.name, f, rig.host[n.table], f * rig.dim, "mean" if n.pooling == "mean" else "sum", skip[n.table])
        for f, n in enumerate(rig.workload.lookups)
        if n.table in skip
    ]
    return CpuPart(own) if own else None


def _gather(made: Tensor, chosen: Tensor, to: Tensor) -> None:
    ids = chosen.nonzero().squeeze(1) % BLOCK
    for at in range(0, len(ids), _PIECE):
        to[at : at + _PIECE] = made[ids[at : at + _PIECE]]
