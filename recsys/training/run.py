"""Train from a recipe, and evaluate: what the commands, the scripts and the notebooks call."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from recsys.data.ahead import ahead
from recsys.data.batch import Batch
from recsys.data.encoder import Counts, Encoder
from recsys.data.readers import Dataset, Rows
from recsys.data.report import report as report_features
from recsys.data.schema import Schema
from recsys.data.sources import load as load_source
from recsys.data.stream import Examples, Resident, named_tables, needed
from recsys.errors import CheckpointError, DataError, SchemaError
from recsys.files import locked, make_folder, write_text
from recsys.models.checkpoint import Checkpoint, is_checkpoint, save
from recsys.models.registry import AnyModelConfig, build
from recsys.training.bootstrap import Interval, compare, evaluate
from recsys.training.prepare import Prepared, outline, prepare
from recsys.training.recipe import DataConfig, Recipe, TrainingConfig
from recsys.training.trainer import EVAL_BATCH, Progress, Trainer, predict_all

__all__ = [
    "Metrics",
    "against",
    "check_fit",
    "claimed",
    "evaluate_on",
    "logging",
    "open_data",
    "plain",
    "train",
    "train_rows",
]

Metrics = dict[str, Any]
"""Metric name -> `Interval`; with several tasks, task name -> such a dict."""


def train(
    recipe: Recipe,
    out: Path | None = None,
    *,
    overwrite: bool = False,
    show: bool = True,
    report: Callable[[Progress], None] | None = None,
) -> Checkpoint:
    """Train what a recipe describes.

    With `out`, the training's state is kept in ``out/training`` and an interrupted call goes on where it was; at the
    end `out` is a checkpoint folder with ``log.jsonl``, one record an epoch.

    Args:
        recipe: The model, its data and how.
        out: Folder of the checkpoint; None keeps it in memory.
        overwrite: Start again even if `out` holds a checkpoint or another training.
        show: Progress bars on standard error.
        report: Called after every epoch.

    Raises:
        CheckpointError: When `out` holds a finished checkpoint, or an unfinished training of another recipe.
        DataError: When the data cannot be read.
        SchemaError: When the data cannot feed the model.
    """
    schema, rows = open_data(recipe.data)
    check_fit(recipe.model, schema)
    lock = contextlib.nullcontext() if out is None else claimed(out, recipe.toml(), overwrite)
    with lock:
        checkpoint = _trained(recipe, schema, rows, out, show, report)
        if out is not None:
            save(checkpoint, out, overwrite=True)
            shutil.rmtree(out / "training", ignore_errors=True)
    return checkpoint


def train_rows(
    model: AnyModelConfig, training: TrainingConfig, schema: Schema, train: Rows, valid: Rows, *, show: bool = True
) -> Checkpoint:
    """Train on rows that are at hand, such as Arrow tables or DataFrames; nothing is written.

    Args:
        model: The model's arguments.
        training: How.
        schema: What the columns mean.
        train: Rows to train on.
        valid: Rows that say when to stop.
        show: Progress bars on standard error.

    Raises:
        DataError: When the rows are not as the schema says.
        SchemaError: When the data cannot feed the model.
    """
    recipe = Recipe(model=model, data=DataConfig(source="rows in memory"), training=training)
    check_fit(model, schema)
    return _trained(recipe, schema, _opened(schema, train, valid), None, show, None)


def _trained(
    recipe: Recipe,
    schema: Schema,
    rows: tuple[Dataset, Dataset],
    out: Path | None,
    show: bool,
    report: Callable[[Progress], None] | None,
) -> Checkpoint:
    folder = None if out is None else out / "training"
    prepared = prepare(schema, *rows, recipe.training.shuffle_rows, folder, show)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.training.seed)
        model = build(recipe.model, prepared.encoder.inputs)
    trainer = Trainer(
        model,
        prepared.train,
        prepared.valid,
        recipe.training,
        state_file=None if folder is None else folder / "state.safetensors",
        fingerprint=_fingerprint(recipe, prepared.encoder, rows),
        report=logging(out, report),
    )
    progress = trainer.fit(show)
    checkpoint = Checkpoint(recipe.model, model, prepared.encoder, training=_account(recipe, progress, prepared))
    checkpoint.metrics = {"valid": plain(_measure(checkpoint, prepared.valid))}
    return checkpoint


def evaluate_on(checkpoint: Checkpoint, rows: Rows, counts: Counts | None = None, replicates: int = 500) -> Metrics:
    """Metrics of a checkpoint on labelled rows, with 95 % intervals clustered by user.

    Rows are read and scored in batches; kept are scores, labels and users, 24 bytes a row.

    Args:
        checkpoint: From `recsys.load`.
        rows: Files, an Arrow table or a DataFrame with labels.
        counts: Where missing and unknown values are counted.
        replicates: Of the bootstrap; of more than 200,000 rows fewer are drawn, 10^8 / rows but at least 50.
    """
    scores, labels, groups = _predicted([checkpoint], rows, counts)
    return _metrics(checkpoint, scores[0], labels, groups, replicates)


def against(
    checkpoint: Checkpoint, other: Checkpoint, rows: Rows, counts: Counts | None = None, replicates: int = 500
) -> tuple[Metrics, Metrics]:
    """Metrics of `checkpoint`, and its paired differences to `other` on the same rows and the same resamples of users.

    Raises:
        SchemaError: When the two predict different labels.
    """
    ours, theirs = ([(t.source, t.positive) for t in c.encoder.schema.labels] for c in (checkpoint, other))
    if ours != theirs:
        raise SchemaError("the two runs predict different labels, so their metrics cannot be compared")
    (scores, others), labels, groups = _predicted([checkpoint, other], rows, counts)
    replicates = _affordable(replicates, len(labels))
    per_task = {
        task.name: compare(scores[:, t], others[:, t], labels[:, t], groups, kind=task.kind, replicates=replicates)
        for t, task in enumerate(checkpoint.encoder.inputs.tasks)
    }
    return _metrics(checkpoint, scores, labels, groups, replicates), _unnest(per_task)


def _predicted(
    checkpoints: Sequence[Checkpoint], rows: Rows, counts: Counts | None
) -> tuple[list[Tensor], Tensor, Tensor | None]:
    """Predictions of each checkpoint, labels and groups (of the first), from one pass over the rows."""
    columns = list(dict.fromkeys(name for c in checkpoints for name in needed(c.encoder.schema)))
    data = Dataset(rows, checkpoints[0].encoder.schema.format, columns)
    counted = [counts if counts is not None else Counts(), *(Counts() for _ in checkpoints[1:])]

    def encoded() -> Iterator[list[Batch]]:
        for table, naming in named_tables(data, columns):
            with naming():
                yield [c.encoder.encode(table, counts=n) for c, n in zip(checkpoints, counted, strict=True)]

    small = (part for batches in ahead(encoded()) for part in zip(*map(_parts, batches), strict=True))
    scores, labels, groups = predict_all([checkpoint.model for checkpoint in checkpoints], small)
    if labels is None:
        raise DataError("the data has no rows")
    return scores, labels, groups


def _parts(batch: Batch) -> Iterator[Batch]:
    return Resident(batch).in_order(EVAL_BATCH)


def open_data(config: DataConfig) -> tuple[Schema, tuple[Dataset, Dataset]]:
    """Schema, training rows and validation rows of a recipe.

    Raises:
        DataError: When a file is not there, or lacks a column that the schema names.
    """
    if config.source is None:
        assert config.schema_file
        schema, train_files, valid_files = Schema.load(config.schema_file), config.train, config.valid
    else:
        source = load_source(config.source)
        schema = Schema.load(config.schema_file or source.schema)
        train_files, valid_files = config.train or (source.train,), config.valid or (source.valid,)
    return schema, _opened(schema, train_files, valid_files)


def _opened(schema: Schema, train: Rows, valid: Rows) -> tuple[Dataset, Dataset]:
    """Both data sets, with all the columns that are needed: what is wrong is said before anything is written."""
    columns = needed(schema)
    train_data, valid_data = (Dataset(rows, schema.format, columns) for rows in (train, valid))
    for data in (train_data, valid_data):
        data.need(columns)
    return train_data, valid_data


def check_fit(config: AnyModelConfig, schema: Schema) -> None:
    """Build the model with tables of a few rows: what it cannot take is said before the data is read.

    Raises:
        SchemaError: When data of this schema cannot feed the model.
    """
    with torch.random.fork_rng(devices=[]):
        build(config, outline(schema))


@contextlib.contextmanager
def claimed(out: Path, recipe: str, overwrite: bool) -> Iterator[None]:
    """Keep other processes from training into `out` at the same time, and make sure that it can be written to.

    A finished run in it stays until the new one takes its place.

    Args:
        out: Folder of a run.
        recipe: What is going on there, as TOML.
        overwrite: Start again even if it holds a run.

    Raises:
        CheckpointError: When it holds a finished run.
        DataError: When the disk refuses.
    """
    make_folder(out.parent)
    with locked(out.with_name(f".{out.name}.lock")):
        if is_checkpoint(out) and not overwrite:
            raise CheckpointError(f"{out}: holds a finished run; name another folder, or say overwrite")
        if overwrite:
            shutil.rmtree(out / "training", ignore_errors=True)
        make_folder(out / "training")
        write_text(out / "training" / "recipe.toml", recipe)  # says what is going on here, and that the disk takes it
        yield


def _fingerprint(recipe: Recipe, encoder: Encoder, rows: tuple[Dataset, Dataset]) -> str:
    """Of all that decides a step: another model, optimiser, schema or data gives another one.

    How long to train and how often to save may change between a kill and the next call.
    """
    free = {"epochs", "patience", "save_seconds"}
    digest = hashlib.sha256(recipe.model_dump_json(exclude={"data": True, "search": True, "training": free}).encode())
    digest.update(json.dumps(encoder.to_json(), sort_keys=True).encode())
    digest.update(json.dumps([data.identity() for data in rows]).encode())
    return digest.hexdigest()


def logging(out: Path | None, report: Callable[[Progress], None] | None) -> Callable[[Progress], None]:
    """A report that also keeps ``log.jsonl`` in the run's folder, one record an epoch."""

    def log(progress: Progress) -> None:
        if out is not None:
            make_folder(out)
            lines = [json.dumps(record, allow_nan=False) + "\n" for record in progress.history]
            write_text(out / "log.jsonl", "".join(lines))
        if report is not None:
            report(progress)

    return log


