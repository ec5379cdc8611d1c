"""Rows a second from a Parquet file to a Parquet file of scores, on all cores, beside what others would write.

All run DCNv2 of the same size over the same file and write labels and scores; ours and pandas' have the same weights.

====================  =====  ======================================================================================
``pandas``            stock  a row group at a time as a DataFrame, ``Series.map`` of a dict of the values, an
                             ``nn.Embedding`` a column and our network in eager torch, 4,096 rows at a time
``pandas-factorize``  tuned  the same, hashing the distinct values of a row group
``fuxictr``           stock  ``FeatureProcessor.transform`` by 100,000 rows, then its DCNv2's ``predict``, by 4,096
====================  =====  ======================================================================================
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn

from recsys.bench.card import machine
from recsys.bench.criteo import CATEGORIES, NUMBERS, chunks, write
from recsys.bench.peers import BLOCK, fuxictr_processor
from recsys.bench.session import MODELS
from recsys.bench.session_peers import CROSSES, DIM, HIDDEN, absent
from recsys.bench.timing import Job, interleaved
from recsys.bench.train_peers import dcnv2
from recsys.data.encoder import Encoder
from recsys.data.schema import Categorical, Hashing, Label, Numeric, Schema
from recsys.errors import ConfigError
from recsys.inference import backends
from recsys.inference.parts import from_checkpoint
from recsys.inference.session import InferenceSession
from recsys.machine import resident_memory, restart_most_memory
from recsys.models.base import RankingModel
from recsys.models.checkpoint import Checkpoint
from recsys.models.ranking.dcnv2 import DCNv2Config
from recsys.scoring.local import score

__all__ = ["measure"]

_BATCH = 4096
Kind = Literal["stock", "tuned"]


def measure(rows: int = 1_000_000, rounds: int = 1, bits: int = 20, only: Sequence[str] = ()) -> dict[str, Any]:
    """Score a file with everybody; what `recsys bench score` prints as JSON.

    Args:
        rows: Of the file.
        rounds: Runs of each job, interleaved.
        bits: Each of the 26 tables has 2^bits rows.
        only: Names of jobs, such as `int8` or `pandas`; none means all.

    Raises:
        ConfigError: When there would be no rows or no rounds, or no job has such a name.
    """
    if rows < 1 or rounds < 1:
        raise ConfigError(f"expected rows and rounds of 1 or more, got {rows} and {rounds}")
    about = machine(["pandas", "fuxictr", "onnxruntime"])
    with tempfile.TemporaryDirectory(prefix="recsys-bench-") as name, torch.no_grad():
        folder = Path(name)
        write(folder / "in.parquet", rows)
        checkpoint = _checkpoint(bits)
        ours = {kind: _session(checkpoint, kind) for kind in ("fp32", "bf16", "int8") if _able(kind)}
        jobs: dict[str, Callable[[], None]] = {kind: partial(_score, one, folder) for kind, one in ours.items()}
        kinds: dict[str, Kind] = {"pandas": "stock", "pandas-factorize": "tuned", "fuxictr": "stock"}
        jobs |= _peers(checkpoint, folder, bits)
        for one in only:
            if one not in jobs:
                raise ConfigError(f"no such job as `{one}`: {', '.join(jobs)}")
        measured = {one: _Measured(job) for one, job in jobs.items() if not only or one in only}
        rates = interleaved([Job(one, rows, job) for one, job in measured.items()], rounds)
        for session in ours.values():
            session.close()
    found = {
        name: rate.to_json() | {"most_memory_bytes": measured[name].most, "class": kinds.get(name, "ours")}
        for name, rate in rates.items()
    }
    return {
        "bench": "score",
        "machine": about,
        "rows": [_row(name, one, found) for name, one in found.items()],
        "file_rows": rows,
        "bits": bits,
        "absent": absent(),
    }


class _Measured:
    """A job that keeps how much memory it took at the most, beside the models and what was there before."""

    def __init__(self, job: Callable[[], None]) -> None:
        self._job, self.most = job, 0

    def __call__(self) -> None:
        pa.default_memory_pool().release_unused()
        restart_most_memory()
        before = resident_memory()
        self._job()
        self.most = max(self.most, resident_memory(most=True) - before)


def _row(name: str, one: Mapping[str, Any], found: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """A job, and how many times a peer's rows a second it scores."""
    peers = {peer: other for peer, other in found.items() if other["class"] != "ours"}
    times = {peer: round(one["rows_per_second"] / other["rows_per_second"], 2) for peer, other in peers.items()}
    return {"name": name, **one, "times": times if one["class"] == "ours" else {}}


def _able(kind: str) -> bool:
    return any(precision == kind and not backends.absent(b, precision) for b, precision in backends.ENGINES)


def _session(checkpoint: Checkpoint, kind: Any) -> InferenceSession:
    return InferenceSession(from_checkpoint(checkpoint), precision=kind)


