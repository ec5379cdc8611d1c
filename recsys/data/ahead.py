"""Work on one thing while the next is being made."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

__all__ = ["ahead", "side_by_side"]

T = TypeVar("T")
R = TypeVar("R")


def ahead(items: Iterator[T]) -> Iterator[T]:
    """The same items; a thread makes the next one while the caller works on this one.

    At most one finished item waits. What `items` raises is raised here; when the caller stops early, so does the
    thread, after the item that it is making.
    """
    end = object()
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as pool:
        coming = pool.submit(next, items, end)
        while (item := coming.result()) is not end:
            coming = pool.submit(next, items, end)
            yield item  # type: ignore[misc]


def side_by_side(items: Iterator[T], work: Callable[[T], R], threads: int) -> Iterator[R]:
    """``work(item)`` of every item, in order, by so many threads at once; another makes the items.

    At most one more than `threads` are at work or wait. What `items` or `work` raises is raised here, after what came
    before it; when the caller stops early, so do the threads, after the items that they are at.
    """
    with ThreadPoolExecutor(threads, thread_name_prefix="side-by-side") as pool:
        coming: deque[Future[R]] = deque()
        for item in ahead(items):
            coming.append(pool.submit(work, item))
            if len(coming) > threads:
                yield coming.popleft().result()
        while coming:
            yield coming.popleft().result()
