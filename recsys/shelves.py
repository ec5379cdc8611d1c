"""Find the shelves: the root folders `models/`, `dataflow/` and `data/` that hold what people edit or read.

In a checkout they stand beside the package; a wheel carries them inside it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from recsys.errors import ConfigError

__all__ = ["shelf"]

_PACKAGE = Path(__file__).resolve().parent


def shelf(name: Literal["models", "dataflow", "data"]) -> Path:
    """The folder of a shelf.

    Raises:
        ConfigError: When neither place has it, which means a broken installation.
    """
    checkout = _PACKAGE.parent
    for folder in (_PACKAGE / "_shelves" / name, checkout / name):
        if folder.is_dir() and (folder.parent == _PACKAGE / "_shelves" or (checkout / "pyproject.toml").is_file()):
            return folder
    raise ConfigError(f"the folder `{name}/` of recsys is in neither {_PACKAGE} nor {checkout}: install recsys again")
