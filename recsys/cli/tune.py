"""`recsys tune`: from a recipe to a better one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro
from rich.table import Table

from recsys.cli.app import Result, call
from recsys.cli.show import NAMES, console
from recsys.cli.train import with_data
from recsys.training.recipe import find_recipe
from recsys.training.search import Choices, Range
from recsys.training.tuned import Trial, Tuned
from recsys.training.tuning import tune

__all__ = ["main"]


def main(argv: Sequence[str]) -> Result:
    """Parse and run."""
    return call(command, argv, "recsys tune")


def command(
    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(name="recipe", metavar="RECIPE|MODEL")],
    out: Path,
    trials: int = 30,
    source: str | None = None,
    schema: Path | None = None,
    train: tuple[Path, ...] = (),
    valid: tuple[Path, ...] = (),
    overwrite: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
) -> Result:
    """Search a recipe's hyper-parameters with Optuna, on the validation rows.

    The first trial is the recipe as it is. What is searched is the recipe's table [search], or what suits most models.
    An interrupted search goes on where it was when the same command is given again.

    Args:
        name: A recipe file (.toml), or a model: dcn2, dcnv2, deepfm, din, dlrm, lr.
        out: Folder to write best.toml, trials.csv and tuning.png to.
        trials: How many are to be finished in all, those of an interrupted search too.
        source: A source that `recsys data list` names, in place of the recipe's data.
        schema: Schema file (TOML) in place of the recipe's.
        train: Files or folders to train on (Parquet, CSV, TSV), in place of the recipe's.
        valid: Files or folders that say when to stop, in place of the recipe's.
        overwrite: Start again even if the folder holds another search.
    """
    recipe, screen = with_data(find_recipe(name), source, schema, train, valid, "recsys tune"), console()

    def report(tuned: Tuned) -> None:
        screen.print(_line(tuned, tuned.trials[-1], trials), highlight=False, soft_wrap=True)

    tuned = tune(recipe, trials, out, overwrite=overwrite, report=report)
    for line in _space_lines(tuned):
        screen.print(line, highlight=False, soft_wrap=True)
    screen.print(_best_table(tuned))
    if tuned.importances:
        told = "  ".join(f"{_short(key)} {share:.0%}" for key, share in tuned.importances.items())
        screen.print(f"importance   {told}", highlight=False, soft_wrap=True)
    screen.print(f"saved {out / 'best.toml'}, trials.csv, tuning.png", soft_wrap=True)
    screen.print(f"next: recsys train {out / 'best.toml'} --out FOLDER", soft_wrap=True)
    return tuned.to_json()


def _line(tuned: Tuned, trial: Trial, trials: int) -> str:
    value = "–" if trial.value is None else f"{trial.value:.4f}"
    parameters = "  ".join(f"{_short(key)} {_text(value)}" for key, value in trial.parameters.items())
    best = f"best {tuned.value:.4f}" + ("  *" if tuned.best == trial else "")
    pruned = f"  pruned: {trial.why}" if trial.state == "pruned" else ""
    spent = f"{trial.epochs} epochs  {trial.seconds:.1f} s"
    told = f"trial {trial.number:>3}/{trials}  {NAMES[tuned.metric]} {value}  {best}  {parameters}  {spent}{pruned}"
    return told.replace("[", r"\[")


def _space_lines(tuned: Tuned) -> list[str]:
    whose = "the recipe's own" if tuned.start.search else "the default one, for the recipe has no [search]"
    lines = [f"search space: {whose}", *(f"  {key}: {_extent(part)}" for key, part in tuned.space.items())]
    return [line.replace("[", r"\[") for line in lines]


def _extent(part: Range | Choices) -> str:
    if isinstance(part, Choices):
        return " | ".join(map(_text, part.choices))
    return f"{part.low:g} – {part.high:g}" + (", logarithmic" if part.log else "")


def _best_table(tuned: Tuned) -> Table:
    pruned = sum(trial.state == "pruned" for trial in tuned.trials)
    title = f"best of {len(tuned.trials)} trials, {pruned} of them pruned"
    table = Table(title=title, title_justify="left", min_width=len(title))
    for name in ("trial", NAMES[tuned.metric], "best epoch", *map(_short, tuned.space)):
        table.add_column(name, justify="right")
    for trial in tuned.ranked[:5]:
        values = [_text(value).replace("[", r"\[") for value in trial.parameters.values()]
        table.add_row(str(trial.number), f"{trial.value:.4f}", str(trial.best_epoch), *values)
    return table


def _short(key: str) -> str:
    return key.partition(".")[2]


def _text(value: object) -> str:
    if isinstance(value, tuple):
        value = list(value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)
