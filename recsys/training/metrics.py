"""How good predictions are: metrics of one task as plain numbers, computed in float64 on the CPU.

A metric is undefined where its formula divides by zero (AUC of one class, calibration without a positive); it is then
nan, not an error. All take row weights; a weight of 2 counts as two copies of the row.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from recsys.errors import ConfigError, DataError

__all__ = [
    "EPS",
    "Columns",
    "Kind",
    "auc",
    "calibration",
    "check",
    "from_totals",
    "log_loss",
    "mae",
    "measure",
    "normalised_entropy",
    "per_user_auc",
    "rmse",
    "row_terms",
    "run_ends",
    "user_auc",
]

Kind = Literal["binary", "regression"]

EPS = 1e-7
"""Log loss clips probabilities to [EPS, 1 - EPS]: about float32's resolution next to one, where a sigmoid saturates,
so that one certain and wrong row costs 16 nats. FuxiCTR's benchmarks clip there too."""


@dataclass(frozen=True)
class Columns:
    """Checked columns of one task: float64 on the CPU, all of n rows."""

    scores: Tensor
    """[n] finite."""
    labels: Tensor
    """[n]; within [0, 1] when binary."""
    weights: Tensor
    """[n] at least 0, not all 0."""
    groups: Tensor | None = None
    """[n] codes 0 … G-1, each of which occurs; None when rows have no user."""


def check(
    scores: Tensor,
    labels: Tensor,
    weights: Tensor | None = None,
    groups: Tensor | None = None,
    *,
    kind: Kind = "binary",
    probabilities: bool = True,
) -> Columns:
    """What every metric asks of its input, in one place.

    Args:
        scores: [n] predictions.
        labels: [n] truths.
        weights: [n] row weights; None weighs all alike.
        groups: [n] integer ids of users, any values.
        kind: Of the task; the labels of a binary one lie in [0, 1].
        probabilities: Whether a binary task's scores must lie in [0, 1] too.

    Raises:
        ConfigError: When `kind` is neither "binary" nor "regression".
        DataError: When columns are empty or of different lengths, or hold values they must not.
    """
    if kind not in ("binary", "regression"):
        raise ConfigError(f'expected kind "binary" or "regression", got {kind!r}')
    _check_lengths({"scores": scores, "labels": labels, "weights": weights, "groups": groups})
    x, y = _plain(scores), _plain(labels)
    _refuse(~x.isfinite(), "scores", "NaN or infinite")
    if kind == "binary":
        _refuse(~((y >= 0) & (y <= 1)), "labels", "outside [0, 1]")
    else:
        _refuse(~y.isfinite(), "labels", "NaN or infinite")
    if kind == "binary" and probabilities:
        _refuse((x < 0) | (x > 1), "scores", "outside [0, 1]; pass probabilities, not logits")
    return Columns(x, y, _weights(weights, len(x)), None if groups is None else _codes(groups))


def auc(scores: Tensor, labels: Tensor, weights: Tensor | None = None) -> float:
    """The chance that a positive row scores higher than a negative one; a tie counts half.

    ``Σ_ij w_i y_i w_j (1 - y_j) ([s_i > s_j] + [s_i = s_j] / 2) / (Σ_i w_i y_i · Σ_j w_j (1 - y_j))``
    (Hanley and McNeil 1982). A soft label y counts as y of a positive row and 1 - y of a negative one with one score.
    Scores need not be probabilities. nan when a class is absent.

    Args:
        scores: [n] finite.
        labels: [n] in [0, 1].
        weights: [n] row weights.

    Raises:
        DataError: See `check`.
    """
    return _auc(check(scores, labels, weights, probabilities=False))


def user_auc(scores: Tensor, labels: Tensor, groups: Tensor, weights: Tensor | None = None) -> float:
    """GAUC, how well each user's own rows are ordered: ``Σ_u n_u · AUC_u / Σ_u n_u``, n_u the weight of a user's rows.

    Only users with both classes count, above and below the line (Zhou et al. 2018, "Deep Interest Network",
    arXiv 1706.06978, section 6.2; n_u are its impressions). nan when no user has both. Soft labels as in `auc`.

    Args:
        scores: [n] finite.
        labels: [n] in [0, 1].
        groups: [n] integer ids of users.
        weights: [n] row weights.

    Raises:
        DataError: See `check`.
    """
    return _user_auc(check(scores, labels, weights, groups, probabilities=False))


