"""A study of two arms on the toy data that takes a second."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from recsys.training.bootstrap import Interval
from recsys.training.study.config import Setting, Study, StudyData
from recsys.training.study.crossed import crossed_interval
from recsys.training.study.measure import Run
from recsys.training.study.study import ArmResult, SettingResult
from tests import toy

ARMS: list[dict[str, Any]] = [
    {"name": "base", "model": {"name": "lr"}},
    {"name": "deep", "model": {"name": "dcn2", "hidden": [4]}},
]


def values(files: dict[str, Path], **changes: Any) -> dict[str, Any]:
    """The study as its TOML file has it."""
    data = {"name": "toy", "schema_file": files["schema"], "train": [files["train"]], "bits": [6], "window": 100}
    told: dict[str, Any] = {
        "title": "A small one",
        "baseline": "base",
        "seeds": [1, 2],
        "model": {"embedding_dim": 2},
        "training": {"batch_size": 64},
        "tune": {"training.learning_rate": [0.01, 0.05]},
        "data": [data],
        "arm": ARMS,
    }
    return told | changes


def of(files: dict[str, Path], **changes: Any) -> Study:
    """The study, checked."""
    return Study.parse(values(files, **changes), "small")


def toy_files(folder: Path) -> dict[str, Path]:
    """Files of 400 and 2 × 100 rows."""
    return toy.files(folder, n=400)


def holdout(files: dict[str, Path], **changes: Any) -> Study:
    """The same arms, trained on train, stopped by valid and measured on test."""
    splits = {name: [files[name]] for name in ("train", "valid", "test")}
    data = {"name": "toy", "schema_file": files["schema"], "window": 50, **splits}
    training = {"batch_size": 64, "epochs": 2}
    return of(files, **{"protocol": "holdout", "data": [data], "training": training} | changes)


def result(name: str, bits: int, arms: dict[str, float], windows: int = 5, seeds: int = 3) -> SettingResult:
    """A made-up result: each arm's windows are noise about its mean; the first arm is the baseline."""
    rng = np.random.default_rng(bits)
    drawn = {arm: mean + rng.normal(0, 0.001, (seeds, windows)) for arm, mean in arms.items()}
    base = next(iter(drawn.values()))

    def gap(arm: str) -> Interval | None:
        return None if drawn[arm] is base else crossed_interval(drawn[arm] - base)

    def runs(arm: str) -> list[Run]:
        return [Run(f"{arm}{s}", list(map(float, row)), 0.7, 0.5, 0.7, 500, {"tables": 1e-3, arm: 2e-9}, 1000)
                for s, row in enumerate(drawn[arm])]  # fmt: skip

    data = StudyData(name=name, source="adult", bits=(bits,), window=100)
    found = [ArmResult(arm, {"training.learning_rate": 0.01}, runs(arm), gap(arm)) for arm in drawn]
    return SettingResult(Setting(data, bits), found)
