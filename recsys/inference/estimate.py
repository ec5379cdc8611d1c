"""How much memory a session will take, before it loads.

What Python, torch and a back end take by themselves is measured, with a session of the small model that recsys brings
along, in a process of its own; the rest is counted:

    tables    rows · bytes of a stored row, each table on a cache line; in a mapped export only what is touched is
              in memory, and processes share it
    network   3 · weights for a back end: as they are, packed for its products, and in its file
    buffers   for each thread: batch · (width + 1) · 4 bytes of input and output
    peak      of a run: tensors of its file and of the model at once, as float32; of an export: nothing more
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recsys.dataflow.counting import assume_tables
from recsys.dataflow.plan import DataFlowPlan
from recsys.dataflow.workload import Dtype, Workload
from recsys.errors import CheckpointError, RecsysError
from recsys.inference.choice import SIZES

if TYPE_CHECKING:
    from recsys.models.base import RankingModel

__all__ = ["Estimate", "estimate"]

_COPIES = 3
_SMALL = "wikipedia-dcn2"


@dataclass(frozen=True)
class Estimate:
    """Bytes of a session.

    Attributes:
        process: Of Python, torch and the back ends.
        tables: By table.
        network: Of the back end's copies of the weights; 0 of a workload, which has none.
        buffers: Of a thread, by batch size; a thread has those of its largest batch.
        loading: What there is beside it while it loads.
    """

    process: int
    tables: dict[str, int]
    network: int
    buffers: dict[int, int]
    loading: int

    @property
    def steady(self) -> int:
        """Of a session that has answered, on one thread."""
        return self.process + sum(self.tables.values()) + self.network + max(self.buffers.values(), default=0)

    @property
    def peak(self) -> int:
        """While it loads."""
        return max(self.steady, self.process + self.loading)

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        sums = {"tables_bytes": sum(self.tables.values()), "steady": self.steady, "peak": self.peak}
        named = {"process": self.process, "network": self.network, "tables": self.tables, **sums}
        return named | {"buffers": {str(size): count for size, count in self.buffers.items()}}


def estimate(what: str, plan: DataFlowPlan | None = None) -> Estimate:
    """The memory of a session.

    Args:
        what: A run folder, an export, or a workload: a TOML file or the name of a published one.
        plan: How tables are stored; by default as the export or the workload says, or as float32.

    Raises:
        RecsysError: When there is no such run, export or workload.
    """
    from recsys.inference.export import is_export
    from recsys.models.checkpoint import outline

    folder = Path(what)
    if is_export(folder):
        return _of_export(folder)
    try:
        model = outline(what)
    except CheckpointError:
        if folder.is_dir():
            raise
        return _of_workload(Workload.find(what), plan)
    return _of_run(model, plan)


def _of_export(folder: Path) -> Estimate:
    from recsys.inference.export import read_seal
    from recsys.inference.network import read

    seal = read_seal(folder)
    weights = sum(value.nbytes for value in read(folder / "network.pt2").state_dict.values())
    tables = {table.name: table.bytes for table in seal.tables}
    return Estimate(_process(), tables, _COPIES * weights, _buffers(seal.spec().layout.width), 0)


def _of_workload(workload: Workload, plan: DataFlowPlan | None) -> Estimate:
    dtypes = _dtypes(plan)
    tables = [table.model_copy(update={"dtype": dtypes.get(table.name, table.dtype)}) for table in workload.tables]
    width = sum(workload.table(lookup.table).dim for lookup in workload.lookups)
    return Estimate(_process(), {table.name: table.rows * table.row_bytes for table in tables}, 0, _buffers(width), 0)


def _of_run(model: RankingModel, plan: DataFlowPlan | None) -> Estimate:
    weights = sum(value.nbytes for name, value in model.named_parameters() if not name.startswith("tables."))
    plain = sum(tensor.nbytes for _, tensor in model.tables.named_tables())
    tables = _of_workload(assume_tables(model.tables, "run"), plan).tables
    return Estimate(_process(), tables, _COPIES * weights, _buffers(model.layout.width), 2 * plain)


def _dtypes(plan: DataFlowPlan | None) -> dict[str, Dtype]:
    return {} if plan is None else {table.name: table.dtype for table in plan.tables}


def _buffers(width: int) -> dict[int, int]:
    return {size: size * (width + 1) * 4 for size in SIZES}


def _process() -> int:
    """Resident bytes of a process with a session of the small model, which has answered, less its tables."""
    code = (
        "import recsys\nfrom recsys.machine import resident_memory\n"
        f"session = recsys.session({_SMALL!r}, precision='fp32')\nsession.warm_up()\n"
        "print(resident_memory() - session.table_bytes)"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False)
    try:
        return int(done.stdout.split()[-1])
    except (IndexError, ValueError):
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise RecsysError(f"the memory of a small session cannot be measured: {last}") from None
