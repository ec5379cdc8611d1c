"""A trained model as a folder that needs nothing else, and that loads whole or not at all.

    config.json         the model, how it was trained, and the size and SHA-256 of every file that loading reads
    schema.json         features and the encoder's state
    model.safetensors   one array a table and a weight; sharded over 5 GB
    metrics.json        what it reached
    README.md           a model card made from these

`config.json` is the seal: removed first when a folder is written again, and written last.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

import recsys
from recsys.data.batch import Batch
from recsys.data.encoder import Counts, Encoder
from recsys.data.readers import Rows, tables
from recsys.errors import CheckpointError, DataError
from recsys.files import make_folder, read_json, sweep, write_json, write_text
from recsys.models.base import ModelConfig, RankingModel
from recsys.models.registry import AnyModelConfig, build
from recsys.models.weights import read_weights, write_weights
from recsys.seals import Sealed, vouch
from recsys.shelves import shelf
from recsys.threads import suited_threads

__all__ = ["Checkpoint", "found", "is_checkpoint", "is_recommender", "load", "outline", "save"]

FORMAT = 1


class Seal(Sealed):
    """The contents of `config.json`."""

    model: AnyModelConfig
    training: dict[str, Any]


@dataclass
class Checkpoint:
    """A trained model and all that predicting needs.

    Attributes:
        config: The model's arguments.
        model: The model itself, in evaluation mode after `load`.
        encoder: From columns to batches.
        metrics: What it reached, by split: ``{"valid": {"auc": {"value": …, "low": …, "high": …}}}``.
        training: How it was trained: the recipe as plain values.
    """

    config: ModelConfig
    model: RankingModel
    encoder: Encoder
    metrics: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)

    def predict(self, rows: Rows, batch_size: int = 4096, counts: Counts | None = None) -> np.ndarray[Any, Any]:
        """Scores of rows: [n] float32, or [n, tasks] for several tasks; float64 if one of them is a regression.

        Args:
            rows: Files, an Arrow table or a DataFrame with the schema's columns.
            batch_size: Rows at a time.
            counts: Where missing and unknown values are counted.

        Raises:
            DataError: When a column is absent or mistyped.
        """
        parts = [
            self.predict_batch(self.encoder.encode(table, labels=False, counts=counts))
            for table in tables(rows, self.encoder.schema.columns, batch_size, self.encoder.schema.format)
        ]
        labels = self.encoder.schema.labels
        dtype = np.float32 if all(label.kind == "binary" for label in labels) else np.float64
        scores = np.concatenate([np.zeros((0, len(labels)), dtype), *parts])
        return scores[:, 0] if len(labels) == 1 else scores

    def fingerprint(self) -> str:
        """A checksum of all that decides a score: the encoder, the model's arguments and its weights."""
        digest = hashlib.sha256(self.config.model_dump_json().encode())
        digest.update(json.dumps(self.encoder.to_json(), sort_keys=True).encode())
        for name, value in sorted(self.model.state_dict().items()):
            digest.update(name.encode())
            digest.update(np.ascontiguousarray(value.detach().cpu().numpy()).view(np.uint8).data)
        return digest.hexdigest()

    def predict_batch(self, batch: Batch) -> np.ndarray[Any, Any]:
        """[B, tasks] scores of an encoded batch.

        Raises:
            DataError: When a score is not finite.
        """
        self.model.eval()
        with suited_threads(self.model, len(batch)):
            scores = self.model.predict(batch).numpy()
        bad = int((~np.isfinite(scores)).any(axis=1).sum())
        if bad:
            raise DataError(
                f"{bad} of {len(scores)} scores are not finite: the weights are, or numbers are far too large"
            )
        return scores


def is_checkpoint(folder: Path) -> bool:
    """Whether `folder` bears the seal of a finished checkpoint."""
    return (folder / "config.json").is_file()


def is_recommender(folder: Path) -> bool:
    """Whether a folder says of itself that it holds a `Recommender`; whether it is whole is not looked at."""
    try:
        values = read_json(folder / "config.json")
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(values, dict) and values.get("family") == "sequence"


def save(checkpoint: Checkpoint, folder: Path, overwrite: bool = False) -> None:
    """Write a checkpoint; a kill at any moment leaves a folder that does not load, never a wrong one.

    Raises:
        CheckpointError: When `folder` holds a checkpoint and `overwrite` is not set.
        DataError: When the disk refuses.
    """
    if is_checkpoint(folder) and not overwrite:
        raise CheckpointError(f"{folder}: holds a checkpoint; choose another folder or say overwrite")
    make_folder(folder)
    (folder / "config.json").unlink(missing_ok=True)
    sweep(folder)
    names = write_weights(checkpoint.model.state_dict(), folder)
    write_json(folder / "schema.json", checkpoint.encoder.to_json())
    write_json(folder / "metrics.json", checkpoint.metrics)
    write_text(folder / "README.md", _card(checkpoint))
    seal = Seal(
        format=FORMAT,
        recsys=recsys.__version__,
        model=_saved_config(checkpoint),
        training=checkpoint.training,
        files=vouch(folder, [*names, "schema.json", "metrics.json"]),
    )
    seal.write(folder / "config.json")


