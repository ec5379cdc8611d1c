"""How many rows a second an epoch of training takes: shuffle, forward, loss, backward, optimizers.

Rows are Criteo-shaped and encoded once, before. Ours are the steps of `Trainer`, as `recsys train` takes them, with no
validation; `recsys.bench.train_peers` says what the peers do. `dcn2` is ours. `dcnv2` and `dlrm` of recsys stand
beside it for who would compare like with like: FuxiCTR's network is the former, torchrec's about the latter.

The bound is the time of `dcn2`'s matrix products alone. `recsys.threads` says how many threads ours take. A peer runs
on one and on all of them, and its better median counts. Ratios are made from wall time, which is what threads save, and
so the slowest and the fastest round are told beside the median.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from tqdm import tqdm

from recsys.bench import train_peers
from recsys.bench.card import machine
from recsys.bench.criteo import CATEGORIES, NUMBERS, chunks
from recsys.bench.timing import Job, Rate, once
from recsys.bench.train_peers import DIM, HIDDEN, Peer, Rows
from recsys.config import nearest
from recsys.data.batch import Batch
from recsys.data.encoder import Encoder
from recsys.data.schema import Categorical, Hashing, Label, Numeric, Schema
from recsys.data.stream import Resident
from recsys.errors import ConfigError
from recsys.models.base import RankingModel
from recsys.models.registry import MODELS, build
from recsys.threads import suited_threads, torch_threads
from recsys.training.recipe import TrainingConfig
from recsys.training.trainer import Trainer

__all__ = ["BATCH", "WORKLOADS", "measure"]

BATCH = 2500
"""Rows a step, as the DCN² paper has it."""
WORKLOADS = {"bits14": 14, "bits18": 18}
"""Every one of the 26 tables has 2^bits rows."""
OURS, ALSO, BOUND = "recsys dcn2", ("recsys dcnv2", "recsys dlrm"), "matrix products only"
_INSTALL = {"fuxictr": "pip install recsys[parity]", "torchrec": "python -m recsys.install"}


class _Entry(NamedTuple):
    """Who takes part: an epoch as a job, and its threads."""

    job: Job
    kind: str
    threads: int


def measure(rows: int, rounds: int, only: Sequence[str] = ()) -> dict[str, Any]:
    """Train everybody for some epochs, in turn; what `recsys bench train` prints as JSON.

    Args:
        rows: Rows of an epoch.
        rounds: Epochs of each, interleaved; medians are told.
        only: Names of `WORKLOADS`; none means all.

    Raises:
        ConfigError: For an unknown workload, or without rows or rounds.
    """
    if min(rows, rounds) < 1:
        raise ConfigError(f"expected at least 1 row and 1 round, got {rows} and {rounds}")
    for name in only:
        if name not in WORKLOADS:
            raise ConfigError(f"no such workload as `{name}`: {nearest(name, list(WORKLOADS))}")
    about = machine([*_INSTALL, "fbgemm-gpu-cpu"])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        done = [_workload(name, WORKLOADS[name], rows, rounds) for name in only or WORKLOADS]
    found = {one["name"].split("-")[0] for row in done for one in row["peers"]}
    absent = {name: command for name, command in _INSTALL.items() if name not in found}
    return {"bench": "train", "machine": about, "batch": BATCH, "rounds": rounds, "rows": done, "absent": absent}


def _workload(name: str, bits: int, rows: int, rounds: int) -> dict[str, Any]:
    """Encode, build everybody, time, and tell."""
    encoder, batch = _encoded(rows, bits)
    entries = [_ours(model, encoder, batch) for model in (OURS, *ALSO)]
    given = _given(batch, bits)
    entries += [
        one for peer in (*train_peers.fuxictr(given), *train_peers.torchrec(given)) for one in _peer(peer, rows)
    ]
    entries.append(_bound(_model(OURS, encoder), rows))
    rates: list[list[Rate]] = [[] for _ in entries]
    with tqdm(total=rounds * len(entries), desc=name, disable=None) as bar:
        for _ in range(rounds):
            for entry, found in zip(entries, rates, strict=True):
                with torch_threads(entry.threads):
                    found.append(once(entry.job))
                bar.update()
    return {"workload": name, "table_rows": len(CATEGORIES) << bits, "dim": DIM, "rows": rows} | _row(entries, rates)


def _encoded(rows: int, bits: int) -> tuple[Encoder, Batch]:
    numbers = tuple(Numeric(name=name, transform="log") for name in NUMBERS)
    categories = tuple(Categorical(name=name, encoding=Hashing(bits=bits)) for name in CATEGORIES)
    schema = Schema(labels=(Label(name="label"),), features=numbers + categories)
    encoder = Encoder.fit(schema, chunks(rows))
    return encoder, Batch.concat([encoder.encode(table) for table in chunks(rows)])


def _given(batch: Batch, bits: int) -> Rows:
    """The same tensors for the peers."""
    assert batch.labels is not None
    return Rows(batch.dense, batch.ids.values.view(len(CATEGORIES), -1), batch.labels[:, 0].float(), bits)


def _model(name: str, encoder: Encoder) -> RankingModel:
    config, _ = MODELS[name.split()[-1]]
    return build(config(embedding_dim=DIM, hidden=HIDDEN), encoder.inputs)  # type: ignore[arg-type, call-arg]


def _ours(name: str, encoder: Encoder, batch: Batch) -> _Entry:
    """An epoch of `Trainer`; a step before it makes the optimizers' state, as with a peer."""
    model, rows = _model(name, encoder), Resident(batch)
    trainer = Trainer(model, rows, rows, TrainingConfig(batch_size=BATCH))

    def epoch() -> None:
        trainer._epoch(show=False)  # `fit` would validate, too
        trainer.progress.epoch, trainer.progress.step = trainer.progress.epoch + 1, 0

    with suited_threads(model, min(BATCH, len(batch)), passes=3) as threads:
        trainer.steps.step(batch.slice(0, BATCH))
    return _Entry(Job(name, len(batch), epoch), "ours" if name == OURS else "also", threads)


