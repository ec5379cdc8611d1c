"""The routes: FastAPI finds and documents them; bodies are read and parsed by hand, which is faster, and bounded."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from recsys import __version__
from recsys.serving.body import HungUpError, check_headers, read
from recsys.serving.metrics import Metrics
from recsys.serving.model import Model, to_bytes
from recsys.serving.refusals import Refused, closest, shown
from recsys.serving.unread import expected, here, linger
from recsys.serving.work import Work

__all__ = ["Service", "make_app"]

HUNG_UP = 499
"""The status that is counted where nobody waits for an answer any more."""


class Service:
    """What the routes share, and the process that serves them.

    Attributes:
        running: Requests that are not answered yet.
        reading: Those of them whose body has not come.
        draining: Whether the server is shutting down: what runs is finished, and nothing new is computed.
    """

    def __init__(self, model: Model, threads: int) -> None:
        self.model = model
        self.metrics = Metrics(lambda: model.session.counts)
        self.work = Work(threads)
        self.running, self.reading, self.draining = 0, 0, False
        model.seen = self.metrics.rows

    async def live(self) -> Response:
        """The process answers."""
        return _json({"live": True})

    async def ready(self) -> Response:
        """Requests are served; 503 while the server shuts down."""
        return _json({"ready": not self.draining}, 503 if self.draining else 200)

    async def server(self) -> Response:
        """The server's name and version."""
        return _json({"name": "recsys", "version": __version__, "extensions": []})

    async def about(self, name: str) -> Response:
        """The model's inputs and outputs."""
        self._check_name(name)
        return _json(self.model.metadata())

    async def model_ready(self, name: str) -> Response:
        """The model is served; 503 while the server shuts down."""
        self._check_name(name)
        return _json({"name": name, "ready": not self.draining}, 503 if self.draining else 200)

    async def infer(self, request: Request, name: str) -> Response:
        """Scores of rows, by the Open Inference Protocol v2; `recsys.serving.tensors` says how lists are sent."""
        self._check_name(name)
        return await self._computed(request, self.model.infer)

    async def rank(self, request: Request) -> Response:
        """The best of many candidates for one user."""
        return await self._computed(request, self.model.rank)

    async def told(self) -> Response:
        """Counters and histograms for Prometheus."""
        return Response(self.metrics.text(), headers={"content-type": Metrics.media_type})

    async def _computed(self, request: Request, answer: Callable[[bytes], bytes]) -> Response:
        if self.draining:
            raise Refused(503, "the server is shutting down: ask another one")
        check_headers(request.headers, self.model.limits)
        self.reading += 1
        try:
            body = await read(request.receive, self.model.limits)
        finally:
            self.reading -= 1
        return Response(await self.work.run(answer, body), media_type="application/json")

    def _check_name(self, name: str) -> None:
        if name != self.model.name:
            raise Refused(404, f"no such model as `{shown(name)}`: {closest(name, [self.model.name])}")


def _json(answer: Any, status: int = 200) -> Response:
    return Response(to_bytes(answer), status, media_type="application/json")


def make_app(service: Service) -> FastAPI:
    """The application; `recsys.serving.server` runs it, and a test calls it in-process."""
    app = FastAPI(title=f"recsys: {service.model.name}", version=__version__, redirect_slashes=False)
    routes: tuple[tuple[str, str, Callable[..., Any], Any], ...] = (
        ("GET", "/v2/health/live", service.live, None),
        ("GET", "/v2/health/ready", service.ready, None),
        ("GET", "/v2", service.server, None),
        ("GET", "/v2/models/{name}", service.about, None),
        ("GET", "/v2/models/{name}/ready", service.model_ready, None),
        ("POST", "/v2/models/{name}/infer", service.infer, {"inputs": [_TENSOR]}),
        ("POST", "/rank", service.rank, {"user": {}, "candidates": [{}], "k": 10}),
        ("GET", "/metrics", service.told, None),
    )
    for method, path, endpoint, example in routes:
        body = {"requestBody": {"required": True, "content": {"application/json": {"example": example}}}}
        app.add_api_route(
            path, endpoint, methods=[method], response_class=Response, openapi_extra=body if example else None
        )
    for method, path, endpoint, _ in routes:  # apart, for the documents, and last, for routes are tried in turn
        if method == "GET":
            app.add_api_route(path, endpoint, methods=["HEAD"], include_in_schema=False)
    app.add_exception_handler(Refused, _refused)
    app.add_exception_handler(HTTPException, _not_found)
    app.add_exception_handler(HungUpError, _hung_up)
    app.add_exception_handler(Exception, _mistake)
    app.add_middleware(_Meter, service=service)
    return app


_TENSOR = {"name": "COLUMN", "shape": [1], "datatype": "BYTES", "data": ["VALUE"]}


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refused)
    return _json({"error": error.message}, error.status)


async def _not_found(request: Request, error: Exception) -> Response:
    """A path or a method that is not here, as the router says it."""
    assert isinstance(error, HTTPException)
    path, method = shown(request.url.path), request.method
    absent = f"no such path as {path}: /docs lists them"
    if re.match(r"/v2/models/[^/]+/versions(/|$)", request.url.path):
        absent = "this server has no versions: leave out /versions and what follows it, up to /ready or /infer"
    told = {
        404: absent,
        405: f"{path} does not take {method}: /docs says what",
    }
    answer = _json({"error": told.get(error.status_code, str(error.detail))}, error.status_code)
    answer.headers.update(error.headers or {})
    return answer


async def _hung_up(request: Request, error: Exception) -> Response:
    """Goes nowhere, but is counted."""
    return Response(status_code=HUNG_UP)


async def _mistake(request: Request, error: Exception) -> Response:
    return _json({"error": "a mistake of the server: its standard error has the trace"}, 500)


class _Meter:
    """Counts requests, by route and status, and those that run; closes where a body was answered before it had come."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app, self.service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        status, start, closes = 500, time.perf_counter(), False
        unread = expected(scope["headers"])

        async def receiving() -> Message:
            nonlocal unread
            message = await receive()
            unread = message.get("more_body", False)
            return message

        async def sending(message: Message) -> None:
            nonlocal status, closes
            if message["type"] == "http.response.start":
                status = message["status"]
                closes = unread and not await here(scope["headers"], receive)
                if closes:
                    message = {**message, "headers": [*message["headers"], (b"connection", b"close")]}
            elif closes:  # all of the answer, but not its end, at which the connection is closed
                message = {**message, "more_body": True}
            await send(message)

        self.service.running += 1
        try:
            await self.app(scope, receiving, sending)
        finally:
            self.service.running -= 1
            route = getattr(scope.get("route"), "path", "other")
            self.service.metrics.request(route, status, time.perf_counter() - start)
        if closes:
            await linger(receive)
            await send({"type": "http.response.body", "body": b""})
