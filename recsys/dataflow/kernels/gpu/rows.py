"""Where a table's rows lie for a GPU: in its memory, in pinned host memory that it reads over the link, or in both."""

from __future__ import annotations

import math
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from recsys.dataflow.storage import Rows, allocate
from recsys.dataflow.workload import Dtype
from recsys.errors import ConfigError
from recsys.machine import available_memory

__all__ = ["GpuRows", "Hot", "device_bytes", "free_bytes", "pinned", "place", "remap"]

Hot = Tensor | bool
"""Which rows of a table lie on the device: bool [rows], or all of them or none."""

_PIECE = 64 << 20
"""Bytes of rows that are moved at a time."""
_WORD = 32
"""Rows of a word of the remap."""
_LINE = 128
_REGISTER = 1 | 2  # cudaHostRegisterPortable | cudaHostRegisterMapped


@dataclass(frozen=True)
class GpuRows:
    """The stored rows of one table, as a kernel reads them.

    Attributes:
        rows: How many.
        dim: Columns of the table.
        dtype: How a column is stored; as in `recsys.dataflow.storage.Rows`.
        device: [hot rows, stored columns] on the device, in the order of the table; None: none is there.
        host: [other rows, stored columns] in pinned host memory; None: none is there.
        remap: [⌈rows / 32⌉, 2] int32 on the device, see `remap`; None where all rows are in one place.
        whole_host: `host` holds all rows, also those that are on the device.
    """

    rows: int
    dim: int
    dtype: Dtype
    device: Tensor | None
    host: Tensor | None = None
    remap: Tensor | None = None
    whole_host: bool = False

    @property
    def stride(self) -> int:
        """Bytes of a stored row."""
        one = self.device if self.device is not None else self.host
        assert one is not None
        return one.shape[1] * one.element_size()


def remap(hot: Tensor) -> Tensor:
    """For each 32 rows: a bit each that says whether the row is on the device, and how many before them are.

    8 bytes a word of 32 rows, so that the words of 40 million rows fit a GPU's second cache (10 MB), where one number a
    row (160 MB) would cost a read of its own.

    Args:
        hot: bool [rows], on the CPU.

    Returns:
        int32 [⌈rows / 32⌉, 2].
    """
    bits = np.packbits(hot.numpy(), bitorder="little")
    words = np.zeros((math.ceil(len(hot) / _WORD), 2), dtype=np.uint32)
    words[:, 0] = np.pad(bits, (0, -len(bits) % 4)).view("<u4")
    counts = np.bitwise_count(words[:, 0]) if hasattr(np, "bitwise_count") else _counted(words[:, 0])
    words[1:, 1] = np.cumsum(counts[:-1], dtype=np.uint32)
    return torch.from_numpy(words.view(np.int32))


def _counted(words: np.ndarray[tuple[int], np.dtype[np.uint32]]) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    """Bits of each word; numpy counts them itself from version 2 on."""
    bits = np.unpackbits(words.view(np.uint8)).reshape(len(words), _WORD)
    return bits.sum(axis=1, dtype=np.uint8)


def device_bytes(rows: Rows, hot: Hot) -> int:
    """Bytes that a table takes on the device."""
    stride = rows.data.shape[1] * rows.data.element_size()
    if isinstance(hot, bool):
        return len(rows.data) * stride if hot else 0
    count = int(hot.sum())
    split = 0 < count < len(hot)
    return count * stride + (8 * math.ceil(len(hot) / _WORD) if split else 0)


def free_bytes(device: torch.device) -> int:
    """Bytes that the device can still give."""
    if device.type != "cuda":
        return available_memory()
    with _told("asking the GPU for its memory"):
        return int(torch.cuda.mem_get_info(device)[0])


