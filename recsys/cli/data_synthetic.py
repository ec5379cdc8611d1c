"""`recsys data synthetic`: clicks with planted effects, and the best AUC that a model can reach on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import tyro
from pydantic import ValidationError
from rich.table import Table

from recsys.cli.app import Result, call
from recsys.cli.show import console
from recsys.config import explain
from recsys.data.synthetic import Split, Synthetic, write
from recsys.errors import ConfigError

__all__ = ["main"]

DEFAULTS = Synthetic()


def main(argv: Sequence[str]) -> Result:
    """Parse and run.

    Raises:
        ConfigError: For an option that cannot be.
    """
    try:
        return call(command, argv, "recsys data synthetic")
    except ValidationError as error:
        raise ConfigError(explain(Synthetic, error)) from None


def command(
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")],
    rows: int = 300_000,
    valid_rows: int = 50_000,
    test_rows: int = 200_000,
    config: Annotated[Synthetic, tyro.conf.arg(name="")] = DEFAULTS,
) -> Result:
    """Make clicks with planted effects, and so with a known best possible AUC; equal options give equal rows.

    The column `probability` has each row's true probability; the schema does not name it.

    Args:
        out: Folder to write the splits, `schema.toml` and `synthetic.json` to; files of these names are replaced.
        rows: Rows of train.parquet; 0 leaves a file out, as for the next two.
        valid_rows: Rows of valid.parquet.
        test_rows: Rows of test.parquet.
        config: What the rows are like.
    """
    splits = write(config, out, {"train": rows, "valid": valid_rows, "test": test_rows})
    screen = console()
    screen.print(_table(splits))
    schema = out / "schema.toml"
    following = _next(out, splits)
    screen.print(f"folder: {out}\nschema: {schema}", markup=False, soft_wrap=True)
    if following:
        screen.print(f"\nnext: {following}", markup=False, soft_wrap=True)
    made = {name: {"file": str(out / f"{name}.parquet"), **asdict(split)} for name, split in splits.items()}
    return {"folder": str(out), "schema": str(schema), "config": config.model_dump(), "splits": made, "next": following}


def _table(splits: Mapping[str, Split]) -> Table:
    table = Table(title="synthetic clicks", title_justify="left")
    for column in ("split", "rows", "positive", "best possible AUC"):
        table.add_column(column, justify="left" if column == "split" else "right")
    for name, split in splits.items():
        best = "–" if split.best_auc is None else f"{split.best_auc:.4f}"
        table.add_row(name, f"{split.rows:,}", f"{split.positive:.1%}", best)
    return table


def _next(out: Path, splits: Mapping[str, Split]) -> str | None:
    """A training on the files, if they are enough for one."""
    if not {"train", "valid"} <= splits.keys():
        return None
    files = " ".join(f"--{name} {out / f'{name}.parquet'}" for name in ("train", "valid"))
    return f"recsys train dcn2 --schema {out / 'schema.toml'} {files} --out runs/dcn2-synthetic"
