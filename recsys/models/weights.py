"""Weights as safetensors: one file, or shards of 5 GB."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor

from recsys.errors import CheckpointError, DataError
from recsys.files import replacing

__all__ = ["SHARD_BYTES", "read_weights", "write_weights"]

SHARD_BYTES = 5 * 10**9


def write_weights(state: Mapping[str, Tensor], folder: Path) -> list[str]:
    """Write tensors to files of a folder; older ones of the same names give way.

    Returns:
        The files' names.

    Raises:
        DataError: When the disk refuses.
    """
    for stale in folder.glob("model*.safetensors"):
        stale.unlink()
    shards: list[dict[str, Any]] = [{}]
    filled = 0
    for name, tensor in state.items():
        size = tensor.numel() * tensor.element_size()
        if shards[-1] and filled + size > SHARD_BYTES:
            shards.append({})
            filled = 0
        # Arrays, because safetensors refuses torch views of one storage, which all tables of one dim are.
        shards[-1][name] = tensor.detach().cpu().contiguous().numpy()
        filled += size
    total = len(shards)
    names = (
        ["model.safetensors"] if total == 1 else [f"model-{i + 1:05}-of-{total:05}.safetensors" for i in range(total)]
    )
    for name, shard in zip(names, shards, strict=True):
        with replacing(folder / name) as temporary:
            _save(shard, temporary)
    return names


def _save(arrays: dict[str, Any], path: Path) -> None:
    path.touch()
    mode = path.stat().st_mode  # safetensors would leave a file that its owner alone may read
    try:
        save_file(arrays, path)
        path.chmod(mode)
    except SafetensorError as error:  # safetensors wraps what the disk says
        raise DataError(f"{path.parent}: the weights cannot be written: {error}") from None


def read_weights(folder: Path, names: Sequence[str]) -> dict[str, Tensor]:
    """The tensors of files of a folder.

    Raises:
        CheckpointError: When a file cannot be read.
    """
    state: dict[str, Tensor] = {}
    for name in names:
        try:
            with safe_open(folder / name, "pt") as file:
                state.update({key: file.get_tensor(key) for key in file.keys()})  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{folder / name}: cannot be read: {error}") from None
    return state
