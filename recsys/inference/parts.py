"""What a session is made of, and where it comes from: a run folder, or an export."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from torch.export import ExportedProgram

from recsys.data.encoder import Encoder
from recsys.dataflow.executor import store
from recsys.dataflow.plan import DataFlowPlan
from recsys.dataflow.storage import Rows
from recsys.errors import ConfigError
from recsys.inference.backends import Precision
from recsys.layers.tables import TableSpec

__all__ = ["Parts", "Storing", "from_checkpoint", "open_parts"]

Storing = Literal["huge", "map"]


@dataclass(frozen=True)
class Parts:
    """A trained model, taken apart.

    Attributes:
        encoder: From columns to batches.
        spec: What is looked up where.
        rows: The stored rows of every table.
        program: The network: x and sequences to scores.
        plan: How rows are looked up; None: one core gathers all.
        precision: The lowest that has passed the quality gate.
    """

    encoder: Encoder
    spec: TableSpec
    rows: Mapping[str, Rows]
    program: ExportedProgram
    plan: DataFlowPlan | None = None
    precision: Precision = "fp32"


def open_parts(folder: Path, plan: DataFlowPlan | None = None, storage: Storing = "huge") -> Parts:
    """The parts of a run folder or an export.

    Raises:
        CheckpointError: When the folder does not load.
        ConfigError: When the tables cannot be stored as the plan says, or mapped.
    """
    if storage == "map":
        raise ConfigError(f"{folder}: a run's tables cannot be mapped: export it first, with recsys export")
    return from_checkpoint(folder, plan)


def from_checkpoint(folder: Path, plan: DataFlowPlan | None = None) -> Parts:
    """The parts of a run folder.

    Raises:
        CheckpointError: When the folder does not load.
        ConfigError: When the plan is for another model.
    """
    from recsys.inference.network import export
    from recsys.models.checkpoint import load

    checkpoint = load(folder)
    tables = checkpoint.model.tables
    return Parts(checkpoint.encoder, tables.spec, store(tables, plan).tables, export(checkpoint.model), plan)
