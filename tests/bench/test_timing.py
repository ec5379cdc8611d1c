"""Interleaved medians, and one core that is given back."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

import pyarrow as pa
import pytest
import torch

from recsys.bench.timing import Job, Rate, interleaved, once, one_core


def test_jobs_take_turns() -> None:
    seen: list[str] = []
    told: list[str] = []

    def job(name: str) -> Job:
        return Job(name, 10, lambda: seen.append(name))

    rates = interleaved([job("a"), job("b")], 3, lambda done: told.append(done.name))
    assert seen == told == ["a", "b"] * 3
    assert list(rates) == ["a", "b"]


def test_the_median_of_the_rounds_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    found = iter([Rate(1, 40), Rate(5, 20), Rate(3, 30)])
    monkeypatch.setattr("recsys.bench.timing.once", lambda job: next(found))
    assert interleaved([Job("a", 1, lambda: None)], 3) == {"a": Rate(3, 30)}


def test_waiting_takes_wall_time_only() -> None:
    rate = once(Job("sleep", 100, lambda: time.sleep(0.1)))
    assert 0.001 <= rate.wall < 0.01
    assert rate.cpu < rate.wall / 2


def test_a_rate_is_told_by_the_second_and_by_the_row() -> None:
    assert Rate(4e-6, 2e-6).to_json() == {
        "rows_per_second": 250_000,
        "cpu_rows_per_second": 500_000,
        "cpu_us_per_row": 2.0,
    }


@pytest.fixture
def elsewhere() -> Callable[[], set[int]]:
    """Asks a thread that runs already for the cores that it may use."""
    asked, answered = threading.Semaphore(0), threading.Semaphore(0)
    cores: list[set[int]] = []

    def answer() -> None:
        while True:
            asked.acquire()
            cores.append(os.sched_getaffinity(0))
            answered.release()

    threading.Thread(target=answer, daemon=True).start()

    def ask() -> set[int]:
        asked.release()
        answered.acquire()
        return cores[-1]

    return ask


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system does not bind threads to cores")
def test_all_threads_share_one_core_and_get_theirs_back(elsewhere: Callable[[], set[int]]) -> None:
    def seen() -> list[object]:
        return [os.sched_getaffinity(0), elsewhere(), pa.cpu_count(), pa.io_thread_count(), torch.get_num_threads()]

    before, within = seen(), list[object]()

    def fail() -> None:
        with one_core() as core:
            within.extend([{core}, *seen()])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert within[0] == within[1] == within[2]
    assert within[3:] == [1, 1, 1]
    assert seen() == before


def test_without_affinity_threads_are_counted_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    with one_core() as core:
        assert core is None
        assert torch.get_num_threads() == 1
