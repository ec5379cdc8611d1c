"""Measure what look-ups cost on a GPU, with the kernel that will do them, in a minute and a half.

Every quantity is a *probe*: launches over ids of their own, captured in one graph that is replayed again and again.
What a launch takes that does next to nothing is told apart, and left out of what an id or a row takes.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from recsys.dataflow.gpu_bench import Bench, Sizes, facts_of
from recsys.dataflow.gpu_platform import KINDS, Alone, CpuReading, Gathered, GpuPlatform, Kind, Linked
from recsys.dataflow.gpu_probes import PIECE, PIECES, SCANNED, Name, probes
from recsys.dataflow.gpu_timing import Times
from recsys.dataflow.platform import read_cores
from recsys.dataflow.workload import BYTES

__all__ = ["measure"]


def measure(device: torch.device, sizes: Sizes | None = None, tune: Callable[[], object] | None = None) -> GpuPlatform:
    """Measure a GPU.

    Args:
        device: The GPU; of a CPU, for tests, Triton's interpreter is measured.
        sizes: By default `Sizes.of` the device.
        tune: Called before anything is measured: what finds block shapes, which the probes then use.

    Raises:
        ConfigError: When too little of its memory is free, or host memory cannot be pinned.
        MissingExtraError: When Triton is not here.
    """
    start = time.perf_counter()
    if tune is not None:
        tune()
    bench = Bench(device, Sizes.of(device) if sizes is None else sizes)
    found: dict[Name, Times] = {}
    chosen = list(probes(bench))
    for probe in tqdm(chosen, desc="profile", unit="probe", disable=None):
        found[probe.name] = probe.run()
    return _platform(bench, found, time.perf_counter() - start)


def _platform(bench: Bench, found: dict[Name, Times], seconds: float) -> GpuPlatform:
    us = {name: max(statistics.median(times), 1e-3) for name, times in found.items()}
    spreads = [(max(times) - min(times)) / statistics.median(times) for times in found.values()]
    sizes, read = bench.sizes, _Readings(bench, us)
    split = (us["split", 1] - us["split", 0]) * 1e3 / read.ids("one", sizes.singles, sizes.ids[1])
    gbs = {name[0]: int(name[1]) / us[name] / 1e3 for name in us if name[0] in ("copy", "to gpu", "to host")}
    return GpuPlatform(
        **asdict(facts_of(bench.device)),
        seconds=_short(seconds),
        spread=_short(statistics.median(spreads)),
        launch_us=_short(us["launch",]),
        replay_us=_short(us["empty", 1]),
        kernel_us=_short(max(1e-3, (us["empty", 17] - us["empty", 1]) / 16)),
        slots_us=_points(sizes.slots, [us["slots", n] for n in sizes.slots]),
        host_latency_us=_points(sizes.chain, [us["host chain", n] for n in sizes.chain]),
        copy_gbs=_short(2 * gbs["copy"]),
        to_gpu_gbs=_short(gbs["to gpu"]),
        to_host_gbs=_short(gbs["to host"]),
        shared_gbs=_short(us["shared",]),
        remap_ns=_short(max(0.0, split)),
        remap_us=_short(max(0.0, us["split chain", 1] - us["split chain", 0])),
        write_ns=tuple((size, _short(read.written_ns(size))) for size in sizes.outputs),
        alone=tuple(read.alone(dim, batch) for batch in sizes.batches for dim in sizes.chain_dims),
        host=tuple(read.linked(width, region) for width in sizes.row_bytes for region in sizes.regions),
        gather=tuple(
            read.gathered(dtype, width, batch, size)
            for dtype, width, size, batch in dict.fromkeys(name[1:3] + name[4:] for name in us if name[0] == "gather")
        ),
        cpu=_cpu(us, sizes),
    )


class _Readings:
    """What rows take beyond what a launch waits for in any case, from what launches took."""

    def __init__(self, bench: Bench, us: dict[Name, float]) -> None:
        self.bench, self.sizes, self.us = bench, bench.sizes, us

    def ids(self, kind: Kind, batch: int, ids: int) -> int:
        """Ids that a launch really reads."""
        return self.bench.look_ups(kind, batch, ids) * batch * KINDS[kind]

    def _launched_us(self, look_ups: int) -> float:
        counts = self.sizes.slots
        return float(np.interp(look_ups, counts, [self.us["slots", n] for n in counts]))

    def _work_ns(self, us: float, look_ups: int, waits: float = 0.0) -> float:
        """Nanoseconds beyond; of little work, the clock's noise is a part."""
        return max(us - self._launched_us(look_ups) - waits, 0.05 * us) * 1e3

    def _waits_us(self, batch: int, dim: float, size: int, length: int) -> float:
        """How much longer than a single id the last bag waits."""
        near = min(self.sizes.chain_dims, key=lambda one: abs(np.log(one / dim)))
        points = [self.us["chain", batch, near, size, n] for n in self.sizes.chain]
        return max(0.0, float(np.interp(length, self.sizes.chain, points)) - self._launched_us(1))

    def gathered(self, dtype: Any, width: Any, batch: Any, size: Any) -> Gathered:
        """Nanoseconds of bags of every kind."""
        ns = {}
        for kind, length in KINDS.items():
            at = self.sizes.batches.index(batch) if kind != "one" else 1
            bags, ids = self.bench.batch(kind, at), self.sizes.ids[at]
            far = size if size == self.sizes.sets[0] else self.sizes.sets[-1]
            dim = (width - 8) if dtype == "int8" else width / BYTES[dtype]
            waits = self._waits_us(bags, dim, far, length) if kind != "one" else 0.0
            us = self.us["gather", dtype, width, kind, size, self.sizes.batches[at]]
            count = self.bench.look_ups(kind, bags, ids)
            ns[kind] = _short(self._work_ns(us, count, waits) / (count * bags))
        return Gathered(
            dtype=dtype,
            row_bytes=width,
            bags=batch,
            working_set=size,
            one_ns=ns["one"],
            bag1_ns=ns["bag1"],
            bag4_ns=ns["bag4"],
            bag32_ns=ns["bag32"],
        )

    def written_ns(self, output: int) -> float:
        """Of a KiB of an output of so many bytes."""
        bags = max(1, output // (PIECES * PIECE))
        return self._work_ns(self.us["write", output], PIECES) / (bags * PIECES * PIECE / 1024)

    def alone(self, dim: int, batch: int) -> Alone:
        near, far = (
            _points(self.sizes.chain, [self.us["chain", batch, dim, size, n] for n in self.sizes.chain])
            for size in (self.sizes.sets[0], self.sizes.sets[-1])
        )
        return Alone(dim=dim, bags=batch, near_us=near, far_us=far)

    def linked(self, width: int, region: int) -> Linked:
        batch, ids = self.sizes.batches[0], self.sizes.host_ids
        ns = self._work_ns(self.us["host", width, region], self.bench.look_ups("bag32", batch, ids))
        return Linked(row_bytes=width, region=region, ns=_short(ns / self.ids("bag32", batch, ids)))


def _points(counts: Sequence[int], us: Sequence[float]) -> tuple[tuple[int, float], ...]:
    return tuple((n, _short(one)) for n, one in zip(counts, us, strict=True))


def _cpu(us: dict[Name, float], sizes: Sizes) -> CpuReading | None:
    call = us.get(("cpu", 256, 1))
    if call is None:
        return None
    ids = max(1, sizes.host_ids // 32) * 32
    rows = tuple((w, _short(max(us["cpu", w, sizes.host_ids] - call, 1e-3) * 1e3 / ids)) for w in (256, 512))
    dropped = SCANNED * sizes.host_ids
    scan = max(us["cpu scan", dropped] - call, 1e-3) * 1e3 / dropped
    return CpuReading(cores=len(read_cores()), call_us=_short(call), row_ns=rows, scan_ns=_short(scan))


def _short(value: float) -> float:
    """To five digits."""
    return float(f"{value:.5g}")
