"""`recsys eval`: measure a run on labelled rows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import tyro

from recsys.cli.app import Result, call
from recsys.cli.eval_sequence import eval_sequence
from recsys.cli.show import console, counts_notes, metrics_tables
from recsys.data.encoder import Counts
from recsys.data.sources import resolve
from recsys.errors import ConfigError
from recsys.models.checkpoint import Checkpoint
from recsys.models.checkpoint import load as load_ranker
from recsys.models.generative.recommender import Recommender
from recsys.models.loading import load
from recsys.training.run import against as compare_runs
from recsys.training.run import evaluate_on, plain
from recsys.training.sequence_run import Split

__all__ = ["main"]


def main(argv: Sequence[str]) -> Result:
    """Parse and run."""
    return call(command, argv, "recsys eval")


def command(
    run: tyro.conf.Positional[Path],
    data: str | None = None,
    against: Path | None = None,
    replicates: int = 500,
    split: Split = "test",
) -> Result:
    """Measure a trained model, with 95 % intervals from a bootstrap over users.

    A ranker is measured on labelled rows; a model that says what comes next, on the questions that its protocol holds
    out, beside what is popular and what came last.

    Args:
        run: Folder of a trained model.
        data: A file or a folder (Parquet, CSV, TSV), or SOURCE:SPLIT such as movielens-100k:test. Of a model that says
            what comes next: interactions, a line a user (.txt), or a source such as wikipedia; by default its own data.
        against: Another run: print the paired differences, run minus this one.
        replicates: Of the bootstrap.
        split: Of a model that says what comes next: which questions.
    """
    checkpoint = load(run)
    if isinstance(checkpoint, Recommender):
        other = None if against is None else load(against)
        return eval_sequence(run, checkpoint, data, against, other, replicates, split)
    if split != "test":
        raise ConfigError("split is of models that say what comes next; a ranker is given its rows by --data")
    if data is None:
        raise ConfigError("a ranker is measured on labelled rows: add --data FILE, or SOURCE:SPLIT")
    return _ranker(run, checkpoint, data, against, replicates)


def _ranker(run: Path, checkpoint: Checkpoint, data: str, against: Path | None, replicates: int) -> Result:
    path, counts, screen = resolve(data), Counts(), console()
    if checkpoint.training.get("protocol", {}).get("name") == "progressive":
        screen.print(f"note: {run} was trained in one pass over all rows of its data, those to test on among them")
    difference = None
    if against is None:
        metrics = plain(evaluate_on(checkpoint, path, counts, replicates))
    else:
        metrics, difference = map(plain, compare_runs(checkpoint, load_ranker(against), path, counts, replicates))
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