def log_loss(scores: Tensor, labels: Tensor, weights: Tensor | None = None) -> float:
    """Mean cross entropy in nats: ``-Σ w (y ln p + (1 - y) ln(1 - p)) / Σ w``, p clipped to [`EPS`, 1 - `EPS`].

    Args:
        scores: [n] probabilities p.
        labels: [n] in [0, 1], soft ones as they stand.
        weights: [n] row weights.

    Raises:
        DataError: See `check`.
    """
    return _additive(check(scores, labels, weights), "binary")["log_loss"]


def normalised_entropy(scores: Tensor, labels: Tensor, weights: Tensor | None = None) -> float:
    """Log loss over that of always predicting the mean label q: ``log_loss / -(q ln q + (1 - q) ln(1 - q))``.

    Below 1 is better than knowing the base rate alone (He et al. 2014, "Practical lessons from predicting clicks on
    ads at Facebook", equation 1). nan when all labels are 0 or all are 1.

    Args:
        scores: [n] probabilities.
        labels: [n] in [0, 1].
        weights: [n] row weights.

    Raises:
        DataError: See `check`.
    """
    return _additive(check(scores, labels, weights), "binary")["normalised_entropy"]


def calibration(scores: Tensor, labels: Tensor, weights: Tensor | None = None) -> float:
    """Mean prediction over mean label, ``Σ w p / Σ w y``: expected over observed clicks (He et al. 2014, section 2).

    Args:
        scores: [n] probabilities.
        labels: [n] in [0, 1]; nan when all are 0.
        weights: [n] row weights.

    Raises:
        DataError: See `check`.
    """
    return _additive(check(scores, labels, weights), "binary")["calibration"]


def rmse(scores: Tensor, labels: Tensor, weights: Tensor | None = None) -> float:
    """Root of the mean squared error: ``sqrt(Σ w (s - y)² / Σ w)``.

    Args:
        scores: [n] predictions.
        labels: [n] truths.
        weights: [n] row weights.

    Raises:
        DataError: See `check`.
    """
    return _additive(check(scores, labels, weights, kind="regression"), "regression")["rmse"]


def mae(scores: Tensor, labels: Tensor, weights: Tensor | None = None) -> float:
    """Mean absolute error: ``Σ w |s - y| / Σ w``.

    Args:
        scores: [n] predictions.
        labels: [n] truths.
        weights: [n] row weights.

    Raises:
        DataError: See `check`.
    """
    return _additive(check(scores, labels, weights, kind="regression"), "regression")["mae"]


def measure(columns: Columns, kind: Kind = "binary") -> dict[str, float]:
    """All metrics of a task: auc, log_loss, normalised_entropy, calibration and user_auc (with groups); or rmse, mae.

    Args:
        columns: From `check`.
        kind: Of the task.
    """
    metrics = _additive(columns, kind)
    if kind == "binary":
        metrics = {"auc": _auc(columns), **metrics}
        if columns.groups is not None:
            metrics["user_auc"] = _user_auc(columns)
    return metrics


def row_terms(columns: Columns, kind: Kind) -> dict[str, Tensor]:
    """What a row of weight one adds to each total, [n] each; most metrics are a formula of such totals.

    Args:
        columns: From `check`.
        kind: Of the task.
    """
    x, y = columns.scores, columns.labels
    if kind == "regression":
        error = x - y
        return {"rows": torch.ones_like(x), "squared": error.square(), "absolute": error.abs()}
    p = x.clamp(EPS, 1 - EPS)
    loss = -(y * p.log() + (1 - y) * (-p).log1p())
    return {"rows": torch.ones_like(x), "labels": y, "scores": x, "loss": loss}


def from_totals(totals: Mapping[str, Tensor], kind: Kind) -> dict[str, Tensor]:
    """Metrics from weighted totals of `row_terms`; nan where one is undefined.

    Args:
        totals: Name -> totals of any one shape, which is also the metrics' shape.
        kind: Of the task.
    """
    n = totals["rows"]
    if kind == "regression":
        return {"rmse": (totals["squared"] / n).sqrt(), "mae": totals["absolute"] / n}
    loss, rate = totals["loss"] / n, totals["labels"] / n
    # 0 · ln 0 is left nan here: without a second class there is no entropy to normalise by.
    entropy = -(rate * rate.log() + (1 - rate) * (-rate).log1p())
    return {
        "log_loss": loss,
        "normalised_entropy": loss / entropy,
        "calibration": torch.where(rate > 0, totals["scores"] / totals["labels"], torch.nan),
    }


