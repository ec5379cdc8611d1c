"""A small trainer: row-sparse optimisers for tables, AdamW for the network, early stopping, resuming bit for bit."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from recsys.data.batch import Batch
from recsys.data.stream import Examples
from recsys.errors import DataError, DivergedError
from recsys.models.base import RankingModel
from recsys.threads import suited_threads
from recsys.training.metrics import auc, log_loss, rmse
from recsys.training.recipe import TrainingConfig
from recsys.training.state import load_state, save_state
from recsys.training.steps import Steps

__all__ = ["EVAL_BATCH", "Progress", "Trainer", "predict", "predict_all"]

EVAL_BATCH = 8192
"""Rows at a time when measuring."""


@dataclass
class Progress:
    """Where a training stands; with the tensors of `Trainer` it is all that resuming needs."""

    epoch: int = 0
    step: int = 0
    """Steps done within the epoch."""
    loss: float = 0.0
    """Sum of the epoch's batch losses, weighted by rows."""
    seconds: float = 0.0
    """Time spent in the epoch's steps."""
    best: float = -math.inf
    best_epoch: int = -1
    history: list[dict[str, Any]] = field(default_factory=list)
    """One record an epoch: loss, validation metrics, seconds, samples a second."""


def predict(model: RankingModel, data: Batch) -> Tensor:
    """[n, tasks] predictions in evaluation mode; the model's mode is put back."""
    parts = (data.slice(start, start + EVAL_BATCH) for start in range(0, len(data), EVAL_BATCH))
    return predict_all([model], ((part,) for part in parts))[0][0]


@torch.no_grad()
def predict_all(
    models: Sequence[RankingModel], batches: Iterable[Sequence[Batch]]
) -> tuple[list[Tensor], Tensor | None, Tensor | None]:
    """Predictions of several models on the same rows, each from its own encoding of them.

    Args:
        models: One or more.
        batches: The rows, in batches: for each model the batch as its encoder made it.

    Returns:
        [n, tasks] predictions of each model, in evaluation mode; labels [n, tasks] and groups [n], or None.
    """
    parts: list[list[Tensor]] = [[torch.zeros(0, len(model.inputs.tasks))] for model in models]
    labels: list[Tensor] = []
    groups: list[Tensor] = []
    for same in batches:
        for part, model, batch in zip(parts, models, same, strict=True):
            part.append(_evaluated(model, batch))
        labels += [] if same[0].labels is None else [same[0].labels]
        groups += [] if same[0].groups is None else [same[0].groups]
    return [torch.cat(part) for part in parts], _joined(labels), _joined(groups)


def _evaluated(model: RankingModel, batch: Batch) -> Tensor:
    was_training = model.training
    model.eval()
    with suited_threads(model, len(batch)):
        scores = model.predict(batch)
    model.train(was_training)
    return scores


def _joined(parts: list[Tensor]) -> Tensor | None:
    return torch.cat(parts) if parts else None


