"""Uvicorn's HTTP/1.1 with bounds on headers, which it leaves to a proxy in front: there may be none."""

from __future__ import annotations

import asyncio
import json
from http import HTTPStatus

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from recsys.serving.limits import Limits

__all__ = ["HEADERS", "bounded"]

HEADERS = 64 * 2**10
"""Bytes of a request's headers; where they begin in the packet that ends another request, a packet more."""


class _Bounded(HttpToolsProtocol):
    """A connection.

    Bytes count until they move a request on: its headers are complete, or a part of its body or its end is here. So
    trailers are bounded as headers are, and the parser's work, which grows with the square of what comes in parts.

    Headers that come in one packet, as nearly all do, need no timer. One runs from the start, before anything came, and
    from the first byte of headers that do not come whole; uvicorn's own closes kept-alive connections that are idle.

    Attributes:
        seconds: Within which headers are complete.
    """

    seconds: float

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._unmoved, self._moved, self._began, self._inside = 0, False, False, False
        self._timer: asyncio.TimerHandle | None = self.loop.call_later(self.seconds, self._too_late)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        while data and not self.transport.is_closing():
            room = HEADERS - self._unmoved
            self._feed(data[:room])
            data = data[room:]

    def _feed(self, data: bytes) -> None:
        self._moved = False
        super().data_received(data)
        self._unmoved = 0 if self._moved else self._unmoved + len(data)
        if self._unmoved >= HEADERS:
            self._refuse(431, f"expected headers of less than {HEADERS:,} bytes", not self._answers())
        if self._moved or self._inside:
            self._stop()
        if self._timer is None and not self._inside and (self._began or not self._moved):
            self._timer = self.loop.call_later(self.seconds, self._too_late)

    def on_message_begin(self) -> None:
        self._began = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._moved, self._began, self._inside = True, False, True
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._moved = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._moved, self._inside = True, False
        super().on_message_complete()

    def shutdown(self) -> None:
        """Uvicorn's, but a request whose body has not come is not waited for."""
        if self._answers() and self.cycle.more_body:
            told = not self.cycle.response_started and not self.pipeline
            self._refuse(503, "the server is shutting down: ask another one", told)
        else:
            super().shutdown()

    def _answers(self) -> bool:
        """Whether an earlier request, or the one whose body comes, is not answered yet."""
        return self.cycle is not None and not self.cycle.response_complete

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_late(self) -> None:
        self._timer = None
        if self._answers():  # another request's answer is on its way
            self._timer = self.loop.call_later(self.seconds, self._too_late)
        else:
            self._refuse(408, f"the headers were not complete after {self.seconds:g} seconds", self._unmoved > 0)

    def _refuse(self, status: int, message: str, told: bool) -> None:
        """Close, with a word unless it could be taken for an earlier request's answer."""
        if told:
            body = json.dumps({"error": message}).encode()
            head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: application/json\r\n"
            self.transport.write(f"{head}content-length: {len(body)}\r\nconnection: close\r\n\r\n".encode() + body)
        self.transport.close()


def bounded(limits: Limits) -> type[_Bounded]:
    """The class of a server's connections, which uvicorn makes itself."""
    return type("BoundedByLimits", (_Bounded,), {"seconds": limits.seconds})
