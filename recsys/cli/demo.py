"""`recsys demo`: the main job on real data in a few minutes."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.table import Table
from torch import Tensor

from recsys.cli.app import Result, call
from recsys.cli.show import console, interval
from recsys.config import override
from recsys.data.batch import Batch
from recsys.data.sources import Source, fetch
from recsys.data.stream import encode_all
from recsys.errors import DataError
from recsys.models.checkpoint import Checkpoint
from recsys.scoring.local import score
from recsys.training.bootstrap import compare
from recsys.training.figures import compare_models
from recsys.training.recipe import find_recipe
from recsys.training.run import evaluate_on, plain, train
from recsys.training.trainer import Progress, predict

__all__ = ["main"]

MODELS = ("dcn2", "dcnv2", "deepfm", "lr")


def main(argv: Sequence[str]) -> Result:
    """Parse and run."""
    return call(command, argv, "recsys demo")


@dataclass(frozen=True)
class _Arm:
    checkpoint: Checkpoint
    history: list[dict[str, Any]]
    metrics: dict[str, Any]
    rows: Batch
    scores: Tensor


def command(
    out: Path = Path("demo"), source: Literal["movielens-100k", "adult"] = "movielens-100k", epochs: int = 20
) -> Result:
    """Train DCN², DCNv2, DeepFM and logistic regression on real data, compare them, and score a file.

    MovieLens-100K is fetched once (100,000 ratings); without a network the bundled census data (`adult`) is used.

    Args:
        out: Folder for runs, figure and scores; runs of an earlier demo there are replaced.
        source: The data.
        epochs: Most epochs a model.
    """
    screen = console()
    data = _fetch(source, screen.print)
    arms = {}
    for name in MODELS:
        screen.print(f"training {name} …")
        arms[name] = _train(name, data, out / name, epochs)
    labels = arms["dcn2"].rows.labels
    assert labels is not None
    beaten = _paired_auc(arms)
    figure = compare_models(
        {name: arm.history for name, arm in arms.items()},
        {name: arm.metrics for name, arm in arms.items()},
        {name: arm.scores for name, arm in arms.items()},
        labels[:, 0],
        f"{data.name}: {len(labels):,} test rows",
    )
    figure.savefig(out / "comparison.png", dpi=120)
    group = arms["dcn2"].checkpoint.encoder.schema.group
    keep = [name for name in (group, "item") if group and name]
    scored = score(arms["dcn2"].checkpoint, data.test, out / "scored.parquet", keep)
    screen.print(_table(arms, beaten, data))
    screen.print(f"figure   {out / 'comparison.png'}")
    screen.print(f"scores   {out / 'scored.parquet'} ({scored.rows:,} rows, {scored.rows_per_second:,.0f} rows/s)")
    screen.print("\nnext:")
    for line in _next(out, data):
        screen.print(f"  {line}")
    return {
        "source": data.name,
        "models": {name: _summary(arm) | {"auc_minus_baseline": beaten[name]} for name, arm in arms.items()},
        "figure": str(out / "comparison.png"),
        "scored": str(out / "scored.parquet"),
        "rows_per_second": round(scored.rows_per_second),
    }


def _fetch(name: str, say: Any) -> Source:
    try:
        return fetch(name)
    except DataError as error:
        if name == "adult":
            raise
        say(f"{error}\nusing the bundled data set `adult` instead")
        return fetch("adult")


def _train(name: str, data: Source, out: Path, epochs: int) -> _Arm:
    changes = {"data": {"source": data.name}, "training.epochs": epochs}
    recipe = override(find_recipe(name), changes)
    history: list[dict[str, Any]] = []

    def keep(progress: Progress) -> None:
        history[:] = progress.history

    shutil.rmtree(out, ignore_errors=True)
    checkpoint = train(recipe, out, report=keep)
    rows = encode_all(checkpoint.encoder, data.test)
    metrics = plain(evaluate_on(checkpoint, data.test))
    return _Arm(checkpoint, history, metrics, rows, predict(checkpoint.model, rows)[:, 0])


def _paired_auc(arms: dict[str, _Arm]) -> dict[str, dict[str, float | None]]:
    """AUC of each model minus that of the last one, the baseline, on the same resamples of users."""
    base = arms[MODELS[-1]]
    assert base.rows.labels is not None
    labels, groups = base.rows.labels[:, 0], base.rows.groups
    return {n: compare(arm.scores, base.scores, labels, groups)["auc"].to_json() for n, arm in arms.items()}


def _table(arms: dict[str, _Arm], beaten: dict[str, dict[str, float | None]], data: Source) -> Table:
    table = Table(title=f"{data.name}, test rows; 95 % intervals from a bootstrap over users", title_justify="left")
    for column in ("model", "AUC", f"AUC minus {MODELS[-1]}, paired", "log loss", "per-user AUC", "rows/s", "tables"):
        table.add_column(column, justify="left" if column == "model" else "right")
    for name, arm in arms.items():
        user_auc = arm.metrics.get("user_auc")
        table.add_row(
            name,
            interval(arm.metrics["auc"]),
            "" if name == MODELS[-1] else interval(beaten[name]),
            interval(arm.metrics["log_loss"]),
            interval(user_auc) if user_auc else "–",
            f"{arm.checkpoint.training['samples_per_second']:,}",
            f"{_table_bytes(arm.checkpoint) / 1e6:.2f} MB",
        )
    return table


def _table_bytes(checkpoint: Checkpoint) -> int:
    return sum(view.numel() * view.element_size() for _, view in checkpoint.model.tables.named_tables())


def _summary(arm: _Arm) -> dict[str, Any]:
    return {
        "metrics": arm.metrics,
        "samples_per_second": arm.checkpoint.training["samples_per_second"],
        "table_bytes": _table_bytes(arm.checkpoint),
        "epochs": arm.checkpoint.training["epochs"],
    }


def _next(out: Path, data: Source) -> list[str]:
    return [
        f"recsys train dlrm --source {data.name} --out runs/dlrm",
        f"recsys eval {out / 'dcn2'} --data {data.name}:test --against {out / 'dcnv2'}",
        f"recsys score {out / 'dcn2'} {data.name}:test scores.parquet --json",
    ]
