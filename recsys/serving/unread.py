"""Bodies that are answered before they have come: too long, too slow, or sent to where nobody reads them.

Who goes on reading them may do so for ever. Who closes at once resets the connection, and a client that still sends
finds that in place of its answer. So the answer says ``Connection: close``, and what comes is thrown away for a while.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

__all__ = ["LINGER", "LINGER_BYTES", "expected", "here", "linger"]

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
LINGER = 1.0
"""Seconds that a client is given to read its answer and to stop sending."""
LINGER_BYTES = 16 * 2**20
"""And how much it may send meanwhile."""


def expected(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether a request has a body at all."""
    return any(name == b"transfer-encoding" or (name == b"content-length" and value != b"0") for name, value in headers)


async def here(headers: Iterable[tuple[bytes, bytes]], receive: Receive) -> bool:
    """Whether all of a body has arrived, which nobody read to its end."""
    if any(name == b"expect" for name, _ in headers):  # reading would ask for it
        return False
    try:
        async with asyncio.timeout(0):
            return not (await receive()).get("more_body", False)
    except TimeoutError:
        return False


async def linger(receive: Receive) -> None:
    """Throw away what still comes, until its end, or until it is too long or too much."""
    size = 0
    try:
        async with asyncio.timeout(LINGER):
            while size < LINGER_BYTES:
                message = await receive()
                size += len(message.get("body", b""))
                if not message.get("more_body", False):
                    return
    except TimeoutError:
        pass
