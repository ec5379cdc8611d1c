"""`recsys train`: from a recipe to a run folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from recsys.cli.app import Result, UsageError, call
from recsys.cli.epochs import reporter
from recsys.cli.show import console, features_table, metrics_tables
from recsys.cli.train_sequence import sequence_command
from recsys.config import override
from recsys.errors import ConfigError
from recsys.training.recipe import Recipe, TrainingConfig, find_recipe
from recsys.training.run import train
from recsys.training.sequence_recipe import SequenceRecipe, find_any_recipe

__all__ = ["main", "with_data"]

PROG = "recsys train"


def main(argv: Sequence[str]) -> Result:
    """Read the recipe that the first argument names, so that its values are the defaults that --help shows."""
    if argv and argv[0] in ("-h", "--help"):
        return call(_command(find_recipe("dcn2")), ["--help"], PROG)
    if not argv or argv[0].startswith("-"):
        raise UsageError("name a recipe (.toml) or a model first, as in `recsys train dcn2 --out runs/dcn2`")
    recipe = find_any_recipe(argv[0])
    made = sequence_command(recipe) if isinstance(recipe, SequenceRecipe) else _command(recipe)
    return call(made, argv, PROG)


def _command(recipe: Recipe) -> Any:
    """The command with the recipe's values as its defaults."""
    model_class = type(recipe.model)

    def command(
        name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(name="recipe", metavar="RECIPE|MODEL")],
        out: Path,
        source: str | None = None,
        schema: Path | None = None,
        train: tuple[Path, ...] = (),
        valid: tuple[Path, ...] = (),
        overwrite: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
        model: Any = recipe.model,
        training: TrainingConfig = recipe.training,
    ) -> Result:
        """Train a model from a recipe, or from a model's name with its default recipe.

        An interrupted training goes on where it was when the same command is given again.

        Args:
            name: A recipe file (.toml), or a model: dcn2, dcnv2, deepfm, din, dlrm, lr; hstu, sasrec.
            out: Folder to write the run to.
            source: A source that `recsys data list` names, in place of the recipe's data.
            schema: Schema file (TOML) in place of the recipe's.
            train: Files or folders to train on (Parquet, CSV, TSV), in place of the recipe's.
            valid: Files or folders that say when to stop, in place of the recipe's.
            overwrite: Start again even if the folder holds a run.
            model: The model.
            training: How it is trained.
        """
        changed = with_data(recipe, source, schema, train, valid)
        return _run(changed.model_copy(update={"model": model, "training": training}), out, overwrite)

    command.__annotations__["model"] = model_class
    command.__annotations__["training"] = TrainingConfig
    return command


def with_data(
    recipe: Recipe,
    source: str | None,
    schema: Path | None,
    train_files: tuple[Path, ...],
    valid: tuple[Path, ...],
    prog: str = PROG,
) -> Recipe:
    """The recipe with other data: a named source, or the user's own files.

    Raises:
        ConfigError: When own files come without a schema, or what is named does not fit together.
    """
    if source is None and schema is None and not train_files and not valid:
        return recipe
    files = {"schema_file": schema, "train": train_files, "valid": valid}
    own_files = source is None and bool(train_files)
    if own_files and schema is None and recipe.data.schema_file is None:
        raise ConfigError("your own files need a schema that says what their columns mean: add --schema FILE")
    base = {} if source else recipe.data.model_dump()
    if own_files:
        base |= {"source": None}
    data = base | {"source": source or base.get("source")} | {key: value for key, value in files.items() if value}
    changed: Recipe = override(recipe, {"data": data}, prog)
    return changed


def _run(recipe: Recipe, out: Path, overwrite: bool) -> Result:
    screen = console()
    checkpoint = train(recipe, out, overwrite=overwrite, report=reporter(screen, "samples_per_second", "rows/s"))
    for table in metrics_tables(checkpoint.metrics["valid"], "validation rows"):
        screen.print(table)
    screen.print(features_table(checkpoint.training["features"]))
    screen.print(f"saved {out}\nnext: recsys eval {out} --data FILE    recsys score {out} IN.parquet OUT.parquet")
    return {"run": str(out), "metrics": checkpoint.metrics, "training": checkpoint.training}
