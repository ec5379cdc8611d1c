"""Carry a study out: tune every arm in every setting with the same budget, then run it with every seed."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recsys.errors import ConfigError
from recsys.files import locked, make_folder
from recsys.training.bootstrap import Interval
from recsys.training.run import check_fit
from recsys.training.study.config import Arm, Setting, Study
from recsys.training.study.crossed import crossed_interval
from recsys.training.study.measure import Run, Task
from recsys.training.study.rows import identity, schema_of
from recsys.training.study.runs import Journal, carry_out

__all__ = ["ArmResult", "SettingResult", "study"]


@dataclass(frozen=True)
class ArmResult:
    """What an arm reached in a setting.

    Attributes:
        arm: Its name.
        point: Where in its grid it was best with the tuning seed.
        runs: One a seed.
        difference: Mean window AUC minus the baseline's, paired by seed and window; None for the baseline.
    """

    arm: str
    point: dict[str, Any]
    runs: list[Run]
    difference: Interval | None

    @property
    def mean(self) -> float:
        """Mean over seeds of the mean AUC of the windows."""
        return statistics.fmean(run.value for run in self.runs)

    @property
    def std(self) -> float:
        """Standard deviation of it over the seeds; nan of one."""
        return statistics.stdev(run.value for run in self.runs) if len(self.runs) > 1 else math.nan

    def windows(self) -> np.ndarray[Any, np.dtype[np.float64]]:
        """[seeds, windows] AUC."""
        return np.array([run.windows for run in self.runs], dtype=np.float64)

    def spread(self) -> dict[str, float]:
        """Median, least, greatest and standard deviation over the windows that hold both classes, of seeds' means."""
        windows = self.windows()
        known = windows[:, np.isfinite(windows).all(axis=0)].mean(axis=0)
        return {name: float(f(known)) for name, f in _SPREADS.items()}

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; what is not finite is None."""
        spread = self.spread()
        numbers = {"mean": self.mean, "std_over_seeds": self.std, "windows": spread}
        numbers |= {"auc": _mean(run.auc for run in self.runs), "log_loss": _mean(run.log_loss for run in self.runs)}
        parts = self.runs[0].gradients
        return {
            "arm": self.arm,
            "point": self.point,
            **_plain(numbers),
            "difference": None if self.difference is None else self.difference.to_json(),
            "gradients": {part: _mean(run.gradients[part] for run in self.runs) for part in parts},
            "rows_per_second": round(statistics.median(run.rows_per_second for run in self.runs)),
        }


_SPREADS: dict[str, Any] = {"median": np.median, "min": np.min, "max": np.max, "std": np.std}


@dataclass(frozen=True)
class SettingResult:
    """All arms in one setting, in the study's order."""

    setting: Setting
    arms: list[ArmResult]

    def arm(self, name: str) -> ArmResult:
        """The arm of that name."""
        return next(found for found in self.arms if found.arm == name)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "setting": self.setting.name,
            "data": self.setting.data.name,
            "bits": self.setting.bits,
            "window": self.setting.data.window,
            "arms": [arm.to_json() for arm in self.arms],
        }


def study(config: Study, out: Path, *, workers: int = 1, show: bool = True) -> list[SettingResult]:
    """Run all that is not in the journal yet, and put it together.

    A study that was killed goes on where it was; one that was changed runs what is new, and nothing else.

    Args:
        config: What is compared.
        out: Folder of the journal, ``runs.jsonl``.
        workers: Processes, one thread each; 0 runs everything in this one.
        show: Progress bars on standard error.

    Raises:
        ConfigError: When an arm diverges at every point of its grid, or with a seed.
        DataError: When data cannot be read, or the disk refuses.
        SchemaError: When the data of a setting cannot feed the model of an arm.
    """
    if workers < 0:
        raise ConfigError(f"expected workers of at least 0, got {workers}")
    for setting in config.settings():
        for arm in config.arm:
            for point in config.grid(arm):
                check_fit(config.plan(arm, point, 0).model, schema_of(setting, arm.hashes))
    make_folder(out)
    with locked(out / ".lock"):
        journal = Journal(out / "runs.jsonl")
        make = _Tasks(config, {data.name: identity(data) for data in config.data})
        points = _tuned(make, journal, workers, show)
        pairs = [(setting, arm) for setting in config.settings() for arm in config.arm]
        tasks = [make.of(s, arm, points[s.name, arm.name], seed) for s, arm in pairs for seed in config.seeds]
        runs = iter(carry_out(tasks, journal, workers, show, "runs"))
        found = {(s.name, arm.name): [next(runs) for _ in config.seeds] for s, arm in pairs}
    return [_setting(config, setting, points, found) for setting in config.settings()]


@dataclass(frozen=True)
class _Tasks:
    """Makes the study's tasks; what the data is at present is asked once."""

    config: Study
    identities: dict[str, str]

    def of(self, setting: Setting, arm: Arm, point: dict[str, Any], seed: int) -> Task:
        plan = self.config.plan(arm, point, seed)
        return Task(setting, self.config.protocol, plan, arm.hashes, self.identities[setting.data.name])


def _tuned(make: _Tasks, journal: Journal, workers: int, show: bool) -> dict[tuple[str, str], dict[str, Any]]:
    """The best point of every arm's grid in every setting, by what its runs with the tuning seed say."""
    config = make.config
    pairs = [(setting, arm) for setting in config.settings() for arm in config.arm]
    if all(len(config.grid(arm)) == 1 for arm in config.arm):
        return {(setting.name, arm.name): config.grid(arm)[0] for setting, arm in pairs}
    tasks = [make.of(s, arm, point, config.tuning_seed) for s, arm in pairs for point in config.grid(arm)]
    runs = iter(carry_out(tasks, journal, workers, show, "tuning"))
    chosen = {}
    for setting, arm in pairs:
        values = [next(runs).choice for _ in config.grid(arm)]
        if max(values) == -math.inf:
            raise ConfigError(f"arm `{arm.name}` diverges at every point of its grid on {setting.name}")
        chosen[setting.name, arm.name] = config.grid(arm)[values.index(max(values))]
    return chosen


def _setting(
    config: Study,
    setting: Setting,
    points: dict[tuple[str, str], dict[str, Any]],
    runs: dict[tuple[str, str], list[Run]],
) -> SettingResult:
    for arm in config.arm:
        if any(math.isnan(run.value) for run in runs[setting.name, arm.name]):
            raise ConfigError(f"arm `{arm.name}` diverged on {setting.name} with one of the seeds; lower its rates")
    arms = [
        ArmResult(arm.name, points[setting.name, arm.name], runs[setting.name, arm.name], None) for arm in config.arm
    ]
    base = next(arm for arm in arms if arm.arm == config.baseline)
    return SettingResult(setting, [_compared(arm, base) for arm in arms])


def _compared(arm: ArmResult, base: ArmResult) -> ArmResult:
    if arm is base:
        return arm
    differences = arm.windows() - base.windows()
    defined = np.isfinite(differences).all(axis=0)
    return ArmResult(arm.arm, arm.point, arm.runs, crossed_interval(differences[:, defined]))


def _mean(values: Any) -> float:
    return statistics.fmean(values)


def _plain(numbers: dict[str, Any]) -> dict[str, Any]:
    return {
        name: _plain(value) if isinstance(value, dict) else value if math.isfinite(value) else None
        for name, value in numbers.items()
    }
