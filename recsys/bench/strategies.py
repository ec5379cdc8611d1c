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
from recsys.bench.dataflow import copied, rig
from recsys.bench.lookup_peers import Contender
from recsys.bench.lookup_rig import Turns, rotations
from recsys.config import nearest
from recsys.data.batch import JaggedIds
from recsys.dataflow.kernels.cpu import CpuKernels, isas
from recsys.dataflow.kernels.reference import Slot, look_up
from recsys.dataflow.plan import Piece, Schedule, Strategy
from recsys.dataflow.workload import Workload, refuse_too_big
from recsys.errors import ConfigError

__all__ = ["CASES", "Case", "measure"]


@dataclass(frozen=True)
class Case:
    """A published workload, and the strategy that is tried beside `gather`: one that its tables were made for."""

    published: str
    strategy: Strategy
    dim: int | None = None
    batches: tuple[int, ...] = (64, 512, 2048, 8192)

    def workload(self) -> Workload:
        """Its tables and look-ups."""
        found = Workload.find(self.published)
        return found if self.dim is None else found.with_dim(self.dim)


CASES = {
    "avazu-x4": Case("avazu-x4", "vector", dim=1),
    "criteo-kaggle": Case("criteo-kaggle", "vector", dim=1),
    "frappe": Case("frappe", "vector", dim=1),
    "trace-low": Case("trace-low", "stream"),
    "trace-medium": Case("trace-medium", "stream"),
    "rm2": Case("rm2", "stream", batches=(64, 512, 2048)),
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
    for name in only:
        if name not in CASES:
            raise ConfigError(f"no such workload as `{name}`: {nearest(name, list(CASES))}")
    if min([1, *batches]) < 1 or not seconds > 0:
        raise ConfigError(f"expected batches of 1 or more and more than 0 seconds, got {list(batches)} and {seconds:g}")
    absent = [] if isas()[:1] == ["avx512"] else [name for name, case in CASES.items() if case.strategy == "vector"]
    names = [name for name in only or CASES if name not in absent]
    for name in names:
        refuse_too_big(CASES[name].workload())
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tqdm(total=sum(len(batches or CASES[name].batches) for name in names), disable=None) as bar:
            rows = [row for name in names for row in _rows(name, batches, seconds, bar)]
    finally:
        torch.set_num_threads(threads)
    return {"bench": "strategies", "machine": machine(), "rows": rows, "absent": absent}


def _rows(name: str, batches: Sequence[int], seconds: float, bar: tqdm[Any]) -> Iterator[dict[str, Any]]:
    case = CASES[name]
    workload = case.workload()
    bar.set_description(name)
    slots, width = rig(workload)
    for size, rotation in rotations(workload, tuple(batches or case.batches)):
        x = torch.zeros(size, width)
        contenders = [_contender(slots, strategy, size, x) for strategy in ("gather", case.strategy)]
        _check(slots, contenders, rotation[0], x)
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


def _contender(slots: Sequence[Slot], strategy: Strategy, size: int, x: Tensor) -> Contender:
    pieces = tuple(Piece(lookup=slot.name, core=0, strategy=strategy) for slot in slots)
    kernels = CpuKernels(slots, schedules=[Schedule(batch=size, pieces=pieces, predicted_us=0, bound_us=0)])
    return Contender(strategy, "ours", "fp32", copied, partial(_look_up, kernels, x))


def _look_up(kernels: CpuKernels, x: Tensor, ids: JaggedIds) -> Tensor:
    kernels.look_up(ids, x)
    return x


def _check(slots: Sequence[Slot], contenders: Sequence[Contender], ids: JaggedIds, x: Tensor) -> None:
    """Every strategy gives what the reference gives."""
    expected = torch.zeros_like(x)
    look_up(slots, ids, expected)
    for one in contenders:
        x.fill_(-1)
        torch.testing.assert_close(one.run(ids), expected, rtol=1e-4, atol=1e-4)
