"""Where tables lie: rows in one piece of memory on huge pages, as float32, float16 or row-wise int8.

A row read at random from 4 KB pages costs a walk of the page table as well; on 2 MiB pages it mostly does not.
"""

from __future__ import annotations

import hashlib
import io
import mmap
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from recsys.dataflow.workload import Dtype
from recsys.errors import CheckpointError, ConfigError, DataError
from recsys.machine import available_memory, huge_pages

__all__ = [
    "HUGE_PAGE",
    "Rows",
    "Source",
    "Storage",
    "allocate",
    "copied",
    "dequantise",
    "mapped",
    "places",
    "quantise",
    "view",
]

HUGE_PAGE = 2 << 20
_LINE = 64
_CONVERTED = 64 << 20  # bytes of rows that are converted at a time
_STORED: dict[Dtype, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16, "int8": torch.uint8}


@dataclass(frozen=True)
class Rows:
    """The stored rows of one table.

    Attributes:
        data: [rows, stored columns]: float32 or float16 [rows, dim]; for int8, uint8 [rows, dim + 8].
        dim: Columns of the table.
        dtype: How a column is stored.

    Raises:
        DataError: When `data` is not stored so: kernels are given addresses, and must be able to trust this.
    """

    data: Tensor
    dim: int
    dtype: Dtype

    def __post_init__(self) -> None:
        data, width = self.data, _width(self.dim, self.dtype)
        if self.dim < 1 or data.dim() != 2 or data.shape[1] != width or data.dtype is not _STORED[self.dtype]:
            raise DataError(
                f"rows of {self.dim} columns as {self.dtype} are {_STORED[self.dtype]} [rows, {width}], "
                f"got {data.dtype} {tuple(data.shape)}"
            )
        if width > 1 and data.stride(1) != 1:
            raise DataError("the columns of a row must lie side by side: pass a row-major tensor")

    def read(self) -> Tensor:
        """[rows, dim] float32: exactly what a look-up adds up."""
        return dequantise(self.data) if self.dtype == "int8" else self.data.float()


