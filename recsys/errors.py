"""What can go wrong, as one tree.

    RecsysError                 everything below; the command line prints it as one line and exits with 2
    ├── ConfigError             a recipe, an option or a TOML file says something that cannot be
    │   └── DivergedError       a training's loss is no number any more
    ├── SchemaError             a schema contradicts itself, or does not fit the model or the data
    ├── DataError               a file or a column is missing, broken, or holds values it must not
    ├── CheckpointError         a run folder is incomplete, altered, or made by another version
    ├── QualityError            scores differ from the trained model's by more than tolerated; exit code 3
    └── MissingExtraError       an optional package is needed; the message says what to install

A message says what was expected, what came, and what to do.
"""

from __future__ import annotations

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "DivergedError",
    "MissingExtraError",
    "QualityError",
    "RecsysError",
    "SchemaError",
]


class RecsysError(Exception):
    """The root of the tree: something that the user can mend."""


class ConfigError(RecsysError):
    """A recipe, an option or a TOML file says something that cannot be."""


class DivergedError(ConfigError):
    """A training's loss is no number any more."""


class SchemaError(RecsysError):
    """A schema contradicts itself, or does not fit the model or the data."""


class DataError(RecsysError):
    """A file or a column is missing, broken, or holds values it must not."""


class CheckpointError(RecsysError):
    """A run folder is incomplete, altered, or made by another version."""


class QualityError(RecsysError):
    """Scores differ from the trained model's by more than tolerated."""


class MissingExtraError(RecsysError):
    """An optional package is needed and absent."""
