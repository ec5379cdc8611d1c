"""Time jobs against each other on one core: A B C A B C …, and the median of each.

Wall time is what a user waits for; on a machine that others use, too, it says as much about them. The processor time of
the process does not, and on one core without waiting the two are the same: ratios are made from it.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import torch

__all__ = ["Job", "Rate", "interleaved", "once", "one_core"]

_TASKS = Path("/proc/self/task")


@dataclass(frozen=True)
class Job:
    """Work on `rows` rows; what `run` returns is dropped."""

    name: str
    rows: int
    run: Callable[[], object]


@dataclass(frozen=True)
class Rate:
    """Seconds a row, of wall time and of processor time."""

    wall: float
    cpu: float

    def to_json(self) -> dict[str, float]:
        """Rows a second by both, and microseconds of processor time a row."""
        return {
            "rows_per_second": round(1 / self.wall),
            "cpu_rows_per_second": round(1 / self.cpu),
            "cpu_us_per_row": round(self.cpu * 1e6, 4),
        }


def interleaved(jobs: Sequence[Job], rounds: int, done: Callable[[Job], object] = lambda job: None) -> dict[str, Rate]:
    """Run every job once a round, in order; the median of the rounds, by name.

    Args:
        jobs: Their names differ.
        rounds: How many.
        done: Called after each run, for a progress bar.
    """
    rates: dict[str, list[Rate]] = {job.name: [] for job in jobs}
    for _ in range(rounds):
        for job in jobs:
            rates[job.name].append(once(job))
            done(job)
    return {name: _median(found) for name, found in rates.items()}


def once(job: Job) -> Rate:
    """Run a job and time it."""
    wall, cpu = time.perf_counter(), time.process_time()
    job.run()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return Rate(wall / job.rows, max(cpu, 1e-9) / job.rows)  # a coarse clock may not have moved


def _median(rates: Sequence[Rate]) -> Rate:
    return Rate(statistics.median(r.wall for r in rates), statistics.median(r.cpu for r in rates))


@contextlib.contextmanager
def one_core() -> Iterator[int | None]:
    """Within it all threads of this process share one core, and Arrow and torch use one thread; then all is put back.

    Threads that start within it inherit the core, and a library that first loads within it, such as polars, sizes its
    pool by it.

    Yields:
        The core's number; None where the system does not bind threads to cores.
    """
    arrow, waiting, tensors = pa.cpu_count(), pa.io_thread_count(), torch.get_num_threads()
    before = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    core = max(before, default=None)  # the first cores serve most interrupts
    try:
        _threads(1, 1, 1)
        if core is not None:
            _bind({core})
        yield core
    finally:
        if before:
            _bind(before)
        _threads(arrow, waiting, tensors)


def _threads(arrow: int, waiting: int, tensors: int) -> None:
    pa.set_cpu_count(arrow)
    pa.set_io_thread_count(waiting)
    torch.set_num_threads(tensors)


def _bind(cores: set[int]) -> None:
    """Let every thread of this process run on these cores only; one thread's setting does not move the others."""
    threads = [int(task.name) for task in _TASKS.iterdir()] if _TASKS.is_dir() else [0]
    for thread in threads:
        with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
            os.sched_setaffinity(thread, cores)
