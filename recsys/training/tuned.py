"""What a search found: its trials, its best recipe, and the files and the picture that say so."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from recsys.config import override
from recsys.files import replacing, write_text
from recsys.pictures import new_figure
from recsys.training.recipe import DataConfig, Recipe
from recsys.training.search import Choices, Range

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["FILES", "Trial", "Tuned", "tuning_figure", "write"]

NAMES = {"auc": "AUC", "log_loss": "log loss", "rmse": "RMSE"}
FILES = ("best.toml", "trials.csv", "tuning.png")
"""What `write` writes."""


@dataclass(frozen=True)
class Trial:
    """One training of a search."""

    number: int
    """From 1, in the order in which they were finished."""
    state: Literal["finished", "pruned"]
    value: float | None
    """The watched metric on the validation rows at the best epoch; None if there was no epoch."""
    parameters: dict[str, Any]
    """Dotted key of the recipe -> value."""
    epochs: int
    best_epoch: int | None
    seconds: float
    why: str
    """Why it was pruned."""


@dataclass(frozen=True)
class Tuned:
    """Where a search stands."""

    start: Recipe
    """The recipe as it was; the first trial."""
    space: Mapping[str, Range | Choices]
    """What was searched."""
    metric: str
    """The watched one: `auc` is better when it is higher, `log_loss` and `rmse` when they are lower."""
    trials: tuple[Trial, ...]
    out: Path
    importances: Mapping[str, float] = field(default_factory=dict)
    """Parameter -> share of what the metric's variation is explained by, in falling order; of few trials nothing."""

    @property
    def ranked(self) -> list[Trial]:
        """Finished trials, the best first; of equals the earlier."""
        done = [trial for trial in self.trials if trial.state == "finished" and trial.value is not None]
        return sorted(done, key=lambda trial: -trial.value if self.metric == "auc" else trial.value)  # type: ignore[operator,arg-type,return-value]

    @property
    def best(self) -> Trial:
        """The best trial."""
        return self.ranked[0]

    @property
    def value(self) -> float:
        """The best trial's metric on the validation rows."""
        value = self.best.value
        assert value is not None
        return value

    @property
    def recipe(self) -> Recipe:
        """The best trial's recipe, its paths absolute, so that it can be read from anywhere."""
        changed: Recipe = override(self.start, self.best.parameters)
        return changed.model_copy(update={"data": _absolute(self.start.data)})

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "out": str(self.out),
            "metric": self.metric,
            "value": self.value,
            "start": self.trials[0].value,
            "best": vars(self.best),
            "trials": [vars(trial) for trial in self.trials],
            "space": {key: part.model_dump(mode="json") for key, part in self.space.items()},
            "default_space": not self.start.search,
            "importances": dict(self.importances),
        }


def _absolute(data: DataConfig) -> DataConfig:
    files = {name: tuple(path.resolve() for path in getattr(data, name)) for name in ("train", "valid")}
    schema = data.schema_file and data.schema_file.resolve()
    return data.model_copy(update={"schema_file": schema, **files})


def write(tuned: Tuned, figure: bool = True) -> None:
    """Write ``best.toml``, ``trials.csv`` and, if wanted, ``tuning.png``, each whole or not at all."""
    write_text(tuned.out / "best.toml", _header(tuned) + tuned.recipe.toml())
    with replacing(tuned.out / "trials.csv") as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(_lines(tuned))
    if figure:
        with replacing(tuned.out / "tuning.png") as temporary:
            tuning_figure(tuned).savefig(temporary, dpi=120, format="png")


def _header(tuned: Tuned) -> str:
    name, first = NAMES[tuned.metric], tuned.trials[0].value
    return (
        f"# The best of {len(tuned.trials)} trials of `recsys tune`, number {tuned.best.number}, "
        f"with seed {tuned.start.training.seed}.\n"
        f"# {name} on the validation rows: {tuned.value:.6g}; the recipe it began with has {first:.6g}.\n"
        "# It was chosen on these rows, so measure it on others.\n"
    )


def _lines(tuned: Tuned) -> list[list[Any]]:
    columns = ["trial", "state", tuned.metric, "epochs", "best_epoch", "seconds", "why"]
    rows = [
        [t.number, t.state, t.value, t.epochs, t.best_epoch, t.seconds, t.why, *map(_cell, t.parameters.values())]
        for t in tuned.trials
    ]
    return [columns + list(tuned.space), *rows]


def _cell(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, (list, tuple)) else value


def tuning_figure(tuned: Tuned) -> Figure:
    """The metric by trial, and the metric by each parameter."""
    across = min(len(tuned.space) + 1, 3)
    down = math.ceil((len(tuned.space) + 1) / across)
    figure = new_figure(4.3 * across, 3.4 * down)
    panels: Sequence[Axes] = figure.subplots(down, across, squeeze=False).ravel().tolist()
    _history(panels[0], tuned)
    for axes, (key, part) in zip(panels[1:], tuned.space.items(), strict=False):
        _scatter(axes, tuned, key, part)
    for axes in panels[len(tuned.space) + 1 :]:
        axes.set_axis_off()
    return figure


def _history(axes: Axes, tuned: Tuned) -> None:
    pick = max if tuned.metric == "auc" else min
    done = [(t.number, t.value) for t in tuned.trials if t.state == "finished" and t.value is not None]
    pruned = [(t.number, t.value) for t in tuned.trials if t.state == "pruned" and t.value is not None]
    best = [pick(value for at, value in done if at <= number) for number in range(1, len(tuned.trials) + 1)]
    axes.plot(*zip(*done, strict=True), "o", markersize=4, color="C0", label="finished")
    if pruned:
        axes.plot(*zip(*pruned, strict=True), "x", markersize=4, color="grey", label="pruned")
    axes.step(range(1, len(best) + 1), best, where="post", color="C1", label="best so far")
    axes.set(title=f"{len(tuned.trials)} trials", xlabel="trial", ylabel=f"validation {NAMES[tuned.metric]}")
    axes.legend()


def _scatter(axes: Axes, tuned: Tuned, key: str, part: Range | Choices) -> None:
    choices = [json.dumps(value) for value in part.choices] if isinstance(part, Choices) else []

    def place(trial: Trial) -> float:
        value: Any = trial.parameters[key]
        return choices.index(json.dumps(value)) if choices else value

    for state, marker, colour in (("pruned", "x", "grey"), ("finished", "o", "C0")):
        shown = [(place(t), t.value) for t in tuned.trials if t.state == state and t.value is not None]
        axes.plot([x for x, _ in shown], [y for _, y in shown], marker, markersize=4, color=colour)
    axes.axvline(place(tuned.best), color="C1", linewidth=1, zorder=0)
    axes.set(xlabel=key, ylabel=NAMES[tuned.metric])
    if choices:
        axes.set_xticks(range(len(choices)), choices)
    elif isinstance(part, Range) and part.log:
        axes.set_xscale("log")
