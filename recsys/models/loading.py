"""Read what was trained, of either family, from its folder."""

from __future__ import annotations

from pathlib import Path

from recsys.models.checkpoint import Checkpoint, found, is_recommender
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
    return load_recommender(path) if is_recommender(path) else load_ranker(path)