def _account(recipe: Recipe, progress: Progress, prepared: Prepared) -> dict[str, Any]:
    seconds = sum(record["seconds"] for record in progress.history)
    counts = {"train": prepared.encoder.fitted.counts, "valid": prepared.counts}
    return {
        "recipe": recipe.model_dump(mode="json", exclude={"search"}, exclude_none=True),
        "epochs": len(progress.history),
        "best_epoch": progress.best_epoch + 1,
        "seconds": round(seconds, 1),
        "samples_per_second": round(sum(r["samples_per_second"] for r in progress.history) / len(progress.history)),
        "features": [line.to_json() for line in report_features(prepared.encoder, *counts.values())],
        "replaced": {split: found.sentences() for split, found in counts.items()},
    }


def _measure(checkpoint: Checkpoint, data: Examples, replicates: int = 500) -> Metrics:
    batches = ((batch,) for batch in data.in_order(EVAL_BATCH))
    scores, labels, groups = predict_all([checkpoint.model], batches)
    assert labels is not None
    return _metrics(checkpoint, scores[0], labels, groups, replicates)


def _metrics(checkpoint: Checkpoint, scores: Tensor, labels: Tensor, groups: Tensor | None, replicates: int) -> Metrics:
    replicates = _affordable(replicates, len(labels))
    per_task = {
        task.name: evaluate(scores[:, t], labels[:, t], groups, kind=task.kind, replicates=replicates)
        for t, task in enumerate(checkpoint.encoder.inputs.tasks)
    }
    return _unnest(per_task)


def _affordable(replicates: int, rows: int) -> int:
    """500 replicates of a million rows take half a minute, and many rows need fewer: their intervals are narrow."""
    return min(replicates, max(50, 10**8 // max(rows, 1)))


def _unnest(per_task: dict[str, dict[str, Interval]]) -> Metrics:
    return next(iter(per_task.values())) if len(per_task) == 1 else dict(per_task)


def plain(metrics: Metrics) -> dict[str, Any]:
    """Metrics as plain JSON values."""
    return {name: m.to_json() if isinstance(m, Interval) else plain(m) for name, m in metrics.items()}
