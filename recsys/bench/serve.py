"""What HTTP adds to a session: requests over loopback, beside the session's own time for the same rows in the same run.

Closed loop: a client sends its next request once the last is answered. With one client, every request is followed by
the session's own call, in this process, while the server is idle: what lies between the two medians is HTTP, JSON and
the checks of what came.

Open loop: requests are due at times that were drawn before (Poisson), and latency counts from then, not from when a
client was free to send: a server that stalls delays all that are due meanwhile, and a closed loop would not see it
("coordinated omission"). A sleeping client wakes up a little late, which counts, too.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import select
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from tqdm import tqdm

from recsys.bench.card import machine
from recsys.bench.serve_load import Address, Case, beside, closed, opened
from recsys.data.encoder import Encoder
from recsys.data.schema import Bucketed, Feature, Hashing, MultiValued, Numeric
from recsys.data.schema import Sequence as History
from recsys.errors import ConfigError, RecsysError
from recsys.inference.backends import Backend
from recsys.inference.session import InferenceSession, session

__all__ = ["CANDIDATES", "cases", "measure"]

Row = dict[str, Any]
CANDIDATES = 100
"""Candidates of a ranking."""
MOST = {"requests": 100_000, "clients": 64, "rate": 20_000.0, "seconds": 600.0}
"""A benchmark ends, and asks no more of a machine than this."""
_DIFFERENT = 64
"""Requests that are sent in turn."""
_START = 600
"""Seconds that a server is given to open its model: the first time, back ends are built."""


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
            alone = beside(address, case, requests, seconds)
            rows += [
                alone,
                closed(address, case, clients, requests, seconds),
                opened(address, case, rate or alone["per_second"] / 2, requests, seconds),
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
def _server(run: Path, host: str, backend: str) -> Iterator[Address]:
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
    rng, encoder, task = np.random.default_rng(0), own.encoder, own.encoder.inputs.tasks[0].name
    features = {feature.source: feature for feature in encoder.schema.features}
    user = [name for name, feature in features.items() if feature.side == "user"]

    def row(names: Sequence[str]) -> Row:
        return {name: _value(encoder, features[name], rng) for name in names}

    infer, rank = Case("infer", "/v2/models/model/infer", 1, [], []), Case("rank", "/rank", CANDIDATES, [], [])
    for _ in range(_DIFFERENT):
        one, whose = row(list(features)), row(user)
        others = [row([name for name in features if name not in user]) for _ in range(CANDIDATES)]
        infer.bodies.append(_json({"inputs": [_tensor(*item) for item in one.items()]}))
        infer.own.append(lambda one=one: own.predict(one))  # type: ignore[misc]
        rank.bodies.append(_json({"user": whose, "candidates": others, "k": 10, "task": task}))
        rank.own.append(lambda whose=whose, others=others: own.rank(whose, others, 10, task))  # type: ignore[misc]
    return [infer, rank]


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
