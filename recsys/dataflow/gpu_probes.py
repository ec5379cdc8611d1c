"""What is measured of a GPU: launches over ids of their own, captured in one graph that is replayed again and again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from recsys.data.batch import JaggedIds
from recsys.dataflow.gpu_platform import KINDS, Kind
from recsys.dataflow.gpu_timing import Times, graph_times
from recsys.dataflow.kernels.cpu import CpuKernels, isas
from recsys.dataflow.kernels.gpu.kernels import GpuKernels, GpuSlot
from recsys.dataflow.kernels.gpu.rows import GpuRows, free_bytes, pinned, remap
from recsys.dataflow.kernels.reference import Slot
from recsys.dataflow.plan import spread
from recsys.dataflow.platform import read_cores
from recsys.dataflow.storage import Rows
from recsys.dataflow.workload import BYTES, Dtype
from recsys.errors import ConfigError

__all__ = ["FEATURES", "Bench", "Facts", "Name", "Probe", "Sizes", "facts_of", "probes"]

Name = tuple[str | int, ...]

FEATURES: dict[Kind, int] = {"one": 64, "bag1": 64, "bag4": 16, "bag32": 8}
"""Look-ups of a launch; all of them fill the same columns, so that its output stays small."""


@dataclass(frozen=True)
class Sizes:
    """How much the probes read and write; tests make less do.

    Attributes:
        row_bytes: Of float32 rows.
        sets: Working sets, bytes, ascending; the last is what the readings of far rows are taken from.
        ids: Of a launch that fills the GPU.
        host: Bytes of pinned memory.
        host_ids: Of a launch that reads them.
        outputs: Bytes of what is written.
        chain: Ids of the one bag of a launch.
        rotated: Launches of a graph, each with ids of its own.
        copied: Bytes of a copy.
        rounds: Of gathers from shared memory.
    """

    row_bytes: tuple[int, ...]
    sets: tuple[int, ...]
    ids: int = 1 << 20
    host: int = 1 << 30
    host_ids: int = 1 << 17
    outputs: tuple[int, ...] = (1 << 22, 1 << 24, 1 << 25, 1 << 26, 1 << 27, 1 << 29)
    chain: tuple[int, ...] = (1, 4, 8, 32, 128)
    rotated: int = 6
    copied: int = 1 << 28
    rounds: int = 256

    @classmethod
    def of(cls, device: torch.device) -> Sizes:
        """For a GPU: sets around its second cache, and as far as four fifths of the memory that is free."""
        l2 = max(facts_of(device).l2, 1 << 20)
        most = min(1 << 36, free_bytes(device) * 4 // 5)
        if most < 1 << 30:
            raise ConfigError(f"a profile needs 1.3 GB of the GPU's memory, {free_bytes(device):,} bytes are free")
        sets = (1 << 18, l2 // 6, l2 // 2, 2 * l2, 1 << 30, most >> 20 << 20)
        return cls(row_bytes=(32, 64, 128, 256, 512, 1024), sets=tuple(sorted({size >> 12 << 12 for size in sets})))


@dataclass(frozen=True)
class Probe:
    """One quantity: `run` gives some measurements of it."""

    name: Name
    run: Callable[[], Times]


class Bench:
    """Memory and launches that the probes share."""

    def __init__(self, device: torch.device, sizes: Sizes) -> None:
        self.device, self.sizes = device, sizes
        self.memory = torch.empty(sizes.sets[-1] // 4, device=device).uniform_(-1, 1).view(torch.uint8)
        self.memory[: sizes.sets[0] // 4 * 4].view(torch.float32).fill_(0.5)  # numbers as fp16 and as int8, too
        self.host = pinned(sizes.host)
        self.host.view(torch.float32).fill_(0.5)
        self.unknown = torch.zeros(1, dtype=torch.int32, device=device)
        self.generator = torch.Generator(device).manual_seed(0)

    def rows(self, row_bytes: int, working_set: int, dtype: Dtype = "fp32", host: bool = False) -> GpuRows:
        """A table that fills a working set; of an int8 table, `row_bytes` has the scale and the bias."""
        count = working_set // row_bytes
        memory = (self.host if host else self.memory)[: count * row_bytes]
        dim = row_bytes - 8 if dtype == "int8" else row_bytes // BYTES[dtype]
        stored = {"fp32": torch.float32, "fp16": torch.float16, "int8": torch.uint8}[dtype]
        data = memory.view(stored).view(count, -1)
        return GpuRows(count, dim, dtype, None if host else data, data if host else None)

    def launches(self, rows: GpuRows, kind: Kind, ids: int, features: int | None = None) -> list[Callable[[], None]]:
        """Launches that read some ids each, of as many bags as these make."""
        length, features = KINDS[kind], FEATURES[kind] if features is None else features
        bags = max(1, ids // (length * features))
        return self.launched(rows, length, features, bags, self.sizes.rotated, single=kind == "one")

    def launched(
        self, rows: GpuRows, length: int, features: int, bags: int, rotated: int, single: bool
    ) -> list[Callable[[], None]]:
        """Launches of so many bags of each of the features, each launch with ids of its own."""
        slots = [GpuSlot(str(f), f, rows, 0, ids=float(length)) for f in range(features)]
        kernels = GpuKernels(slots, self.device)
        kernels.prepare(bags, single)
        x, count = torch.empty(bags, rows.dim, device=self.device), features * bags * length
        offsets = None if single else torch.arange(0, count + 1, length, device=self.device)

        def drawn() -> Tensor:
            return torch.randint(0, rows.rows, (count,), device=self.device, generator=self.generator)

        return [partial(kernels.launch, drawn(), offsets, None, x, self.unknown) for _ in range(rotated)]

    def times(self, launches: Sequence[Callable[[], object]]) -> Times:
        """µs of a launch."""
        return graph_times(launches, self.device)


def probes(bench: Bench) -> Iterator[Probe]:
    """All of them."""
    yield from _floors(bench)
    yield from _chains(bench)
    yield from _gathers(bench)
    yield from _writes(bench)
    yield from _dtypes(bench)
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
        launch = bench.launched(bench.rows(256, bench.sizes.sets[0]), 1, 1, 1, 1, single=True)[0]
        launch()
        found = []
        for _ in range(20):
            start = time.perf_counter()
            launch()
            found.append((time.perf_counter() - start) * 1e6)
        return found

    yield Probe(("launch",), plain)


def _chains(bench: Bench) -> Iterator[Probe]:
    """One bag of some ids, far from any cache, on the GPU and on the host: how long they wait for each other."""
    sizes = bench.sizes
    for host in (False, True):
        for length in sizes.chain:

            def run(length: int = length, host: bool = host) -> Times:
                rows = bench.rows(256, sizes.host if host else sizes.sets[-1], host=host)
                return bench.times(bench.launched(rows, length, 1, 1, 8 * sizes.rotated, single=length == 1))

            yield Probe(("chain", int(host), length), run)


def _gathers(bench: Bench) -> Iterator[Probe]:
    sizes = bench.sizes
    for width in sizes.row_bytes:
        for kind in KINDS:
            for size in sizes.sets:

                def run(width: int = width, kind: Kind = kind, size: int = size) -> Times:
                    return bench.times(bench.launches(bench.rows(width, size), kind, sizes.ids))

                yield Probe(("gather", width, kind, size), run)


def _writes(bench: Bench) -> Iterator[Probe]:
    """One look-up of single ids of a cached table, whose output alone grows."""
    for output in bench.sizes.outputs:

        def run(output: int = output) -> Times:
            rows = bench.rows(256, bench.sizes.sets[0])
            return bench.times(bench.launches(rows, "one", output // 256, features=1))

        yield Probe(("write", output), run)


def _dtypes(bench: Bench) -> Iterator[Probe]:
    """Rows of 64 columns from the cache, by every dtype."""
    widths: dict[Dtype, int] = {"fp32": 256, "fp16": 128, "int8": 72}
    for dtype, width in widths.items():

        def run(dtype: Dtype = dtype, width: int = width) -> Times:
            return bench.times(bench.launches(bench.rows(width, bench.sizes.sets[0], dtype), "bag32", bench.sizes.ids))

        yield Probe(("dtype", dtype), run)


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

        yield Probe(("split", int(split)), lambda r=rows: bench.times(bench.launches(r(), "one", bench.sizes.ids)))  # type: ignore[misc]

        def chain(rows: Callable[[], GpuRows] = rows) -> Times:
            return bench.times(bench.launched(rows(), 1, 1, 1, 8 * bench.sizes.rotated, single=True))

        yield Probe(("split chain", int(split)), chain)


def _links(bench: Bench) -> Iterator[Probe]:
    """Rows in pinned host memory, and copies within the GPU and over the link."""
    sizes = bench.sizes
    for width in sizes.row_bytes:

        def run(width: int = width) -> Times:
            return bench.times(bench.launches(bench.rows(width, sizes.host, host=True), "bag32", sizes.host_ids))

        yield Probe(("host", width), run)
    near = torch.empty(2, sizes.copied, dtype=torch.uint8, device=bench.device)
    far = bench.host[: min(sizes.copied, sizes.host)]
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
    """Long bags by the CPU's kernels, on all cores."""
    if not isas():
        return
    cpus = [core.cpu for core in read_cores()]
    for width, ids in ((256, bench.sizes.host_ids), (512, bench.sizes.host_ids), (256, 1)):
        bags = max(1, ids // 32)

        def run(width: int = width, ids: int = ids, bags: int = bags) -> Times:
            count = bench.sizes.host // width
            rows = Rows(bench.host[: count * width].view(torch.float32).view(count, -1), width // 4, "fp32")
            kernels = CpuKernels([Slot("0", 0, rows, 0)], cpus=cpus, schedules=[spread(["0"], len(cpus))])
            x, length = torch.empty(bags, rows.dim), max(1, ids // bags)
            offsets = torch.arange(0, bags * length + 1, length)
            rng, found = np.random.default_rng(0), []
            for _ in range(12):
                drawn = JaggedIds(("0",), torch.from_numpy(rng.integers(0, count, bags * length)), offsets)
                start = time.perf_counter()
                kernels.look_up(drawn, x)
                found.append((time.perf_counter() - start) * 1e6)
            return found[2:]

        yield Probe(("cpu", width, ids), run)


@dataclass(frozen=True)
class Facts:
    """What the driver tells of a GPU: fields of `recsys.dataflow.gpu_platform.GpuPlatform`."""

    gpu: str
    memory: int
    processors: int = 1
    l2: int = 0
    shared: int = 0
    driver: str = ""
    torch: str = torch.__version__


def facts_of(device: torch.device) -> Facts:
    """Of a GPU; of a CPU, for tests, the little that there is."""
    if device.type != "cuda":
        return Facts("Triton's interpreter", free_bytes(device))
    told = torch.cuda.get_device_properties(device)
    return Facts(
        told.name,
        told.total_memory,
        told.multi_processor_count,
        int(getattr(told, "L2_cache_size", 0)),
        int(getattr(told, "shared_memory_per_multiprocessor", 0)),
        f"CUDA {torch.version.cuda}",
    )
