"""Pictures of trainings and their results; each function returns a matplotlib Figure and touches no global state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from recsys.pictures import new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["calibration_curve", "compare_models"]


def calibration_curve(scores: Tensor, labels: Tensor, bins: int = 10) -> tuple[Tensor, Tensor, Tensor]:
    """Mean prediction, observed share and rows of `bins` groups of equally many rows, ordered by score.

    Args:
        scores: [n] probabilities.
        labels: [n] in [0, 1].
        bins: How many groups; fewer when there are fewer rows.
    """
    order = scores.double().argsort()
    groups = order.tensor_split(min(bins, max(len(order), 1)))
    mean = torch.stack([scores.double()[g].mean() for g in groups])
    observed = torch.stack([labels.double()[g].mean() for g in groups])
    return mean, observed, torch.tensor([len(g) for g in groups])


def compare_models(
    histories: Mapping[str, Sequence[Mapping[str, Any]]],
    metrics: Mapping[str, Mapping[str, Mapping[str, float]]],
    scores: Mapping[str, Tensor],
    labels: Tensor,
    title: str,
) -> Figure:
    """Three panels: validation AUC by epoch, test AUC with its interval, and calibration.

    Args:
        histories: Model -> its training's records, one an epoch.
        metrics: Model -> metric -> value and interval on the test rows.
        scores: Model -> [n] probabilities of the test rows.
        labels: [n].
        title: Above it all.
    """
    figure = new_figure(13, 4)
    figure.suptitle(title)
    curves, bars, reliability = figure.subplots(1, 3)
    colours = {name: f"C{i}" for i, name in enumerate(histories)}
    for name, history in histories.items():
        curves.plot(
            [r["epoch"] for r in history], [r["valid_auc"] for r in history], "o-", color=colours[name], label=name
        )
    curves.set(title="validation AUC", xlabel="epoch", ylabel="AUC")
    curves.legend()
    _auc_intervals(bars, metrics, colours)
    for name, values in scores.items():
        mean, observed, _ = calibration_curve(values, labels)
        reliability.plot(mean, observed, "o-", markersize=3, color=colours[name], label=name)
    reliability.plot([0, 1], [0, 1], ":", color="grey", zorder=0)
    reliability.set(title="calibration on the test rows", xlabel="mean prediction", ylabel="observed share")
    return figure


def _auc_intervals(
    axes: Axes, metrics: Mapping[str, Mapping[str, Mapping[str, float]]], colours: Mapping[str, str]
) -> None:
    for row, (name, values) in enumerate(metrics.items()):
        auc = values["auc"]
        value, low, high = auc["value"], auc["low"], auc["high"]
        axes.errorbar(value, row, xerr=[[value - low], [high - value]], fmt="o", capsize=4, color=colours[name])
    axes.set(title="test AUC, 95 % interval", xlabel="AUC", yticks=range(len(metrics)), yticklabels=list(metrics))
    axes.invert_yaxis()
