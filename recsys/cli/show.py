"""How the commands print: tables of metrics, and what the encoder counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from recsys.markdown import Cells

if TYPE_CHECKING:  # printing needs no torch
    from recsys.data.encoder import Counts

__all__ = [
    "card_table",
    "cells_table",
    "console",
    "counts_notes",
    "features_table",
    "interval",
    "metrics_tables",
    "verdict_table",
]

NAMES = {
    "auc": "AUC",
    "log_loss": "log loss",
    "normalised_entropy": "normalised entropy",
    "user_auc": "per-user AUC",
    "calibration": "calibration",
    "rmse": "RMSE",
    "mae": "MAE",
}


def console() -> Console:
    """Standard output for people; never wraps a path or a number when it is not a terminal."""
    plain = Console()
    return plain if plain.is_terminal else Console(width=200, highlight=False)


def card_table(machine: Mapping[str, Any], facts: Mapping[str, str]) -> Table:
    """Machine, versions and workload."""
    named = {name: machine[name] for name in ("cpu", "cores", "gpu", "huge_pages", "system")}
    versions = [f"{name} {version or 'absent'}" for name, version in machine.items() if name not in named]
    table = Table(title="what is measured, and on what", title_justify="left", show_header=False)
    for name, value in {**named, "versions": ", ".join(versions), **facts}.items():
        table.add_row(name.replace("_", " "), "none" if value is None else str(value))
    return table


def cells_table(cells: Cells) -> Table:
    """A table of the same cells that markdown shows."""
    title = escape(cells.title)
    table = Table(title=title, title_justify="left", min_width=len(title))
    for column, name in enumerate(cells.header):
        table.add_column(escape(name), justify="left" if column < cells.left else "right")
    for row in cells.rows:
        table.add_row(*map(escape, row))
    return table


def interval(metric: Mapping[str, float | None]) -> str:
    """``0.7812 (0.7741 – 0.7880)``."""
    return f"{_number(metric['value'])} ({_number(metric['low'])} – {_number(metric['high'])})"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def metrics_tables(metrics: Mapping[str, Any], title: str) -> list[Table]:
    """One table a task: metric, value and 95 % interval, from plain JSON values."""
    if not all("value" in value for value in metrics.values()):
        return [table for task, inner in metrics.items() for table in metrics_tables(inner, f"{title} · {task}")]
    table = Table(title=title, title_justify="left", min_width=len(title))
    table.add_column("metric")
    table.add_column("value", justify="right")
    table.add_column("95 % interval", justify="right")
    for name, metric in metrics.items():
        span = f"{_number(metric['low'])} – {_number(metric['high'])}"
        table.add_row(NAMES.get(name, name), _number(metric["value"]), span)
    return [table]


def features_table(features: Sequence[Mapping[str, Any]]) -> Table:
    """What the encoder made of each feature; see `recsys.data.report.FeatureReport`."""
    table = Table(title="features", title_justify="left")
    for name in ("feature", "kind", "table", "rows", "distinct", "missing", "unknown", "cut", "colliding", "by chance"):
        table.add_column(name, justify="left" if name in ("feature", "kind", "table") else "right")
    for found in features:
        shares = [_share(found.get(key)) for key in ("missing", "unknown", "cut", "colliding", "expected")]
        counts = ["" if found.get(key) is None else f"{found[key]:,}" for key in ("rows", "distinct")]
        table.add_row(found["name"], found["kind"], found.get("table", ""), *counts, *shares)
    return table


def _share(value: float | None) -> str:
    return "" if not value else f"{value:.1%}" if value >= 0.001 else "<0.1%"


def counts_notes(counts: Counts) -> list[str]:
    """Lines about values that the encoder had to replace."""
    return [f"  {line}" for line in counts.sentences()]


def verdict_table(verdict: Mapping[str, Any], title: str) -> Table:
    """What the quality gate found, from plain JSON values: a line for each label and what is held against it."""
    table = Table(title=title, title_justify="left", min_width=len(title))
    for name in ("label", "what", "session minus trained model", "passes"):
        table.add_column(name)
    for label, task in verdict["tasks"].items():
        passes = "no: " + "; ".join(task["reasons"]) if task["reasons"] else "yes"
        correlation = "–" if task["rank_correlation"] is None else f"{task['rank_correlation']:.6f}"
        rows = [
            ("scores", f"at most {task['largest']:.2g}, mean {task['mean']:.2g}"),
            ("rank correlation", correlation),
        ]
        rows += [(NAMES[name], signed(metric)) for name, metric in task["metrics"].items()]
        for k, (what, told) in enumerate(rows):
            table.add_row(*(escape(cell) for cell in ((label, what, told, passes) if not k else ("", what, told, ""))))
    return table


def signed(metric: Mapping[str, float | None]) -> str:
    """``+0.000012 (-0.000031 to +0.000054)``."""
    value, low, high = ("–" if metric[key] is None else f"{metric[key]:+.6f}" for key in ("value", "low", "high"))
    return f"{value} ({low} to {high})"
