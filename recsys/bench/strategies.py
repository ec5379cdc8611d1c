"""One core, one strategy for every look-up of a workload, beside `gather`: where another pays, and where it does not.

`resident` is not here: on one core it is what `gather` does. What it gains is that a core keeps its tables to itself,
which `recsys bench dataflow` shows as plans beside symmetric ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from recsys.bench.card import machine
from recsys.bench.dataflow import check, copied, rig
from recsys.bench.lookup_peers import Contender
from recsys.bench.lookup_rig import Case, Turns, chosen, rotations
from recsys.data.batch import JaggedIds
from recsys.dataflow.kernels.cpu import CpuKernels, isas
from recsys.dataflow.kernels.reference import Slot
from recsys.dataflow.plan import Piece, Schedule, Strategy
from recsys.dataflow.workload import BATCH_SIZES, refuse_too_big
from recsys.threads import torch_threads

__all__ = ["CASES", "Tried", "measure"]


@dataclass(frozen=True, kw_only=True)
class Tried(Case):
    """A workload, and the strategy that is tried beside `gather`: one that its tables were made for."""

    strategy: Strategy
    batches: tuple[int, ...] = BATCH_SIZES[1:]


CASES = {
    "avazu-x4": Tried(published="avazu-x4", dim=1, strategy="vector"),
    "criteo-kaggle": Tried(published="criteo-kaggle", dim=1, strategy="vector"),
    "frappe": Tried(published="frappe", dim=1, strategy="vector"),
    "trace-low": Tried(published="trace-low", strategy="stream"),
    "trace-medium": Tried(published="trace-medium", strategy="stream"),
    "rm2": Tried(published="rm2", strategy="stream", batches=BATCH_SIZES[1:-1]),
}
"""First-order terms are tables of one column, which `vector` is for; long bags of wide rows, read often, would be for
`stream`."""


def measure(only: Sequence[str] = (), batches: Sequence[int] = (), seconds: float = 0.5) -> dict[str, Any]:
    """Look up the cases' ids by `gather` and by the other strategy; what `recsys bench strategies` prints as JSON.

    Args:
        only: Names of `CASES`; none means all. Those for `vector` are absent where there is no AVX-512.
        batches: Batch sizes; by default each case's.
        seconds: About how long the turns of a batch size take.

    Raises:
        ConfigError: For an unknown case, sizes that cannot be, or tables that do not fit into memory.
    """
    wanted = chosen(CASES, only, batches, seconds)
    lanes = isas()[:1] == ["avx512"]
    names = [name for name in wanted if lanes or CASES[name].strategy != "vector"]
    for name in names:
        refuse_too_big(CASES[name].workload())
    bar = tqdm(total=sum(len(batches or CASES[name].batches) for name in names), disable=None)
    with torch_threads(1), bar:
        rows = [row for name in names for row in _rows(name, batches, seconds, bar)]
    return {
        "bench": "strategies",
        "machine": machine(),
        "rows": rows,
        "absent": [name for name in wanted if name not in names],
    }


def _rows(name: str, batches: Sequence[int], seconds: float, bar: tqdm[Any]) -> Iterator[dict[str, Any]]:
    case = CASES[name]
    workload = case.workload()
    bar.set_description(name)
    slots, width = rig(workload)
    for size, rotation in rotations(workload, tuple(batches or case.batches)):
        x = torch.zeros(size, width)
        kernels: dict[str, CpuKernels] = {
            strategy: _kernels(slots, strategy, size) for strategy in ("gather", case.strategy)
        }
        check(slots, rotation[0], kernels, x)
        contenders = [Contender(name, "ours", "fp32", copied, partial(_look_up, k, x)) for name, k in kernels.items()]
        turns = Turns(rotation)
        turns.take(contenders, seconds / 4)
        gather, other = (figure.cpu for figure in turns.take(contenders, seconds))
        ids = sum(len(batch.values) for batch in rotation) / len(rotation)
        yield {
            "workload": workload.name,
            "row_bytes": workload.tables[0].row_bytes,
            "batch": size,
            "strategy": case.strategy,
            "us": round(other, 3),
            "gather_us": round(gather, 3),
            "ns_an_id": round(other / ids * 1e3, 3),
            "gather_ns_an_id": round(gather / ids * 1e3, 3),
            "ratio": round(gather / other, 3),
        }
        bar.update()


def _kernels(slots: Sequence[Slot], strategy: Strategy, size: int) -> CpuKernels:
    pieces = tuple(Piece(lookup=slot.name, core=0, strategy=strategy) for slot in slots)
    return CpuKernels(slots, schedules=[Schedule(batch=size, pieces=pieces, predicted_us=0, bound_us=0)])


def _look_up(kernels: CpuKernels, x: Tensor, ids: JaggedIds) -> Tensor:
    kernels.look_up(ids, x)
    return x
