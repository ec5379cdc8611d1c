"""What is measured of a GPU: launches over ids of their own, captured in one graph that is replayed again and again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from recsys.data.batch import JaggedIds
from recsys.dataflow.gpu_bench import Bench, facts_of
from recsys.dataflow.gpu_platform import KINDS, Kind
from recsys.dataflow.gpu_timing import Times
from recsys.dataflow.kernels.cpu import CpuKernels, isas
from recsys.dataflow.kernels.gpu.rows import GpuRows, remap
from recsys.dataflow.kernels.reference import Slot
from recsys.dataflow.plan import spread
from recsys.dataflow.platform import read_cores
from recsys.dataflow.storage import Rows
from recsys.dataflow.workload import Dtype

__all__ = ["PIECE", "PIECES", "SCANNED", "Name", "Probe", "probes"]

Name = tuple[str | int, ...]

PIECE, PIECES = 128, 64
"""Bytes that a look-up writes of a row of the output, and look-ups beside each other."""

SCANNED = 8
"""Times as many ids are dropped by the CPU as it reads rows: one takes so little."""


@dataclass(frozen=True)
class Probe:
    """One quantity: `run` gives some measurements of it."""

    name: Name
    run: Callable[[], Times]


def probes(bench: Bench) -> Iterator[Probe]:
    """All of them."""
    yield from _floors(bench)
    yield from _chains(bench)
    yield from _gathers(bench)
    yield from _writes(bench)
    yield from _splits(bench)
    yield from _links(bench)
    yield Probe(("shared",), lambda: _shared(bench))
    yield from _cpus(bench)


def _floors(bench: Bench) -> Iterator[Probe]:
    """What a graph and its kernels take that do next to nothing, and a launch without a graph."""
    number = torch.zeros(1, device=bench.device)
    for count in (1, 17):
        yield Probe(("empty", count), lambda n=count: [n * us for us in bench.times([lambda: number.add_(1)] * n)])  # type: ignore[misc]

    def plain() -> Times:
        launch = bench.launched(
            bench.rows(256, bench.sizes.sets[0]), torch.ones(1, dtype=torch.int64), 1, 1, single=True
        )[0]
        launch()
        found = []
        for _ in range(20):
            start = time.perf_counter()
            launch()
            found.append((time.perf_counter() - start) * 1e6)
        return found

    yield Probe(("launch",), plain)

    for count in bench.sizes.slots:

        def slots(count: int = count) -> Times:
            rows, sizes = bench.rows(256, bench.sizes.sets[-1]), bench.sizes
            one = torch.ones(1, dtype=torch.int64)
            return bench.times(bench.launched(rows, one, count, 8 * sizes.rotated, single=True, beside=True))

        yield Probe(("slots", count), slots)


def _chains(bench: Bench) -> Iterator[Probe]:
    """One bag of some ids, on the GPU and on the host: how long they wait for each other."""
    sizes = bench.sizes
    for batch in sizes.batches:
        for dim in sizes.chain_dims:
            for size in (sizes.sets[0], sizes.sets[-1]):
                for length in sizes.chain:

                    def run(batch: int = batch, dim: int = dim, size: int = size, length: int = length) -> Times:
                        return bench.times(bench.alone(bench.rows(4 * dim, size), length, batch))

                    yield Probe(("chain", batch, dim, size, length), run)
    for length in sizes.chain:

        def host(length: int = length) -> Times:
            return bench.times(bench.alone(bench.rows(256, sizes.regions[-1], host=True), length, 1))

        yield Probe(("host chain", length), host)


def _gathers(bench: Bench) -> Iterator[Probe]:
    """All working sets with the second of the batches; a small one and a large one with the others, and other dtypes.

    Single ids are not: their block shapes are those of any batch.
    """
    sizes = bench.sizes
    ends = tuple(dict.fromkeys((sizes.sets[0], sizes.sets[-1])))
    for dtype, widths in {"fp32": sizes.row_bytes, **sizes.stored}.items():
        for at in range(len(sizes.batches)):
            for width in widths:
                for kind in [one for one in KINDS if at == 1 or one != "one"]:
                    for size in sizes.sets if dtype == "fp32" and at == 1 else ends:
                        yield _gather(bench, dtype, width, kind, size, at)


def _gather(bench: Bench, dtype: Dtype, width: int, kind: Kind, size: int, at: int) -> Probe:
    def run() -> Times:
        rows = bench.rows(width, size, dtype)
        return bench.times(bench.launches(rows, kind, bench.batch(kind, at), bench.sizes.ids[at]))

    return Probe(("gather", dtype, width, kind, size, bench.sizes.batches[at]), run)


def _writes(bench: Bench) -> Iterator[Probe]:
    """Single ids of cached tables, 128 bytes beside 128 bytes of the next look-up, whose output alone grows."""
    for output in bench.sizes.outputs:

        def run(output: int = output) -> Times:
            rows, sizes = bench.rows(PIECE, bench.sizes.sets[0]), bench.sizes
            lengths = torch.ones(max(1, output // (PIECES * PIECE)), dtype=torch.int64)
            return bench.times(bench.launched(rows, lengths, PIECES, sizes.rotated, single=True, beside=True))

        yield Probe(("write", output), run)


def _splits(bench: Bench) -> Iterator[Probe]:
    """The same rows with and without a remap that says of all of them that they are on the GPU."""
    size = min(1 << 33, bench.sizes.sets[-1])
    for split in (False, True):

        def rows(split: bool = split) -> GpuRows:
            plain = bench.rows(256, size)
            if not split:
                return plain
            words = remap(torch.ones(plain.rows, dtype=torch.bool)).to(bench.device)
            return GpuRows(
                plain.rows, plain.dim, plain.dtype, plain.device, bench.rows(256, 1 << 12, host=True).host, words
            )

        def gathered(rows: Callable[[], GpuRows] = rows) -> Times:
            return bench.times(bench.launches(rows(), "one", bench.sizes.singles, bench.sizes.ids[1]))

        yield Probe(("split", int(split)), gathered)

        def chain(rows: Callable[[], GpuRows] = rows) -> Times:
            return bench.times(
                bench.launched(rows(), torch.ones(1, dtype=torch.int64), 1, 8 * bench.sizes.rotated, single=True)
            )

        yield Probe(("split chain", int(split)), chain)


def _links(bench: Bench) -> Iterator[Probe]:
    """Rows in pinned host memory, and copies within the GPU and over the link."""
    sizes = bench.sizes
    for width in sizes.row_bytes:
        for region in sizes.regions:

            def run(width: int = width, region: int = region) -> Times:
                rows = bench.rows(width, region, host=True)
                return bench.times(bench.launches(rows, "bag32", sizes.batches[0], sizes.host_ids))

            yield Probe(("host", width, region), run)
    near = torch.empty(2, sizes.copied, dtype=torch.uint8, device=bench.device)
    far = bench.host[: min(sizes.copied, sizes.regions[-1])]
    pairs = {"copy": (near[0], near[1]), "to gpu": (near[0, : len(far)], far), "to host": (far, near[0, : len(far)])}
    for name, (to, source) in pairs.items():
        copy = partial(to.copy_, source, non_blocking=True)
        yield Probe((name, to.numel()), lambda copy=copy: bench.times([copy]))  # type: ignore[misc]


def _shared(bench: Bench) -> Times:
    from recsys.dataflow.kernels.gpu.shared import gather_shared

    size, rounds, programs = 1024, bench.sizes.rounds, 8 * facts_of(bench.device).processors
    table = torch.ones(size, device=bench.device)
    indices = torch.randint(0, size, (programs * size,), dtype=torch.int32, device=bench.device)
    out = torch.empty(programs * size, device=bench.device)
    us = bench.times([lambda: gather_shared[(programs,)](table, indices, out, ROUNDS=rounds, SIZE=size)])
    return [programs * rounds * size * 4 / one / 1e3 for one in us]  # GB/s


def _cpus(bench: Bench) -> Iterator[Probe]:
    """Long bags by the CPU's kernels, on all cores; and such of which all rows are somebody else's."""
    if not isas():
        return
    for width, ids in ((256, bench.sizes.host_ids), (512, bench.sizes.host_ids), (256, 1)):
        yield Probe(("cpu", width, ids), partial(_on_cpu, bench, width, ids))
    dropped = SCANNED * bench.sizes.host_ids
    yield Probe(("cpu scan", dropped), partial(_on_cpu, bench, 256, dropped, dropped=True))


def _on_cpu(bench: Bench, width: int, ids: int, dropped: bool = False) -> Times:
    cpus, count = [core.cpu for core in read_cores()], bench.sizes.regions[-1] // width
    rows = Rows(bench.host[: count * width].view(torch.float32).view(count, -1), width // 4, "fp32")
    skip = torch.full((-(-count // 32),), -1, dtype=torch.int32) if dropped else None
    kernels = CpuKernels([Slot("0", 0, rows, 0, skip=skip)], cpus=cpus, schedules=[spread(["0"], len(cpus))])
    bags = max(1, ids // 32)
    x, length = torch.empty(bags, rows.dim), max(1, ids // bags)
    offsets = torch.arange(0, bags * length + 1, length)
    rng, found = np.random.default_rng(0), []
    for _ in range(12):
        drawn = JaggedIds(("0",), torch.from_numpy(rng.integers(0, count, bags * length)), offsets)
        start = time.perf_counter()
        kernels.look_up(drawn, x)
        found.append((time.perf_counter() - start) * 1e6)
    return found[2:]
