"""`recsys eval` of a model that says what comes next: beside what is popular and what came last."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rich.table import Table

from recsys.cli.app import Result
from recsys.cli.show import console, interval
from recsys.data.history_data import HistoryData
from recsys.data.history_sources import HISTORY_SOURCES
from recsys.errors import ConfigError
from recsys.models.checkpoint import Checkpoint
from recsys.models.generative.recommender import Recommender
from recsys.training.bootstrap import Interval
from recsys.training.sequence_run import Split, evaluate_recommender

__all__ = ["eval_sequence", "histories_named"]


def eval_sequence(
    run: Path,
    recommender: Recommender,
    data: str | None,
    against: Path | None,
    other: Recommender | Checkpoint | None,
    replicates: int,
    split: Split,
) -> Result:
    """Ask, print a table with a column for each contender, and return the same."""
    histories = None if data is None else histories_named(data, recommender)
    measured = evaluate_recommender(recommender, histories, split)
    ours = measured[recommender.config.name]
    found = {name: one.intervals(replicates) for name, one in measured.items()}
    result = {
        "run": str(run),
        "split": split,
        "protocol": ours.protocol.model_dump(mode="json"),
        "questions": len(ours.ranks),
        "metrics": {who: {name: one.to_json() for name, one in row.items()} for who, row in found.items()},
    }
    if other is not None:
        if not isinstance(other, Recommender):
            raise ConfigError(f"{against} holds a ranker, which cannot be asked what comes next")
        theirs = evaluate_recommender(other, histories, split)[other.config.name]
        gains = ours.over(theirs, replicates)
        found[f"minus {against}, paired"] = gains
        result |= {"against": str(against), "difference": {name: one.to_json() for name, one in gains.items()}}
    told = f"{run}: {len(ours.ranks):,} {split} questions, {ours.protocol.split}, all items ranked"
    console().print(_table(found, f"{told}, seen {ours.protocol.seen}"))
    return result


def histories_named(data: str, recommender: Recommender) -> HistoryData:
    """A source of histories by name, a line a user (.txt), or interactions; read as the run's own data."""
    own = HistoryData.parse(recommender.training["recipe"]["data"], "the run's recipe")
    if data in HISTORY_SOURCES:
        return own.replaced(source=data)
    return own.replaced(lines=Path(data)) if data.endswith(".txt") else own.replaced(events=(Path(data),))


def _table(found: Mapping[str, Mapping[str, Interval]], title: str) -> Table:
    table = Table(title=title, title_justify="left", min_width=len(title))
    table.add_column("metric")
    for name in found:
        table.add_column(name, justify="right")
    for metric in next(iter(found.values())):
        if not metric.startswith("recall"):  # of one answer a question it is the hit rate
            table.add_row(metric, *(interval(row[metric].to_json()) for row in found.values()))
    return table
