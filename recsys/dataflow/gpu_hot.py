"""Hot rows of a plan's tables: as a few ranges, or as a file of packed bits beside the plan."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from recsys.dataflow.plan import RowRange
from recsys.errors import ConfigError

__all__ = ["RANGES", "bits_of", "checked", "packed", "ranges", "read_hot", "unpacked"]

RANGES = 16
"""Most ranges of rows that a plan writes out; other hot sets go to a file of their own."""


def checked(name: str, rows: int, count: int, hot: Tensor) -> Tensor:
    """Hot rows, bool [rows], if they are `count` of so many rows.

    Raises:
        ConfigError: When they are not.
    """
    if len(hot) != rows or int(hot.sum()) != count:
        raise ConfigError(f"table `{name}`: expected {count} hot rows of {rows}, got {int(hot.sum())} of {len(hot)}")
    return hot


def ranges(hot: Tensor) -> tuple[RowRange, ...]:
    """Runs of rows; no more of them than tell that they are more than `RANGES`."""
    edges = np.flatnonzero(np.diff(hot.numpy().astype(np.int8), prepend=0, append=0))[: 2 * RANGES + 2].tolist()
    return tuple(zip(edges[::2], edges[1::2], strict=True))


def bits_of(hot: Tensor) -> bytes:
    """A bit for each row, the lowest first."""
    return np.packbits(hot.numpy(), bitorder="little").tobytes()


def unpacked(bits: bytes, rows: int) -> Tensor:
    """Bool [rows] of what `bits_of` made."""
    found = np.unpackbits(np.frombuffer(bits, dtype=np.uint8), count=rows, bitorder="little")
    return torch.from_numpy(found.view(bool))


def packed(hot: Mapping[str, bytes]) -> bytes:
    """The content of a safetensors file that holds the bits of each table."""
    from safetensors.numpy import save

    content: bytes = save({name: np.frombuffer(bits, dtype=np.uint8) for name, bits in sorted(hot.items())})
    return content


def read_hot(path: Path, sha256: str, tables: Iterable[tuple[str, int, int]]) -> dict[str, bytes]:
    """The bits of tables: (name, rows, hot rows).

    Raises:
        ConfigError: When the file is absent, altered, or lacks a table's.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        content = path.read_bytes()
    except (OSError, ValueError) as error:  # a foreign plan may name what no file can be named
        reason = (isinstance(error, OSError) and error.strerror) or error
        raise ConfigError(f"{str(path)!r}: the plan's hot rows cannot be read: {reason}") from None
    if hashlib.sha256(content).hexdigest() != sha256:
        raise ConfigError(f"{path}: its checksum differs from the plan's: altered, or of another plan; plan again")
    try:
        stored = load(content)
    except (SafetensorError, ValueError, KeyError) as error:
        raise ConfigError(f"{path}: not a safetensors file of hot rows: {error}") from None
    found = {}
    for name, rows, count in tables:
        bits = stored.get(name)
        if bits is None or bits.dtype != np.uint8 or bits.shape != (-(-rows // 8),):
            raise ConfigError(f"{path}: it lacks {-(-rows // 8)} bytes of hot rows of table `{name}`")
        found[name] = bits.tobytes()
        checked(name, rows, count, unpacked(found[name], rows))
    return found
