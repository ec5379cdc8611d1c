"""Metrics of predictions, in torch and in double precision.

Every function takes scores [n], labels [n] and optional row weights [n], and returns a scalar tensor; what is not
defined (an AUC of one class) is NaN.
"""

from __future__ import annotations

import torch
from torch import Tensor

from recsys.errors import DataError

__all__ = [
    "auc",
    "calibration",
    "check",
    "log_loss",
    "log_loss_rows",
    "mae",
    "normalised_entropy",
    "pair_wins",
    "rmse",
    "user_auc",
    "user_aucs",
]

EPSILON = 1e-15
"""Probabilities are kept this far from 0 and 1, so that one certain mistake costs 34.5 and not infinity."""


def check(scores: Tensor, labels: Tensor, groups: Tensor | None = None, kind: str = "binary") -> None:
    """Refuse what no metric can be made of.

    Raises:
        DataError: For no rows, lengths that differ, scores that are not finite, or labels of a binary task outside
            [0, 1].
    """
    lengths = [len(t) for t in (scores, labels, *([] if groups is None else [groups]))]
    if len(set(lengths)) > 1:
        raise DataError(f"scores, labels and groups must have one length, got {', '.join(map(str, lengths))}")
    if not len(scores):
        raise DataError("there are no rows to measure")
    bad = int((~torch.isfinite(scores)).sum())
    if bad:
        raise DataError(f"{bad} of {len(scores)} scores are NaN or infinite")
    low, high = float(labels.min()), float(labels.max())
    if kind == "binary" and not (low >= 0 and high <= 1):
        raise DataError(f"expected labels in [0, 1], got {low:g} … {high:g}")


def auc(scores: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Area under the ROC curve: the share of (positive, negative) pairs that are in order, ties counting half.

    A soft label y counts as y of a positive and 1 - y of a negative.
    """
    w = _weights(scores, weights)
    positive, negative = w * labels.double(), w * (1 - labels.double())
    return pair_wins(scores, positive, negative) / (positive.sum() * negative.sum())


def pair_wins(scores: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """``Σ_ij p_i n_j ([s_i > s_j] + ½ [s_i = s_j])`` in n log n, by cumulating the negatives in order of score."""
    values, bins = torch.unique(scores.double(), return_inverse=True)
    below = torch.zeros_like(values).index_add_(0, bins, negative)
    half = below.cumsum(0) - 0.5 * below
    return (positive * half[bins]).sum()


def log_loss(scores: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Cross entropy ``-mean(y ln p + (1 - y) ln(1 - p))`` in nats."""
    return _mean(log_loss_rows(scores, labels), weights)


def log_loss_rows(scores: Tensor, labels: Tensor) -> Tensor:
    """[n] cross entropy of each row."""
    p, y = scores.double().clamp(EPSILON, 1 - EPSILON), labels.double()
    return -(torch.xlogy(y, p) + torch.xlogy(1 - y, 1 - p))


def normalised_entropy(scores: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Log loss over the entropy of the mean label: 1 says no more than the base rate (He et al. 2014, ADKDD)."""
    rate = _mean(labels.double(), weights)
    return log_loss(scores, labels, weights) / log_loss_rows(rate, rate)


def calibration(scores: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean prediction over mean label: 1 is calibrated on the whole, above 1 promises too much."""
    return _mean(scores.double(), weights) / _mean(labels.double(), weights)


def user_auc(scores: Tensor, labels: Tensor, groups: Tensor) -> Tensor:
    """Mean AUC of the users that have both classes, weighted by their rows (GAUC; Zhou et al. 2018, DIN, 5.3)."""
    values, rows = user_aucs(scores, labels, torch.unique(groups, return_inverse=True)[1])
    known = ~values.isnan()
    return (values * rows)[known].sum() / rows[known].sum()


def user_aucs(scores: Tensor, labels: Tensor, users: Tensor) -> tuple[Tensor, Tensor]:
    """AUC and rows of every user.

    Args:
        scores: [n].
        labels: [n].
        users: [n] 0 … U - 1.

    Returns:
        AUC [U], NaN for a user with one class, and rows [U], both float64.
    """
    order = _by_user_and_score(scores, users)
    s, y, u = scores.double()[order], labels.double()[order], users[order]
    # A bin is a run of rows of one user with one score; negatives below it are counted from the user's first row.
    start = torch.ones_like(u, dtype=torch.bool)
    start[1:] = (u[1:] != u[:-1]) | (s[1:] != s[:-1])
    bins = start.cumsum(0) - 1
    count = int(users.max()) + 1
    zeros = torch.zeros(count, dtype=torch.float64)
    positives, negatives = zeros.index_add(0, u, y), zeros.index_add(0, u, 1 - y)
    below = torch.zeros(int(bins[-1]) + 1, dtype=torch.float64).index_add_(0, bins, 1 - y)
    half = below.cumsum(0) - 0.5 * below
    before = negatives.cumsum(0) - negatives
    wins = zeros.index_add(0, u, y * (half[bins] - before[u]))
    return wins / (positives * negatives), positives + negatives


def _by_user_and_score(scores: Tensor, users: Tensor) -> Tensor:
    by_score = scores.double().argsort(stable=True)
    return by_score[users[by_score].argsort(stable=True)]


def rmse(scores: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Root of the mean squared error."""
    return _mean((scores.double() - labels.double()).square(), weights).sqrt()


def mae(scores: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean absolute error."""
    return _mean((scores.double() - labels.double()).abs(), weights)


def _weights(scores: Tensor, weights: Tensor | None) -> Tensor:
    return torch.ones(len(scores), dtype=torch.float64) if weights is None else weights.double()


def _mean(values: Tensor, weights: Tensor | None) -> Tensor:
    return values.mean() if weights is None else (values * weights.double()).sum() / weights.double().sum()
