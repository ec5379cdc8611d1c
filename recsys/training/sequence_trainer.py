"""Train a sequence model on histories: AdamW, early stopping, resuming bit for bit."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor
from tqdm import tqdm

from recsys.config import Config, nearest
from recsys.errors import ConfigError, DataError, DivergedError
from recsys.models.generative.base import SequenceModel
from recsys.models.generative.windows import windows
from recsys.threads import suited_threads
from recsys.training.item_losses import ItemLoss, item_loss
from recsys.training.state import load_state, save_state
from recsys.training.trainer import Progress

__all__ = ["SequenceTrainer", "SequenceTraining", "Validate"]

Validate = Callable[[SequenceModel], Mapping[str, float]]
"""Measures a model, which is in evaluation mode, on what it was not trained on."""


class SequenceTraining(Config):
    """How a sequence model is trained."""

    seed: int = Field(0, ge=0, lt=2**31)
    """Of order, dropout and drawn items."""
    epochs: int = Field(100, ge=1)
    """Most passes over the users."""
    batch_size: int = Field(256, ge=1)
    """Users a step."""
    learning_rate: float = Field(1e-3, gt=0)
    """Of AdamW."""
    weight_decay: float = Field(0.0, ge=0)
    """Of all matrices, embeddings too (decoupled, AdamW)."""
    warmup_steps: int = Field(0, ge=0)
    """Steps in which the learning rate rises from near 0 in a straight line."""
    loss: ItemLoss = "full"
    """Tells the next item from one other (bce), from some (sampled) or from all (full)."""
    negatives: int = Field(512, ge=1)
    """Items drawn a step for the sampled loss."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of products; weights, sums and the optimiser stay in float32."""
    monitor: str = "ndcg@10"
    """Which validation metric chooses the best epoch; more is better."""
    patience: int = Field(10, ge=1)
    """Epochs without a better validation metric before training stops."""
    save_seconds: float = Field(30.0, ge=0)
    """How often the state is saved within an epoch, so that a kill loses little; every epoch's end is saved too."""


