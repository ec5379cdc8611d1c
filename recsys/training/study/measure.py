"""One run of a study: a model trained and measured under the study's protocol, on one thread."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

import torch
from torch import Tensor

from recsys.data.batch import Batch
from recsys.data.encoder import Encoder
from recsys.errors import DivergedError
from recsys.models.base import RankingModel
from recsys.models.registry import build
from recsys.threads import torch_threads
from recsys.training.metrics import auc, log_loss
from recsys.training.progressive import check_measurable, progressive, window_aucs
from recsys.training.steps import Steps
from recsys.training.study.config import Plan, Setting
from recsys.training.study.rows import splits, stream
from recsys.training.trainer import EVAL_BATCH, Trainer, predict_all

__all__ = ["Run", "Task", "first_gradients", "measure"]


_NO_FILES: dict[str, Any] = {"schema_file": None, "train": (), "valid": (), "test": ()}


@dataclass(frozen=True)
class Task:
    """One run to do: all that decides its result."""

    setting: Setting
    protocol: str
    plan: Plan
    hashes: int = 1
    """Of each value, where values are hashed."""
    identity: str = ""
    """What `identity` says of the data; part of the key."""

    @property
    def seed(self) -> int:
        """Of start values and shuffles."""
        return self.plan.training.seed

    def key(self) -> str:
        """A checksum of what decides the result; what an arm or a data set is called does not."""
        decides = {
            # Where own files lie is no matter: `identity` knows them.
            "data": self.setting.data.model_copy(update=_NO_FILES).model_dump(mode="json", exclude={"name", "bits"}),
            "identity": self.identity,
            "bits": self.setting.bits,
            "hashes": self.hashes,
            "protocol": self.protocol,
            "plan": self.plan.model_dump(mode="json"),
        }
        return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:24]


@dataclass(frozen=True)
class Run:
    """What a run measured.

    Attributes:
        key: Of its task.
        windows: AUC of each window of consecutive rows (progressive), or of test rows (holdout).
        auc: Of all these rows at once.
        log_loss: Of all these rows.
        choice: What tuning compares, the higher the better: of a progressive run `value`, for each of its rows was
            predicted before it was learnt from; of a holdout run what the validation rows say, never the test rows.
            Of a run that diverged -inf.
        rows: How many rows were measured.
        gradients: Part of the model -> root mean square of the first batch's gradient; of tables over the rows read.
        rows_per_second: Trained on one thread.
        made: Versions and commit that it was run with.
    """

    key: str
    windows: list[float]
    auc: float
    log_loss: float
    choice: float = -math.inf
    rows: int = 0
    gradients: dict[str, float] = field(default_factory=dict)
    rows_per_second: int = 0
    made: str = ""

    @property
    def value(self) -> float:
        """Mean AUC of the windows that hold both classes; of a run that diverged nan."""
        known = [value for value in self.windows if math.isfinite(value)]
        return sum(known) / len(known) if known else math.nan

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, which know no nan."""
        values = asdict(self) | {"windows": [_or_none(value) for value in self.windows]}
        return values | {name: _or_none(values[name]) for name in _NUMBERS}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """The run that `to_json` described; raises TypeError or KeyError for anything else."""
        windows = [_or_nan(value) for value in values["windows"]]
        found = cls(**values | {"windows": windows, **{name: _or_nan(values[name]) for name in _NUMBERS}})
        return found if math.isfinite(found.choice) else replace(found, choice=-math.inf)


_NUMBERS = ("auc", "log_loss", "choice")
"""What may be no number."""


def _or_none(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def measure(task: Task) -> Run:
    """Do one run, on one thread; one whose loss is no number any more has no windows.

    Raises:
        DataError: When the data cannot be read.
    """
    with torch_threads(1):
        try:
            return _progressive(task) if task.protocol == "progressive" else _holdout(task)
        except DivergedError:  # the loss became nan: that, too, is a result of a learning rate
            return Run(task.key(), [], math.nan, math.nan)


def _progressive(task: Task) -> Run:
    encoder, rows = stream(task.setting, task.hashes)
    model = _model(task.plan, encoder)
    gradients = first_gradients(model, next(rows.in_order(task.plan.training.batch_size)), task.plan)
    found = progressive(model, rows, task.plan.training, task.setting.data.window, show=False)
    speed = rows.rows / max(found.seconds, 1e-9)
    choice = found.summary()["mean"]
    return Run(task.key(), list(found.aucs), found.auc, found.log_loss, choice, rows.rows, gradients, round(speed))


def _holdout(task: Task) -> Run:
    encoder, train, valid, test = splits(task.setting, task.hashes)
    model = _model(task.plan, encoder)
    check_measurable(model, test, task.setting.data.window)
    gradients = first_gradients(model, next(train.in_order(task.plan.training.batch_size)), task.plan)
    progress = Trainer(model, train, valid, task.plan.training).fit(show=False)
    (scores,), labels, _ = predict_all([model], ((batch,) for batch in test.in_order(EVAL_BATCH)))
    assert labels is not None
    s, y = scores[:, 0], labels[:, 0]
    speed = sum(r["samples_per_second"] for r in progress.history) / len(progress.history)
    windows = list(window_aucs(s, y, task.setting.data.window))
    whole = float(auc(s, y)), float(log_loss(s, y))
    return Run(task.key(), windows, *whole, progress.best, test.rows, gradients, round(speed))


def _model(plan: Plan, encoder: Encoder) -> RankingModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(plan.training.seed)
        return build(plan.model, encoder.inputs)


def first_gradients(model: RankingModel, batch: Batch, plan: Plan) -> dict[str, float]:
    """Root mean square of the loss's gradient at the start values, by part of the model; no weight is changed.

    Of the tables it is over the rows that the batch reads: what vanishes there is never learnt, for Adam divides by
    its root mean square plus 1e-8.
    """
    with torch.random.fork_rng(devices=[]):
        Steps(model, plan.training).backward(batch)
    squares: dict[str, tuple[float, int]] = {}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            part = name.split(".")[0]
            values = _values(parameter.grad)
            total, count = squares.get(part, (0.0, 0))
            squares[part] = (total + float(values.square().sum()), count + values.numel())
            parameter.grad = None
    return {part: math.sqrt(total / max(count, 1)) for part, (total, count) in squares.items()}


def _values(gradient: Tensor) -> Tensor:
    return (gradient.coalesce().values() if gradient.is_sparse else gradient).double()
