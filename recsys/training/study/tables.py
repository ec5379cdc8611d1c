"""What a study found, as cells of text: the command prints them, and the report writes them as markdown."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

from recsys.markdown import Cells
from recsys.training.bootstrap import Interval
from recsys.training.study.config import Study
from recsys.training.study.study import ArmResult, SettingResult

__all__ = ["LEAVES_OUT_0", "difference", "gradients_cells", "point_text", "results_cells"]

LEAVES_OUT_0 = "*"
"""Marks an interval that leaves out 0."""


def results_cells(config: Study, result: SettingResult) -> Cells:
    """Arm, where it was best, AUC over seeds and over windows, difference to the baseline, log loss."""
    tuned = any(arm.point for arm in result.arms)
    header = ("arm", *(["chosen"] if tuned else []), "window AUC ± over seeds")
    header += ("median", "min", "max", "± over windows", f"minus {config.baseline} (95 % interval)", "log loss")
    rows = [_row(config, arm, tuned) for arm in result.arms]
    return Cells(result.setting.name, header, tuple(rows), 1 + tuned)


def _row(config: Study, arm: ArmResult, tuned: bool) -> tuple[str, ...]:
    told = arm.to_json()
    windows = [_number(told["windows"][name]) for name in ("median", "min", "max", "std")]
    seeds = _number(arm.mean) + ("" if math.isnan(arm.std) else f" ± {arm.std:.4f}")
    chosen = [point_text(arm.point)] if tuned else []
    gap = "–" if arm.difference is None else difference(arm.difference)
    return (arm.arm, *chosen, seeds, *windows, gap, _number(told["log_loss"]))


def gradients_cells(result: SettingResult) -> Cells:
    """Arm, and the root mean square of the first batch's gradient of each part of the model."""
    told = {arm.arm: arm.to_json()["gradients"] for arm in result.arms}
    parts = list(dict.fromkeys(part for gradients in told.values() for part in gradients))
    parts.sort(key=lambda part: part != "tables")
    rows = [(arm, *(f"{found[p]:.1e}" if p in found else "" for p in parts)) for arm, found in told.items()]
    return Cells(f"{result.setting.name}: gradients of the first batch", ("arm", *parts), tuple(rows))


def difference(interval: Interval) -> str:
    """``+0.0123 (+0.0100 to +0.0146) *``; the mark says that the interval leaves out 0."""
    value, low, high = interval.value, interval.low, interval.high
    if not (math.isfinite(low) and math.isfinite(high)):
        return f"{value:+.4f}"
    mark = f" {LEAVES_OUT_0}" if low > 0 or high < 0 else ""
    return f"{value:+.4f} ({low:+.4f} to {high:+.4f}){mark}"


def point_text(point: dict[str, Any]) -> str:
    """A point of a grid in few words: ``learning_rate 0.01, hidden [8]``."""
    return ", ".join(f"{key.rpartition('.')[2]} {_value(value)}" for key, value in point.items())


def _value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return json.dumps(list(value)) if isinstance(value, Sequence) and not isinstance(value, str) else str(value)


def _number(value: float | None) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:.4f}"
