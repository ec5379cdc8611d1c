"""Making the next thing while the caller works on this one."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from recsys.data.ahead import ahead, side_by_side


def test_items_come_in_order_and_one_is_made_ahead() -> None:
    made: list[int] = []
    next_made = threading.Event()

    def items() -> Iterator[int]:
        for i in range(5):
            made.append(i)
            if i == 2:
                next_made.set()
            yield i

    coming = ahead(items())
    assert [next(coming), next(coming)] == [0, 1]
    assert next_made.wait(10)  # the third, without being asked for
    assert list(coming) == [2, 3, 4]
    assert made == [0, 1, 2, 3, 4]


def test_what_the_producer_raises_is_raised_here_after_what_came_before() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("broken")

    coming = ahead(items())
    assert next(coming) == 1
    with pytest.raises(ValueError, match="broken"):
        next(coming)


def test_leaving_early_ends_the_thread() -> None:
    def items() -> Iterator[int]:
        yield from range(1000)

    before = threading.active_count()
    coming = ahead(items())
    next(coming)
    coming.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


def test_nothing_gives_nothing() -> None:
    assert list(ahead(iter([]))) == []


def test_work_side_by_side_comes_in_order_and_not_too_far_ahead() -> None:
    taken = 0

    def items() -> Iterator[int]:
        nonlocal taken
        while taken < 20:
            taken += 1
            yield taken

    def work(i: int) -> tuple[int, str]:
        time.sleep(0.002 * (i % 3))
        return i, threading.current_thread().name

    coming = side_by_side(items(), work, 3)
    first = next(coming)
    assert taken <= 3 + 3
    found = [first, *coming]
    assert [i for i, _ in found] == list(range(1, 21))
    assert 1 < len({name for _, name in found}) <= 3
    assert list(side_by_side(iter([]), work, 2)) == []


def test_what_work_raises_is_raised_here_after_what_came_before() -> None:
    def work(i: int) -> int:
        if i == 2:
            raise ValueError("broken")
        return i

    coming = side_by_side(iter(range(9)), work, 2)
    assert [next(coming), next(coming)] == [0, 1]
    with pytest.raises(ValueError, match="broken"):
        next(coming)
