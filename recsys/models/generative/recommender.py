"""A trained sequence model with its catalogue, and as a folder that needs nothing else.

config.json         the model, how it was trained, and the size and SHA-256 of every file that loading reads
catalogue.parquet   the items by name, with their texts
model.safetensors   the weights, and how often training saw each item
metrics.json        what it reached, and under which protocol
README.md           a model card made from these
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

import recsys
from recsys.data.catalogue import Catalogue
from recsys.errors import CheckpointError, ConfigError, DataError
from recsys.files import make_folder, read_json, sweep, write_json, write_text
from recsys.models.generative.base import SequenceModel
from recsys.models.generative.lists import Names, Recommended, best, given
from recsys.models.generative.registry import AnySequenceConfig, build
from recsys.models.generative.windows import windows
from recsys.models.weights import read_weights, write_weights
from recsys.seals import Sealed, vouch

__all__ = ["Recommender", "load_recommender", "save_recommender"]

FORMAT = 1
_POPULARITY = "popularity"
"""Name of the array beside the weights."""
_BATCH = 256
"""Histories at a time."""


class RecommenderSeal(Sealed):
    """The contents of `config.json`."""

    family: Literal["sequence"] = "sequence"
    model: AnySequenceConfig
    training: dict[str, Any]


@dataclass
class Recommender:
    """A trained sequence model and all that recommending needs.

    Attributes:
        config: The model's arguments.
        model: The model itself, in evaluation mode after `recsys.load`.
        catalogue: Its items.
        popularity: [I + 1] how often training saw each item: what is recommended to who has no history.
        metrics: What it reached, by split.
        training: How it was trained: the recipe as plain values.
    """

    config: AnySequenceConfig
    model: SequenceModel
    catalogue: Catalogue
    popularity: Tensor
    metrics: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)

    @torch.no_grad()
    def scores(self, items: Tensor, offsets: Tensor) -> Tensor:
        """Scores of all items as what comes next, [B, I + 1], where the model is; column 0 is no item.

        An empty history has nothing that the model could read: its scores are the items' popularity.

        Args:
            items: [T] numbers of B histories, oldest first; the newest that the model reads count.
            offsets: [B + 1].
        """
        self.model.eval()
        device = self.model.items.weight.device
        bounds = offsets.numpy()
        rows, lengths = windows(items.numpy(), bounds[:-1], bounds[1:], self.config.context)
        found = self.model.next_scores(rows.to(device), lengths.to(device))
        empty = (lengths == 0).to(device)
        if empty.any():
            found[empty] = self.popularity.to(device, found.dtype)
        return found

    def recommend(
        self,
        histories: Names,
        k: int = 10,
        *,
        allow: Names | None = None,
        deny: Names | None = None,
        seen: Literal["kept", "left out"] = "kept",
    ) -> Recommended:
        """The k best next items of each history.

        Items that the catalogue does not have are left out and counted, and so are those older than the model reads.
        An empty history is given what is popular.

        Args:
            histories: Names of items, oldest first.
            k: Items of each list; fewer where allow and deny lists leave fewer.
            allow: For each history the items that may be recommended; by default all.
            deny: For each history the items that may not.
            seen: Whether items of the history may be recommended again.

        Raises:
            ConfigError: When `k` is not within 1 … I.
            DataError: When there are not as many lists as histories, or scores are NaN.
        """
        for what, lists in (("allow", allow), ("deny", deny)):
            if lists is not None and len(lists) != len(histories):
                raise DataError(f"expected {len(histories)} {what} lists, one a history, got {len(lists)}")
        if seen not in ("kept", "left out"):
            raise ConfigError(f"expected seen as one of kept, left out, got {seen!r}")
        parts = [
            self._batch(
                histories[at], k, None if allow is None else allow[at], None if deny is None else deny[at], seen
            )
            for at in _slices(len(histories))
        ]
        empty = Recommended(np.zeros((0, k), np.int64), np.zeros((0, k), np.float32), self.catalogue)
        return Recommended(
            np.concatenate([empty.items, *(part.items for part in parts)]),
            np.concatenate([empty.scores, *(part.scores for part in parts)]),
            self.catalogue,
            sum(part.unknown for part in parts),
            sum(part.cut for part in parts),
        )

    def _batch(self, histories: Names, k: int, allow: Names | None, deny: Names | None, seen: str) -> Recommended:
        asked = given(self.catalogue, histories)
        scores = self.scores(asked.items, asked.offsets).float()
        if seen == "left out":
            scores[asked.rows().to(scores.device), asked.items.to(scores.device)] = -torch.inf
        may, not_ = (None if one is None else given(self.catalogue, one) for one in (allow, deny))
        items, found = best(scores, k, may, not_)
        cut = int((asked.offsets.diff() - self.config.context).clamp(min=0).sum())
        return Recommended(items.cpu().numpy(), found.cpu().numpy(), self.catalogue, asked.unknown, cut)


def _slices(n: int) -> list[slice]:
    return [slice(start, start + _BATCH) for start in range(0, n, _BATCH)]


def save_recommender(recommender: Recommender, folder: Path, overwrite: bool = False) -> None:
    """Write a recommender; a kill at any moment leaves a folder that does not load, never a wrong one.

    Raises:
        CheckpointError: When `folder` holds a checkpoint and `overwrite` is not set.
        DataError: When the disk refuses.
    """
    if (folder / "config.json").is_file() and not overwrite:
        raise CheckpointError(f"{folder}: holds a checkpoint; choose another folder or say overwrite")
    make_folder(folder)
    (folder / "config.json").unlink(missing_ok=True)
    sweep(folder)
    names = write_weights({**recommender.model.state_dict(), _POPULARITY: recommender.popularity}, folder)
    recommender.catalogue.save(folder / "catalogue.parquet")
    write_json(folder / "metrics.json", recommender.metrics)
    write_text(folder / "README.md", _card(recommender))
    seal = RecommenderSeal(
        format=FORMAT,
        recsys=recsys.__version__,
        model=recommender.config,
        training=recommender.training,
        files=vouch(folder, [*names, "catalogue.parquet", "metrics.json"]),
    )
    seal.write(folder / "config.json")


def load_recommender(folder: Path) -> Recommender:
    """Read what `save_recommender` wrote.

    Raises:
        CheckpointError: When a file is missing or altered, or the folder was made by a later version.
    """
    seal = RecommenderSeal.read(folder / "config.json", FORMAT, "a recsys recommender")
    seal.check(folder, ("catalogue.parquet", "metrics.json"))
    try:
        catalogue, metrics = Catalogue.load(folder / "catalogue.parquet"), read_json(folder / "metrics.json")
    except (DataError, ValueError, OSError) as error:
        raise CheckpointError(f"{folder}: cannot be read: {error}") from None
    state = read_weights(folder, [name for name in seal.files if name.endswith(".safetensors")])
    model = build(seal.model, len(catalogue))
    popularity = state.pop(_POPULARITY, None)
    if popularity is None or popularity.shape != (len(catalogue) + 1,):
        raise CheckpointError(f"{folder}: weights do not fit the catalogue of {len(catalogue)} items")
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise CheckpointError(f"{folder}: weights do not fit the model: {' '.join(str(error).split())}") from None
    model.eval()
    return Recommender(seal.model, model, catalogue, popularity, metrics, seal.training)


def _card(recommender: Recommender) -> str:
    """A model card: what it is, what it recommends, what it reached."""
    weights = sum(p.numel() for p in recommender.model.parameters())
    lines = [
        f"# {recommender.config.name}",
        "",
        f"A `{recommender.config.name}` recommender saved by recsys {recsys.__version__}.",
        "",
        f"- recommends: {len(recommender.catalogue):,} items, to histories of up to {recommender.config.context}",
        f"- weights: {weights:,}",
    ]
    for split, told in recommender.metrics.items():
        lines += ["", f"## {split}", "", *_metric_lines(told)]
    use = ["```python", "import recsys", "", 'recsys.load("path/of/this/folder").recommend([["an item", "another"]])']
    return "\n".join([*lines, "", *use, "```", ""])


def _metric_lines(told: dict[str, Any]) -> list[str]:
    protocol = told["protocol"]
    rows = [f"| {name} | {m['value']:.4f} | {m['low']:.4f} to {m['high']:.4f} |" for name, m in told["metrics"].items()]
    return [
        f"{told['questions']:,} questions, {protocol['split']}, all items ranked, seen {protocol['seen']}.",
        "",
        "| metric | value | 95 % interval |",
        "|---|---|---|",
        *rows,
    ]
