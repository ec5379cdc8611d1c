"""`recsys progressive`: predict then learn, once through the rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro
from rich.table import Table

from recsys.cli.app import Result, UsageError, call
from recsys.cli.show import console
from recsys.cli.train import with_data
from recsys.training.progressive import Progressive
from recsys.training.progressive_run import run_progressive
from recsys.training.recipe import Recipe, TrainingConfig, find_recipe

__all__ = ["main"]

PROG = "recsys progressive"

NAMES = {
    "mean": "mean AUC of the windows",
    "median": "median",
    "min": "least",
    "max": "greatest",
    "std": "standard deviation",
    "auc": "AUC of all rows",
    "log_loss": "log loss of all rows",
}


def main(argv: Sequence[str]) -> Result:
    """Read the recipe that the first argument names, so that its values are the defaults that --help shows."""
    if argv and argv[0] in ("-h", "--help"):
        return call(_command(find_recipe("dcn2")), ["--help"], PROG)
    if not argv or argv[0].startswith("-"):
        raise UsageError(f"name a recipe (.toml) or a model first, as in `{PROG} dcn2 --out runs/pass`")
    return call(_command(find_recipe(argv[0])), argv, PROG)


def _command(recipe: Recipe) -> Any:
    """The command with the recipe's values as its defaults."""
    model_class = type(recipe.model)

    def command(
        name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(name="recipe", metavar="RECIPE|MODEL")],
        out: Path,
        bits: int = 18,
        hashes: int = 1,
        window: int = 20_000,
        source: str | None = None,
        schema: Path | None = None,
        train: tuple[Path, ...] = (),
        valid: tuple[Path, ...] = (),
        overwrite: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
        model: Any = recipe.model,
        training: TrainingConfig = recipe.training,
    ) -> Result:
        """Go once through the rows in the order of time: predict a batch, then learn from it.

        Every value is hashed into one table, so nothing is learnt before the pass; measured is AUC over windows. All
        rows of a source count, those to test on too; of your own files those to train on, then those to validate on.

        Args:
            name: A recipe file (.toml), or a model: dcn2, dcnv2, deepfm, din, dlrm, lr.
            out: Folder to write the trained model, windows.csv and windows.png to.
            bits: The table has 2^bits rows.
            hashes: How many rows a value reads, by as many hashes, each as much narrower; the paper has one.
            window: Rows of a window.
            source: A source that `recsys data list` names, in place of the recipe's data.
            schema: Schema file (TOML) in place of the recipe's.
            train: Files or folders (Parquet, CSV, TSV), in place of the recipe's.
            valid: Files or folders that come after them.
            overwrite: Start again even if the folder holds a run.
            model: The model.
            training: How steps are taken: batch size, optimisers, rates and seed.
        """
        changed = with_data(recipe, source, schema, train, valid or train, PROG)  # nothing is held out
        changed = changed.model_copy(update={"model": model, "training": training})
        checkpoint, found = run_progressive(changed, bits, window, out, hashes=hashes, overwrite=overwrite)
        return _show(found, checkpoint.training, out)

    command.__annotations__["model"] = model_class
    command.__annotations__["training"] = TrainingConfig
    return command


def _show(found: Progressive, training: dict[str, Any], out: Path) -> Result:
    screen, summary = console(), found.summary()
    title = f"{len(found.scores):,} rows, {len(found.aucs):,} windows of {found.window:,}"
    table = Table(title=title, title_justify="left", min_width=len(title))
    table.add_column("metric")
    table.add_column("value", justify="right")
    for key, name in NAMES.items():
        table.add_row(name, f"{summary[key]:.4f}")
    table.add_row("rows/s", f"{training['samples_per_second']:,}")
    screen.print(table)
    screen.print(f"saved {out}\nnext: recsys score {out} IN.parquet OUT.parquet", markup=False, soft_wrap=True)
    windows = [None if value != value else value for value in found.aucs]
    return {"run": str(out), "progressive": summary, "windows": windows, "training": training}
