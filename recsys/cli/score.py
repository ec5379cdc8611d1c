"""`recsys score`: Parquet in, Parquet with scores out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from recsys.cli.app import Result, call
from recsys.cli.show import console, counts_notes
from recsys.data.sources import resolve
from recsys.models.checkpoint import load
from recsys.scoring.local import score_file

__all__ = ["main"]


def main(argv: Sequence[str]) -> Result:
    """Parse and run."""
    return call(command, argv, "recsys score")


def command(
    run: tyro.conf.Positional[Path],
    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(name="in", metavar="IN")],
    target: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(name="out", metavar="OUT")],
    keep: tuple[str, ...] = (),
    batch_size: int = 16_384,
) -> Result:
    """Score every row of a Parquet file, in order and in bounded memory.

    Args:
        run: Folder of a trained model.
        source: Parquet file to score, or SOURCE:SPLIT such as movielens-100k:test.
        target: Parquet file to write: the kept columns and `score`.
        keep: Columns to copy to the output.
        batch_size: Rows at a time.
    """
    scored = score_file(load(run), resolve(source), target, keep, batch_size)
    screen = console()
    screen.print(f"{scored.rows:,} rows in {scored.seconds:.1f} s ({scored.rows_per_second:,.0f} rows/s) -> {target}")
    for line in counts_notes(scored.counts):
        screen.print(line)
    return {
        "rows": scored.rows,
        "seconds": round(scored.seconds, 3),
        "rows_per_second": round(scored.rows_per_second),
        "out": str(target),
        "columns": list(scored.columns),
        "unknown": scored.counts.unknown,
        "missing": scored.counts.missing,
    }
