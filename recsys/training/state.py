"""The state of a training in one safetensors file, replaced in one step, so that a kill finds the last one whole."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor, nn

from recsys.errors import CheckpointError, DataError
from recsys.files import make_folder, replacing

if TYPE_CHECKING:
    from recsys.training.trainer import Progress

__all__ = ["Resumable", "load_state", "save_state"]


class Resumable(Protocol):
    """A training as `save_state` sees it."""

    best_weights: dict[str, Tensor]
    progress: Progress
    fingerprint: str

    @property
    def model(self) -> nn.Module:
        """What is trained."""

    @property
    def optimizers(self) -> Sequence[torch.optim.Optimizer]:
        """In an order that does not change."""


def save_state(path: Path, trainer: Resumable) -> None:
    """Write weights, best weights, optimisers, random state and progress.

    Raises:
        DataError: When the disk refuses.
    """
    tensors = {f"model/{name}": value for name, value in trainer.model.state_dict().items()}
    tensors |= {f"best/{name}": value for name, value in trainer.best_weights.items()}
    tensors |= {"rng": torch.get_rng_state()}
    if gpu := _gpu(trainer):
        tensors |= {"rng_gpu": torch.cuda.get_rng_state(gpu)}
    numbers: dict[str, Any] = {}
    for o, optimizer in enumerate(trainer.optimizers):
        for p, values in optimizer.state_dict()["state"].items():
            for key, value in values.items():
                if isinstance(value, Tensor):
                    tensors[f"optimizer/{o}/{p}/{key}"] = value
                else:
                    numbers[f"{o}/{p}/{key}"] = value
    progress = asdict(trainer.progress) | {"best": _finite(trainer.progress.best)}
    meta = {"fingerprint": trainer.fingerprint, "progress": json.dumps(progress), "numbers": json.dumps(numbers)}
    make_folder(path.parent)
    try:
        with replacing(path) as temporary:
            save_file({name: value.detach().cpu().numpy() for name, value in tensors.items()}, temporary, metadata=meta)
    except SafetensorError as error:
        raise DataError(f"{path}: the training state cannot be written: {error}") from None


def load_state(path: Path, trainer: Resumable) -> None:
    """Put a trainer where `save_state` left it.

    Raises:
        CheckpointError: When the file is damaged, or belongs to another recipe or other data.
    """
    try:
        with safe_open(path, "pt") as file:
            meta = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path}: the training state is damaged ({error}); delete it to start again") from None
    if meta.get("fingerprint") != trainer.fingerprint:
        raise CheckpointError(
            f"{path.parent}: holds an unfinished training with another recipe, schema or data; "
            "name another folder, or say overwrite to start again"
        )
    trainer.model.load_state_dict(_under(tensors, "model/"))
    trainer.best_weights = _under(tensors, "best/")
    torch.set_rng_state(tensors["rng"])
    if "rng_gpu" in tensors and (gpu := _gpu(trainer)):
        torch.cuda.set_rng_state(tensors["rng_gpu"], gpu)
    numbers = json.loads(meta["numbers"])
    for o, optimizer in enumerate(trainer.optimizers):
        state: dict[int, dict[str, Any]] = {}
        for key, value in [*_under(tensors, f"optimizer/{o}/").items(), *_under(numbers, f"{o}/").items()]:
            p, name = key.split("/", 1)
            state.setdefault(int(p), {})[name] = value
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    progress = json.loads(meta["progress"])
    for name, value in progress.items():
        setattr(trainer.progress, name, -math.inf if name == "best" and value is None else value)


def _gpu(trainer: Resumable) -> torch.device | None:
    """The GPU that a model is on, if it is on one."""
    return next((parameter.device for parameter in trainer.model.parameters() if parameter.is_cuda), None)


def _under(values: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {name.removeprefix(prefix): value for name, value in values.items() if name.startswith(prefix)}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
