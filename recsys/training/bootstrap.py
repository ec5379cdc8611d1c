"""How sure a metric is: percentile bootstrap intervals that resample users, not rows.

The rows of one user are alike, so drawing rows one by one would make intervals too narrow. A replicate draws as many
users as there are, with replacement, and takes each with all of its rows; it is held as a column of multiplicities,
how often each user was drawn (Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapters 8 and 13; on
drawing whole clusters: Cameron, Gelbach and Miller 2008). Without users each row is a cluster of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from recsys.errors import ConfigError
from recsys.training.metrics import Columns, Kind, check, from_totals, measure, per_user_auc, row_terms, run_ends

__all__ = [
    "Interval",
    "compare",
    "evaluate",
    "means",
    "multiplicities",
    "replicate_metrics",
    "replicate_metrics_reference",
]

_BLOCK = 2**22
"""Multiplicities held at once (32 MiB), unless one replicate alone has more."""

_TILE = 2**14
"""Weights of rows × replicates that the sweep for AUC holds at once: its temporaries stay in cache, and are too small
for torch to spread over threads, whose waiting for each other cost six times the work on a busy machine."""


@dataclass(frozen=True)
class Interval:
    """A metric's value, or a difference of two, and the ends of its interval; nan where undefined."""

    value: float
    low: float
    high: float

    def to_json(self) -> dict[str, float | None]:
        """The three numbers by name; JSON knows no nan, so an undefined one is None."""
        numbers = {"value": self.value, "low": self.low, "high": self.high}
        return {name: number if math.isfinite(number) else None for name, number in numbers.items()}


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
    """All metrics of a task with intervals: the quantiles (1 ∓ level) / 2 of each metric over the replicates.

    Replicates in which a metric is undefined (one class was drawn) are left out of its quantiles. One cluster alone
    says nothing about spread: its intervals are nan, as they are with no replicates. Memory: some 180 bytes a row,
    however many replicates, plus blocks of at most 100 MiB, or 24 bytes a cluster if that is more.

    Args:
        scores: [n] predictions; probabilities when binary.
        labels: [n] truths; within [0, 1] when binary.
        groups: [n] integer ids of users; None resamples rows and leaves user_auc out.
        kind: "binary": auc, log_loss, normalised_entropy, calibration, user_auc; "regression": rmse, mae.
        replicates: How many resamples.
        seed: Of the resamples, which draw from a generator of their own.
        level: Share of resamples within the interval.

    Raises:
        ConfigError: When `kind`, `replicates` or `level` cannot be.
        DataError: When columns are empty or of different lengths, or hold values they must not.
    """
    _check_options(replicates, level)
    columns = check(scores, labels, groups=groups, kind=kind)
    replicated = _replicate([columns], kind, replicates, seed)[0]
    return {name: _interval(value, replicated.get(name), level) for name, value in measure(columns, kind).items()}


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
    """Paired differences, metric of `scores` minus metric of `other`, with intervals.

    Both are measured on the same resamples, so what makes a resample easy or hard for both cancels, and an interval
    that leaves out 0 says more than two intervals side by side.

    Args:
        scores: [n] predictions.
        other: [n] predictions of another model for the same rows.
        labels: [n] truths.
        groups: [n] integer ids of users.
        kind: Of the task; see `evaluate`.
        replicates: How many resamples.
        seed: Of the resamples; the same seed draws the same as in `evaluate`.
        level: Share of resamples within the interval.

    Raises:
        ConfigError: When `kind`, `replicates` or `level` cannot be.
        DataError: When columns are empty or of different lengths, or hold values they must not.
    """
    _check_options(replicates, level)
    pair = [check(column, labels, groups=groups, kind=kind) for column in (scores, other)]
    ours, theirs = (measure(columns, kind) for columns in pair)
    a, b = _replicate(pair, kind, replicates, seed)
    differences = {name: a[name] - b[name] for name in a}
    return {name: _interval(ours[name] - theirs[name], differences.get(name), level) for name in ours}


