"""What HTTP adds to a session: requests over loopback, beside the session's own time for the same rows in the same run.

Closed loop: a client sends its next request once the last is answered. With one client, every request is followed by
the session's own call, in this process, while the server is idle: what lies between the two medians is HTTP, JSON and
the checks of what came.

Open loop: requests are due at times that were drawn before (Poisson), and latency counts from then, not from when a
client was free to send: a server that stalls delays all that are due meanwhile, and a closed loop would not see it
("coordinated omission"). A sleeping client wakes up some 0.1 ms late, which counts, too.
"""

from __future__ import annotations

import contextlib
import ipaddress
import itertools
import json
import select
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from recsys.bench.card import machine
from recsys.data.encoder import Encoder
from recsys.data.schema import Bucketed, Feature, Hashing, MultiValued, Numeric
from recsys.data.schema import Sequence as History
from recsys.errors import ConfigError, RecsysError
from recsys.inference.backends import Backend
from recsys.inference.session import InferenceSession, session
from recsys.serving import ranking

__all__ = ["CANDIDATES", "Case", "Connection", "cases", "measure"]

Row = dict[str, Any]
CANDIDATES = 100
"""Candidates of a ranking."""
MOST = {"requests": 100_000, "clients": 64, "rate": 20_000.0, "seconds": 600.0}
"""A benchmark ends, and asks no more of a machine than this."""
_DIFFERENT = 64
"""Requests that are sent in turn."""
_SENDERS = 16
"""Connections of the open loop."""
_START = 600
"""Seconds that a server is given to open its model: the first time, back ends are built."""


@dataclass(frozen=True)
class Case:
    """Requests of one kind, and what the session does for each."""

    name: str
    path: str
    bodies: list[bytes]
    own: list[Callable[[], object]]


def measure(
    run: Path | None = None,
    host: str = "127.0.0.1",
    backend: Literal["auto"] | Backend = "auto",
    requests: int = 2000,
    clients: int = 2,
    rate: float | None = None,
    seconds: float = 20.0,
) -> dict[str, Any]:
    """Serve a model in a process of its own and ask it; what `recsys bench serve` prints as JSON.

    Args:
        run: Folder of a trained model; by default a small one is trained on synthetic clicks.
        host: Where the server listens: this machine alone.
        backend: What runs the network, here and there.
        requests: Of each measurement.
        clients: Of the second closed loop.
        rate: Requests a second of the open loop; by default half of what one client got in the closed one.
        seconds: Most that a measurement takes.

    Raises:
        ConfigError: For an address that is not this machine's alone, or numbers that cannot be.
        RecsysError: When the server does not start, or refuses.
    """
    _check_loopback(host)
    for name, given in {"requests": requests, "clients": clients, "rate": rate, "seconds": seconds}.items():
        if given is not None and not 0 < given <= MOST[name]:
            raise ConfigError(f"expected {name} of more than 0 and at most {MOST[name]:,}, got {given:,}")
    about = machine(["fastapi", "uvicorn", "httptools", "onnxruntime"])
    rows: list[Row] = []
    with _model(run) as folder, session(folder, backend=backend) as own, _server(folder, host, backend) as address:
        for case in tqdm(cases(own), desc="ask the server", disable=None):
            alone = _beside(address, case, requests, seconds)
            rows += [
                alone,
                _closed(address, case, clients, requests, seconds),
                _open(address, case, rate or alone["per_second"] / 2, requests, seconds),
            ]
        backends = {str(size): own.choice.backend(size) for size in (1, CANDIDATES)}
    return {"bench": "serve", "machine": about, "model": str(run or "synthetic"), "backends": backends, "rows": rows}


def _check_loopback(host: str) -> None:
    try:
        alone = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        alone = False
    if not alone:
        raise ConfigError(f"expected an address of this machine alone, such as 127.0.0.1, got {host}")


