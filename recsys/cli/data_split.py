"""`recsys data split`: from files to train, valid and test."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro
from rich.table import Table

from recsys.cli.app import Result, call
from recsys.cli.show import console
from recsys.data.schema import Format
from recsys.data.sources import resolve
from recsys.data.split_files import split_files

__all__ = ["main"]


def main(argv: Sequence[str]) -> Result:
    """Parse and run."""
    return call(command, argv, "recsys data split")


def command(
    files: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="FILE [FILE ...]")],
    out: Path,
    time: str | None = None,
    format: Format | None = None,
    fractions: tuple[float, float, float] = (0.8, 0.1, 0.1),
    seed: int = 0,
    overwrite: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
) -> Result:
    """Split rows into train.parquet, valid.parquet and test.parquet: at random, or by time.

    Args:
        files: Parquet, CSV or TSV files, or folders of them.
        out: Folder to write to.
        time: Column of times: the earliest rows go to train, the latest to test. By default rows go at random.
        format: Of text files that have no header or come as a known contest's.
        fractions: Of the rows, for train, valid and test.
        seed: Another one gives another random split.
        overwrite: Replace the files of an earlier split.
    """
    paths = [resolve(file) for file in files]
    written = split_files(
        paths, out, time=time, fractions=fractions, seed=seed, format=format, overwrite=overwrite, show=True
    )
    table = Table(title=f"split {'by time' if time else 'at random'}", title_justify="left")
    for column in ("split", "rows", "share", "file"):
        table.add_column(column, justify="right" if column in ("rows", "share") else "left", overflow="fold")
    total = sum(written.rows.values())
    for name, rows in written.rows.items():
        table.add_row(name, f"{rows:,}", f"{rows / total:.1%}", str(written.files[name]))
    console().print(table)
    return {
        "splits": {name: {"file": str(path), "rows": written.rows[name]} for name, path in written.files.items()},
        "by": time or "chance",
        "seed": seed,
    }
