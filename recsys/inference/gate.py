"""The quality gate: does a session still say what the trained model says, and where it does not, does it matter?

Both score the same rows. Metrics are compared as paired differences, session minus trained model, with bootstrap
intervals over users, and what is held against the tolerance is the bad end of the interval: few rows, or rows on which
the two differ a lot, do not pass by luck. What is undefined, such as the AUC of one class, passes where the two give
the same scores, and nowhere else.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import spearmanr
from tqdm import tqdm

from recsys.data.readers import Dataset, Rows
from recsys.errors import DataError
from recsys.inference.session import InferenceSession
from recsys.inference.tolerance import Tolerance
from recsys.models.checkpoint import Checkpoint
from recsys.training.bootstrap import Interval, compare

__all__ = ["TaskVerdict", "Verdict", "verify"]

Scores = npt.NDArray[np.float64]
_READ = 16_384
_REPLICATES = 200
_COMPARED = ("auc", "normalised_entropy", "rmse")
_SAME = 1e-5
"""Scores that differ by less are the same."""


@dataclass(frozen=True)
class TaskVerdict:
    """What the gate found for one label.

    Attributes:
        largest: Difference of two scores, and the `mean` difference.
        rank_correlation: Spearman's, nan where all scores are equal.
        metrics: Differences, session minus trained model; none of rows without labels.
        reasons: Why it does not pass; empty where it does.
    """

    largest: float
    mean: float
    rank_correlation: float
    metrics: dict[str, Interval]
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Verdict:
    """What the gate found, by label."""

    rows: int
    precision: str
    tasks: dict[str, TaskVerdict]

    @property
    def passed(self) -> bool:
        """Whether every label passes."""
        return not any(task.reasons for task in self.tasks.values())

    @property
    def reasons(self) -> str:
        """Why it does not pass, as one sentence."""
        told = [f"{name}: {', '.join(task.reasons)}" for name, task in self.tasks.items() if task.reasons]
        return "; ".join(told)

    def to_json(self) -> dict[str, Any]:
        """Plain values; undefined ones are None."""
        tasks = {name: asdict(task) for name, task in self.tasks.items()}
        for name, task in self.tasks.items():
            known = task.rank_correlation if math.isfinite(task.rank_correlation) else None
            metrics = {metric: difference.to_json() for metric, difference in task.metrics.items()}
            tasks[name] |= {"rank_correlation": known, "metrics": metrics, "reasons": list(task.reasons)}
        return {"rows": self.rows, "precision": self.precision, "passed": self.passed, "tasks": tasks}


def verify(
    checkpoint: Checkpoint,
    session: InferenceSession,
    rows: Rows,
    tolerance: Tolerance = Tolerance(),  # noqa: B008 (frozen)
    show: bool = True,
) -> Verdict:
    """Compare a session with the trained model on rows, each with an encoder of its own.

    Kept are scores, labels and users, 32 bytes a row.

    Args:
        checkpoint: The trained model.
        session: Of its export, or of the run itself in another precision.
        rows: Files, an Arrow table or a DataFrame; without labels and users, scores alone are compared.
        tolerance: What may be lost.
        show: A progress bar on standard error.

    Raises:
        DataError: When there are no rows, a column is absent or mistyped, or some labels are there and others not.
    """
    ours, theirs, labels, groups = _scores(checkpoint, session, rows, show)
    tasks = {}
    for t, task in enumerate(checkpoint.encoder.inputs.tasks):
        told = None if labels is None else torch.from_numpy(labels[:, t])
        metrics: dict[str, Interval] = {}
        if told is not None:
            a, b = torch.from_numpy(ours[:, t]), torch.from_numpy(theirs[:, t])
            found = compare(a, b, told, groups, kind=task.kind, replicates=_REPLICATES)
            metrics = {name: found[name] for name in _COMPARED if name in found}
        spread = 1.0 if task.kind == "binary" else float(np.std(theirs[:, t] if told is None else told.numpy())) or 1.0
        tasks[task.name] = _verdict(ours[:, t], theirs[:, t], metrics, tolerance, spread)
    return Verdict(len(ours), session.precision, tasks)


def _scores(
    checkpoint: Checkpoint, session: InferenceSession, rows: Rows, show: bool
) -> tuple[Scores, Scores, npt.NDArray[np.float64] | None, torch.Tensor | None]:
    """Scores [n, tasks] of session and trained model, labels [n, tasks] and users [n], where there are any."""
    schema = checkpoint.encoder.schema
    labels = [label.source for label in schema.labels]
    extra = [*labels, *([] if schema.group is None else [schema.group])]
    data = Dataset(rows, schema.format, list(dict.fromkeys([*schema.columns, *extra])))
    data.need(schema.columns)
    labelled = any(name in data.schema.names for name in labels)
    if labelled:
        data.need(extra)
    columns = list(dict.fromkeys([*schema.columns, *(extra if labelled else ())]))
    found: list[tuple[Any, Any, Any, Any]] = []

    def scored() -> Iterator[int]:
        for table, _ in data.read(columns, _READ):
            batch = checkpoint.encoder.encode(table, labels=labelled)
            ours = session.predict(session.encode(table)).reshape(len(batch), -1)
            found.append((ours, checkpoint.predict_batch(batch), batch.labels, batch.groups))
            yield len(batch)

    with tqdm(total=data.rows, desc="verify", unit=" rows", unit_scale=True, disable=None if show else True) as bar:
        for n in scored():
            bar.update(n)
    if not found:
        raise DataError("the data has no rows to compare scores on")
    ours, theirs, told, groups = zip(*found, strict=True)
    users = torch.cat(groups) if labelled and groups[0] is not None else None
    return (
        np.concatenate(ours).astype(np.float64),
        np.concatenate(theirs).astype(np.float64),
        torch.cat(told).numpy() if labelled else None,
        users,
    )


def _verdict(
    ours: Scores, theirs: Scores, metrics: dict[str, Interval], tolerance: Tolerance, spread: float
) -> TaskVerdict:
    """Args: spread: what differences of scores and RMSE are a share of."""
    difference = np.abs(ours - theirs)
    largest, mean = float(difference.max()), float(difference.mean())
    constant = len(ours) < 2 or bool(np.ptp(ours) == 0 or np.ptp(theirs) == 0)
    correlation = math.nan if constant else float(spearmanr(ours, theirs).statistic)
    reasons = []
    if largest > _SAME * spread:
        reasons = list(_reasons(correlation, mean / spread, metrics, tolerance, spread))
    return TaskVerdict(largest, mean, correlation, metrics, tuple(reasons))


def _reasons(
    correlation: float, mean: float, metrics: dict[str, Interval], tolerance: Tolerance, spread: float
) -> Iterator[str]:
    """Why scores that differ do not pass; what is undefined does not."""
    if not correlation >= tolerance.rank_correlation:
        yield f"rank correlation {correlation:.5f}, below {tolerance.rank_correlation:g}"
    if not mean <= tolerance.mean_difference:
        yield f"scores differ by {mean:.5f} in the mean, more than {tolerance.mean_difference:g}"
    for name, metric in metrics.items():
        worst = -metric.low if name == "auc" else metric.high / spread if name == "rmse" else metric.high
        allowed: float = getattr(tolerance, name)
        if not worst <= allowed:
            yield f"{name} may be worse by {worst:.5f}, more than {allowed:g}"