def place(tables: Mapping[str, Rows], hot: Mapping[str, Hot], device: torch.device) -> dict[str, GpuRows]:
    """Copy tables to where they shall lie: all of them, or none.

    Args:
        tables: The stored rows, by name.
        hot: For each table, which rows lie on the device.
        device: The GPU; on a CPU, for tests, both places are its memory.

    Raises:
        ConfigError: When they do not fit, on the device or in host memory; what was placed is given back.
    """
    _refuse_too_big(tables, hot, device)
    with _told("placing the tables"):
        return {name: _placed(rows, hot[name], device) for name, rows in tables.items()}


def _refuse_too_big(tables: Mapping[str, Rows], hot: Mapping[str, Hot], device: torch.device) -> None:
    need = {name: device_bytes(rows, hot[name]) for name, rows in tables.items()}
    there = free_bytes(device)
    if sum(need.values()) > there:
        largest = max(need, key=need.__getitem__)
        raise ConfigError(
            f"the tables need {sum(need.values()):,} bytes on {device} and {there:,} are free; the largest is "
            f"`{largest}` with {need[largest]:,}: plan with a smaller --memory, or store them as fp16 or int8"
        )
    need = {name: rows.data.nbytes - device_bytes(rows, hot[name]) for name, rows in tables.items()}
    if sum(need.values()) > available_memory():
        raise ConfigError(
            f"the rows that stay in host memory need {sum(need.values()):,} bytes, which are copied to pinned memory, "
            f"and {available_memory():,} are available: map the tables (storage map), or store them as fp16 or int8"
        )


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Errors of the driver and of its allocator as one sentence."""
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise ConfigError(
            f"{what}: the GPU's memory does not suffice, others may use it too: {_first(error)}"
        ) from None
    except RuntimeError as error:  # torch.AcceleratorError among them
        raise ConfigError(f"{what}: the GPU's driver refused: {_first(error)}") from None


def _first(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _placed(rows: Rows, hot: Hot, device: torch.device) -> GpuRows:
    count = len(rows.data)
    if not isinstance(hot, bool) and bool(hot.all()) | bool(~hot.any()):
        hot = bool(hot.any())
    if isinstance(hot, bool):
        where = _copied(rows.data, None, device) if hot else _copied(rows.data, None, None)
        return GpuRows(count, rows.dim, rows.dtype, where if hot else None, None if hot else where)
    near, far = hot.nonzero().squeeze(1), (~hot).nonzero().squeeze(1)
    on_device, on_host = _copied(rows.data, near, device), _copied(rows.data, far, None)
    return GpuRows(count, rows.dim, rows.dtype, on_device, on_host, remap(hot).to(device))


def _copied(data: Tensor, chosen: Tensor | None, device: torch.device | None) -> Tensor:
    """Rows of a table, or those that are chosen, on a device or (None) in pinned host memory, some at a time."""
    count = len(data) if chosen is None else len(chosen)
    width, size = data.shape[1], data.element_size()
    if device is None:
        new = pinned(count * width * size).view(data.dtype).view(count, width)
    else:
        new = torch.empty(count, width, dtype=data.dtype, device=device)
    step = max(1, _PIECE // (width * size))
    for at in range(0, count, step):
        part = data[at : at + step] if chosen is None else data[chosen[at : at + step]]
        new[at : at + step].copy_(part)
    return new


def pinned(size: int) -> Tensor:
    """Bytes of host memory on huge pages that a GPU can read; without a GPU, ordinary ones.

    Torch's own pinned memory is rounded up to a power of two: 104 GB would take 128 GiB.

    Raises:
        ConfigError: When the system refuses.
    """
    memory, _ = allocate(max(size, 1))
    if torch.cuda.is_available():
        runtime = torch.cuda.cudart()
        address, length = memory.data_ptr(), memory.numel()
        code = int(runtime.cudaHostRegister(address, length, _REGISTER))
        if code:
            raise ConfigError(f"the system did not pin {length:,} bytes of host memory for the GPU (CUDA error {code})")
        weakref.finalize(memory.untyped_storage(), runtime.cudaHostUnregister, address)
    return memory[:size]
