"""How the commands print: tables of metrics, and what the encoder counted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from recsys.data.encoder import Counts
from recsys.training.bootstrap import Interval

__all__ = ["console", "counts_notes", "interval", "metrics_json", "metrics_table"]

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


def interval(value: Interval, digits: int = 4) -> str:
    """``0.7812 (0.7741 – 0.7880)``."""
    return f"{value.value:.{digits}f} ({value.low:.{digits}f} – {value.high:.{digits}f})"


def metrics_table(metrics: Mapping[str, Any], title: str, task: str = "") -> list[Table]:
    """One table a task: metric, value and 95 % interval."""
    nested = [(name, value) for name, value in metrics.items() if not isinstance(value, Interval)]
    if nested:
        return [table for name, value in nested for table in metrics_table(value, title, name)]
    table = Table(title=f"{title} · {task}" if task else title, title_justify="left")
    table.add_column("metric")
    table.add_column("value", justify="right")
    table.add_column("95 % interval", justify="right")
    for name, value in metrics.items():
        table.add_row(NAMES.get(name, name), f"{value.value:.4f}", f"{value.low:.4f} – {value.high:.4f}")
    return [table]


def metrics_json(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Metrics as plain JSON values."""
    return {n: v.to_json() if isinstance(v, Interval) else metrics_json(v) for n, v in metrics.items()}


def counts_notes(counts: Counts) -> list[str]:
    """Lines about values that the encoder had to replace."""
    return [f"  {line}" for line in counts.sentences()]
