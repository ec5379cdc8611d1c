"""Time launches on a GPU: captured in a graph, one after the other, over ids that follow each other."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch

__all__ = ["Times", "captured", "graph_times"]

Times = list[float]
"""µs of a launch, of some measurements."""

_BUSY_US = 4000.0
"""What one measurement takes, at least."""
_MOST = 400
"""Replays of one."""
_PASSES = 5


def captured(launches: Sequence[Callable[[], object]], device: torch.device) -> torch.cuda.CUDAGraph:
    """A graph of launches, after each ran once; what they read and write must stay."""
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream(device))
    with torch.cuda.stream(stream):
        for launch in launches:
            launch()
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        for launch in launches:
            launch()
    torch.cuda.synchronize(device)
    return graph


def graph_times(launches: Sequence[Callable[[], object]], device: torch.device, passes: int = _PASSES) -> Times:
    """µs of a launch: all of them in one graph, replayed again and again, for some ms at a time.

    Args:
        launches: What to launch: several, over ids of their own, for a GPU's cache is large.
        device: The GPU. Of a CPU, for tests, they run one by one.
        passes: Measurements.
    """
    if device.type != "cuda":
        return [_wall_us(launches) for _ in range(2)]
    graph = captured(launches, device)
    graph.replay()
    once = _replays_us(graph, 1, device)
    count = int(min(max(_BUSY_US / max(once, 1.0), 2), _MOST))
    return [_replays_us(graph, count, device) / count / len(launches) for _ in range(passes)]


def _replays_us(graph: torch.cuda.CUDAGraph, count: int, device: torch.device) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
    start.record(torch.cuda.current_stream(device))
    for _ in range(count):
        graph.replay()
    end.record(torch.cuda.current_stream(device))
    end.synchronize()
    return float(start.elapsed_time(end)) * 1e3


def _wall_us(launches: Sequence[Callable[[], object]]) -> float:
    start = time.perf_counter()
    for launch in launches:
        launch()
    return (time.perf_counter() - start) * 1e6 / len(launches)
