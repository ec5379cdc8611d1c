"""The progressive protocol: one pass over the rows in the order of time, each batch predicted and then learnt from.

Every row is a test row before it is a training row, so there is no split and nothing to tune the number of epochs on;
the metric is AUC over windows of consecutive rows, and how it spreads over them (arXiv 2506.21624, section 4:
windows of 20,000 rows, batches of 2,500).
"""

from __future__ import annotations

import math
import statistics
import time
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from recsys.data.batch import Batch
from recsys.data.encoder import Encoder
from recsys.data.readers import Dataset
from recsys.data.schema import Schema
from recsys.data.stream import Examples, Resident, encoded, needed
from recsys.data.times import times
from recsys.errors import ConfigError, DataError, DivergedError
from recsys.models.base import RankingModel
from recsys.threads import suited_threads
from recsys.training.metrics import auc, log_loss
from recsys.training.recipe import TrainingConfig
from recsys.training.steps import Steps

__all__ = ["Progressive", "check_measurable", "in_order_of_time", "progressive", "window_aucs"]


@dataclass(frozen=True)
class Progressive:
    """What a progressive pass measured.

    Attributes:
        scores: [n] the probability that each row got before the model learnt from it.
        labels: [n].
        window: Rows of a window.
        aucs: AUC of each whole window; nan where a window holds one class.
        auc: Of all rows at once.
        log_loss: Of all rows.
        seconds: What the pass took.
    """

    scores: Tensor
    labels: Tensor
    window: int
    aucs: tuple[float, ...]
    auc: float
    log_loss: float
    seconds: float

    def summary(self) -> dict[str, float]:
        """Mean, median, least, greatest and standard deviation of the windows' AUC; beside it AUC and log loss of all.

        Windows without both classes are left out.
        """
        known = [value for value in self.aucs if math.isfinite(value)]
        return {
            "mean": statistics.fmean(known),
            "median": statistics.median(known),
            "min": min(known),
            "max": max(known),
            "std": statistics.pstdev(known),
            "auc": self.auc,
            "log_loss": self.log_loss,
        }


def progressive(
    model: RankingModel, rows: Examples, config: TrainingConfig, window: int = 20_000, show: bool = True
) -> Progressive:
    """Predict each batch, then take one training step on it, once through all rows.

    Of `config` count batch size, optimisers, rates and seed; the order of the rows stays as it is.

    Args:
        model: Starts from its weights, and keeps what it learns.
        rows: In the order of time, with one binary label.
        config: How steps are taken.
        window: Rows of a window.
        show: A progress bar on standard error.

    Raises:
        DivergedError: When the loss is no number any more.
        DataError: When there are several labels, or fewer rows than one window.
    """
    check_measurable(model, rows, window)
    steps, scores, labels = Steps(model, config), [], []
    same_forward = not any(isinstance(m, torch.nn.Dropout) and m.p for m in model.modules())
    begun = time.monotonic()
    bar = tqdm(total=rows.rows, desc="pass", unit=" rows", unit_scale=True, leave=False, disable=None if show else True)
    model.train()
    with bar, torch.random.fork_rng(devices=[]), suited_threads(model, config.batch_size, passes=3):
        torch.manual_seed(config.seed)
        for batch in rows.in_order(config.batch_size):
            before = None if same_forward else _predicted(model, batch)
            loss, logits = steps.step(batch)
            if not math.isfinite(loss):
                raise DivergedError(f"the loss became {loss} after {bar.n:,} rows; lower the learning rate")
            assert batch.labels is not None
            scores.append(logits[:, 0].sigmoid() if before is None else before)
            labels.append(batch.labels[:, 0])
            bar.update(len(batch))
    model.eval()
    return _measured(torch.cat(scores), torch.cat(labels), window, time.monotonic() - begun)


def _predicted(model: RankingModel, batch: Batch) -> Tensor:
    model.eval()
    scores = model.predict(batch)[:, 0]
    model.train()
    return scores


def check_measurable(model: RankingModel, rows: Examples, window: int) -> None:
    """Make sure that AUC over windows can be had.

    Raises:
        ConfigError: When a window is too small.
        DataError: When there are several labels, or fewer rows than one window.
    """
    if len(model.inputs.tasks) > 1 or model.inputs.tasks[0].kind != "binary":
        raise DataError("AUC over windows measures one binary label; the schema has others")
    if window < 2:
        raise ConfigError(f"expected windows of at least 2 rows, got {window}")
    if rows.rows < window:
        raise DataError(f"expected at least one window of {window:,} rows, got {rows.rows:,} rows; take a smaller one")


def _measured(scores: Tensor, labels: Tensor, window: int, seconds: float) -> Progressive:
    aucs = window_aucs(scores, labels, window)
    if not any(map(math.isfinite, aucs)):
        raise DataError(f"no window of {window:,} rows holds both classes")
    return Progressive(
        scores, labels, window, aucs, float(auc(scores, labels)), float(log_loss(scores, labels)), seconds
    )


def window_aucs(scores: Tensor, labels: Tensor, window: int) -> tuple[float, ...]:
    """AUC of each whole window of consecutive rows; what remains at the end belongs to none.

    Args:
        scores: [n].
        labels: [n].
        window: Rows of a window.
    """
    starts = range(0, len(scores) - window + 1, window)
    return tuple(float(auc(scores[s : s + window], labels[s : s + window])) for s in starts)


def in_order_of_time(schema: Schema, data: Dataset) -> tuple[Encoder, Examples]:
    """All rows, encoded and in memory, sorted by the schema's time; without one in the order they come in.

    Rows of one time keep their order.

    Args:
        schema: One that learns nothing from rows, as `recsys.data.protocol.hashed` makes it.
        data: The rows.

    Raises:
        DataError: When rows are not as the schema says, or one has no time.
    """
    encoder = Encoder.fit(schema, (table for table, _ in data.read(needed(schema))))
    batch = Batch.concat(list(encoded(data, encoder)))
    if schema.time is not None:
        found = [times(table, schema.time) for table, _ in data.read([schema.time])]
        batch = batch.take(torch.from_numpy(np.argsort(np.concatenate(found), kind="stable")))
    return encoder, Resident(batch)
