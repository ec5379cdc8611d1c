"""`recsys eval`: measure a run on labelled rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import tyro

from recsys.cli.app import Result, call
from recsys.cli.show import console, counts_notes, metrics_tables
from recsys.data.encoder import Counts
from recsys.data.sources import resolve
from recsys.models.checkpoint import load
from recsys.training.run import against as compare_runs
from recsys.training.run import evaluate_on, plain

__all__ = ["main"]


def main(argv: Sequence[str]) -> Result:
    """Parse and run."""
    return call(command, argv, "recsys eval")


def command(run: tyro.conf.Positional[Path], data: str, against: Path | None = None, replicates: int = 500) -> Result:
    """Measure a trained model on labelled rows, with 95 % intervals from a bootstrap over users.

    Args:
        run: Folder of a trained model.
        data: A file or a folder (Parquet, CSV, TSV), or SOURCE:SPLIT such as movielens-100k:test.
        against: Another run: print the paired differences, run minus this one.
        replicates: Of the bootstrap.
    """
    path, counts, screen = resolve(data), Counts(), console()
    checkpoint = load(run)
    if checkpoint.training.get("protocol", {}).get("name") == "progressive":
        screen.print(f"note: {run} was trained in one pass over all rows of its data, those to test on among them")
    difference = None
    if against is None:
        metrics = plain(evaluate_on(checkpoint, path, counts, replicates))
    else:
        metrics, difference = map(plain, compare_runs(checkpoint, load(against), path, counts, replicates))
    for table in metrics_tables(metrics, f"{run} on {data} ({counts.rows:,} rows)"):
        screen.print(table)
    for line in counts_notes(counts):
        screen.print(line)
    result = {"run": str(run), "rows": counts.rows, "metrics": metrics}
    if difference is not None:
        for table in metrics_tables(difference, f"{run} minus {against}, paired"):
            screen.print(table)
        result |= {"against": str(against), "difference": difference}
    return result
