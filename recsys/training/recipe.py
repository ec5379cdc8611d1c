"""A recipe: a model, its data and how it is trained, in one TOML file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from recsys.config import Config, Files, nearest, read_toml
from recsys.errors import ConfigError
from recsys.models.registry import MODELS, AnyModelConfig
from recsys.shelves import shelf
from recsys.training.search import Space, check_space

__all__ = ["DataConfig", "Recipe", "TrainingConfig", "find_recipe", "read_recipe", "recipe_path"]


class DataConfig(Config):
    """Where the rows come from: a named source, or files with a schema."""

    source: str | None = None
    """A source that `recsys data list` names; it brings its own schema and splits."""
    schema_file: Path | None = None
    """A schema file (TOML) in place of the source's own."""
    train: Files = ()
    """Files or folders to train on: Parquet, CSV, TSV."""
    valid: Files = ()
    """Files or folders that say when to stop."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        files = [name for name, value in (("train", self.train), ("valid", self.valid)) if not value]
        if self.source is None and (files or self.schema_file is None):
            raise ValueError("name a `source`, or all of `schema_file`, `train` and `valid`")
        if self.source is not None and len(files) == 1:
            raise ValueError(f"give `{files[0]}` too, or neither file")
        return self


class TrainingConfig(Config):
    """How a model is trained."""

    seed: int = Field(0, ge=0, lt=2**31)
    """Of start values, order of rows and dropout."""
    epochs: int = Field(20, ge=1)
    """Most passes over the training rows."""
    batch_size: int = Field(1024, ge=1)
    """Rows a step."""
    learning_rate: float = Field(1e-3, gt=0)
    """Of the network (AdamW)."""
    weight_decay: float = Field(0.0, ge=0)
    """Of the network's matrices (decoupled, AdamW)."""
    table_optimizer: Literal["adam", "adagrad"] = "adam"
    """Row-sparse: only the rows that a batch reads are touched."""
    table_learning_rate: float | None = Field(None, gt=0)
    """Of the tables; by default the network's."""
    table_l2: float = Field(0.0, ge=0)
    """λ of ``½ λ Σ ‖e‖²`` over the rows that a batch reads, each once, beside the batch's mean loss."""
    monitor: Literal["auc", "log_loss"] = "auc"
    """Which validation metric chooses the best epoch (the first task's; a regression task is watched by its RMSE)."""
    patience: int = Field(2, ge=1)
    """Epochs without a better validation metric before training stops."""
    shuffle_rows: int | None = Field(None, ge=1)
    """Rows that are shuffled together: what bounds the memory, for about three times as many are held encoded. By
    default as many as 2^24 values make (128 MiB): of Criteo's columns half a million."""
    save_seconds: float = Field(30.0, ge=0)
    """How often the state is saved within an epoch, so that a kill loses little; every epoch's end is saved too."""


class Recipe(Config):
    """A model, its data and how it is trained."""

    model: AnyModelConfig
    data: DataConfig
    training: TrainingConfig = TrainingConfig()
    search: Space | None = None
    """What `recsys tune` may change, and within what; training alone does not look at it."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_space(self)
        return self

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a recipe file; relative paths in it are relative to its folder.

        Raises:
            ConfigError: With the file's name, for anything that does not fit.
        """
        return cls.parse(read_recipe(path, ("schema_file", "train", "valid")), str(path))


def read_recipe(path: Path, files: Sequence[str]) -> dict[str, Any]:
    """The values of a recipe file, with paths relative to its folder.

    Args:
        path: Of the TOML file.
        files: Keys of its `data` that name one file or several.

    Raises:
        ConfigError: When it cannot be read.
    """
    values = read_toml(path)
    data: Any = values.get("data")
    for key in files if isinstance(data, dict) else ():
        if isinstance(data.get(key), str):
            data[key] = path.parent / data[key]
        elif isinstance(data.get(key), list):
            data[key] = [path.parent / file if isinstance(file, str) else file for file in data[key]]
    return values


def find_recipe(name: str) -> Recipe:
    """The recipe of a TOML file's path, or the default recipe of a ranker's name.

    Raises:
        ConfigError: When it is neither.
    """
    return Recipe.load(recipe_path(name))


def recipe_path(name: str) -> Path:
    """The file of a recipe: its path, or the default recipe of a model's name.

    Raises:
        ConfigError: When it is neither.
    """
    if name.endswith(".toml"):
        return Path(name)
    default = shelf("models") / f"{name}.toml"
    if Path(name).name == name and default.is_file():
        return default
    if name in MODELS:
        raise ConfigError(f"`{name}` has no default recipe; write one as TOML and give its path")
    recipes = [path.stem for path in shelf("models").glob("*.toml")]
    raise ConfigError(f"`{name}` is neither a recipe file (.toml) nor a model: {nearest(name, recipes)}")
