"""Where a table's rows lie for a GPU: in its memory, in pinned host memory that it reads over the link, or in both."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

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
        host: [other rows, stored columns] in pinned host memory; None: none is there, and where there is a remap, the
            CPU adds the other rows.
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
    found: np.ndarray[tuple[int], np.dtype[np.uint8]] = bits.sum(axis=1, dtype=np.uint8)
    return found


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
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # by torch
        return int(torch.cuda.mem_get_info(device)[0]) + int(kept)


def place(
    tables: Mapping[str, Rows],
    hot: Mapping[str, Hot],
    device: torch.device,
    shared: bool = False,
    cpu: Collection[str] = (),
) -> dict[str, GpuRows]:
    """Copy tables to where they shall lie: all of them, or none.

    Args:
        tables: The stored rows, by name.
        hot: For each table, which rows lie on the device.
        device: The GPU; on a CPU, for tests, both places are its memory.
        shared: The rows lie in memory that `pinned` gave: what stays on the host is read there, and not copied.
        cpu: Tables whose other rows are the CPU's, where some are hot.

    Raises:
        ConfigError: When they do not fit, on the device or in host memory; what was placed is given back.
    """
    _refuse_too_big(tables, hot, device, {*tables} if shared else {*cpu})
    with _told("placing the tables"):
        return {name: _placed(rows, hot[name], device, shared, name in cpu) for name, rows in tables.items()}


def _refuse_too_big(
    tables: Mapping[str, Rows], hot: Mapping[str, Hot], device: torch.device, stay: Collection[str]
) -> None:
    need = {name: device_bytes(rows, hot[name]) for name, rows in tables.items()}
    there = free_bytes(device)
    if sum(need.values()) > there:
        largest = max(need, key=need.__getitem__)
        raise ConfigError(
            f"the tables need {sum(need.values()):,} bytes on {device} and {there:,} are free; the largest is "
            f"`{largest}` with {need[largest]:,}: plan with a smaller --memory, or store them as fp16 or int8"
        )
    need = {name: _host_bytes(rows, hot[name]) for name, rows in tables.items() if name not in stay}
    if sum(need.values()) > available_memory():
        raise ConfigError(
            f"the rows that stay in host memory need {sum(need.values()):,} bytes, which are copied to pinned memory, "
            f"and {available_memory():,} are available: map the tables (storage map), or store them as fp16 or int8"
        )


def _host_bytes(rows: Rows, hot: Hot) -> int:
    count = len(rows.data) * (not hot) if isinstance(hot, bool) else int((~hot).sum())
    return count * rows.data.shape[1] * rows.data.element_size()


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


def _placed(rows: Rows, hot: Hot, device: torch.device, shared: bool, cpu: bool) -> GpuRows:
    data = rows.data.contiguous()
    count = len(data)
    if not isinstance(hot, bool) and bool(hot.all()) | bool(~hot.any()):
        hot = bool(hot.any())
    if hot is True:
        return GpuRows(count, rows.dim, rows.dtype, _copied(data, None, device))
    if hot is False:
        return GpuRows(count, rows.dim, rows.dtype, None, data if shared else _copied(data, None, None))
    on_device, words = _copied(data, hot, device), remap(hot).to(device)
    if cpu:
        return GpuRows(count, rows.dim, rows.dtype, on_device, None, words)
    on_host = data if shared else _copied(data, ~hot, None)
    return GpuRows(count, rows.dim, rows.dtype, on_device, on_host, words, whole_host=shared)


def _copied(data: Tensor, chosen: Tensor | None, device: torch.device | None) -> Tensor:
    """Rows of a table, or those that are chosen, on a device or (None) in pinned host memory, some at a time."""
    count = len(data) if chosen is None else int(chosen.sum())
    width, size = data.shape[1], data.element_size()
    if device is None:
        new = pinned(count * width * size).view(data.dtype).view(count, width)
    else:
        new = torch.empty(count, width, dtype=data.dtype, device=device)
    step, filled = max(1, _PIECE // (width * size)), 0
    for at in range(0, len(data), step):
        part = data[at : at + step] if chosen is None else data[at : at + step][chosen[at : at + step]]
        new[filled : filled + len(part)].copy_(part)
        filled += len(part)
    return new


def pinned(size: int, fill: Callable[[Tensor], object] | None = None) -> Tensor:
    """Bytes of host memory on huge pages that a GPU can read; without a GPU, ordinary ones.

    Torch's own pinned memory is rounded up to a power of two: 104 GB would take 128 GiB. The bytes are zeros: pages are
    made by all threads, which is many times faster than what pinning them would do.

    Args:
        size: Bytes.
        fill: Writes all of them instead, so that they are written once; without a GPU, too.

    Raises:
        ConfigError: When the system refuses.
    """
    memory, _ = allocate(max(size, 1))
    if fill is not None:
        fill(memory[:size])
    elif torch.cuda.is_available():
        memory.fill_(0)
    if torch.cuda.is_available():
        _pin(memory)
    return memory[:size]


def _pin(memory: Tensor) -> None:
    """Let GPUs read this memory where it lies, for as long as a tensor is on it."""
    runtime = _runtime()
    torch.cuda.current_stream()  # starts CUDA, which pinning needs
    code = runtime.cudaHostRegister(memory.data_ptr(), memory.numel(), _REGISTER)
    if code != runtime.cudaError.success:
        _forget()
        raise ConfigError(
            f"the system did not pin {memory.numel():,} bytes of host memory for the GPU ({code}): keep more rows on "
            "the GPU, or raise the limit of locked memory (ulimit -l)"
        )
    # The storage outlives every view, and tells before its memory is given back. At the end of the process the system
    # takes all back at once.
    weakref.finalize(memory.untyped_storage(), _unpin, memory.data_ptr()).atexit = False


def _forget() -> None:
    """Let the driver tell of its last error, which it would at whatever is launched next."""
    with suppress(RuntimeError):
        torch.zeros(1, device="cuda")


def _unpin(address: int) -> None:
    with suppress(RuntimeError):
        torch.cuda.synchronize()  # what was launched may still read
    _runtime().cudaHostUnregister(address)


def _runtime() -> Any:
    return torch.cuda.cudart()  # type: ignore[no-untyped-call]
