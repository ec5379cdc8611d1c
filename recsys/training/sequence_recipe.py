"""A recipe of a sequence model: the model, its histories, how it is measured and how it is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self

from recsys.config import Config, read_toml
from recsys.data.history_data import HistoryData
from recsys.models.generative.registry import SEQUENCE_MODELS, AnySequenceConfig
from recsys.training.protocol import Protocol
from recsys.training.recipe import Recipe, read_recipe, recipe_path
from recsys.training.sequence_trainer import SequenceTraining

__all__ = ["SequenceRecipe", "find_any_recipe"]


class SequenceRecipe(Config):
    """A sequence model, its data and how it is trained."""

    model: AnySequenceConfig
    data: HistoryData
    protocol: Protocol = Protocol()
    training: SequenceTraining = SequenceTraining()

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a recipe file; relative paths in it are relative to its folder.

        Raises:
            ConfigError: With the file's name, for anything that does not fit.
        """
        return cls.parse(read_recipe(path, ("events", "lines", "texts")), str(path))


def find_any_recipe(name: str) -> Recipe | SequenceRecipe:
    """The recipe of a TOML file's path, or the default recipe of a model's name, of either family.

    Raises:
        ConfigError: When it is neither.
    """
    path = recipe_path(name)
    model: Any = read_toml(path).get("model")
    sequence = isinstance(model, dict) and model.get("name") in SEQUENCE_MODELS
    return SequenceRecipe.load(path) if sequence else Recipe.load(path)
