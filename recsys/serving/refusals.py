"""What is answered to a request that cannot be served, always as ``{"error": "one sentence"}``.

    status  when
    400     the body is no JSON: not UTF-8, broken, nested too deep, a number of thousands of digits, NaN or Infinity,
            or an object has a key twice
    404     a path, or a model's name, that is not here; the nearest one is named
    405     another method than the path takes
    408     the body did not come within `Limits.seconds`, or before it the headers
    413     more bytes, rows or values than `Limits` allows; bytes are counted while they arrive, and no more are kept
    415     another content type than application/json, another charset than UTF-8, or a compressed body
    422     JSON that is no request: a key, feature, output or task that is unknown (the nearest is named) or missing, a
            value of the wrong type, a shape that does not fit, a number that is infinite or beyond its type; and
            whatever else the session refuses to score, such as numbers from which no finite score comes
    431     headers of 64 KiB or more
    503     the server is shutting down
    500     a mistake of ours; the trace is on standard error

What is no HTTP at all never comes this far: uvicorn answers 400 in plain text. Headers that are too long or too slow
do not either: `protocol` answers them, and no metric counts them. A connection on which nothing has come for as long
is closed without a word, and so is one whose body was answered before it had come, a moment later.

The protocol asks for "an HTTP error status (typically 400)"; the finer ones say whether sending less, or otherwise,
helps. A client that hangs up before its body is complete is answered nothing, and counted as status 499.
"""

from __future__ import annotations

from collections.abc import Iterable

from recsys.config import nearest

__all__ = ["Refused", "closest", "shown"]

_LONGEST = 600
"""Characters of a sentence; what a client sent may stand in it."""


class Refused(Exception):
    """A request that cannot be served.

    Attributes:
        status: Of the answer.
        message: One sentence: what was expected, what came, what to do.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message = message if len(message) <= _LONGEST else f"{message[:_LONGEST]} …"


def shown(value: object) -> str:
    """What a client sent, short enough for a sentence."""
    text = value if isinstance(value, str) else f"a {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:60]}…"


def closest(name: str, known: Iterable[str]) -> str:
    """`recsys.config.nearest` of a name that may be megabytes long, which comparing must not see."""
    return nearest(name[:60], list(known))
