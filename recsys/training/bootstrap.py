"""Intervals of metrics: a percentile bootstrap that resamples users, because a user's rows are not independent."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from torch import Tensor

from recsys.training.metrics import check, log_loss_rows, user_aucs

__all__ = ["Interval", "compare", "evaluate", "multiplicities", "replicate"]

Kind = Literal["binary", "regression"]
BLOCK_ELEMENTS = 4_000_000
"""Most rows × replicates at a time: about 100 MB of temporaries."""


@dataclass(frozen=True)
class Interval:
    """A metric and its interval; NaN where it is not defined."""

    value: float
    low: float
    high: float

    def to_json(self) -> dict[str, float | None]:
        """Plain JSON values; what is not defined is null."""
        return {name: v if math.isfinite(v) else None for name, v in vars(self).items()}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """What `to_json` wrote."""
        return cls(*(math.nan if values[name] is None else float(values[name]) for name in ("value", "low", "high")))


def evaluate(
    scores: Tensor,
    labels: Tensor,
    groups: Tensor | None = None,
    *,
    kind: Kind = "binary",
    replicates: int = 500,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, Interval]:
    """Every metric of a task with its interval.

    Args:
        scores: [n] probabilities, or values of a regression task.
        labels: [n].
        groups: [n] int64 users to resample; None resamples rows.
        kind: Of the task.
        replicates: Of the bootstrap.
        seed: Of its resamples.
        level: Share of replicates between low and high.

    Raises:
        DataError: For no rows, lengths that differ, scores that are not finite, labels out of range.
    """
    check(scores, labels, groups, kind)
    sample = _Sample.of(scores, labels, groups, kind)
    values, drawn = _run([sample], replicates, seed)
    return {name: _interval(values[0][name], drawn[0][name], level) for name in values[0]}


def compare(
    scores: Tensor,
    other: Tensor,
    labels: Tensor,
    groups: Tensor | None = None,
    *,
    kind: Kind = "binary",
    replicates: int = 500,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, Interval]:
    """Paired differences, metric of `scores` minus metric of `other`, on the same resamples.

    Raises:
        DataError: As `evaluate`.
    """
    check(scores, labels, groups, kind)
    check(other, labels, groups, kind)
    samples = [_Sample.of(s, labels, groups, kind) for s in (scores, other)]
    values, drawn = _run(samples, replicates, seed)
    return {
        name: _interval(values[0][name] - values[1][name], drawn[0][name] - drawn[1][name], level)
        for name in values[0]
    }


@dataclass(frozen=True)
class _Sample:
    """What a replicate needs: sums per cluster for all metrics that are ratios of sums, and rows in order for AUC.

    Attributes:
        sums: [G, k] sums of each cluster's rows.
        order: [n] clusters of the rows in order of score; None for a regression task.
        labels: [n] in that order.
        first, last: [n] where the run of equal scores that a row belongs to begins, and the row after its end.
    """

    kind: Kind
    sums: Tensor
    order: Tensor | None = None
    labels: Tensor | None = None
    first: Tensor | None = None
    last: Tensor | None = None
    grouped: bool = False

    @classmethod
    def of(cls, scores: Tensor, labels: Tensor, groups: Tensor | None, kind: Kind) -> Self:
        s, y = scores.detach().double(), labels.detach().double()
        users = torch.arange(len(s)) if groups is None else torch.unique(groups, return_inverse=True)[1]
        if kind == "regression":
            columns = [torch.ones_like(s), (s - y).square(), (s - y).abs()]
            return cls(kind, _per_cluster(columns, users))
        columns = [torch.ones_like(s), log_loss_rows(s, y), s, y]
        sums = _per_cluster(columns, users)
        if groups is not None:
            values, rows = user_aucs(s, y, users)
            known = (~values.isnan()).double()
            sums = torch.cat([sums, torch.stack([values.nan_to_num() * rows, rows * known], dim=1)], dim=1)
        order = s.argsort()
        _, counts = torch.unique_consecutive(s[order], return_counts=True)
        ends = counts.cumsum(0)
        last = torch.repeat_interleave(ends, counts)
        first = torch.repeat_interleave(ends - counts, counts)
        return cls(kind, sums, users[order], y[order], first, last, groups is not None)


def _per_cluster(columns: list[Tensor], users: Tensor) -> Tensor:
    rows = torch.stack(columns, dim=1)
    return torch.zeros(int(users.max()) + 1, rows.shape[1], dtype=torch.float64).index_add_(0, users, rows)


def replicate(sample: _Sample, counts: Tensor) -> dict[str, Tensor]:
    """Every metric of R resamples at once.

    Args:
        sample: The rows.
        counts: [R, G] float64, how often each cluster was drawn.

    Returns:
        Metric name -> [R].
    """
    sums = counts @ sample.sums
    if sample.kind == "regression":
        return {"rmse": (sums[:, 1] / sums[:, 0]).sqrt(), "mae": sums[:, 2] / sums[:, 0]}
    rate, loss = sums[:, 3] / sums[:, 0], sums[:, 1] / sums[:, 0]
    metrics = {"auc": _aucs(sample, counts), "log_loss": loss, "normalised_entropy": loss / log_loss_rows(rate, rate)}
    if sample.grouped:
        metrics["user_auc"] = sums[:, 4] / sums[:, 5]
    return metrics | {"calibration": sums[:, 2] / sums[:, 3]}


def _aucs(sample: _Sample, counts: Tensor) -> Tensor:
    """[R] AUC with row weights, from the negatives cumulated in order of score."""
    assert sample.order is not None
    assert sample.labels is not None
    assert sample.first is not None
    assert sample.last is not None
    weights = counts[:, sample.order]
    negatives = torch.nn.functional.pad((weights * (1 - sample.labels)).cumsum(1), (1, 0))
    positive = torch.nonzero(sample.labels).squeeze(1)
    gained = weights[:, positive] * sample.labels[positive]
    below = negatives[:, sample.first[positive]] + negatives[:, sample.last[positive]]
    return 0.5 * (gained * below).sum(1) / (gained.sum(1) * negatives[:, -1])


def multiplicities(clusters: int, replicates: int, rows: int, seed: int) -> Iterator[Tensor]:
    """Blocks [R, G] of how often each of G clusters is drawn when G are drawn with replacement."""
    generator = torch.Generator().manual_seed(seed)
    block = max(1, min(replicates, BLOCK_ELEMENTS // max(rows, 1)))
    for start in range(0, replicates, block):
        size = min(block, replicates - start)
        drawn = torch.randint(clusters, (size, clusters), generator=generator)
        counts = torch.zeros(size, clusters, dtype=torch.float64)
        yield counts.scatter_add_(1, drawn, torch.ones(1, dtype=torch.float64).expand(size, clusters))


def _run(samples: list[_Sample], replicates: int, seed: int) -> tuple[list[dict[str, Tensor]], list[dict[str, Tensor]]]:
    """Metrics of the rows themselves, and of every replicate, for each of the samples on the same resamples."""
    clusters = len(samples[0].sums)
    rows = clusters if samples[0].order is None else len(samples[0].order)
    values = [replicate(sample, torch.ones(1, clusters, dtype=torch.float64)) for sample in samples]
    parts: list[list[dict[str, Tensor]]] = [[] for _ in samples]
    for counts in multiplicities(clusters, replicates, rows, seed):
        for part, sample in zip(parts, samples, strict=True):
            part.append(replicate(sample, counts))
    drawn = [{name: torch.cat([p[name] for p in part]) for name in values[0]} for part in parts]
    return values, drawn


def _interval(value: Tensor, drawn: Tensor, level: float) -> Interval:
    """Percentiles of the replicates in which the metric is defined."""
    known = drawn[~drawn.isnan()]
    if value.isnan().any() or not len(known):
        return Interval(float(value), math.nan, math.nan)
    tail = (1 - level) / 2
    low, high = torch.quantile(known, torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return Interval(float(value), low, high)
