"""Train recommenders and serve them at the lowest latency that your hardware allows.

    import recsys

    checkpoint = recsys.load("runs/dcn2")
    checkpoint.predict(frame)

Importing this package does nothing but bind names; each is loaded when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from recsys.data.batch import Batch, JaggedIds
    from recsys.data.describe import describe
    from recsys.data.encoder import Encoder
    from recsys.data.schema import Schema
    from recsys.data.sources import resolve
    from recsys.inference.optimize import optimize
    from recsys.inference.session import InferenceSession, session
    from recsys.models.checkpoint import Checkpoint
    from recsys.models.generative.recommender import Recommender
    from recsys.models.loading import load
    from recsys.scoring.local import score
    from recsys.training.ranker import Ranker
    from recsys.training.recipe import Recipe
    from recsys.training.run import evaluate_on, train

__version__ = "0.1.0"

__all__ = [
    "Batch",
    "Checkpoint",
    "Encoder",
    "InferenceSession",
    "JaggedIds",
    "Ranker",
    "Recipe",
    "Recommender",
    "Schema",
    "__version__",
    "describe",
    "evaluate_on",
    "load",
    "optimize",
    "resolve",
    "score",
    "session",
    "train",
]

_HOMES = {
    "Batch": "data.batch",
    "Checkpoint": "models.checkpoint",
    "Encoder": "data.encoder",
    "InferenceSession": "inference.session",
    "JaggedIds": "data.batch",
    "Ranker": "training.ranker",
    "Recipe": "training.recipe",
    "Recommender": "models.generative.recommender",
    "Schema": "data.schema",
    "describe": "data.describe",
    "evaluate_on": "training.run",
    "load": "models.loading",
    "optimize": "inference.optimize",
    "resolve": "data.sources",
    "score": "scoring.local",
    "session": "inference.session",
    "train": "training.run",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'recsys' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"recsys.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
