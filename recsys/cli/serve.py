"""`recsys serve`: a trained model behind HTTP."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal
from urllib.parse import quote

import tyro

from recsys.cli.app import Result, call
from recsys.errors import ConfigError, MissingExtraError
from recsys.inference.backends import Backend, Precision
from recsys.inference.parts import Storing
from recsys.serving.limits import Limits

__all__ = ["main"]

LIMITS = Limits()
_PLAIN = "!$&'()*+,;=:@"
"""What a part of a URL's path may have beside letters, digits and -._~ (RFC 3986, pchar)."""


def main(argv: Sequence[str]) -> Result:
    """Parse and run."""
    return call(command, argv, "recsys serve")


def command(
    run: tyro.conf.Positional[Path],
    host: str = "127.0.0.1",
    port: int = 8000,
    name: str | None = None,
    plan: str = "auto",
    backend: Literal["auto"] | Backend = "auto",
    precision: Literal["auto"] | Precision = "auto",
    threads: int = 1,
    storage: Storing = "huge",
    device: str = "cpu",
    limits: Limits = LIMITS,
) -> Result:
    """Serve a trained model by the Open Inference Protocol v2 and POST /rank, until SIGTERM or Ctrl-C.

    Args:
        run: Folder of a trained model or of an export.
        host: Address to listen on; 0.0.0.0 for all that this machine has.
        port: Port to listen on; 0 for any that is free.
        name: The model's name in paths and answers, without what a URL must quote; by default the folder's.
        plan: File of a plan of look-ups, on a GPU of one for it; by default the model's own.
        backend: What runs the network; by default what was measured fastest here.
        precision: Of the network's matrix products.
        threads: Among which a large batch is shared out.
        storage: `map` shares an export's tables between processes and is ready at once; `huge` is fastest.
        device: `cpu`, or a GPU: `cuda`, `cuda:1`, which has its own copy of the tables.
        limits: What one request may ask for.
    """
    try:
        from recsys.serving.server import bind, serve
    except ImportError as error:
        raise MissingExtraError(f'serving needs FastAPI and uvicorn ({error}): pip install "recsys[serve]"') from None
    from recsys.inference.session import session

    called = name or run.resolve().name
    if called in ("", ".", "..") or quote(called, safe=_PLAIN) != called:
        raise ConfigError(f"expected a --name that can stand in a URL as it is, such as ctr-2, got {called!r}")
    with bind(host, port) as at:  # before the model, which may take a while to open
        opened = session(run, plan, backend, precision, threads=threads, storage=storage, device=device)

        def ready(address: str) -> None:
            print(f"{called} on {address}: POST /rank, /v2/models/{called}/infer; GET /docs, /metrics", flush=True)

        served = serve(called, opened, at, limits, ready)
    return {"model": called, "rows": opened.counts.rows, "drained": served.running == 0}
