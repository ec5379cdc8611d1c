"""From a raw request to scores: rows as dicts of Criteo's 39 columns, encoding included, on one thread.

One row, and many candidates of one user: ranked, with the user encoded and looked up once, beside scoring as many
copies of the user. Numbers and the first half of the categories are the user's, the other half the candidate's. All
requests differ, and values recur in them as in the data.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from recsys.bench.card import machine
from recsys.bench.criteo import CATEGORIES, NUMBERS, chunks
from recsys.bench.session import MODELS
from recsys.bench.session_peers import CROSSES, DIM, HIDDEN
from recsys.data.encoder import Encoder
from recsys.data.schema import Categorical, Hashing, Label, Numeric, Schema, Side
from recsys.errors import ConfigError
from recsys.inference.parts import from_checkpoint
from recsys.inference.session import InferenceSession
from recsys.models.checkpoint import Checkpoint
from recsys.models.ranking.dcnv2 import DCNv2Config
from recsys.threads import torch_threads

__all__ = ["CANDIDATES", "measure"]

CANDIDATES = 500
_ROWS = 60_000
_LEAST = 10

Row = dict[str, Any]


def measure(seconds: float = 5.0, bits: int = 18) -> dict[str, Any]:
    """Score requests; what `recsys bench request` prints as JSON.

    Args:
        seconds: For each kind of request.
        bits: Each of the 26 tables has 2^bits rows; values are hashed.

    Raises:
        ConfigError: For seconds or bits that cannot be.
    """
    if not seconds > 0 or not 1 <= bits <= 24:
        raise ConfigError(f"expected more than 0 seconds and 1 to 24 bits, got {seconds:g} and {bits}")
    about = machine(["onnxruntime"])
    rows = [row for table in chunks(_ROWS) for row in table.drop_columns(["label"]).to_pylist()]
    with torch_threads(1), torch.no_grad(), InferenceSession(from_checkpoint(_checkpoint(bits))) as session:
        found = [_timed(name, n, run, seconds) for name, n, run in _requests(session, rows)]
        backends = {str(size): session.choice.backend(size) for size in (1, CANDIDATES)}
    return {"bench": "request", "machine": about, "bits": bits, "backends": backends, "rows": found}


def _checkpoint(bits: int) -> Checkpoint:
    def side(k: int) -> Side:
        return "user" if k < len(CATEGORIES) // 2 else "item"

    features = [
        *(Numeric(name=name, transform="log", side="user") for name in NUMBERS),
        *(Categorical(name=name, side=side(k), encoding=Hashing(bits=bits)) for k, name in enumerate(CATEGORIES)),
    ]
    encoder = Encoder.fit(Schema(labels=(Label(name="label"),), features=tuple(features)), chunks(_ROWS))
    config = DCNv2Config(embedding_dim=DIM, cross_layers=CROSSES, hidden=HIDDEN)
    return Checkpoint(config, MODELS["dcnv2"](encoder.inputs).eval(), encoder)


def _requests(session: InferenceSession, rows: Sequence[Row]) -> Iterator[tuple[str, int, Callable[[], object]]]:
    items = [feature.source for feature in session.encoder.schema.features if feature.side == "item"]
    users = [{name: value for name, value in row.items() if name not in items} for row in rows]
    candidates = [{name: row[name] for name in items} for row in rows]
    one, user, first = itertools.cycle(rows), itertools.cycle(users), itertools.cycle(range(0, len(rows), CANDIDATES))

    def some() -> list[Row]:
        start = next(first)
        return candidates[start : start + CANDIDATES]

    def copies() -> object:
        whose = next(user)
        return session.predict([{**whose, **item} for item in some()])

    yield "one row", 1, lambda: session.predict(next(one))
    yield "one row, encoded only", 1, lambda: session.encode_rows([next(one)])
    yield "candidates of a user, ranked", CANDIDATES, lambda: session.rank(next(user), some(), 10)
    yield "candidates of a user, as copies", CANDIDATES, copies


def _timed(name: str, n: int, run: Callable[[], object], seconds: float) -> dict[str, Any]:
    for _ in range(_LEAST):
        run()
    spent: list[float] = []
    until = time.perf_counter() + seconds
    while time.perf_counter() < until or len(spent) < _LEAST:
        start = time.perf_counter()
        run()
        spent.append(1e6 * (time.perf_counter() - start))
    p50, p99 = np.percentile(spent, [50, 99])
    return {"request": name, "rows": n, "p50_us": round(float(p50), 1), "p99_us": round(float(p99), 1)}
