"""What a session is made of, and where it comes from: a run folder, or an export."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor
from torch.export import ExportedProgram

from recsys.data.batch import JaggedIds
from recsys.data.encoder import Encoder
from recsys.dataflow.executor import TableExecutor, sources
from recsys.dataflow.plan import DataFlowPlan
from recsys.dataflow.storage import Rows, Storage
from recsys.errors import ConfigError
from recsys.inference.backends import Precision
from recsys.inference.plans import Plan
from recsys.inference.smooth import smooth
from recsys.layers.tables import TableSpec

if TYPE_CHECKING:  # an export loads without the models' code
    from recsys.models.checkpoint import Checkpoint

__all__ = ["Parts", "Storing", "from_checkpoint", "open_parts"]

Storing = Literal["huge", "map"]
_SAMPLE = 2000
"""Rows of inputs that int8 is smoothed by."""


@dataclass(frozen=True)
class Parts:
    """A trained model, taken apart.

    Attributes:
        encoder: From columns to batches.
        spec: What is looked up where.
        rows: The stored rows of every table.
        program: The network: x and sequences to scores.
        source: A checksum of what it was made from.
        plan: How a CPU looks rows up; None: one core gathers all.
        precisions: Of the network, those that a session may choose from by itself.
    """

    encoder: Encoder
    spec: TableSpec
    rows: Mapping[str, Rows]
    program: ExportedProgram
    source: str
    plan: DataFlowPlan | None = None
    precisions: tuple[Precision, ...] = ("fp32",)

    def program_for(self, precision: Precision) -> ExportedProgram:
        """The network, smoothed for int8 by what it reads of the tables."""
        return smooth(self.program, self._sample()) if precision == "int8" else self.program

    def _sample(self) -> list[Tensor]:
        """Inputs of normal numbers and of drawn rows, a table's first more often: a vocabulary's frequent values."""
        generator = torch.Generator().manual_seed(0)
        rows = {lookup.feature: self.spec.table[lookup.table].rows for lookup in self.spec.lookups}
        draws = (torch.rand(_SAMPLE, generator=generator, dtype=torch.float64) for _ in self.spec.features)
        drawn = zip(self.spec.features, draws, strict=True)
        ids = [(rows.get(name, 1) ** u - 1).long() for name, u in drawn]
        packed = JaggedIds.stack(self.spec.features, [(one, None, None) for one in ids])
        x = torch.zeros(_SAMPLE, self.spec.layout.width)
        x[:, self.spec.layout.dense] = torch.randn(_SAMPLE, self.spec.dense, generator=generator)
        executor = TableExecutor(self.spec, self.rows)
        executor.lookup(packed, x)
        return [x, *(one for pair in executor.sequences(packed).values() for one in pair)]


def open_parts(folder: Path, plan: Plan | None = None, storage: Storing = "huge") -> Parts:
    """The parts of a run folder or an export.

    Args:
        folder: Of either, or the name of a model that recsys brings along.
        plan: How the tables of a run are stored; an export's are as they are.
        storage: Where an export's tables lie; a run's are always copied.

    Raises:
        CheckpointError: When the folder does not load.
        ConfigError: When the tables cannot be stored as the plan says, or mapped.
    """
    from recsys.inference.export import is_export, read_export

    if is_export(folder):
        return read_export(folder, storage)
    if storage == "map":
        raise ConfigError(f"{folder}: the tables of a run cannot be mapped: export it first, with recsys export")
    return _from_run(folder, plan)


def _from_run(folder: Path, plan: Plan | None) -> Parts:
    from recsys.models.checkpoint import load

    return from_checkpoint(load(folder), plan)


def from_checkpoint(checkpoint: Checkpoint, plan: Plan | None = None) -> Parts:
    """The parts of a trained model, which stays as it is: tables are copied.

    Raises:
        ConfigError: When the tables cannot be stored as the plan says.
    """
    from recsys.inference.trace import trace

    tables = checkpoint.model.tables
    rows, program = Storage(sources(tables, plan)).tables, trace(checkpoint.model)
    own = plan if isinstance(plan, DataFlowPlan) else None
    return Parts(checkpoint.encoder, tables.spec, rows, program, _source(checkpoint, rows), own)


def _source(checkpoint: Checkpoint, rows: Mapping[str, Rows]) -> str:
    """A checksum that tells apart what gives other scores: also how tables are stored, where not all are float32."""
    dtypes = {name: one.dtype for name, one in rows.items() if one.dtype != "fp32"}
    whole = checkpoint.fingerprint()
    return hashlib.sha256(f"{whole} {sorted(dtypes.items())}".encode()).hexdigest() if dtypes else whole
