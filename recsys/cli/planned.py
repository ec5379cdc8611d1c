"""What `recsys plan` plans: a workload by name or file, or the tables of a trained model."""

from __future__ import annotations

from pathlib import Path

from recsys.cli.show import console
from recsys.dataflow.workload import Workload
from recsys.errors import CheckpointError, ConfigError

__all__ = ["find", "find_either"]


def find(what: str) -> Workload:
    """A workload by name or file, or that of a trained model's folder.

    Raises:
        ConfigError: When it is none of these.
    """
    return find_either(what)[0]


def find_either(what: str) -> tuple[Workload, bool]:
    """The same, and whether it is of a trained model.

    Raises:
        ConfigError: When it is none of these.
    """
    if not Path(what).is_dir():
        try:
            return Workload.find(what), False
        except ConfigError as error:
            return _of_model(what, error), True
    return _of_model(what, None), True


def _of_model(what: str, otherwise: ConfigError | None) -> Workload:
    from recsys.dataflow.counting import assume_tables
    from recsys.models.checkpoint import load

    try:
        tables = load(what).model.tables
    except CheckpointError:
        if otherwise is not None:
            raise otherwise from None
        raise
    name = Path(what).resolve().name
    console().print(f"the ids of {name} are assumed: measure them with `recsys dataflow workload {what} DATA`")
    return assume_tables(tables, name, "Ids are assumed.")
