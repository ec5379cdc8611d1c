"""What a GPU's probes share: how much they read and write, its memory, and launches over ids of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from recsys.dataflow.gpu_platform import KINDS, Kind
from recsys.dataflow.gpu_timing import Times, graph_times
from recsys.dataflow.kernels.gpu.kernels import GpuKernels, GpuSlot
from recsys.dataflow.kernels.gpu.rows import GpuRows, free_bytes, pinned
from recsys.dataflow.workload import BYTES, Dtype
from recsys.errors import ConfigError
from recsys.machine import available_memory

__all__ = ["Bench", "Facts", "Launch", "Sizes", "facts_of"]

Launch = Callable[[], None]

MOST_SLOTS = 64
"""Look-ups of a launch that fill the same columns; of more, too many would write there at a time."""


@dataclass(frozen=True)
class Sizes:
    """How much the probes read and write; tests make less do.

    Attributes:
        row_bytes: Of float32 rows.
        stored: Row sizes of other dtypes.
        sets: Working sets, bytes, ascending; the last is what the readings of far rows are taken from.
        batches: Bags of a look-up; all working sets are read with the second.
        ids: Of a launch that fills the GPU, for each of these: more of large batches, whose bags are read one by one.
        singles: Bags of a look-up where all hold one id: of these, block shapes do not depend on the batch.
        regions: Bytes of pinned host memory that ids fall on, ascending.
        host_ids: Of a launch that reads them.
        outputs: Bytes of what is written.
        chain: Ids of the one bag of a launch.
        chain_dims: Columns of its rows.
        slots: Look-ups of a launch of one id each.
        rotated: Launches of a graph, each with ids of its own.
        copied: Bytes of a copy.
        rounds: Of gathers from shared memory.
    """

    row_bytes: tuple[int, ...]
    sets: tuple[int, ...]
    stored: Mapping[Dtype, tuple[int, ...]] = field(
        default_factory=lambda: {"fp16": (32, 64, 128, 256), "int8": (72, 136)}
    )
    batches: tuple[int, int, int] = (512, 4096, 24576)
    ids: tuple[int, int, int] = (1 << 20, 1 << 20, 1 << 23)
    singles: int = 16384
    regions: tuple[int, ...] = (1 << 27, 1 << 30, 1 << 33)
    host_ids: int = 1 << 17
    outputs: tuple[int, ...] = (1 << 22, 1 << 24, 1 << 25, 1 << 26, 1 << 27, 1 << 29)
    chain: tuple[int, ...] = (1, 4, 8, 32, 128)
    chain_dims: tuple[int, ...] = (32, 64, 128)
    slots: tuple[int, ...] = (1, 32, 256)
    rotated: int = 6
    copied: int = 1 << 28
    rounds: int = 256

    @classmethod
    def of(cls, device: torch.device) -> Sizes:
        """For a GPU: sets around its second cache, and as far as four fifths of the memory that is free.

        Raises:
            ConfigError: When less is free, there or on the host, than anything can be told from.
        """
        l2 = max(facts_of(device).l2, 1 << 20)
        most = min(1 << 36, free_bytes(device) * 4 // 5)
        if most < 1 << 30:
            raise ConfigError(f"a profile needs 1.3 GB of the GPU's memory, {free_bytes(device):,} bytes are free")
        sets = (1 << 18, l2 // 6, l2 // 2, 2 * l2, 1 << 30, most >> 20 << 20)
        regions = tuple(size for size in cls.regions if size < available_memory() // 2)
        if not regions:
            raise ConfigError(f"a profile needs 256 MB of host memory, {available_memory():,} bytes are free")
        ascending = tuple(sorted({size >> 12 << 12 for size in sets}))
        return cls(row_bytes=(32, 64, 128, 256, 512, 1024), sets=ascending, regions=regions)


class Bench:
    """Memory and launches that the probes share."""

    def __init__(self, device: torch.device, sizes: Sizes) -> None:
        self.device, self.sizes = device, sizes
        halves = torch.empty(sizes.sets[-1] // 2, dtype=torch.float16, device=device)
        self.memory = halves.uniform_(-1, 1).view(torch.uint8)  # two make a number as float32, too, and as int8's scale
        self.host = pinned(sizes.regions[-1])
        self.host.view(torch.float32).fill_(0.5)
        self.unknown = torch.zeros(1, dtype=torch.int32, device=device)
        self.generator = torch.Generator(device).manual_seed(0)

    def rows(self, row_bytes: int, working_set: int, dtype: Dtype = "fp32", host: bool = False) -> GpuRows:
        """A table that fills so many bytes of the GPU's memory, or of the host's; an int8 row has scale and bias."""
        count = working_set // row_bytes
        memory = (self.host if host else self.memory)[: count * row_bytes]
        dim = row_bytes - 8 if dtype == "int8" else row_bytes // BYTES[dtype]
        stored = {"fp32": torch.float32, "fp16": torch.float16, "int8": torch.uint8}[dtype]
        data = memory.view(stored).view(count, -1)
        return GpuRows(count, dim, dtype, None if host else data, data if host else None)

    def batch(self, kind: Kind, at: int) -> int:
        """Bags of a look-up of a kind, for one of the batches."""
        return self.sizes.singles if kind == "one" else self.sizes.batches[at]

    def look_ups(self, kind: Kind, batch: int, ids: int) -> int:
        """Of a launch of so many ids, or as many as may be."""
        return min(max(1, ids // (KINDS[kind] * batch)), MOST_SLOTS)

    def launches(self, rows: GpuRows, kind: Kind, batch: int, ids: int) -> list[Launch]:
        """Launches that read some ids each, in batches of so many bags."""
        lengths = torch.full((batch,), KINDS[kind])
        return self.launched(rows, lengths, self.look_ups(kind, batch, ids), self.sizes.rotated, single=kind == "one")

    def alone(self, rows: GpuRows, length: int, batch: int) -> list[Launch]:
        """Launches in which one bag of a batch holds ids, and the others none."""
        lengths = torch.zeros(batch, dtype=torch.int64)
        lengths[0] = length
        return self.launched(rows, lengths, 1, 8 * self.sizes.rotated, mean=length)

    def launched(
        self,
        rows: GpuRows,
        lengths: Tensor,
        look_ups: int,
        rotated: int,
        single: bool = False,
        beside: bool = False,
        mean: float | None = None,
    ) -> list[Launch]:
        """Launches of bags of those lengths for each look-up, each launch with ids of its own.

        Args:
            rows: What is read.
            lengths: Of bags, int64.
            look_ups: All of them fill the same columns, so that the output stays small.
            rotated: How many.
            single: Every bag holds one id.
            beside: Each look-up has columns of its own.
            mean: Ids in a bag, as the kernel is told; by default as they are.
        """
        told = float(lengths.float().mean()) if mean is None else float(mean)
        slots = [GpuSlot(str(f), f, rows, f * rows.dim * beside, ids=told) for f in range(look_ups)]
        kernels, batch = GpuKernels(slots, self.device), len(lengths)
        kernels.prepare(batch, single)
        stored = torch.float32 if rows.dtype == "fp32" else torch.float16
        x = torch.empty(batch, rows.dim * (look_ups if beside else 1), dtype=stored, device=self.device)
        ends = lengths.repeat(look_ups).cumsum(0)
        offsets = None if single else torch.cat([ends.new_zeros(1), ends]).to(self.device)

        def drawn() -> Tensor:
            return torch.randint(0, rows.rows, (int(ends[-1]),), device=self.device, generator=self.generator)

        return [partial(kernels.launch, drawn(), offsets, None, x, self.unknown) for _ in range(rotated)]

    def times(self, launches: Sequence[Callable[[], object]]) -> Times:
        """µs of a launch."""
        return graph_times(launches, self.device)


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
