"""Clients of a server on this machine, in a closed and in an open loop; `recsys bench serve` says what they measure."""

from __future__ import annotations

import contextlib
import itertools
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np

from recsys.errors import RecsysError

__all__ = ["Address", "Case", "Connection", "beside", "closed", "opened"]

Row = dict[str, Any]
Address = tuple[str, int]
_SENDERS = 16
"""Connections of the open loop."""


@dataclass(frozen=True)
class Case:
    """Requests of one kind, and what the session does for each."""

    name: str
    path: str
    rows: int
    bodies: list[bytes]
    own: list[Callable[[], object]]


class Connection:
    """A client that does as little as can be: one connection, kept alive, and bytes that were written before.

    So little of what is measured is the client's own.
    """

    def __init__(self, address: Address, timeout: float = 60.0) -> None:
        self._socket = socket.create_connection(address, timeout)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, path: str, body: bytes) -> bytes:
        """The body of the answer.

        Raises:
            RecsysError: When it is not 200.
        """
        told, answer = self.send(path, body)
        if not told.startswith(b"HTTP/1.1 200 "):
            raise RecsysError(f"the server refused: {answer.decode()}")
        return answer

    def send(self, path: str, body: bytes) -> tuple[bytes, bytes]:
        """The head and the body of an answer of whichever status."""
        head = (
            f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        self._socket.sendall(head.encode() + body)
        found = b""
        while b"\r\n\r\n" not in found:
            found += self._some()
        told, _, answer = found.partition(b"\r\n\r\n")
        size = int(told.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
        while len(answer) < size:
            answer += self._some()
        return told, answer

    def _some(self) -> bytes:
        part = self._socket.recv(1 << 16)
        if not part:
            raise RecsysError("the server hung up")
        return part

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._socket.close()


def beside(address: Address, case: Case, requests: int, seconds: float) -> Row:
    """One client; after each request the session's own call."""
    over, own = [], []
    with Connection(address) as connection:
        for k in range(2 * len(case.bodies)):  # both warm up
            connection.ask(case.path, case.bodies[k % len(case.bodies)])
            case.own[k % len(case.bodies)]()
        until = time.perf_counter() + seconds
        for k in range(requests):
            start = time.perf_counter()
            connection.ask(case.path, case.bodies[k % len(case.bodies)])
            middle = time.perf_counter()
            case.own[k % len(case.bodies)]()
            own.append(time.perf_counter() - middle)
            over.append(middle - start)
            if time.perf_counter() > until:
                break
    mine = {f"session_{name}": value for name, value in _figures(own).items()}
    figures = _figures(over)
    overhead = {"overhead_p50_us": round(figures["p50_us"] - mine["session_p50_us"], 1)}
    return {**_named(case, "closed", 1), **_counted(over, sum(over)), **figures, **mine, **overhead}


def closed(address: Address, case: Case, clients: int, requests: int, seconds: float) -> Row:
    """Clients that each send a request once the last is answered."""
    start = time.perf_counter()
    turn, until, took = itertools.count(), start + seconds, list[float]()

    def client(connection: Connection) -> None:
        while (k := next(turn)) < requests and ((sent := time.perf_counter()) < until or k == 0):
            connection.ask(case.path, case.bodies[k % len(case.bodies)])
            took.append(time.perf_counter() - sent)

    wall = _together(address, clients, client)
    return {**_named(case, "closed", clients), **_counted(took, wall), **_figures(took)}


def opened(address: Address, case: Case, rate: float, requests: int, seconds: float) -> Row:
    """Requests that are due at random times, `rate` a second; what is not sent in twice `seconds` is counted.

    The first is due at once: at a low rate there might be none otherwise.
    """
    due = np.cumsum(np.random.default_rng(1).exponential(1 / rate, requests))
    due = (due - due[0])[due - due[0] < seconds]
    start = time.perf_counter() + 0.05
    turn, took = itertools.count(), list[float]()

    def client(connection: Connection) -> None:
        while (k := next(turn)) < len(due) and (k == 0 or time.perf_counter() < start + 2 * seconds):
            wait = start + due[k] - time.perf_counter()
            if wait > 0:
                time.sleep(wait)
            connection.ask(case.path, case.bodies[k % len(case.bodies)])
            took.append(time.perf_counter() - start - due[k])

    wall = _together(address, _SENDERS, client)
    late = {"rate": round(rate, 1), "unsent": len(due) - len(took)}
    return {**_named(case, "open", _SENDERS), **late, **_counted(took, wall), **_figures(took)}


def _together(address: Address, clients: int, work: Callable[[Connection], None]) -> float:
    """Seconds that so many clients take, each on a thread and a connection of its own."""
    failed: list[Exception] = []

    def run(connection: Connection) -> None:
        try:
            work(connection)
        except (OSError, RecsysError) as error:
            failed.append(error)

    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(Connection(address)) for _ in range(clients)]
        threads = [threading.Thread(target=run, args=(one,)) for one in connections]
        start = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        wall = time.perf_counter() - start
    if failed:
        raise RecsysError(f"a client failed: {failed[0]}")
    return wall


def _named(case: Case, loop: str, clients: int) -> Row:
    return {"case": case.name, "rows": case.rows, "loop": loop, "clients": clients}


def _counted(took: Sequence[float], wall: float) -> Row:
    return {"requests": len(took), "per_second": round(len(took) / wall, 1)}


def _figures(took: Sequence[float]) -> dict[str, float]:
    p50, p99 = np.percentile(took, [50, 99]) * 1e6
    return {"p50_us": round(float(p50), 1), "p99_us": round(float(p99), 1)}
