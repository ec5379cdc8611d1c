"""Time what a GPU does: captured graphs in turn, many replays in a row between two events.

A GPU's clock starts with the first replay and ends with the last: what the CPU does to launch a replay counts only
where it takes longer than the replay itself, as it does for a batch of one (see `graph_floor_us`).

On a CPU, for tests, a graph is the call itself and the clock is the CPU's.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Capture", "Figure", "captured", "copy_rate", "graph_floor_us", "in_turn", "release", "synchronize"]

_ROUNDS = 9
"""Turns of each contender."""
_REPLAYS = 3000
"""Of a turn, at most."""
_COPIED = 1 << 30
"""Bytes that are copied to find out how fast that is."""

Capture = Callable[[], object]


@dataclass(frozen=True)
class Figure:
    """µs a replay: the median of the turns, the fastest and the slowest."""

    us: float
    low: float
    high: float


def synchronize(device: torch.device) -> None:
    """Wait until the device has done what it was told to."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def release(device: torch.device) -> None:
    """Give memory that nobody uses any more back to the device: modules of peers may hold each other."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def captured(run: Callable[[], Tensor], device: torch.device, pool: object = None) -> tuple[Capture, Tensor]:
    """What replays a call, and the tensor that it then fills.

    Args:
        run: It has run before: what it compiles or allocates once must not be done while a graph is captured.
        device: Where it runs.
        pool: `torch.cuda.graph_pool_handle()` of graphs that never run at the same time. Results that are not kept
            share their memory.
    """
    if device.type != "cuda":
        return run, run()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool):  # type: ignore[arg-type]
        out = run()
    return graph.replay, out


def in_turn(contenders: Sequence[Sequence[Capture]], seconds: float, device: torch.device) -> list[Figure]:
    """The figures of each, of turns that take about so long in all; a contender's graphs are replayed one by one."""
    share = seconds / len(contenders) / _ROUNDS * 1e6
    passes = [_passes(graphs, share, device) for graphs in contenders]
    turns = [
        [_turn_us(graphs, n, device) for graphs, n in zip(contenders, passes, strict=True)] for _ in range(_ROUNDS)
    ]
    return [Figure(statistics.median(one), min(one), max(one)) for one in zip(*turns, strict=True)]


def _passes(graphs: Sequence[Capture], us: float, device: torch.device) -> int:
    """How often all graphs are replayed in a turn that takes so long."""
    _turn_us(graphs, 1, device)
    each = _turn_us(graphs, 3, device) * len(graphs)
    return min(max(1, round(us / each)), -(-_REPLAYS // len(graphs)))


def _turn_us(graphs: Sequence[Capture], passes: int, device: torch.device) -> float:
    """µs a replay; the pass before the clock starts brings back what others drove out of the caches."""
    for replay in graphs:
        replay()
    clock = _Clock(device)
    for _ in range(passes):
        for replay in graphs:
            replay()
    return clock.us() / passes / len(graphs)


class _Clock:
    """Runs from when it is made."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        if device.type == "cuda":
            self._events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]  # type: ignore[no-untyped-call]
            self._events[0].record()
        self._start = time.perf_counter()

    def us(self) -> float:
        """Of the device, once it has done what it was told to."""
        if self._device.type != "cuda":
            return (time.perf_counter() - self._start) * 1e6
        start, end = self._events
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) * 1e3


def copy_rate(device: torch.device, size: int = _COPIED) -> float:
    """Bytes a second that a copy within the device's memory reads and writes: the most that a look-up can move."""
    source, target = (torch.zeros(size, dtype=torch.uint8, device=device) for _ in range(2))
    figure = in_turn([[lambda: target.copy_(source)]], 0.1, device)[0]
    return 2 * size / figure.us * 1e6


def graph_floor_us(device: torch.device) -> float:
    """µs a replay of a graph that does next to nothing: none is faster."""
    one = torch.zeros(1, device=device)

    def add() -> Tensor:
        return one.add_(1)

    add()
    graph, _ = captured(add, device)
    return in_turn([[graph] * 6], 0.1, device)[0].us