def per_user_auc(columns: Columns) -> tuple[Tensor, Tensor]:
    """AUC of each user, nan where a class is absent, and the weight of the user's rows: [G] and [G].

    Args:
        columns: From `check`; without groups all rows belong to one user.
    """
    order, scores, groups = _sorted_by_group(columns)
    ends = run_ends(scores, groups)
    # Rows ascend by score within a user, so the curve (positives so far, negatives so far) at the ends of tied runs
    # has AUC's area under it: each positive of a run sees the negatives before the run and half of those within.
    weights, labels = columns.weights[order], columns.labels[order]
    positive, negative = (weights * labels).cumsum(0)[ends], (weights * (1 - labels)).cumsum(0)[ends]
    users = groups[ends]
    last = run_ends(users)
    positives, negatives = _steps(positive[last]), _steps(negative[last])
    before = negative[last] - negatives
    step = _steps(negative)
    area = torch.bincount(users, weights=_steps(positive) * (negative - step / 2 - before[users]))
    return area / (positives * negatives), torch.bincount(groups, weights=weights)


def run_ends(*columns: Tensor) -> Tensor:
    """Positions of the last row of each run of equal rows, [runs] int64; the columns are sorted, [n] each, n ≥ 1."""
    differs = torch.stack([column[1:] != column[:-1] for column in columns]).any(dim=0)
    return torch.cat([differs.nonzero().squeeze(1), torch.tensor([len(columns[0]) - 1])])


def _sorted_by_group(columns: Columns) -> tuple[Tensor, Tensor, Tensor]:
    """Order by (group, score), and both columns in that order, [n] each."""
    order = columns.scores.argsort(stable=True)
    if columns.groups is None:
        return order, columns.scores[order], torch.zeros_like(order)
    order = order[columns.groups[order].argsort(stable=True)]
    return order, columns.scores[order], columns.groups[order]


def _steps(cumulative: Tensor) -> Tensor:
    return cumulative.diff(prepend=cumulative.new_zeros(1))


def _auc(columns: Columns) -> float:
    alone = Columns(columns.scores, columns.labels, columns.weights)
    return float(per_user_auc(alone)[0])


def _user_auc(columns: Columns) -> float:
    values, rows = per_user_auc(columns)
    defined = ~values.isnan()
    return float((values * rows)[defined].sum() / rows[defined].sum())


def _additive(columns: Columns, kind: Kind) -> dict[str, float]:
    totals = {name: columns.weights.dot(term) for name, term in row_terms(columns, kind).items()}
    return {name: float(value) for name, value in from_totals(totals, kind).items()}


def _check_lengths(columns: Mapping[str, Tensor | None]) -> None:
    shapes = {name: list(column.shape) for name, column in columns.items() if column is not None}
    told = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
    if any(shape != shapes["scores"] or len(shape) != 1 for shape in shapes.values()):
        raise DataError(f"expected columns of one length, [n] each, got {told}")
    if shapes["scores"] == [0]:
        raise DataError("expected rows to measure, got none")


def _refuse(wrong: Tensor, name: str, what: str) -> None:
    if count := int(wrong.sum()):
        raise DataError(f"{count} of {len(wrong)} {name} {'is' if count == 1 else 'are'} {what}")


def _plain(column: Tensor) -> Tensor:
    return column.detach().to("cpu", torch.float64)


def _weights(weights: Tensor | None, n: int) -> Tensor:
    if weights is None:
        return torch.ones(n, dtype=torch.float64)
    w = _plain(weights)
    _refuse(~((w >= 0) & w.isfinite()), "weights", "negative, NaN or infinite")
    if not w.any():
        raise DataError("expected a weight above 0, got zeros only")
    return w


def _codes(groups: Tensor) -> Tensor:
    if groups.is_floating_point() or groups.is_complex():
        raise DataError(f"expected groups as integers, got {groups.dtype}")
    codes: Tensor = torch.unique(groups.detach().cpu(), return_inverse=True)[1]
    return codes