def means(
    values: Mapping[str, Tensor],
    groups: Tensor | None = None,
    *,
    replicates: int = 500,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, Interval]:
    """Means of what each row is worth, with intervals; of differences between two models, paired ones.

    Args:
        values: Name -> [n] finite.
        groups: [n] integer ids of users; None resamples rows.
        replicates: How many resamples.
        seed: Of the resamples.
        level: Share of resamples within the interval.

    Raises:
        ConfigError: When `replicates` or `level` cannot be.
        DataError: When columns are empty or of different lengths, or a value is NaN or infinite.
    """
    _check_options(replicates, level)
    columns = [check(value, value, groups=groups, kind="regression") for value in values.values()]
    clusters = _clusters(columns[0])
    rows = [torch.ones(len(clusters), dtype=torch.float64), *(column.scores for column in columns)]
    totals = torch.stack([torch.bincount(clusters, weights=row) for row in rows])
    drawn = [totals @ block for block in _drawn(totals.shape[1], replicates, seed)]
    replicated = torch.cat(drawn, dim=1) if drawn else None
    return {
        name: _interval(float(rows[i].mean()), None if replicated is None else replicated[i] / replicated[0], level)
        for i, name in enumerate(values, start=1)
    }


def multiplicities(clusters: int, replicates: int, generator: torch.Generator) -> Tensor:
    """How often each cluster is drawn in each replicate, [clusters, replicates] float64; columns sum to `clusters`.

    Replicates are drawn one after the other, so blocks of any size draw the same.

    Args:
        clusters: C, how many to draw from and how many to draw.
        replicates: R.
        generator: Where the random numbers come from.
    """
    drawn = torch.empty(clusters, replicates, dtype=torch.float64)
    for r in range(replicates):
        drawn[:, r] = torch.bincount(torch.randint(clusters, (clusters,), generator=generator), minlength=clusters)
    return drawn


def replicate_metrics(columns: Columns, drawn: Tensor, kind: Kind = "binary") -> dict[str, Tensor]:
    """Each metric in each replicate, [R], without copying a row: multiplicities weigh clusters' totals.

    Args:
        columns: From `check`, rows of weight one.
        drawn: [C, R] multiplicities.
        kind: Of the task.
    """
    return _Prepared.of(columns, kind).measure(drawn)


def replicate_metrics_reference(columns: Columns, drawn: Tensor, kind: Kind = "binary") -> dict[str, Tensor]:
    """The slow and obvious twin of `replicate_metrics`: copies the rows that each replicate drew, and measures them."""
    metrics = []
    for weights in drawn.t():
        rows = torch.arange(len(columns.scores)).repeat_interleave(weights[_clusters(columns)].long())
        groups = None if columns.groups is None else columns.groups[rows]
        metrics.append(measure(check(columns.scores[rows], columns.labels[rows], groups=groups, kind=kind), kind))
    return {name: torch.tensor([m[name] for m in metrics], dtype=torch.float64) for name in metrics[0]}


@dataclass(frozen=True)
class _Prepared:
    """What does not change from replicate to replicate."""

    kind: Kind
    totals: dict[str, Tensor]
    """Name of a row's term -> [C] its sum over the cluster's rows."""
    ranked: _Ranked | None
    """None for a task without AUC."""

    @staticmethod
    def of(columns: Columns, kind: Kind) -> _Prepared:
        clusters = _clusters(columns)
        totals = {n: torch.bincount(clusters, weights=term) for n, term in row_terms(columns, kind).items()}
        if kind == "binary" and columns.groups is not None:
            values, rows = per_user_auc(columns)
            defined = ~values.isnan()
            totals["user_auc"] = torch.where(defined, values * rows, 0.0)
            totals["user_rows"] = torch.where(defined, rows, 0.0)
        return _Prepared(kind, totals, _Ranked.of(columns, clusters) if kind == "binary" else None)

    def measure(self, drawn: Tensor) -> dict[str, Tensor]:
        """[C, R] multiplicities -> metric -> [R]."""
        totals = dict(zip(self.totals, torch.stack(list(self.totals.values())) @ drawn, strict=True))
        metrics = from_totals(totals, self.kind)
        if self.ranked is not None:
            metrics["auc"] = self.ranked.auc(drawn)
        if "user_auc" in totals:
            metrics["user_auc"] = totals["user_auc"] / totals["user_rows"]
        return metrics


