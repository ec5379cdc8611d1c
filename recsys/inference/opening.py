"""What a session scores with: the precision, the engine of every batch size, and the scorer, of a CPU or a GPU."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

import torch

from recsys.dataflow.gpu_plan import GpuPlan
from recsys.dataflow.plan import DataFlowPlan
from recsys.dataflow.platform import read_cores
from recsys.errors import ConfigError, RecsysError
from recsys.inference.backends import Backend, Precision
from recsys.inference.choice import Choice, checked, choose
from recsys.inference.parts import Parts
from recsys.inference.scorer import Scorer

if TYPE_CHECKING:
    from recsys.inference.cuda.scorer import GpuScorer

__all__ = ["on_cpu", "on_gpu"]


def on_cpu(
    parts: Parts,
    plan: DataFlowPlan | None,
    backend: Literal["auto"] | Backend,
    precision: Literal["auto"] | Precision,
    most: int,
    threads: int,
) -> tuple[Precision, Scorer]:
    """The precision, and what scores on a processor: the fastest back ends where they are left open."""
    ours = "tf32" if precision == "tf32" else backend if backend in ("inductor", "fused") else None
    if ours is not None:
        raise ConfigError(f"{ours} is a GPU's: open the session on device cuda")
    kinds = parts.precisions if precision == "auto" else (precision,)

    def chosen(kind: Precision) -> Choice:
        if backend == "auto":
            return choose(parts.program_for(kind), kind, most)
        return Choice({most: (backend, checked(backend, kind, parts.program_for(kind)))}, {}, {})

    kind, choice = _fastest(kinds[:1] if backend != "auto" else kinds, chosen)
    return kind, Scorer(parts, plan or _suited(parts.plan), choice, most, threads)


def on_gpu(
    parts: Parts,
    plan: GpuPlan | None,
    backend: Literal["auto"] | Backend,
    precision: Literal["auto"] | Precision,
    most: int,
    threads: int,
    device: torch.device,
) -> tuple[Precision, GpuScorer]:
    """The precision, and what scores on a GPU; it is imported where it is used, and Triton with it."""
    from recsys.dataflow.gpu import check_plan
    from recsys.inference.cuda.choice import choose as choose_for
    from recsys.inference.cuda.device import told
    from recsys.inference.cuda.engines import GPU_PRECISIONS, check_engine
    from recsys.inference.cuda.scorer import GpuScorer

    check_engine(backend, precision)
    if threads > 1:
        raise ConfigError("a batch is not shared out among threads on a GPU: leave threads at 1")
    if plan is not None:
        check_plan(plan, parts.spec, parts.rows, device)  # before networks are compiled
    kinds = [kind for kind in parts.precisions if kind in GPU_PRECISIONS] if precision == "auto" else [precision]
    with told(f"opening a session on {device}"):
        kind, choice = _fastest(
            kinds, lambda kind: choose_for(parts.program, parts.spec.layout, kind, most, device, backend)
        )
    return kind, GpuScorer(parts, plan, choice, kind, most, device)


def _suited(plan: DataFlowPlan | None) -> DataFlowPlan | None:
    """An export's plan, unless it is for more cores than there are here: then one core gathers."""
    return plan if plan is not None and plan.cores <= len(read_cores()) else None


def _fastest(kinds: Sequence[Precision], chosen: Callable[[Precision], Choice]) -> tuple[Precision, Choice]:
    """The precision whose choice is fastest, of those that can run here.

    Raises:
        RecsysError: What the last one says, when none can.
    """
    choices: dict[Precision, Choice] = {}
    for kind in kinds:
        try:
            choices[kind] = chosen(kind)
        except RecsysError:  # it passed the gate on a machine that could run it
            if kind == kinds[-1] and not choices:
                raise
    if len(choices) == 1:
        return next(iter(choices.items()))
    kind = min(choices, key=lambda kind: sum(math.log(min(row.values())) for row in choices[kind].us.values()))
    return kind, choices[kind]