def _peer(peer: Peer, rows: int) -> list[_Entry]:
    """Epochs of a peer on one thread and on all, after a step that makes its optimizers' state."""
    peer.learn([torch.arange(min(BATCH, rows))])
    job = Job(peer.name, rows, lambda: peer.learn(_shuffled(rows)))
    return [_Entry(job, peer.kind, threads) for threads in sorted({1, torch.get_num_threads()})]


def _shuffled(rows: int) -> Iterator[Tensor]:
    return iter(torch.split(torch.randperm(rows), BATCH))


def _bound(model: RankingModel, rows: int) -> _Entry:
    """The three products of each linear layer, forward and backward, on as many threads as ours."""
    size = min(BATCH, rows)
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    given = [(layer.weight.detach(), torch.randn(size, n), torch.randn(size, m)) for layer in layers
             for m, n in [layer.weight.shape]]  # fmt: skip
    products: list[Callable[[], Tensor]] = []
    for weight, x, grad in given:
        products += [partial(torch.mm, x, weight.T), partial(torch.mm, grad, weight), partial(torch.mm, grad.T, x)]
    steps = -(-rows // size)
    with suited_threads(model, size, passes=3) as threads:
        pass
    job = Job(BOUND, steps * size, lambda: [product() for _ in range(steps) for product in products])
    return _Entry(job, "bound", threads)


def _row(entries: Sequence[_Entry], rates: Sequence[Sequence[Rate]]) -> dict[str, Any]:
    """Everybody's figures, and the ratios to the best of each class."""
    slowest_first = sorted(map(_told, entries, rates), key=lambda one: -float(one["us_per_row"]))
    told = {one["name"]: one for one in slowest_first}  # of two numbers of threads, the faster
    ours, bound = told[OURS]["us_per_row"], told[BOUND]["us_per_row"]
    peers = [told[name] for name in dict.fromkeys(e.job.name for e in entries if e.kind in ("stock", "tuned"))]
    best = {kind: [peer["us_per_row"] for peer in peers if peer["class"] == kind] for kind in ("stock", "tuned")}
    fuxictr = [peer["us_per_row"] for peer in peers if peer["name"].startswith("fuxictr")]
    return {
        "ours": told[OURS],
        "also": [told[name] for name in ALSO],
        "peers": peers,
        **{f"ratio_{kind}": round(min(found) / ours, 3) if found else None for kind, found in best.items()},
        "ratio_fuxictr": round(min(fuxictr) / ours, 3) if fuxictr else None,
        "bound": told[BOUND],
        "share_of_bound": round(bound / ours, 3),
    }


def _told(entry: _Entry, rates: Sequence[Rate]) -> dict[str, Any]:
    wall = [rate.wall for rate in rates]
    middle = statistics.median(wall)
    return {
        "name": entry.job.name,
        "class": entry.kind,
        "threads": entry.threads,
        "rows_per_second": round(1 / middle),
        "slowest": round(1 / max(wall)),
        "fastest": round(1 / min(wall)),
        "us_per_row": round(middle * 1e6, 3),
        "cpu_us_per_row": round(statistics.median(rate.cpu for rate in rates) * 1e6, 3),
    }