@dataclass(frozen=True)
class _Ranked:
    """Rows in ascending order of their scores: what AUC needs to know of them."""

    clusters: Tensor
    """[n] int64."""
    labels: Tensor
    """[n, 1]."""
    ends: Tensor
    """[runs] int64, the last row of each run of tied scores."""

    @staticmethod
    def of(columns: Columns, clusters: Tensor) -> _Ranked:
        order = columns.scores.argsort(stable=True)
        labels = columns.labels[order].unsqueeze(1)
        return _Ranked(clusters[order], labels, run_ends(columns.scores[order]))

    def auc(self, drawn: Tensor) -> Tensor:
        """[C, R] multiplicities -> [R]; sweeps the rows once, tile by tile, all replicates side by side.

        The area under the curve (positives so far, negatives so far) at the ends of tied runs, as in `per_user_auc`.
        A tile carries on from where the one before it stopped, within a tied run or not.
        """
        area = drawn.new_zeros(drawn.shape[1])
        positive = negative = drawn.new_zeros(1, drawn.shape[1])  # all rows so far
        corner = (positive, negative)  # the rows up to the last end of a run
        for start, stop, ends in self._tiles(max(1, _TILE // drawn.shape[1])):
            weights = drawn.index_select(0, self.clusters[start:stop])
            hits = weights * self.labels[start:stop]
            positives = hits.cumsum(0).add_(positive)
            negatives = weights.sub_(hits).cumsum(0).add_(negative)
            x = torch.cat([corner[0], positives.index_select(0, ends)])
            y = torch.cat([corner[1], negatives.index_select(0, ends)])
            area += torch.trapezoid(y, x, dim=0)
            positive, negative, corner = positives[-1:], negatives[-1:], (x[-1:], y[-1:])
        return area / (positive * negative).squeeze(0)

    def _tiles(self, size: int) -> Iterator[tuple[int, int, Tensor]]:
        """Start, stop and the ends of runs within, counted from the start."""
        n = len(self.clusters)
        starts = torch.arange(0, n + size, size)
        bounds = torch.searchsorted(self.ends, starts).tolist()
        for tile, start in enumerate(range(0, n, size)):
            yield start, min(start + size, n), self.ends[bounds[tile] : bounds[tile + 1]] - start


def _replicate(models: list[Columns], kind: Kind, replicates: int, seed: int) -> list[dict[str, Tensor]]:
    """For each model, each metric in each replicate, [replicates]; all models see the same resamples."""
    prepared = [_Prepared.of(columns, kind) for columns in models]
    parts: list[list[dict[str, Tensor]]] = [[] for _ in models]
    for drawn in _drawn(int(_clusters(models[0]).max()) + 1, replicates, seed):
        for model, blocks in zip(prepared, parts, strict=True):
            blocks.append(model.measure(drawn))
    return [_joined(blocks) for blocks in parts]


def _drawn(clusters: int, replicates: int, seed: int) -> Iterator[Tensor]:
    """Multiplicities [clusters, …] of all replicates, block by block; none of one cluster alone."""
    generator = torch.Generator().manual_seed(seed)
    size = max(1, _BLOCK // clusters)
    for start in range(0, replicates if clusters > 1 else 0, size):
        yield multiplicities(clusters, min(size, replicates - start), generator)


def _joined(blocks: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.cat([block[name] for block in blocks]) for name in blocks[0]} if blocks else {}


def _interval(value: float, replicated: Tensor | None, level: float) -> Interval:
    if replicated is None:
        return Interval(value, math.nan, math.nan)
    tails = torch.tensor([(1 - level) / 2, (1 + level) / 2], dtype=torch.float64)
    low, high = torch.nanquantile(replicated, tails).tolist()
    return Interval(value, low, high)


def _clusters(columns: Columns) -> Tensor:
    """[n] codes of the clusters: users, or else the rows themselves."""
    return torch.arange(len(columns.scores)) if columns.groups is None else columns.groups


def _check_options(replicates: int, level: float) -> None:
    if replicates < 0:
        raise ConfigError(f"expected replicates of at least 0, got {replicates}")
    if not 0 < level < 1:
        raise ConfigError(f"expected a level between 0 and 1, such as 0.95, got {level}")