def _saved_config(checkpoint: Checkpoint) -> Any:
    """The configuration, without collision weights where these were folded into their rows."""
    names = [name for name, _ in checkpoint.model.tables.named_tables()]
    weighted = any(name.endswith(".collision") for name in names)
    return checkpoint.config.model_copy(update={"collision_weights": weighted})


def load(folder: str | Path) -> Checkpoint:
    """Read a checkpoint folder.

    Args:
        folder: Where it is, or the name of a model that recsys brings along, such as `wikipedia-dcn2`.

    Raises:
        CheckpointError: When a file is missing or altered, or the folder was made by a later version.
    """
    folder = found(Path(folder))
    seal = _seal(folder)
    seal.check(folder, ("schema.json", "metrics.json"))
    encoder = _encoder(folder)
    try:
        metrics = read_json(folder / "metrics.json")
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{folder}: cannot be read: {error}") from None
    model = build(seal.model, encoder.inputs)
    _fill(model, folder, [name for name in seal.files if name.endswith(".safetensors")])
    model.eval()
    return Checkpoint(seal.model, model, encoder, metrics, seal.training)


def outline(folder: str | Path) -> RankingModel:
    """The model of a checkpoint folder without its weights: on torch's meta device, where shapes take no memory.

    Raises:
        CheckpointError: When the folder is none.
    """
    folder = found(Path(folder))
    seal = _seal(folder)
    encoder = _encoder(folder)
    with torch.device("meta"):
        return build(seal.model, encoder.inputs)


def _encoder(folder: Path) -> Encoder:
    try:
        return Encoder.from_json(read_json(folder / "schema.json"), str(folder / "schema.json"))
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{folder}: cannot be read: {error}") from None


def found(folder: Path) -> Path:
    """The folder itself, or the one of that name on the shelf."""
    brought = shelf("models") / "pretrained" / folder.name
    return brought if not folder.exists() and folder.name == str(folder) and is_checkpoint(brought) else folder


def _seal(folder: Path) -> Seal:
    path = folder / "config.json"
    if not folder.is_dir():
        raise CheckpointError(f"{folder}: no such run folder")
    if not path.is_file():
        raise CheckpointError(f"{folder}: no config.json: not a run folder, or its training has not finished")
    if is_recommender(folder):
        raise CheckpointError(f"{folder}: holds a model that says what comes next, and a ranker is needed here")
    return Seal.read(path, FORMAT, "a recsys checkpoint")


def _fill(model: RankingModel, folder: Path, names: list[str]) -> None:
    try:
        model.load_state_dict(read_weights(folder, names))
    except RuntimeError as error:
        raise CheckpointError(f"{folder}: weights do not fit the model: {' '.join(str(error).split())}") from None


def _card(checkpoint: Checkpoint) -> str:
    """A model card: what it is, what it reads, how it was trained, what it reached."""
    inputs, training = checkpoint.encoder.inputs, checkpoint.training
    name = checkpoint.config.name  # type: ignore[attr-defined]
    rows = sum({feature.table: feature.rows for feature in inputs.ids}.values())
    weights = sum(p.numel() for p in checkpoint.model.parameters())
    data = training.get("recipe", {}).get("data", {})
    ids = ", ".join(feature.name for feature in inputs.ids if feature.part == 1)
    lines = [
        f"# {name}",
        "",
        f"A `{name}` ranker saved by recsys {recsys.__version__}.",
        "",
        f"- predicts: {', '.join(f'{task.name} ({task.kind})' for task in inputs.tasks)}",
        f"- from numbers: {', '.join(inputs.dense) or 'none'}",
        f"- and ids: {ids or 'none'} ({rows:,} rows)",
        f"- weights: {weights:,}",
    ]
    if training:
        passes = f"best of {training['epochs']} epochs was {training.get('best_epoch')}"
        best = passes if "best_epoch" in training else "one progressive pass"
        spent = f"{training['seconds']} s, {training['samples_per_second']:,} rows/s"
        lines.append(f"- trained on {data.get('source') or data.get('train')}: {best}, {spent}")
    for split, metrics in checkpoint.metrics.items():
        lines += ["", f"## {split}", "", "| metric | value | 95 % interval |", "|---|---|---|"]
        lines += [
            f"| {n} | {_number(m, 'value')} | {_number(m, 'low')} to {_number(m, 'high')} |" for n, m in _flat(metrics)
        ]
    use = ["```python", "import recsys", "", 'recsys.load("path/of/this/folder").predict(frame)', "```", ""]
    return "\n".join([*lines, "", *use])


def _flat(metrics: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Mapping[str, Any]]]:
    """Metrics by name; a multi-task model nests them by task."""
    flat: list[tuple[str, Mapping[str, Any]]] = []
    for name, value in metrics.items():
        flat += [(prefix + name, value)] if "value" in value else _flat(value, f"{prefix}{name} ")
    return flat


def _number(metric: Mapping[str, Any], key: str) -> str:
    value = metric.get(key)
    return "–" if value is None else f"{value:.4f}"