@dataclass(frozen=True)
class Source:
    """Rows to be stored.

    Attributes:
        rows: [rows, dim] of any float type, or what `quantise` makes, which is stored as it is.
        dtype: How to store them.
        scale: [rows, 1] to multiply them with, such as collision weights; None for 1.
    """

    rows: Tensor
    dtype: Dtype = "fp32"
    scale: Tensor | None = None

    @property
    def dim(self) -> int:
        """Columns of the table."""
        return self.rows.shape[1] - (8 if self.quantised else 0)

    @property
    def quantised(self) -> bool:
        """Whether the rows are as `quantise` makes them."""
        return self.dtype == "int8" and self.rows.dtype is torch.uint8

    @property
    def bytes(self) -> int:
        """Bytes of the stored rows."""
        return self.rows.shape[0] * _width(self.dim, self.dtype) * _STORED[self.dtype].itemsize

    def pieces(self, name: str) -> Iterator[Tensor]:
        """The stored rows, scaled and converted, some at a time.

        Args:
            name: Of the table, for errors.

        Raises:
            DataError: When a row holds numbers that cannot be stored so.
        """
        step = max(1, _CONVERTED // max(1, self.rows.shape[1] * 4))
        for at in range(0, self.rows.shape[0], step):
            rows = self.rows[at : at + step].detach()
            if self.scale is not None:
                rows = rows * self.scale[at : at + step].detach()
            exact = self.quantised or self.dtype != "int8"
            piece = rows.to(_STORED[self.dtype]) if exact else quantise(rows.float())
            if self.dtype == "fp16" and not bool((rows.isfinite() == piece.isfinite()).all()):
                raise DataError(f"table `{name}` holds numbers beyond 65504, the largest of fp16: store it as fp32")
            yield piece


def _width(dim: int, dtype: Dtype) -> int:
    """Columns of a stored row: an int8 row has its scale and bias as well."""
    return dim + 8 if dtype == "int8" else dim


def quantise(rows: Tensor) -> Tensor:
    """Store rows as int8, each with its own scale and bias: ``row ≈ q · scale + bias``, q in 0 … 255.

    ``bias = min(row)``, ``scale = (max(row) - min(row)) / 255``: the error of a column is at most scale / 2.

    Args:
        rows: [rows, dim] float32.

    Returns:
        uint8 [rows, dim + 8]: q, then scale and bias as float32.

    Raises:
        DataError: When a row holds what is no finite number.
    """
    low, high = rows.aminmax(dim=1, keepdim=True)
    scale = (high - low) / 255
    if not bool(torch.isfinite(scale).all()):
        raise DataError("int8 rows need finite numbers: a row holds NaN or infinity, or spans too much; use fp32")
    q = torch.where(scale > 0, (rows - low) / scale, 0).round_().clamp_(0, 255).to(torch.uint8)
    header = torch.cat([scale, low], dim=1).float().contiguous().view(torch.uint8)
    return torch.cat([q, header], dim=1)


def dequantise(stored: Tensor) -> Tensor:
    """[rows, dim] float32 of what `quantise` made."""
    header = stored[:, -8:].flatten().clone().view(torch.float32).view(-1, 2)  # a copy is aligned
    return stored[:, :-8].float() * header[:, :1] + header[:, 1:]


def allocate(size: int, huge: bool = True) -> tuple[Tensor, str]:
    """Memory of `size` bytes that begins on a huge page, and what pages it got: `huge`, or why not.

    Raises:
        ConfigError: When the system refuses it.
    """
    try:
        memory = mmap.mmap(-1, size + HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)  # shared ones get none
    except (OSError, ValueError, OverflowError) as error:
        raise ConfigError(f"no memory for tables of {size:,} bytes: {error}") from None
    pages = _advise(memory, "MADV_HUGEPAGE" if huge else "MADV_NOHUGEPAGE")
    whole = torch.frombuffer(memory, dtype=torch.uint8)
    start = -whole.data_ptr() % HUGE_PAGE
    return whole[start : start + size], pages


def _advise(memory: mmap.mmap, advice: str) -> str:
    if not hasattr(mmap, advice) or (advice == "MADV_HUGEPAGE" and huge_pages() == "never"):
        return "4 KB: the system has no transparent huge pages"
    try:
        memory.madvise(getattr(mmap, advice))
    except OSError as error:
        return f"4 KB: the system refuses huge pages ({error.strerror})"
    return "huge" if advice == "MADV_HUGEPAGE" else "4 KB: as asked for"


class Storage:
    """The rows of all tables in one piece of memory.

    Args:
        tables: What to store, by name. The rows are copied.

    Attributes:
        tables: The stored rows, by name.
        pages: What pages they got: `huge`, or why not.

    Raises:
        ConfigError: When they do not fit into memory; nothing is allocated then.
        DataError: When a table holds numbers that cannot be stored as asked for.
    """

    def __init__(self, tables: Mapping[str, Source]) -> None:
        starts, end = places(tables)
        if end > available_memory():
            raise ConfigError(
                f"the tables need {end:,} bytes and {available_memory():,} are available: store them as fp16 or int8"
            )
        memory, self.pages = allocate(max(end, 1))
        self.tables = {
            name: _fill(name, memory[starts[name] : starts[name] + source.bytes], source)
            for name, source in tables.items()
        }

    @property
    def bytes(self) -> int:
        """Bytes of all stored rows."""
        return sum(rows.data.numel() * rows.data.element_size() for rows in self.tables.values())


def places(tables: Mapping[str, Source]) -> tuple[dict[str, int], int]:
    """The byte at which each table begins, on a cache line of its own, and where the last one ends."""
    starts, end = {}, 0
    for name, source in tables.items():
        starts[name], end = end, end + -(-source.bytes // _LINE) * _LINE
    return starts, end


def _fill(name: str, memory: Tensor, source: Source) -> Rows:
    rows = view(memory, source.rows.shape[0], source.dim, source.dtype)
    at = 0
    for piece in source.pieces(name):
        rows.data[at : at + len(piece)] = piece
        at += len(piece)
    return rows


def view(memory: Tensor, rows: int, dim: int, dtype: Dtype) -> Rows:
    """The rows of a table in the bytes that hold it and nothing else."""
    return Rows(memory.view(_STORED[dtype]).view(rows, _width(dim, dtype)), dim, dtype)


def mapped(path: Path, size: int) -> Tensor:
    """The first `size` bytes of a file where they lie: read when they are touched, shared between processes.

    Raises:
        CheckpointError: When the file is absent or shorter.
    """
    with _opened(path, size) as file:
        # A private mapping: what is written to it, if anything, stays in this process.
        return torch.frombuffer(mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY), dtype=torch.uint8)


def copied(path: Path, size: int, sha256: str) -> Tensor:
    """The first `size` bytes of a file on huge pages, checked on the way.

    Raises:
        CheckpointError: When the file is absent, shorter or altered.
        ConfigError: When there is no memory for it.
    """
    if size > available_memory():
        raise ConfigError(
            f"the tables need {size:,} bytes and {available_memory():,} are available: map them (storage map)"
        )
    memory, _ = allocate(size)
    content, digest = memory.numpy(), hashlib.sha256()
    with _opened(path, size) as file, ThreadPoolExecutor(1) as hasher:
        for at in range(0, size, _CONVERTED):
            part = memoryview(content[at : at + _CONVERTED])  # type: ignore[arg-type]
            if file.readinto(part) != len(part):
                raise CheckpointError(f"{path}: ends before its {size:,} bytes")
            hasher.submit(digest.update, part)
    if digest.hexdigest() != sha256:
        raise CheckpointError(f"{path}: its checksum differs from the recorded one: altered")
    return memory


def _opened(path: Path, size: int) -> io.FileIO:
    try:
        file = io.FileIO(path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from None
    found = os.fstat(file.fileno()).st_size
    if found != size:
        file.close()
        raise CheckpointError(f"{path}: {found:,} bytes, expected {size:,}: altered or cut off")
    return file
