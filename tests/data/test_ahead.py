"""Making the next thing while the caller works on this one."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from recsys.data.ahead import ahead


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
