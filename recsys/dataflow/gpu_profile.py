"""Measure what look-ups cost on a GPU, with the kernel that will do them, in a minute and a half.

Every quantity is a *probe*: launches over ids of their own, captured in one graph that is replayed again and again.
What a launch takes that does next to nothing is told apart, and left out of what an id or a row takes.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict

import numpy as np
import torch
from tqdm import tqdm

from recsys.dataflow.gpu_platform import KINDS, CpuReading, Gathered, GpuPlatform, Kind
from recsys.dataflow.gpu_probes import FEATURES, Bench, Name, Sizes, facts_of, probes
from recsys.dataflow.gpu_timing import Times
from recsys.dataflow.platform import read_cores
from recsys.dataflow.workload import Dtype

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
    sizes = bench.sizes
    alone = us["chain", 0, sizes.chain[0]]

    def work(name: Name) -> float:
        """Nanoseconds of a launch beyond what one of a single id takes; of little work, the clock's noise is a part."""
        return max(us[name] - alone, 0.05 * us[name]) * 1e3

    def chain(host: int) -> tuple[tuple[int, float], ...]:
        lengths = sizes.chain
        highest = np.maximum.accumulate([us["chain", host, n] for n in lengths])
        return tuple((n, _short(float(one))) for n, one in zip(lengths, highest, strict=True))

    base = work(("dtype", "fp32"))
    dtypes: tuple[Dtype, ...] = ("fp32", "fp16", "int8")
    split = (work(("split", 1)) - work(("split", 0))) / _ids(sizes.ids, "one")
    gbs = {name[0]: int(name[1]) / us[name] / 1e3 for name in us if name[0] in ("copy", "to gpu", "to host")}
    return GpuPlatform(
        **asdict(facts_of(bench.device)),
        seconds=_short(seconds),
        spread=_short(statistics.median(spreads)),
        launch_us=_short(us["launch",]),
        replay_us=_short(us["empty", 1]),
        kernel_us=_short(max(1e-3, (us["empty", 17] - us["empty", 1]) / 16)),
        latency_us=chain(0),
        host_latency_us=chain(1),
        copy_gbs=_short(2 * gbs["copy"]),
        to_gpu_gbs=_short(gbs["to gpu"]),
        to_host_gbs=_short(gbs["to host"]),
        shared_gbs=_short(us["shared",]),
        host_ns=tuple((w, _short(work(("host", w)) / _ids(sizes.host_ids, "bag32"))) for w in sizes.row_bytes),
        remap_ns=_short(max(0.0, split)),
        remap_us=_short(max(0.0, us["split chain", 1] - us["split chain", 0])),
        dtype_cost={dtype: _short(work(("dtype", dtype)) / base) for dtype in dtypes},
        write_ns=tuple((size, _short(work(("write", size)) / (size / 1024))) for size in sizes.outputs),
        gather=tuple(_gathered(sizes, work, width, size) for width in sizes.row_bytes for size in sizes.sets),
        cpu=_cpu(us, sizes),
    )


def _ids(ids: int, kind: Kind) -> int:
    """Ids that a launch really reads."""
    return _bags(ids, kind) * KINDS[kind]


def _bags(ids: int, kind: Kind) -> int:
    return max(1, ids // (KINDS[kind] * FEATURES[kind])) * FEATURES[kind]


def _gathered(sizes: Sizes, work: Callable[[Name], float], width: int, size: int) -> Gathered:
    ns = {kind: _short(work(("gather", width, kind, size)) / _bags(sizes.ids, kind)) for kind in KINDS}
    return Gathered(
        row_bytes=width,
        working_set=size,
        one_ns=ns["one"],
        bag1_ns=ns["bag1"],
        bag4_ns=ns["bag4"],
        bag32_ns=ns["bag32"],
    )


def _cpu(us: dict[Name, float], sizes: Sizes) -> CpuReading | None:
    call = us.get(("cpu", 256, 1))
    if call is None:
        return None
    ids = max(1, sizes.host_ids // 32) * 32
    rows = tuple((w, _short(max(us["cpu", w, sizes.host_ids] - call, 1e-3) * 1e3 / ids)) for w in (256, 512))
    return CpuReading(cores=len(read_cores()), call_us=_short(call), row_ns=rows)


def _short(value: float) -> float:
    """To five digits."""
    return float(f"{value:.5g}")