class SequenceTrainer:
    """Trains one model to say, at each event of a history, which comes next.

    One example is one user's newest ``context + 1`` events: all but the last are read, and each is asked for its
    successor. Order depends on seed and epoch alone and the random state is saved, so that a training that was killed
    and resumed ends with the same bits as one that was not (on a CPU, with as many threads).

    Args:
        model: Starts from its weights, and is trained where it is (CPU or GPU).
        items: [E] events of all users, 1 … I, a user's in time order.
        offsets: [U + 1] where each user's begin, and where the last one's end. Users with one event teach nothing.
        validate: Called after every epoch.
        config: How.
        state_file: Where the state is kept, to be removed by whoever has saved the model; None keeps none.
        fingerprint: Of everything that training depends on; a state with another one is refused.
        report: Called after every epoch, when its state is saved, with its progress.

    Raises:
        DataError: When no user has two events, or an item is not one of the model's.
    """

    def __init__(
        self,
        model: SequenceModel,
        items: npt.NDArray[Any],
        offsets: npt.NDArray[Any],
        validate: Validate,
        config: SequenceTraining,
        state_file: Path | None = None,
        fingerprint: str = "",
        report: Callable[[Progress], None] | None = None,
    ) -> None:
        _check_items(items, model.items.num_embeddings - 1)
        self.model, self.items, self.config, self.validate = model, items, config, validate
        self.state_file, self.fingerprint, self.report = state_file, fingerprint, report
        self.starts, self.ends = _learnable(offsets)
        self.targets = int(np.minimum(self.ends - self.starts - 1, model.config.context).sum())
        self.optimizers: Sequence[torch.optim.Optimizer] = (_optimizer(model, config),)
        self.progress = Progress()
        self.best_weights = _weights(model)

    @property
    def steps(self) -> int:
        """Steps of an epoch."""
        return math.ceil(len(self.starts) / self.config.batch_size)

    def fit(self, show: bool = True) -> Progress:
        """Train until the epochs or the patience end, then put the best epoch's weights back.

        Args:
            show: A progress bar on standard error.

        Raises:
            ConfigError: When validation gives no metric named as `monitor`.
            DivergedError: When the loss or the monitored metric is no number any more.
        """
        device = self.model.items.weight.device
        rows = min(self.config.batch_size, len(self.starts)) * self.model.config.context
        gpus = [device] if device.type == "cuda" else []
        with torch.random.fork_rng(devices=gpus), suited_threads(self.model, rows, passes=3):
            torch.manual_seed(self.config.seed)
            if self.state_file is not None and self.state_file.is_file():
                load_state(self.state_file, self)
            while not self._finished():
                self._epoch(show)
                self._close_epoch()
                self._save()
                if self.report is not None:
                    self.report(self.progress)
        self.model.load_state_dict(self.best_weights)
        self.model.eval()
        return self.progress

    def _epoch(self, show: bool) -> None:
        progress = self.progress
        bar = tqdm(total=self.steps, initial=progress.step, desc=f"epoch {progress.epoch + 1}", unit=" steps",
                   leave=False, disable=None if show else True)  # fmt: skip
        saved = begun = time.monotonic()
        cost = 0.0
        self.model.train()
        with bar:
            for inputs, targets in self._batches():
                progress.loss += self._step(inputs, targets)
                progress.step += 1
                bar.update()
                now = time.monotonic()
                if now - saved >= self.config.save_seconds * (1 + cost) and progress.step < self.steps:
                    progress.seconds, begun = progress.seconds + now - begun, now
                    self._save()
                    saved = time.monotonic()
                    cost = saved - now  # in seconds: what takes long to save is saved more rarely
        progress.seconds += time.monotonic() - begun

    def _batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """What is left of the epoch: items [B, L], and what comes after each of them, 0 where nothing does."""
        size, epoch = self.config.batch_size, self.progress.epoch
        generator = torch.Generator().manual_seed(self.config.seed * 100_003 + epoch)
        order = torch.randperm(len(self.starts), generator=generator).numpy()
        for first in range(self.progress.step * size, len(order), size):
            users = order[first : first + size]
            rows, _ = windows(self.items, self.starts[users], self.ends[users], self.model.config.context + 1)
            yield rows[:, :-1], rows[:, 1:]

    def _step(self, inputs: Tensor, targets: Tensor) -> float:
        """Learn from a batch and return the sum of its losses; one that is no number changes no weight."""
        (optimizer,), device = self.optimizers, self.model.items.weight.device
        asked = targets.flatten().nonzero().squeeze(1)
        answers = targets.flatten()[asked].to(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
            h = self.model.hidden(inputs.to(device)).flatten(0, 1).index_select(0, asked.to(device))
            queries, keys = self.model.queries(h), self.model.keys()
            loss = item_loss(self.config.loss, queries, keys, answers, self.config.negatives)
        value = loss.item()
        if not math.isfinite(value):
            raise DivergedError(f"the loss became {value} in epoch {self.progress.epoch + 1}; lower the learning rate")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        for group in optimizer.param_groups:
            group["lr"] = self._rate()
        optimizer.step()
        return value * len(answers)

    def _rate(self) -> float:
        done = self.progress.epoch * self.steps + self.progress.step
        return self.config.learning_rate * min((done + 1) / max(self.config.warmup_steps, 1), 1.0)

    def _close_epoch(self) -> None:
        progress = self.progress
        metrics = self._validate()
        progress.history.append(
            {
                "epoch": progress.epoch + 1,
                "loss": progress.loss / self.targets,
                **{f"valid_{name}": value for name, value in metrics.items()},
                "seconds": round(progress.seconds, 3),
                "events_per_second": round(self.targets / max(progress.seconds, 1e-9)),
            }
        )
        if metrics[self.config.monitor] > progress.best:
            progress.best, progress.best_epoch = metrics[self.config.monitor], progress.epoch
            self.best_weights = _weights(self.model)
        progress.epoch, progress.step, progress.loss, progress.seconds = progress.epoch + 1, 0, 0.0, 0.0

    @torch.no_grad()
    def _validate(self) -> dict[str, float]:
        self.model.eval()
        metrics = {name: float(value) for name, value in self.validate(self.model).items()}
        if self.config.monitor not in metrics:
            raise ConfigError(f"validation has no `{self.config.monitor}`: {nearest(self.config.monitor, [*metrics])}")
        if not math.isfinite(metrics[self.config.monitor]):
            raise DivergedError(
                f"{self.config.monitor} became {metrics[self.config.monitor]} after epoch {self.progress.epoch + 1}; "
                "lower the learning rate"
            )
        return metrics

    def _finished(self) -> bool:
        waited = self.progress.epoch - 1 - self.progress.best_epoch
        return self.progress.epoch >= self.config.epochs or waited >= self.config.patience

    def _save(self) -> None:
        if self.state_file is not None:
            save_state(self.state_file, self)


def _weights(model: SequenceModel) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def _optimizer(model: SequenceModel, config: SequenceTraining) -> torch.optim.AdamW:
    """With weight decay on matrices alone."""
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate)


def _learnable(offsets: npt.NDArray[Any]) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Where the histories of two events or more begin and end."""
    starts, ends = offsets[:-1], offsets[1:]
    long = ends - starts >= 2
    if not long.any():
        raise DataError(f"expected users with two events or more to train on, got none among {len(starts)} users")
    return starts[long], ends[long]


def _check_items(items: npt.NDArray[Any], known: int) -> None:
    if len(items) and not 1 <= items.min() <= items.max() <= known:
        raise DataError(f"expected items from 1 to {known}, those of the model, got {items.min()} to {items.max()}")
