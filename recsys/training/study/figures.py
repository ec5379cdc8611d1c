"""Pictures of a study; each function returns a matplotlib Figure and touches no global state."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from recsys.pictures import new_figure
from recsys.training.study.config import Study
from recsys.training.study.study import ArmResult, SettingResult

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["bits_figure", "differences_figure", "figures", "windows_figure"]

MOST_LINES = 7
"""Arms that a panel of lines can hold."""

MOST_ACROSS = 3
"""Panels side by side."""


def figures(config: Study, results: Sequence[SettingResult]) -> dict[str, Figure]:
    """All that the study gives: `differences`; `bits` of three table sizes or more; `windows` of a progressive one."""
    found = {"differences": differences_figure(config, results)}
    if by_bits(results):
        found["bits"] = bits_figure(config, results)
    if config.protocol == "progressive":
        found["windows"] = windows_figure(config, results)
    return found


def differences_figure(config: Study, results: Sequence[SettingResult]) -> Figure:
    """One panel a setting: each arm's AUC minus the baseline's with its 95 % interval; filled where it leaves out 0."""
    names = [arm.name for arm in config.arm if arm.name != config.baseline]
    longest = max(map(len, names))
    figure, panels = _panels(len(results), 2.9, 1.1 + 0.27 * len(names), 0.075 * longest, share_y=True)
    for axes, result in zip(panels, results, strict=True):
        axes.axvline(0, color="black", linewidth=1, zorder=0)
        for row, name in enumerate(names):
            _difference(axes, result.arm(name), row, _colour(config, name))
        _name(axes, result.setting.name)
        axes.set(yticks=range(len(names)), yticklabels=names)
        axes.set_ylim(len(names) - 0.5, -0.5)
        axes.locator_params(axis="x", nbins=4)
        axes.grid(axis="x", alpha=0.3)
    figure.supxlabel(f"window AUC minus that of {config.baseline}, 95 % interval (filled: leaves out 0)", fontsize=9)
    return figure


def _difference(axes: Axes, arm: ArmResult, row: int, colour: str) -> None:
    assert arm.difference is not None
    value, low, high = arm.difference.value, arm.difference.low, arm.difference.high
    known = math.isfinite(low) and math.isfinite(high)
    reach = [[value - low], [high - value]] if known else None
    apart = known and (low > 0 or high < 0)
    axes.errorbar(value, row, xerr=reach, fmt="o", markersize=5, capsize=3, color=colour,
                  markerfacecolor=colour if apart else "white")  # fmt: skip


def by_bits(results: Sequence[SettingResult]) -> dict[str, list[SettingResult]]:
    """Data set -> its settings from the smallest table to the largest, where there are three or more."""
    found: dict[str, list[SettingResult]] = {}
    for result in results:
        if result.setting.bits is not None:
            found.setdefault(result.setting.data.name, []).append(result)
    return {n: sorted(r, key=lambda one: one.setting.bits or 0) for n, r in found.items() if len(r) >= 3}


def bits_figure(config: Study, results: Sequence[SettingResult]) -> Figure:
    """One panel a data set: window AUC by the table's size, a line an arm, ± its standard deviation over seeds."""
    sizes = by_bits(results)
    figure, panels = _panels(len(sizes), 4.2, 3.4)
    for axes, (name, settings) in zip(panels, sizes.items(), strict=True):
        bits = [result.setting.bits or 0 for result in settings]
        for arm in config.arm:
            mean = np.array([result.arm(arm.name).mean for result in settings])
            std = np.nan_to_num([result.arm(arm.name).std for result in settings])
            colour = _colour(config, arm.name)
            axes.plot(bits, mean, _style(config, arm.name), color=colour, marker="o", markersize=4, label=arm.name)
            axes.fill_between(bits, mean - std, mean + std, color=colour, alpha=0.15, linewidth=0)
        _name(axes, name, "log2 of the table's rows", "window AUC")
        axes.set_xticks(bits)
        axes.grid(alpha=0.3)
    _legend(figure, panels[0])
    return figure


def windows_figure(config: Study, results: Sequence[SettingResult]) -> Figure:
    """One panel a setting: AUC minus the baseline's in each window, mean over seeds, along the rows."""
    names = [arm.name for arm in config.arm if arm.name != config.baseline][:MOST_LINES]
    figure, panels = _panels(len(results), 4.2, 3.0)
    for axes, result in zip(panels, results, strict=True):
        base = result.arm(config.baseline).windows().mean(axis=0)
        rows = (np.arange(len(base)) + 1) * result.setting.data.window
        axes.axhline(0, color="black", linewidth=1, zorder=0)
        for name in names:
            gap = result.arm(name).windows().mean(axis=0) - base
            axes.plot(rows, gap, color=_colour(config, name), linewidth=1.1, alpha=0.85, label=name)
        _name(axes, result.setting.name, "rows seen", f"AUC minus {config.baseline}'s")
        axes.xaxis.set_major_formatter(_thousands)
        axes.grid(alpha=0.3)
    _legend(figure, panels[0])
    return figure


def _panels(
    count: int, width: float, height: float, beside: float = 0.0, share_y: bool = False
) -> tuple[Figure, list[Axes]]:
    """A figure of panels side by side, at most `MOST_ACROSS`; `beside` is what the labels on the left take."""
    across = min(count, MOST_ACROSS)
    down = math.ceil(count / across)
    figure = new_figure(max(beside + width * across, 5.5), height * down + 0.5)
    panels: list[Axes] = figure.subplots(down, across, squeeze=False, sharey=share_y).ravel().tolist()
    for unused in panels[count:]:
        unused.set_axis_off()
    for axes in panels[:count]:
        axes.tick_params(labelsize=8)
    return figure, panels[:count]


def _name(axes: Axes, title: str, x: str = "", y: str = "") -> None:
    axes.set_title(title, fontsize=10)
    axes.set_xlabel(x, fontsize=9)
    axes.set_ylabel(y, fontsize=9)


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    columns = 2 if figure.get_figwidth() < 8 else 4
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, fontsize=8, frameon=False)


def _colour(config: Study, name: str) -> str:
    """The same in every picture; the baseline is black."""
    others = [arm.name for arm in config.arm if arm.name != config.baseline]
    return "black" if name == config.baseline else f"C{others.index(name) % 10}"


def _style(config: Study, name: str) -> str:
    return "--" if name == config.baseline else "-"


def _thousands(value: float, _: Any) -> str:
    return f"{value / 1e6:g}M" if abs(value) >= 1e6 else f"{value / 1e3:g}k" if abs(value) >= 1e3 else f"{value:g}"