def _score(session: InferenceSession, folder: Path) -> None:
    (folder / "out.parquet").unlink(missing_ok=True)
    score(session, folder / "in.parquet", folder / "out.parquet", ["label"], show=False)


def _checkpoint(bits: int) -> Checkpoint:
    features = [
        *(Numeric(name=name, transform="log") for name in NUMBERS),
        *(Categorical(name=name, encoding=Hashing(bits=bits)) for name in CATEGORIES),
    ]
    schema = Schema(labels=(Label(name="label"),), features=tuple(features))
    encoder = Encoder.fit(schema, chunks(20_000))
    config = DCNv2Config(embedding_dim=DIM, cross_layers=CROSSES, hidden=HIDDEN)
    return Checkpoint(config, MODELS["dcnv2"](encoder.inputs).eval(), encoder)


# --- peers


def _peers(checkpoint: Checkpoint, folder: Path, bits: int) -> dict[str, Callable[[], None]]:
    model = checkpoint.model
    tables = [nn.Embedding(1 << bits, DIM, _weight=model.tables.table(name)[0].detach()) for name in CATEGORIES]
    known = {name: _values(folder, name, bits) for name in CATEGORIES}

    def mapped(name: str, column: pd.Series[Any]) -> np.ndarray[Any, Any]:
        return column.map(known[name]).fillna(0).to_numpy(np.int64)

    def hashed(name: str, column: pd.Series[Any]) -> np.ndarray[Any, Any]:
        codes, values = pd.factorize(column)
        ids = pd.util.hash_array(values.to_numpy(object), categorize=False) % (1 << bits)
        return np.append(ids.astype(np.int64), 0)[codes]

    found: dict[str, Callable[[], None]] = {
        "pandas": lambda: _loop(folder, model, tables, mapped),
        "pandas-factorize": lambda: _loop(folder, model, tables, hashed),
    }
    return found if "fuxictr" in absent() else found | {"fuxictr": _fuxictr(folder, bits)}


def _values(folder: Path, name: str, bits: int) -> dict[str, int]:
    """A row for every value of the file, as far as there are rows."""
    distinct = pq.read_table(folder / "in.parquet", columns=[name])[name].unique().to_pylist()
    return {value: 1 + place % ((1 << bits) - 1) for place, value in enumerate(distinct) if value is not None}


def _loop(
    folder: Path,
    model: RankingModel,
    tables: Sequence[nn.Embedding],
    ids: Callable[[str, pd.Series[Any]], np.ndarray[Any, Any]],
) -> None:
    parts = []
    for batch in pq.ParquetFile(folder / "in.parquet").iter_batches(1 << 17):
        frame = batch.to_pandas()
        numbers = np.log1p(frame[list(NUMBERS)].fillna(0).clip(lower=0).to_numpy(np.float32))
        codes = torch.from_numpy(np.stack([ids(name, frame[name]) for name in CATEGORIES], axis=1))
        dense = torch.from_numpy(numbers)
        scores = [
            _scored(model, tables, dense[start : start + _BATCH], codes[start : start + _BATCH])
            for start in range(0, len(frame), _BATCH)
        ]
        parts.append(pd.DataFrame({"label": frame["label"], "score": np.concatenate(scores)}))
    pd.concat(parts).to_parquet(folder / "out.parquet")


def _scored(model: RankingModel, tables: Sequence[nn.Embedding], dense: Tensor, codes: Tensor) -> np.ndarray[Any, Any]:
    rows = [table(codes[:, k]) for k, table in enumerate(tables)]
    scores: np.ndarray[Any, Any] = model.network(torch.cat([dense, *rows], dim=1), {}).sigmoid()[:, 0].numpy()
    return scores


def _fuxictr(folder: Path, bits: int) -> Callable[[], None]:
    processor, frame = fuxictr_processor(folder / "in.parquet", folder)
    processor.fit(frame(), min_categr_count=10)
    sizes = {name: max(1 << bits, len(processor.processor_dict[f"{name}::tokenizer"].vocab) + 1) for name in CATEGORIES}
    model = dcnv2(sizes, 1, "adam", HIDDEN, CROSSES).eval()

    def batches(table: pa.Table) -> Iterator[dict[str, Tensor]]:
        for start in range(0, table.num_rows, BLOCK):
            part = table.slice(start, BLOCK)
            columns = processor.transform({name: part[name].to_numpy() for name in part.column_names})
            with warnings.catch_warnings():  # Arrow's memory is read-only, and nobody writes to it
                warnings.simplefilter("ignore")
                tensors = {one: torch.from_numpy(np.asarray(columns[one])) for one in [*NUMBERS, *CATEGORIES, "label"]}
            for at in range(0, part.num_rows, _BATCH):
                yield {name: column[at : at + _BATCH] for name, column in tensors.items()}

    def run() -> None:
        table = frame().collect().to_arrow()
        scores = model.predict(batches(table))
        out = pd.DataFrame({"label": table["label"].to_numpy(), "score": scores})
        out.to_parquet(folder / "out.parquet")

    return run
