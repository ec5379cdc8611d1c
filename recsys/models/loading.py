"""Read what was trained, of either family, from its folder."""

from __future__ import annotations

from pathlib import Path

from recsys.files import read_json
from recsys.models.checkpoint import Checkpoint, found
from recsys.models.checkpoint import load as load_ranker
from recsys.models.generative.recommender import Recommender, load_recommender

__all__ = ["load"]


def load(folder: str | Path) -> Checkpoint | Recommender:
    """Read a folder: a `Checkpoint` of a ranker, which predicts, or a `Recommender`, which says what comes next.

    Args:
        folder: Where it is, or the name of a model that recsys brings along, such as `wikipedia-dcn2`.

    Raises:
        CheckpointError: When a file is missing or altered, or the folder was made by a later version.
    """
    path = found(Path(folder))
    try:
        family = read_json(path / "config.json").get("family")
    except (OSError, ValueError, AttributeError, RecursionError):
        family = None  # what is wrong is said below
    return load_recommender(path) if family == "sequence" else load_ranker(path)
