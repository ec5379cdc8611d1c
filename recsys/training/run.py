"""Train from a recipe, and evaluate: what the commands, the scripts and the notebooks call."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from recsys.data.batch import Batch
from recsys.data.encoder import Counts, Encoder
from recsys.data.readers import Rows, open_parquet, tables
from recsys.data.schema import Schema
from recsys.data.sources import load as load_source
from recsys.errors import CheckpointError, DataError, SchemaError
from recsys.files import make_folder, write_text
from recsys.models.checkpoint import Checkpoint, is_checkpoint, save
from recsys.models.registry import build
from recsys.training.bootstrap import Interval, compare, evaluate
from recsys.training.recipe import DataConfig, Recipe
from recsys.training.trainer import Progress, Trainer, predict

__all__ = ["Metrics", "against", "encode_all", "evaluate_on", "plain", "train"]

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
    schema, train_rows, valid_rows = _data(recipe.data)
    if out is not None:
        _prepare(out, recipe, overwrite)
    encoder = _fit(schema, train_rows)
    counts = {"train": Counts(), "valid": Counts()}
    train_data = encode_all(encoder, train_rows, counts["train"])
    valid_data = encode_all(encoder, valid_rows, counts["valid"])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.training.seed)
        model = build(recipe.model, encoder.inputs)
    trainer = Trainer(
        model,
        train_data,
        valid_data,
        recipe.training,
        state_file=None if out is None else out / "training" / "state.safetensors",
        fingerprint=_fingerprint(recipe, encoder, train_data, valid_data),
        report=_logging(out, report),
    )
    progress = trainer.fit(show)
    account = _account(recipe, progress) | {"replaced": {split: c.sentences() for split, c in counts.items()}}
    checkpoint = Checkpoint(recipe.model, model, encoder, training=account)
    checkpoint.metrics = {"valid": plain(_measure(checkpoint, valid_data))}
    if out is not None:
        save(checkpoint, out, overwrite=True)
        shutil.rmtree(out / "training", ignore_errors=True)
    return checkpoint


def evaluate_on(checkpoint: Checkpoint, rows: Rows, counts: Counts | None = None, replicates: int = 500) -> Metrics:
    """Metrics of a checkpoint on labelled rows, with 95 % intervals clustered by user.

    Args:
        checkpoint: From `recsys.load`.
        rows: A Parquet file, an Arrow table or a DataFrame with labels.
        counts: Where missing and unknown values are counted.
        replicates: Of the bootstrap.
    """
    return _measure(checkpoint, encode_all(checkpoint.encoder, rows, counts), replicates)


def against(checkpoint: Checkpoint, other: Checkpoint, rows: Rows, replicates: int = 500) -> Metrics:
    """Paired differences, `checkpoint` minus `other`, on the same rows and the same resamples of users.

    Raises:
        SchemaError: When the two predict different labels.
    """
    names = [label.source for label in checkpoint.encoder.schema.labels]
    if names != [label.source for label in other.encoder.schema.labels]:
        raise SchemaError("the two runs predict different labels, so their metrics cannot be compared")
    data, data_other = encode_all(checkpoint.encoder, rows), encode_all(other.encoder, rows)
    scores, scores_other = predict(checkpoint.model, data), predict(other.model, data_other)
    assert data.labels is not None
    per_task = {
        task.name: compare(scores[:, t], scores_other[:, t], data.labels[:, t], data.groups, kind=task.kind,
                           replicates=replicates)
        for t, task in enumerate(checkpoint.encoder.inputs.tasks)
    }  # fmt: skip
    return _unnest(per_task)


def encode_all(encoder: Encoder, rows: Rows, counts: Counts | None = None) -> Batch:
    """All labelled rows as one encoded batch in memory.

    Raises:
        DataError: With the file's name, when it has no rows, or a column or a label is not as the schema says.
    """
    counts = Counts() if counts is None else counts
    with _naming(rows):
        return Batch.concat([encoder.encode(t, counts=counts) for t in tables(rows, _needed(encoder.schema))])


def _fit(schema: Schema, rows: Rows) -> Encoder:
    with _naming(rows):
        return Encoder.fit(schema, tables(rows, _needed(schema)))


@contextlib.contextmanager
def _naming(rows: Rows) -> Iterator[None]:
    """Begin what is wrong with the data with the name of its file."""
    try:
        yield
    except DataError as error:
        known = not isinstance(rows, (str, Path)) or str(error).startswith(str(rows))
        raise error if known else DataError(f"{rows}: {error}") from None


def _needed(schema: Schema) -> list[str]:
    columns = [*schema.columns, *(label.source for label in schema.labels), *([schema.group] if schema.group else [])]
    return list(dict.fromkeys(columns))


def _data(config: DataConfig) -> tuple[Schema, Path, Path]:
    """Schema, training file and validation file of a recipe."""
    if config.source is None:
        assert config.schema_file
        assert config.train
        assert config.valid
        schema, train_file, valid_file = Schema.load(config.schema_file), config.train, config.valid
    else:
        source = load_source(config.source)
        schema = Schema.load(config.schema_file or source.schema)
        train_file, valid_file = config.train or source.train, config.valid or source.valid
    for path in (train_file, valid_file):
        open_parquet(path).close()  # say what is wrong before anything is written
    return schema, train_file, valid_file


def _prepare(out: Path, recipe: Recipe, overwrite: bool) -> None:
    """Make sure that `out` can be written to. A finished run in it stays until the new one takes its place."""
    if is_checkpoint(out) and not overwrite:
        raise CheckpointError(f"{out}: holds a finished run; name another folder, or say overwrite")
    if overwrite:
        shutil.rmtree(out / "training", ignore_errors=True)
    make_folder(out / "training")
    write_text(
        out / "training" / "recipe.toml", recipe.toml()
    )  # says what is going on here, and that the disk takes it


def _fingerprint(recipe: Recipe, encoder: Encoder, train: Batch, valid: Batch) -> str:
    """Of all that decides a step: another model, optimiser, schema or data gives another one.

    How long to train and how often to save may change between a kill and the next call.
    """
    free = {"epochs", "patience", "save_seconds"}
    digest = hashlib.sha256(recipe.model_dump_json(exclude={"data": True, "training": free}).encode())
    digest.update(json.dumps(encoder.to_json(), sort_keys=True).encode())
    for batch in (train, valid):
        for tensor in (batch.dense, batch.ids.values, batch.ids.offsets, batch.labels):
            if tensor is not None:
                digest.update(tensor.contiguous().numpy())  # type: ignore[arg-type]
    return digest.hexdigest()


def _logging(out: Path | None, report: Callable[[Progress], None] | None) -> Callable[[Progress], None]:
    def log(progress: Progress) -> None:
        if out is not None:
            make_folder(out)
            lines = [json.dumps(record, allow_nan=False) + "\n" for record in progress.history]
            write_text(out / "log.jsonl", "".join(lines))
        if report is not None:
            report(progress)

    return log


def _account(recipe: Recipe, progress: Progress) -> dict[str, Any]:
    seconds = sum(record["seconds"] for record in progress.history)
    return {
        "recipe": recipe.model_dump(mode="json", exclude_none=True),
        "epochs": len(progress.history),
        "best_epoch": progress.best_epoch + 1,
        "seconds": round(seconds, 1),
        "samples_per_second": round(sum(r["samples_per_second"] for r in progress.history) / len(progress.history)),
    }


def _measure(checkpoint: Checkpoint, data: Batch, replicates: int = 500) -> Metrics:
    scores = predict(checkpoint.model, data)
    assert data.labels is not None
    per_task = {
        task.name: evaluate(scores[:, t], data.labels[:, t], data.groups, kind=task.kind, replicates=replicates)
        for t, task in enumerate(checkpoint.encoder.inputs.tasks)
    }
    return _unnest(per_task)


def _unnest(per_task: dict[str, dict[str, Interval]]) -> Metrics:
    return next(iter(per_task.values())) if len(per_task) == 1 else dict(per_task)


def plain(metrics: Metrics) -> dict[str, Any]:
    """Metrics as plain JSON values."""
    return {name: m.to_json() if isinstance(m, Interval) else plain(m) for name, m in metrics.items()}
