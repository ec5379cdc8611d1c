"""How many threads torch has, and how many a step is worth.

Every parallel region of torch waits for its slowest thread. On a busy machine that costs up to a scheduler's quantum
(8 ms measured), so a small step is faster on one thread: 44,000 rows/s against 2,000 on two shared cores, training
DCN² in batches of 512.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

__all__ = ["WORTH_FLOPS", "network_flops", "suited_threads", "torch_threads"]

WORTH_FLOPS = 3e9
"""Floating-point operations of a step, some 40 ms of one core with all that is no product, from which on it is worth
all threads: DCN² in batches of 2,500 trains at 57,000 rows/s in place of 33,000 on two cores that nobody else uses. On
busy ones the environment variable OMP_WAIT_POLICY=passive keeps threads from waiting in a loop."""


class torch_threads:
    """Within it torch uses so many threads; then as many as before.

    The number is each thread's own, but a new thread begins with what was set last, and would put that back. It stands
    around calls of some 50 µs, so it is no generator, which would take 2 µs: it takes 0.3.
    """

    __slots__ = ("_before", "_count")

    def __init__(self, count: int) -> None:
        self._count = count

    def __enter__(self) -> None:
        self._before = torch.get_num_threads()
        if self._before != self._count:
            torch.set_num_threads(self._count)

    def __exit__(self, *_: object) -> None:
        if self._before != self._count:
            torch.set_num_threads(self._before)


def network_flops(model: nn.Module, rows: int, passes: int) -> float:
    """``2 · passes · rows · Σ rows·columns`` of the model's linear layers; forward and backward are three passes."""
    weights = sum(layer.weight.numel() for layer in model.modules() if isinstance(layer, nn.Linear))
    return 2.0 * passes * rows * weights


@contextlib.contextmanager
def suited_threads(model: nn.Module, rows: int, passes: int = 1) -> Iterator[int]:
    """Within it torch uses one thread if a step is small, and as many as before if it is not.

    It depends on the model and the batch alone, so that the same training rounds in the same way every time.
    """
    chosen = torch.get_num_threads() if network_flops(model, rows, passes) >= WORTH_FLOPS else 1
    with torch_threads(chosen):
        yield chosen
