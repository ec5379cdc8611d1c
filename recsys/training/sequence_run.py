"""Train a sequence model from a recipe, and measure it: what the commands and the notebooks call."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import torch

from recsys.data.histories import Histories, Interactions
from recsys.data.history_data import HistoryData
from recsys.data.questions import Held, Questions
from recsys.errors import DataError
from recsys.models.generative.base import SequenceModel
from recsys.models.generative.recommender import Recommender, save_recommender
from recsys.models.generative.registry import build
from recsys.training.baselines import Popularity, RepeatLast
from recsys.training.protocol import Measured, Protocol, measure
from recsys.training.run import claimed, logging
from recsys.training.sequence_recipe import SequenceRecipe
from recsys.training.sequence_trainer import SequenceTrainer
from recsys.training.trainer import Progress

__all__ = ["Split", "account", "evaluate_recommender", "train_recommender"]

Split = Literal["test", "valid"]


def train_recommender(
    recipe: SequenceRecipe,
    out: Path | None = None,
    *,
    overwrite: bool = False,
    show: bool = True,
    report: Callable[[Progress], None] | None = None,
    device: str | torch.device = "cpu",
) -> Recommender:
    """Train what a recipe describes.

    With `out`, the training's state is kept in ``out/training`` and an interrupted call goes on where it was; at the
    end `out` is a checkpoint folder with ``log.jsonl``, one record an epoch. The test questions are not looked at.

    Args:
        recipe: The model, its data and how.
        out: Folder of the checkpoint; None keeps it in memory.
        overwrite: Start again even if `out` holds a checkpoint or another training.
        show: Progress bars on standard error.
        report: Called after every epoch.
        device: Where to train: `cpu`, or a GPU.

    Raises:
        CheckpointError: When `out` holds a finished checkpoint, or an unfinished training of another recipe.
        ConfigError: When a split by time finds no times.
        DataError: When the data cannot be read, or nobody has done enough to learn from or to ask about.
    """
    recipe = recipe.model_copy(update={"data": recipe.data.resolved()})  # `recsys eval` reads it again, from anywhere
    data = recipe.data.open()
    held = recipe.protocol.hold(data.histories)
    if not len(held.valid):
        raise DataError(
            f"expected validation questions of {recipe.protocol.split}, got none: no user of {len(data.histories):,} "
            "has done enough"
        )
    lock = contextlib.nullcontext() if out is None else claimed(out, recipe.toml(), overwrite)
    with lock:
        recommender = _trained(recipe, data, held, out, show, report, torch.device(device))
        if out is not None:
            save_recommender(recommender, out, overwrite=True)
            shutil.rmtree(out / "training", ignore_errors=True)
    return recommender


def _trained(
    recipe: SequenceRecipe,
    data: Interactions,
    held: Held,
    out: Path | None,
    show: bool,
    report: Callable[[Progress], None] | None,
    device: torch.device,
) -> Recommender:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.training.seed)
        model = build(recipe.model, len(data.catalogue)).to(device)
    popularity = torch.from_numpy(held.train.popularity(len(data.catalogue)))
    recommender = Recommender(recipe.model, model, data.catalogue, popularity)

    def validate(_: SequenceModel) -> Mapping[str, float]:
        return _measured(recommender, held.valid, recipe.protocol, show).metrics

    trainer = SequenceTrainer(
        model,
        held.train.items,
        held.train.offsets,
        validate,
        recipe.training,
        state_file=None if out is None else out / "training" / "state.safetensors",
        fingerprint=_fingerprint(recipe, data.histories),
        report=logging(out, report),
    )
    progress = trainer.fit(show)
    model.to("cpu")
    recommender.training = _account(recipe, progress, data, held)
    recommender.metrics = {"valid": account(_measured(recommender, held.valid, recipe.protocol, show))}
    return recommender


def evaluate_recommender(
    recommender: Recommender, data: HistoryData | None = None, split: Split = "test", show: bool = True
) -> dict[str, Measured]:
    """Ask a recommender what comes next, and beside it those who learnt nothing: what is popular, and what came last.

    Args:
        recommender: From `recsys.load`.
        data: Histories of its catalogue's items; by default those that it was trained on. They are split anew, by the
            protocol of its recipe, and popular is what their own training part has most of.
        split: Which questions.
        show: Progress bars on standard error.

    Returns:
        By name: the model's, ``popularity`` and ``repeat-last``, on the same questions.

    Raises:
        DataError: When the data cannot be read, or its items are not those of the catalogue.
    """
    recipe = SequenceRecipe.parse(recommender.training["recipe"], "the run's recipe")
    found = (data or recipe.data).open(recommender.catalogue)
    held = recipe.protocol.hold(found.histories)
    questions = held.test if split == "test" else held.valid
    items = len(recommender.catalogue)
    plain = {"popularity": Popularity.of(held.train, items), "repeat-last": RepeatLast.of(held.train, items)}
    return {
        recommender.config.name: _measured(recommender, questions, recipe.protocol, show),
        **{name: measure(one, questions, recipe.protocol, show) for name, one in plain.items()},
    }


def _measured(recommender: Recommender, questions: Questions, protocol: Protocol, show: bool) -> Measured:
    """Its histories are as long as it reads."""
    read = protocol.model_copy(update={"history": recommender.config.context})
    return measure(recommender.scores, questions, read, show)


def account(measured: Measured) -> dict[str, Any]:
    """What was measured, with 95 % intervals, as plain JSON values."""
    return {
        "protocol": measured.protocol.model_dump(mode="json"),
        "questions": len(measured.ranks),
        "metrics": {name: one.to_json() for name, one in measured.intervals().items()},
    }


def _fingerprint(recipe: SequenceRecipe, histories: Histories) -> str:
    """Of all that decides a step: another model, optimiser or data gives another one.

    How long to train and how often to save may change between a kill and the next call.
    """
    free = {"epochs", "patience", "save_seconds"}
    digest = hashlib.sha256(recipe.model_dump_json(exclude={"data": True, "training": free}).encode())
    for part in (histories.offsets, histories.items):
        digest.update(part.tobytes())
    return digest.hexdigest()


def _account(recipe: SequenceRecipe, progress: Progress, data: Interactions, held: Held) -> dict[str, Any]:
    return {
        "recipe": json.loads(recipe.model_dump_json(exclude_none=True)),
        "epochs": len(progress.history),
        "best_epoch": progress.best_epoch + 1,
        "seconds": round(sum(record["seconds"] for record in progress.history), 1),
        "users": len(data.histories),
        "events": len(data.histories.items),
        "trained_on": len(held.train.items),
        "short": held.short,
        "dropped": {**data.missing, "unknown items": data.unknown},
    }
