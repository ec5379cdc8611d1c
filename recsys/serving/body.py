"""Read the body of a request under limits, and parse it as strict JSON."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, NoReturn

from recsys.serving.limits import Limits
from recsys.serving.refusals import Refused, closest, shown

__all__ = ["HungUpError", "check_headers", "check_keys", "parse", "read"]

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


class HungUpError(Exception):
    """The client went away before its body was complete: there is nobody to answer."""


def check_headers(headers: Mapping[str, str], limits: Limits) -> None:
    """The headers promise plain JSON that is not too long.

    Raises:
        Refused: 415, or 413 before a byte of the body was read.
    """
    kind, _, parameters = headers.get("content-type", "").partition(";")
    if kind.strip().lower() != "application/json":
        raise Refused(415, f"expected Content-Type: application/json, got {shown(kind.strip()) or 'none'}")
    charset = parameters.lower().replace(" ", "").replace('"', "").partition("charset=")[2]
    if charset.partition(";")[0] not in ("", "utf-8", "utf8"):
        raise Refused(415, f"expected JSON in UTF-8, got charset {shown(charset)}")
    if headers.get("content-encoding", "").lower() not in ("", "identity"):
        raise Refused(415, f"expected a body as it is, got Content-Encoding: {shown(headers['content-encoding'])}")
    length = headers.get("content-length", "")
    if length.isdecimal() and (len(length) > 18 or int(length) > limits.max_bytes):
        raise _too_long(limits)


def _too_long(limits: Limits) -> Refused:
    return Refused(413, f"the body has more than {limits.max_bytes:,} bytes: send fewer rows at a time")


async def read(receive: Receive, limits: Limits) -> bytes:
    """The body; at most one part more than the limit is ever held.

    Raises:
        Refused: 413 as soon as too much has come, 408 when it takes too long.
        HungUpError: When the client goes away.
    """
    try:
        async with asyncio.timeout(limits.seconds):
            return await _parts(receive, limits)
    except TimeoutError:
        raise Refused(408, f"the body was not complete after {limits.seconds:g} seconds") from None


async def _parts(receive: Receive, limits: Limits) -> bytes:
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise HungUpError
        part = message.get("body", b"")
        size += len(part)
        if size > limits.max_bytes:
            raise _too_long(limits)
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts)


def _no_number(word: str) -> NoReturn:
    raise Refused(400, f"{word} is no JSON: leave out what is missing, or send null")


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys differ: readers disagree on which of two counts. Costs 2 % of a ranking of 100."""
    found = dict(pairs)
    if len(found) < len(pairs):
        seen = set[str]()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise Refused(400, f"`{shown(twice)}` stands twice in one object")
    return found


_DECODER = json.JSONDecoder(parse_constant=_no_number, object_pairs_hook=_once)


def parse(body: bytes) -> dict[str, Any]:
    """The object that a body holds.

    Raises:
        Refused: 400 for what is no JSON or names a key twice, 422 for JSON that is no object.
    """
    try:
        found = _DECODER.decode(body.decode())
    except RecursionError:
        raise Refused(400, "the JSON is nested too deep: no request needs more than five levels") from None
    except UnicodeDecodeError as error:
        raise Refused(400, f"the body is no UTF-8: byte {error.start} cannot be read") from None
    except ValueError as error:  # broken JSON, or an integer of thousands of digits
        raise Refused(400, f"the body is no JSON: {error}") from None
    if not isinstance(found, dict):
        raise Refused(422, f"expected a JSON object, got a {type(found).__name__}")
    return found


def check_keys(found: Mapping[str, Any], required: tuple[str, ...], optional: tuple[str, ...], where: str) -> None:
    """An object has the keys that it must have, and no others.

    Raises:
        Refused: 422 that names the key.
    """
    for key in found:
        if key not in required and key not in optional:
            raise Refused(422, f"{where}: unknown key `{shown(key)}`: {closest(key, (*required, *optional))}")
    for key in required:
        if key not in found:
            raise Refused(422, f"{where}: missing key `{key}`")
