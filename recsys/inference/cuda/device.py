"""Which GPU a session runs on, and what its driver says when something fails."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from recsys.errors import ConfigError

__all__ = ["find_gpu", "told"]


def find_gpu(device: str | torch.device) -> torch.device:
    """The GPU of a name such as ``cuda`` or ``cuda:1``, with its number.

    Raises:
        ConfigError: When it is no GPU's name, or there is no such GPU that torch can use.
    """
    try:
        named = torch.device(device)
    except (RuntimeError, TypeError):
        raise ConfigError(f"expected a device such as cpu, cuda or cuda:1, got {device!r}") from None
    if named.type != "cuda":
        raise ConfigError(f"expected a device of type cpu or cuda, got {device!r}")
    if torch.version.cuda is None:
        raise ConfigError(
            f"torch {torch.__version__} is built without CUDA: install a build with it, see https://pytorch.org, or "
            "leave the device at cpu"
        )
    if not torch.cuda.is_available():
        raise ConfigError("no GPU that torch can use: see what nvidia-smi says, or leave the device at cpu")
    count = torch.cuda.device_count()
    index = torch.cuda.current_device() if named.index is None else named.index
    if index >= count:
        raise ConfigError(f"no GPU cuda:{index}: there {'is' if count == 1 else 'are'} {count}, from cuda:0 on")
    return torch.device("cuda", index)


@contextmanager
def told(what: str) -> Iterator[None]:
    """Errors of the driver and of its allocator as one sentence.

    Raises:
        ConfigError: In their place.
    """
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        raise ConfigError(
            f"{what}: the GPU's memory does not suffice, others may use it too; take a smaller max_batch or store the "
            f"tables as fp16 or int8: {_first(error)}"
        ) from None
    except RuntimeError as error:  # torch.AcceleratorError among them
        raise ConfigError(f"{what}: {_first(error)}") from None


def _first(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
