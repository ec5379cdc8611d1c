"""How many Criteo-shaped rows a second one core encodes from Parquet: read, decode, and encode to a `Batch`.

Ours is the road of training and scoring, ``tables`` and ``Encoder.encode``, with its counts and labels. Peers do the
nearest job that they have; `recsys.bench.peers` says what each leaves out. The bound is the time that pyarrow takes
just to read and decode the columns, text as dictionaries, which ours begins with. A library with a decoder of its own
may pass it.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from tqdm import tqdm

from recsys.bench import peers
from recsys.bench.card import machine
from recsys.bench.criteo import CATEGORIES, NUMBERS, write
from recsys.bench.peers import Absent, Peer
from recsys.bench.timing import Job, Rate, interleaved, once, one_core
from recsys.config import nearest
from recsys.data.encoder import Encoder
from recsys.data.readers import tables
from recsys.data.schema import Bucketed, Categorical, Hashing, Label, LogSquare, Numeric, Schema, Vocabulary
from recsys.errors import ConfigError

__all__ = ["WORKLOADS", "measure"]

OURS, BOUND = "recsys", "read and decode only"
COLUMNS = ("label", *NUMBERS, *CATEGORIES)
_READ = 1 << 16
"""Rows that the bound reads at a time, as `tables` does."""


def _schema(encoding: Hashing | Vocabulary) -> Schema:
    numbers = tuple(Numeric(name=name, transform="log") for name in NUMBERS)
    categories = tuple(Categorical(name=name, encoding=encoding) for name in CATEGORIES)
    return Schema(labels=(Label(name="label"),), features=numbers + categories)


def _dcn2() -> Schema:
    """All columns hashed into one table, numbers by the buckets of the DCN² protocol."""
    shared = Hashing(bits=20, table="all")
    numbers = tuple(Bucketed(name=name, buckets=LogSquare(), encoding=shared) for name in NUMBERS)
    categories = tuple(Categorical(name=name, encoding=shared) for name in CATEGORIES)
    return Schema(labels=(Label(name="label"),), features=numbers + categories)


WORKLOADS: dict[str, Schema] = {
    "hash": _schema(Hashing(bits=20)),
    "vocabulary": _schema(Vocabulary(min_count=2)),
    "dcn2": _dcn2(),
}
"""What is encoded. The peers of a schema are those for the encoding of its last feature; none buckets numbers."""


def measure(rows: int, rounds: int, only: Sequence[str] = (), folder: Path | None = None) -> dict[str, Any]:
    """Write the rows and time all workloads; what `recsys bench data` prints as JSON.

    Args:
        rows: Rows of the file.
        rounds: Runs of each job, interleaved; medians are told.
        only: Names of `WORKLOADS`; none means all.
        folder: Where the file goes and stays, written anew; by default a temporary folder.

    Raises:
        ConfigError: For an unknown workload, or without rows or rounds.
        DataError: When the disk refuses.
    """
    if rounds < 1:
        raise ConfigError(f"expected at least 1 round, got {rounds}")
    for name in only:
        if name not in WORKLOADS:
            raise ConfigError(f"no such workload as `{name}`: {nearest(name, list(WORKLOADS))}")
    about = machine(["pandas", "polars", "scikit-learn", "fuxictr"])
    with tempfile.TemporaryDirectory(prefix="recsys-") as temporary:
        path = (folder or Path(temporary)) / "criteo-shaped.parquet"
        write(path, rows)
        with one_core() as core:
            done = [_workload(name, path, rounds, Path(temporary)) for name in only or WORKLOADS]
        card = {"file": _file(path), "rounds": rounds, "core": core}
    absent = dict(peer for _, missing in done for peer in missing)
    return {"bench": "data", "machine": about, **card, "rows": [row for row, _ in done], "absent": absent}


def _file(path: Path) -> dict[str, Any]:
    meta = pq.read_metadata(path)
    rows, size, compression = meta.num_rows, path.stat().st_size, meta.row_group(0).column(0).compression.lower()
    return {"rows": rows, "bytes": size, "bytes_per_row": round(size / rows, 1), "compression": compression}


def _workload(name: str, path: Path, rounds: int, folder: Path) -> tuple[dict[str, Any], list[Absent]]:
    """Fit, find the peers, time, and tell."""
    schema, rows = WORKLOADS[name], pq.read_metadata(path).num_rows
    found: list[Encoder] = []
    fit = once(Job(OURS, rows, lambda: found.append(Encoder.fit(schema, tables(path, COLUMNS)))))
    others, absent = _peers(schema, path, folder)
    jobs = [
        Job(BOUND, rows, lambda: _decode(path)),
        Job(OURS, rows, lambda: _encode(found[0], path)),
        *(peer.job for peer in others),
    ]
    with tqdm(total=rounds * len(jobs), desc=name, disable=None) as bar:
        rates = interleaved(jobs, rounds, lambda job: bar.update())
    fits = {OURS: fit} | {peer.job.name: peer.fit for peer in others if peer.fit}
    return {"workload": name, "threads": 1, **_row(rows, rates, others), "fit": _fits(fits)}, absent


def _peers(schema: Schema, path: Path, folder: Path) -> tuple[list[Peer], list[Absent]]:
    encoding = schema.id_features[-1].encoding
    if isinstance(encoding, Hashing):
        return peers.hashing(path, encoding.bits)
    return peers.vocabulary(path, encoding.min_count, folder)


def _encode(encoder: Encoder, path: Path) -> None:
    for table in tables(path, COLUMNS):
        encoder.encode(table)


def _decode(path: Path) -> None:
    with pq.ParquetFile(path, read_dictionary=list(CATEGORIES)) as file:
        for _ in file.iter_batches(batch_size=_READ):
            pass


def _row(rows: int, rates: Mapping[str, Rate], others: Sequence[Peer]) -> dict[str, Any]:
    """Ours, the peers, the ratios to the best of each class, and the bound."""
    ours, bound = rates[OURS], rates[BOUND]
    best = {kind: [rates[p.job.name].cpu for p in others if p.kind == kind] for kind in ("stock", "tuned")}
    told = [{"name": p.job.name, "class": p.kind, "rows": p.job.rows, **rates[p.job.name].to_json()} for p in others]
    return {
        "rows": rows,
        "ours": {"name": OURS, **ours.to_json()},
        "peers": told,
        **{f"ratio_{kind}": round(min(found) / ours.cpu, 3) if found else None for kind, found in best.items()},
        "bound": {"name": BOUND, **bound.to_json()},
        "share_of_bound": round(bound.cpu / ours.cpu, 3),
    }


def _fits(fits: Mapping[str, Rate]) -> dict[str, Any]:
    """Of one run each, the reading of the file included."""
    return {name: rate.to_json() for name, rate in fits.items()}
