"""The process: opens a model, binds an address, serves until it is told to stop, and then finishes what runs."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Callable
from types import FrameType

import torch
import uvicorn
from prometheus_client import disable_created_metrics

from recsys.data.inputs import Counts
from recsys.errors import ConfigError
from recsys.inference.session import InferenceSession
from recsys.serving.app import Service, make_app
from recsys.serving.limits import Limits
from recsys.serving.model import Model
from recsys.serving.protocol import bounded

__all__ = ["bind", "serve"]

LONGEST = 25.0
"""Seconds that running requests are given once the server is told to stop; who tells it often kills it after 30."""


def bind(host: str, port: int) -> socket.socket:
    """A socket with that address that does not listen yet: who comes early is refused, and does not wait.

    Raises:
        ConfigError: When the address is taken, or is none of this machine's.
    """
    if not 0 <= port < 2**16:
        raise ConfigError(f"expected a port of 0 (any that is free) to 65535, got {port}")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, kind, protocol)
        try:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.bind(address)
        except OSError:
            found.close()
            raise
    except (OSError, UnicodeError) as error:
        raise _cannot(host, port, error) from None
    return found


def _cannot(host: str, port: int, error: Exception) -> ConfigError:
    why = getattr(error, "strerror", None) or error
    return ConfigError(f"cannot serve on {host}, port {port}: {why}; choose another --host or --port")


def serve(
    name: str, session: InferenceSession, at: socket.socket, limits: Limits, ready: Callable[[str], object]
) -> Service:
    """Serve until SIGTERM or SIGINT: new requests are refused then, running ones finished; a second signal ends them.

    Args:
        name: The model's, in the protocol's paths.
        session: Is closed at the end.
        at: From `bind`.
        limits: Of a request.
        ready: Called with the address once requests are served.

    Raises:
        ConfigError: When another process has come to listen at the address meanwhile.
    """
    disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each, which the text format has no name for
    try:
        return _serve(Model(name, session, limits), session, at, ready)
    finally:
        session.close()


def _serve(model: Model, session: InferenceSession, at: socket.socket, ready: Callable[[str], object]) -> Service:
    torch.set_num_threads(1)  # requests are what runs side by side; a network's own threads would wait for each other
    service = Service(model, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    service.work.warm_up(model.warm_up)
    session.counts = Counts()  # what was met so far was no request
    config = uvicorn.Config(
        make_app(service),
        http=bounded(model.limits),
        lifespan="off",
        ws="none",
        proxy_headers=False,
        server_header=False,
        access_log=False,
        log_level="warning",
        timeout_keep_alive=60,
        timeout_graceful_shutdown=1,
    )
    try:
        _Server(config, service, ready).run(sockets=[at])
    finally:
        service.work.close()
    return service


class _Server(uvicorn.Server):
    """Uvicorn's server, but it goes on listening while running requests are finished, so that /ready can say 503."""

    def __init__(self, config: uvicorn.Config, service: Service, ready: Callable[[str], object]) -> None:
        super().__init__(config)
        self._service, self._ready, self._deadline = service, ready, float("inf")

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        host, port = (sockets or [])[0].getsockname()[:2]
        try:
            await super().startup(sockets)
        except OSError as error:  # two may bind an address while neither listens
            raise _cannot(host, port, error) from None
        self._ready(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        if self._service.draining:  # asked twice: as if nobody handled it
            signal.signal(sig, signal.SIG_DFL)
            signal.raise_signal(sig)
        self._service.draining = True
        self._deadline = time.monotonic() + LONGEST

    async def on_tick(self, counter: int) -> bool:
        late = time.monotonic() > self._deadline
        if self._service.draining and (late or self._service.running == self._service.reading):
            self.should_exit = True
        return await super().on_tick(counter)
