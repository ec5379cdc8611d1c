"""What a GPU's look-up benchmark runs on: made-up tables in its memory, ids in turn, and what must come out.

Rows are a block of random ones, repeated, as in `recsys.bench.lookup_rig`. Tables begin on lines of 128 bytes and lie
as FBGEMM would lay them, so that where it stores rows as we do, it reads the same memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from recsys.bench.gpu_draw import draw
from recsys.bench.lookup_peers import fbgemm_int8
from recsys.data.batch import JaggedIds
from recsys.dataflow.kernels.gpu.kernels import GpuSlot
from recsys.dataflow.kernels.gpu.rows import GpuRows, free_bytes
from recsys.dataflow.storage import quantise
from recsys.dataflow.workload import Dtype, Workload
from recsys.errors import ConfigError

__all__ = ["GpuRig", "Memory", "drawn", "first"]

_SETS = 6
"""Batches of ids that are looked up in turn."""

_BLOCK = 99_991
"""Rows that are made: a prime, so that an address that is off by a power of two is found out."""
_LINE = 128
_ROOM = 6 << 30
"""Bytes that are left for ids, output and what checks them."""
_TOLERANCE: dict[Dtype, float] = {"fp32": 1e-6, "fp16": 5e-4, "int8": 6e-3}
"""How far a stored column in (-1, 1) may be from its float32; of a bag, so often as it has ids."""


@dataclass(frozen=True)
class Memory:
    """All tables of one dtype.

    Attributes:
        data: Their bytes, on the device.
        row: Bytes of a row.
        starts: The byte at which each begins.
    """

    data: Tensor
    row: int
    starts: Sequence[int]


class GpuRig:
    """The tables of a workload on a device.

    Args:
        workload: Its tables have one dim.
        dtypes: In which rows are stored.
        device: Where.
        peers: Whether FBGEMM's int8 rows are made, too, if int8 is among the dtypes: they have another layout.

    Raises:
        ConfigError: When they do not fit into the device's memory; nothing is allocated then.
    """

    def __init__(self, workload: Workload, dtypes: Sequence[Dtype], device: torch.device, peers: bool) -> None:
        self.workload, self.device = workload, device
        self.sizes = [table.rows for table in workload.tables]
        self.dim = workload.tables[0].dim
        self.width = self.dim * len(workload.lookups)
        self._position = {table.name: k for k, table in enumerate(workload.tables)}
        block = torch.rand(_BLOCK, self.dim, generator=torch.Generator().manual_seed(0)) * 2 - 1
        made: dict[Dtype, Tensor] = {"fp32": block, "fp16": block.half(), "int8": quantise(block)}
        ours = {dtype: made[dtype].view(torch.uint8) for dtype in dtypes}
        theirs = _padded(fbgemm_int8(block)) if peers and "int8" in dtypes else None
        self._refuse_too_big([*ours.values(), *([] if theirs is None else [theirs])])
        self._block = block.to(device)
        self.rows = {dtype: self._filled(one) for dtype, one in ours.items()}
        self.fbgemm: dict[Dtype, Memory] = dict(self.rows)
        if theirs is not None:
            self.fbgemm["int8"] = self._filled(theirs)

    def _refuse_too_big(self, blocks: Sequence[Tensor]) -> None:
        need = sum(self._starts(one.shape[1])[-1] for one in blocks)
        there = free_bytes(self.device) - (_ROOM if self.device.type == "cuda" else 0)
        if need > there:
            raise ConfigError(
                f"the tables of `{self.workload.name}`, ours and FBGEMM's, need {need / 1e9:.1f} GB on {self.device} "
                f"and {there / 1e9:.1f} GB can be used: name other workloads with --only"
            )

    def _starts(self, row: int) -> list[int]:
        """Where tables of rows of so many bytes begin, and where the last one ends."""
        found = [0]
        for size in self.sizes:
            found.append(found[-1] + -(-size * row // _LINE) * _LINE)
        return found

    def _first(self, table: int) -> int:
        """The row of the block with which a table begins: another one for each."""
        return sum(self.sizes[:table]) % _BLOCK

    def _filled(self, block: Tensor) -> Memory:
        row = block.shape[1]
        *starts, end = self._starts(row)
        data = torch.empty(end, dtype=torch.uint8, device=self.device)
        moved = block.to(self.device)
        for table, (start, size) in enumerate(zip(starts, self.sizes, strict=True)):
            turned = moved.roll(-self._first(table), 0)
            for part in torch.split(data[start : start + size * row].view(size, row), _BLOCK):
                part.copy_(turned[: len(part)])
        return Memory(data, row, starts)

    def tables(self) -> list[int]:
        """The table of each look-up, as a number."""
        return [self._position[lookup.table] for lookup in self.workload.lookups]

    def slots(self, dtype: Dtype) -> list[GpuSlot]:
        """All look-ups of our rows, one beside the other."""
        memory = self.rows[dtype]
        stored = {"fp32": torch.float32, "fp16": torch.float16, "int8": torch.uint8}[dtype]
        tables = []
        for start, size in zip(memory.starts, self.sizes, strict=True):
            data = memory.data[start : start + size * memory.row].view(stored).view(size, -1)
            tables.append(GpuRows(size, self.dim, dtype, data))
        pooling: Literal["sum"] = "sum"
        return [
            GpuSlot(lookup.name, k, tables[table], k * self.dim, pooling, lookup.ids.mean)
            for k, (lookup, table) in enumerate(zip(self.workload.lookups, self.tables(), strict=True))
        ]

    def check(self, who: str, dtype: Dtype, ids: JaggedIds, found: Tensor) -> None:
        """See that the sums of a batch are right.

        Raises:
            AssertionError: When they are not as near to sums of float32 as the dtype and half an output's digits allow.
        """
        lengths = ids.lengths()
        for k, table in enumerate(self.tables()):
            values, _, _ = ids.feature(k)
            rows = self._block[(values.long() + self._first(table)) % _BLOCK]
            bags = torch.repeat_interleave(torch.arange(ids.size, device=self.device), lengths[k])
            expected = torch.zeros(ids.size, self.dim, device=self.device).index_add_(0, bags, rows)
            allowed = lengths[k].unsqueeze(1) * _TOLERANCE[dtype] + expected.abs() * 1e-3
            off = (found[:, k * self.dim : (k + 1) * self.dim].float() - expected).abs()
            if not bool((off <= allowed).all()):
                raise AssertionError(f"{who} ({dtype}) is off by {float(off.max()):g} in look-up {k}")

    def counted_bytes(self, ids: JaggedIds, dtype: Dtype, cache: int) -> int:
        """Bytes that a batch must bring from the device's memory or take to it.

        Each distinct row of the batch once, of tables that are larger than half of the cache of so many bytes; ids, and
        offsets where bags differ; and the output. Smaller tables can stay in the cache from batch to batch.
        """
        row = self.rows[dtype].row
        read: dict[int, list[Tensor]] = {}
        for k, table in enumerate(self.tables()):
            if self.sizes[table] * row > cache // 2:
                read.setdefault(table, []).append(ids.feature(k)[0])
        rows = sum(len(torch.unique(torch.cat(values))) for values in read.values())
        offsets = 0 if ids.offsets is None else ids.offsets.nbytes
        return rows * row + ids.values.nbytes + offsets + 2 * ids.size * self.width


def _padded(rows: Tensor) -> Tensor:
    """Rows as FBGEMM aligns them on a GPU, to 16 bytes."""
    return torch.nn.functional.pad(rows, (0, -rows.shape[1] % 16))


def drawn(workload: Workload, size: int, device: torch.device) -> list[JaggedIds]:
    """As many batches as are looked up in turn, int32, on the device; smaller ones are their `first` examples."""
    whole = [draw(workload, size, torch.Generator(device).manual_seed(seed)) for seed in range(_SETS)]
    return [replace(one, values=one.values.int(), offsets=_int32(one.offsets)) for one in whole]


def _int32(offsets: Tensor | None) -> Tensor | None:
    return None if offsets is None else offsets.int()


def first(batches: Sequence[JaggedIds], size: int) -> list[JaggedIds]:
    """The first examples of each."""
    cut = [one.slice(0, size) for one in batches]  # of one example, ids are a view with gaps
    return [replace(one, values=one.values.contiguous()) for one in cut]