@contextlib.contextmanager
def _model(run: Path | None) -> Iterator[Path]:
    """The run's folder, or one with a small model."""
    if run is not None:
        yield run
        return
    from recsys.data.synthetic import STARTS, Synthetic, chunks, schema
    from recsys.models.checkpoint import save
    from recsys.models.ranking.dcn2 import DCN2Config
    from recsys.training.recipe import TrainingConfig
    from recsys.training.run import train_rows

    clicks = Synthetic(users=5000, items=2000, others=50, history=20)
    rows = {split: pa.concat_tables(chunks(clicks, 4096, STARTS[split])) for split in ("train", "valid")}
    model, training = DCN2Config(embedding_dim=16), TrainingConfig(epochs=1)
    trained = train_rows(model, training, schema(clicks), rows["train"], rows["valid"], show=False)
    with tempfile.TemporaryDirectory() as folder:
        save(trained, Path(folder) / "model")
        yield Path(folder) / "model"


@contextlib.contextmanager
def _server(run: Path, host: str, backend: str) -> Iterator[tuple[str, int]]:
    """Where `recsys serve` listens, in a process that ends with this context."""
    words = ["serve", str(run), "--host", host, "--port", "0", "--name", "model", "--backend", backend]
    with subprocess.Popen([sys.executable, "-m", "recsys", *words], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            there = select.select([process.stdout], [], [], _START)[0]
            line = process.stdout.readline() if there else ""
            if "://" not in line:
                raise RecsysError("the server did not start; what it said stands above")
            yield host, int(line.partition("://")[2].partition(": ")[0].rpartition(":")[2])
        finally:
            _end(process)


def _end(process: subprocess.Popen[str]) -> None:
    process.terminate()
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()


def cases(own: InferenceSession) -> list[Case]:
    """Batch 1 by the protocol, and a ranking of `CANDIDATES`; rows are drawn from what the model knows."""
    rng, encoder = np.random.default_rng(0), own.encoder
    features = {feature.source: feature for feature in encoder.schema.features}
    user = [name for name, feature in features.items() if feature.side == "user"]

    def row(names: Sequence[str]) -> Row:
        return {name: _value(encoder, features[name], rng) for name in names}

    infer, rank = Case("infer", "/v2/models/model/infer", [], []), Case("rank", "/rank", [], [])
    for _ in range(_DIFFERENT):
        one, whose = row(list(features)), row(user)
        others = [row([name for name in features if name not in user]) for _ in range(CANDIDATES)]
        asked = ranking.Asked(whose, others, 10, own.encoder.inputs.tasks[0].name if _several(own) else None)
        infer.bodies.append(_json({"inputs": [_tensor(*item) for item in one.items()]}))
        infer.own.append(lambda one=one: own.predict(one))  # type: ignore[misc]
        task = {"task": asked.task} if asked.task else {}
        rank.bodies.append(_json({"user": whose, "candidates": others, "k": asked.k, **task}))
        rank.own.append(lambda asked=asked: ranking.rank(own, asked))  # type: ignore[misc]
    return [infer, rank]


def _several(own: InferenceSession) -> bool:
    return len(own.encoder.inputs.tasks) > 1


def _json(found: Row) -> bytes:
    return json.dumps(found, separators=(",", ":")).encode()


def _value(encoder: Encoder, feature: Feature, rng: np.random.Generator) -> Any:
    """A value of a feature, mostly known."""
    if isinstance(feature, (Numeric, Bucketed)):
        return round(float(rng.normal()), 4)
    if isinstance(feature, (MultiValued, History)):
        most = min(feature.max_length, 50) if isinstance(feature, History) else 5
        return [_text(encoder, feature, rng) for _ in range(rng.integers(1, most + 1))]
    return _text(encoder, feature, rng)


def _text(encoder: Encoder, feature: Any, rng: np.random.Generator) -> str:
    owner = encoder.schema.owner(feature)
    known = None if isinstance(owner.encoding, Hashing) else encoder.fitted.vocabularies[owner.name].texts
    return str(known[int(rng.integers(len(known)))]) if known else f"v{rng.integers(10**6)}"


def _tensor(name: str, value: Any) -> Row:
    shape = [1, len(value)] if isinstance(value, list) else [1]
    data = value if isinstance(value, list) else [value]
    return {"name": name, "shape": shape, "datatype": "FP64" if isinstance(value, float) else "BYTES", "data": data}


class Connection:
    """A client that does as little as can be: one connection, kept alive, and bytes that were written before.

    `http.client` takes about as long for a request as the server does.
    """

    def __init__(self, address: tuple[str, int], timeout: float = 60.0) -> None:
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


def _beside(address: tuple[str, int], case: Case, requests: int, seconds: float) -> Row:
    """One client; after each request the session's own call."""
    over, own = [], []
    with Connection(address) as connection:
        for k in range(2 * _DIFFERENT):  # both warm up
            connection.ask(case.path, case.bodies[k % _DIFFERENT])
            case.own[k % _DIFFERENT]()
        until = time.perf_counter() + seconds
        for k in range(requests):
            start = time.perf_counter()
            connection.ask(case.path, case.bodies[k % _DIFFERENT])
            middle = time.perf_counter()
            case.own[k % _DIFFERENT]()
            own.append(time.perf_counter() - middle)
            over.append(middle - start)
            if time.perf_counter() > until:
                break
    mine = {f"session_{name}": value for name, value in _figures(own).items()}
    figures = _figures(over)
    overhead = {"overhead_p50_us": round(figures["p50_us"] - mine["session_p50_us"], 1)}
    return {**_named(case, "closed", 1), **_counted(over, sum(over)), **figures, **mine, **overhead}


def _closed(address: tuple[str, int], case: Case, clients: int, requests: int, seconds: float) -> Row:
    start = time.perf_counter()
    turn, until, took = itertools.count(), start + seconds, list[float]()

    def client(connection: Connection) -> None:
        while (k := next(turn)) < requests and (sent := time.perf_counter()) < until:
            connection.ask(case.path, case.bodies[k % _DIFFERENT])
            took.append(time.perf_counter() - sent)

    wall = _together(address, clients, client)
    return {**_named(case, "closed", clients), **_counted(took, wall), **_figures(took)}


def _open(address: tuple[str, int], case: Case, rate: float, requests: int, seconds: float) -> Row:
    due = np.cumsum(np.random.default_rng(1).exponential(1 / rate, requests))
    due = due[due < seconds]
    start = time.perf_counter() + 0.05
    turn, took = itertools.count(), list[float]()

    def client(connection: Connection) -> None:
        while (k := next(turn)) < len(due) and time.perf_counter() < start + 2 * seconds:
            wait = start + due[k] - time.perf_counter()
            if wait > 0:
                time.sleep(wait)
            connection.ask(case.path, case.bodies[k % _DIFFERENT])
            took.append(time.perf_counter() - start - due[k])

    wall = _together(address, _SENDERS, client)
    late = {"rate": round(rate, 1), "unsent": len(due) - len(took)}
    return {**_named(case, "open", _SENDERS), **late, **_counted(took, wall), **_figures(took)}


def _together(address: tuple[str, int], clients: int, work: Callable[[Connection], None]) -> float:
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
    return {"case": case.name, "rows": 1 if case.name == "infer" else CANDIDATES, "loop": loop, "clients": clients}


def _counted(took: Sequence[float], wall: float) -> Row:
    return {"requests": len(took), "per_second": round(len(took) / wall, 1)}


def _figures(took: Sequence[float]) -> dict[str, float]:
    p50, p99 = np.percentile(took, [50, 99]) * 1e6
    return {"p50_us": round(float(p50), 1), "p99_us": round(float(p99), 1)}
