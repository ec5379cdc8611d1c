"""Calls an application as uvicorn does, in this process: what it raises is raised here."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Iterator, MutableMapping
from dataclasses import dataclass
from typing import Any

from fastapi import FastAPI

JSON = {"content-type": "application/json"}


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> str:
        (message,) = self.json.values()
        assert isinstance(message, str)
        assert list(self.json) == ["error"]
        return message


class Client:
    """One event loop for all requests, as in a server."""

    def __init__(self, app: FastAPI) -> None:
        self.app, self.loop = app, asyncio.new_event_loop()

    def close(self) -> None:
        self.loop.close()

    def get(self, path: str) -> Answer:
        return self.ask("GET", path)

    def post(self, path: str, found: Any, headers: dict[str, str] = JSON) -> Answer:
        return self.ask("POST", path, [found if isinstance(found, bytes) else json.dumps(found).encode()], headers)

    def ask(
        self, method: str, path: str, parts: Iterable[bytes | None] = (b"",), headers: dict[str, str] | None = None
    ) -> Answer:
        return self.loop.run_until_complete(self.call(method, path, parts, headers))

    async def call(
        self, method: str, path: str, parts: Iterable[bytes | None] = (b"",), headers: dict[str, str] | None = None
    ) -> Answer:
        """A body that comes in parts; at None nothing more comes, and at their end, if any are left, it hangs up."""
        messages = self._messages(iter(parts))
        sent: list[MutableMapping[str, Any]] = []

        async def receive() -> MutableMapping[str, Any]:
            message = next(messages)
            if message is None:
                await asyncio.sleep(3600)
            return message or {}

        async def send(message: MutableMapping[str, Any]) -> None:
            sent.append(message)

        named = [(key.encode("latin-1"), value.encode("latin-1")) for key, value in (headers or {}).items()]
        scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "scheme": "http",
            "root_path": "",
        }
        scope |= {"method": method, "path": path, "raw_path": path.encode(), "query_string": b"", "headers": named}
        await self.app({**scope, "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2)}, receive, send)
        told = {key.decode(): value.decode() for key, value in sent[0]["headers"]}
        return Answer(sent[0]["status"], told, b"".join(message.get("body", b"") for message in sent[1:]))

    @staticmethod
    def _messages(parts: Iterator[bytes | None]) -> Iterator[MutableMapping[str, Any] | None]:
        last = next(parts, b"")
        if last is None:
            yield None
        for part in parts:
            yield {"type": "http.request", "body": last, "more_body": True}
            if part is None:
                yield None
            last = part
        if last == b"HANG UP":
            yield {"type": "http.disconnect"}
        yield {"type": "http.request", "body": last, "more_body": False}
        while True:
            yield {"type": "http.disconnect"}