class Trainer:
    """Trains one model on encoded rows.

    The order of rows depends on seed and epoch alone, and the random state is saved, so a training that was killed
    and resumed ends with the same bits as one that was not (on a CPU, with as many threads).

    Args:
        model: Starts from its weights.
        train: Training rows with labels.
        valid: Rows that say when to stop.
        config: How.
        state_file: Where the state is kept while training; None keeps none.
        fingerprint: Of recipe and data; a state with another one is refused.
        report: Called after every epoch with its progress.
    """

    def __init__(
        self,
        model: RankingModel,
        train: Examples,
        valid: Examples,
        config: TrainingConfig,
        state_file: Path | None = None,
        fingerprint: str = "",
        report: Callable[[Progress], None] | None = None,
    ) -> None:
        if not train.rows or not valid.rows:
            raise DataError(f"expected rows to train on and to validate on, got {train.rows} and {valid.rows}")
        self.model, self.train_data, self.valid_data, self.config = model, train, valid, config
        self.state_file, self.fingerprint, self.report = state_file, fingerprint, report
        self.steps = Steps(model, config)
        self.progress = Progress()
        self.best_weights = {name: value.clone() for name, value in model.state_dict().items()}

    @property
    def optimizers(self) -> Sequence[torch.optim.Optimizer]:
        """The tables' and the network's."""
        return self.steps.optimizers

    def fit(self, show: bool = True) -> Progress:
        """Train until the epochs or the patience end, then put the best epoch's weights back.

        Args:
            show: A progress bar on standard error.
        """
        rows = min(self.config.batch_size, self.train_data.rows)
        with torch.random.fork_rng(devices=[]), suited_threads(self.model, rows, passes=3):
            torch.manual_seed(self.config.seed)
            self._resume()
            while not self._finished():
                self._epoch(show)
                self._close_epoch()
                self._save()
        self.model.load_state_dict(dict(self.best_weights))
        self.model.eval()
        return self.progress

    def _epoch(self, show: bool) -> None:
        config, progress, n = self.config, self.progress, self.train_data.rows
        batches = self.train_data.shuffled(progress.epoch, config.seed, config.batch_size, progress.step)
        bar = tqdm(total=n, initial=min(progress.step * config.batch_size, n), desc=f"epoch {progress.epoch + 1}",
                   unit=" rows", unit_scale=True, leave=False, disable=None if show else True)  # fmt: skip
        saved = begun = time.monotonic()
        cost = 0.0
        self.model.train()
        with bar, contextlib.closing(batches):
            for batch in batches:
                progress.loss += self._step(batch) * len(batch)
                progress.step += 1
                bar.update(len(batch))
                now = time.monotonic()
                if now - saved >= config.save_seconds * (1 + cost) and progress.step * config.batch_size < n:
                    progress.seconds, begun = progress.seconds + now - begun, now
                    self._save()
                    saved = time.monotonic()
                    cost = saved - now  # in seconds: what takes long to save is saved more rarely
        progress.seconds += time.monotonic() - begun

    def _step(self, batch: Batch) -> float:
        loss, _ = self.steps.step(batch)
        if not math.isfinite(loss):
            raise DivergedError(f"the loss became {loss} in epoch {self.progress.epoch + 1}; lower the learning rate")
        return loss

    def _close_epoch(self) -> None:
        progress, n = self.progress, self.train_data.rows
        metrics, watched = self._validate()
        progress.history.append(
            {
                "epoch": progress.epoch + 1,
                "loss": progress.loss / n,
                **{f"valid_{name}": value if math.isfinite(value) else None for name, value in metrics.items()},
                "seconds": round(progress.seconds, 3),
                "samples_per_second": round(n / max(progress.seconds, 1e-9)),
            }
        )
        if watched > progress.best:
            progress.best, progress.best_epoch = watched, progress.epoch
            self.best_weights = {name: value.clone() for name, value in self.model.state_dict().items()}
        progress.epoch, progress.step, progress.loss, progress.seconds = progress.epoch + 1, 0, 0.0, 0.0
        if self.report is not None:
            self.report(progress)

    def _finished(self) -> bool:
        waited = self.progress.epoch - 1 - self.progress.best_epoch
        return self.progress.epoch >= self.config.epochs or waited >= self.config.patience

    def _validate(self) -> tuple[dict[str, float], float]:
        """Validation metrics of the first task, and the watched one with its sign turned so that more is better."""
        batches = ((batch,) for batch in self.valid_data.in_order(EVAL_BATCH))
        (predicted,), labelled, _ = predict_all([self.model], batches)
        assert labelled is not None
        scores, labels = predicted[:, 0], labelled[:, 0]
        if self.model.inputs.tasks[0].kind == "regression":
            error = float(rmse(scores, labels))
            return {"rmse": error}, -error
        metrics = {"auc": float(auc(scores, labels)), "log_loss": float(log_loss(scores, labels))}
        watched = metrics["auc"] if self.config.monitor == "auc" else -metrics["log_loss"]
        if math.isnan(watched):
            raise DataError('the validation rows hold one class only, so AUC says nothing; set monitor = "log_loss"')
        return metrics, watched

    def _save(self) -> None:
        if self.state_file is not None:
            save_state(self.state_file, self)

    def _resume(self) -> None:
        if self.state_file is not None and self.state_file.is_file():
            load_state(self.state_file, self)
