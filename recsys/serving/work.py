"""On which thread a request is answered."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

__all__ = ["Work"]

Answer = Callable[[bytes], bytes]
SMALL = 4 * 2**10
"""Bytes of a body that may be answered on the event loop."""
FEW = 300
"""Commas in such a body: each candidate and each value of a tensor has one, and is what takes time."""
QUICK = 1e-3
"""Seconds that the small body before may have taken. The next may take longer, but `FEW` bounds by how much."""


def _small(body: bytes) -> bool:
    return len(body) <= SMALL and body.count(b",") <= FEW


class Work:
    """Answers requests on threads, so that health and metrics never wait for a model.

    To hand a request to a thread and its answer back takes longer than a small model does for one row. So a small body
    is answered on the event loop itself, as long as the small one before it took less than `QUICK`; where threads fight
    for the interpreter it takes longer, and all go to threads again. Measured on two cores of an EPYC, client included:
    355 µs in place of 470 to 570 for one row. What a body asks for grows with it, so larger ones never stay there.

    Args:
        threads: How many requests are answered at once.
    """

    def __init__(self, threads: int) -> None:
        self._pool = ThreadPoolExecutor(threads, "recsys-serve")
        self._threads, self._took = threads, math.inf

    async def run(self, answer: Answer, body: bytes) -> bytes:
        """``answer(body)``, and what it raises."""
        if self._took < QUICK and _small(body):
            return self._timed(answer, body)
        return await asyncio.get_running_loop().run_in_executor(self._pool, self._timed, answer, body)

    def _timed(self, answer: Answer, body: bytes) -> bytes:
        start = time.perf_counter()
        try:
            return answer(body)
        finally:
            if _small(body):
                self._took = time.perf_counter() - start

    def warm_up(self, prepare: Callable[[], object]) -> None:
        """Start every thread, and call `prepare` on each and on this one: buffers are a thread's own."""
        together = threading.Barrier(self._threads)

        def one() -> None:
            together.wait()  # so that no thread takes two
            prepare()

        for done in [self._pool.submit(one) for _ in range(self._threads)]:
            done.result()
        prepare()

    def close(self) -> None:
        """End the threads once they have answered."""
        self._pool.shutdown()
