"""One object that answers: a trained model, taken apart into look-ups and a network, each run where it is fastest."""

from __future__ import annotations

import operator
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import pyarrow as pa
import torch

from recsys.config import nearest
from recsys.data.batch import Batch
from recsys.data.encoder import Counts
from recsys.data.readers import Dataset, Rows
from recsys.data.rows import RowEncoder
from recsys.errors import ConfigError, DataError
from recsys.inference.backends import Backend, Precision
from recsys.inference.choice import Choice
from recsys.inference.cuda.device import find_gpu
from recsys.inference.given import Scores
from recsys.inference.opening import on_cpu, on_gpu
from recsys.inference.parts import Parts, Storing, open_parts
from recsys.inference.plans import Plan, for_cpu, for_gpu, read_plan
from recsys.inference.profile import SizeProfile, drawn, profile
from recsys.inference.rank import Ranking, best
from recsys.inference.scorer import Scorer

if TYPE_CHECKING:
    from recsys.inference.cuda.scorer import GpuScorer

__all__ = ["InferenceSession", "check_device", "session"]

MAX_BATCH = 512
"""Rows that go through the network at once: more do not fit the caches of a core, and take longer each."""
GPU_MAX_BATCH = 8192
"""The same on a GPU, which such a batch keeps busy: two of them take turns."""
_MOST_ROWS, _MOST_THREADS = 1 << 20, 1024
"""More is a mistake: every thread has buffers for `max_batch` rows."""
_READ = 16_384
"""Rows of a frame or a file that are encoded at once."""


class InferenceSession:
    """Scores rows by a trained model: encode, look up, run the network.

    Any number of threads may call it at once. Each has buffers of its own, which it uses again: the network's input and
    output are allocated once, and a call allocates its result, or not even that where `out` is given. Unpooled
    sequences, whose lengths differ, are allocated for each call.

    Args:
        parts: Of a run or an export.
        plan: How rows are looked up: for a CPU by default the parts' own, where it is for no more cores than there are;
            for a GPU where they lie, by default in its memory and, with a warning, in the host's what does not fit.
        backend: What runs the network.
        precision: Of the network's matrix products.
        max_batch: Rows that run at once; by default 512, and 8192 on a GPU.
        threads: Among which a batch is shared out.
        device: `cpu`, or a GPU: `cuda`, `cuda:1`.

    Attributes:
        counts: What the encoder met so far in frames, files and requests.
        precision: Of the network's matrix products.
        max_batch: Rows that run at once; larger batches are split.
        spec: What is looked up where.
        source: A checksum of what the session was made from.

    Raises:
        ConfigError: When the plan is for another model, a back end is unknown, or the GPU is not there or too small.
        MissingExtraError: When the back end that was asked for is not installed.
    """

    def __init__(
        self,
        parts: Parts,
        plan: Plan | None = None,
        backend: Literal["auto"] | Backend = "auto",
        precision: Literal["auto"] | Precision = "auto",
        max_batch: int | None = None,
        threads: int = 1,
        device: str | torch.device = "cpu",
    ) -> None:
        _one_of("backend", backend, ("auto", *get_args(Backend)))
        _one_of("precision", precision, ("auto", *get_args(Precision)))
        gpu = None if str(device) == "cpu" else find_gpu(device)
        near, far = (for_cpu(plan), None) if gpu is None else (None, for_gpu(plan))
        if max_batch is None:
            max_batch = MAX_BATCH if gpu is None else GPU_MAX_BATCH
        max_batch = _number("max_batch", max_batch, _MOST_ROWS)
        threads = _number("threads", threads, _MOST_THREADS)
        self.encoder, self.counts = parts.encoder, Counts()
        self.max_batch = max_batch
        self.spec, self.source = parts.spec, parts.source
        self._tasks = [task.name for task in parts.encoder.inputs.tasks]
        self._scorer: Scorer | GpuScorer | None
        if gpu is None:
            self.precision, self._scorer = on_cpu(parts, near, backend, precision, max_batch, threads)
        else:
            self.precision, self._scorer = on_gpu(parts, far, backend, precision, max_batch, threads, gpu)
            if self._scorer.note:
                warnings.warn(self._scorer.note, stacklevel=3)  # of who calls `session`
        schema = parts.encoder.schema
        self._known = {*schema.columns, *(label.source for label in schema.labels), schema.group, schema.time}
        self._encode_rows = RowEncoder(self.encoder).encode
        self._lock = threading.Lock()

    def _open(self) -> Scorer | GpuScorer:
        """A call takes it once, and keeps it until it ends, whoever closes the session meanwhile."""
        scorer = self._scorer
        if scorer is None:
            raise ConfigError("this session is closed: open another one with recsys.session")
        return scorer

    @property
    def choice(self) -> Choice:
        """The back end of each batch size."""
        return self._open().choice

    def predict(
        self, rows: Batch | Rows | Mapping[str, Any] | Sequence[Mapping[str, Any]], out: Scores | None = None
    ) -> Scores:
        """Scores of rows: [n], or [n, tasks] for several tasks; float32, or float64 if one is a regression.

        A feature whose column is absent counts as missing in every row.

        Args:
            rows: An encoded batch; an Arrow table, a DataFrame or files; a row as a dict, or a list of such.
            out: An array of the result's shape and type to fill, of a batch only.

        Raises:
            ConfigError: After `close`.
            DataError: When a column is of no feature or mistyped, a batch or `out` does not fit, or a score is not
                finite. An id of a batch that is out of its table's range reads row 0, and is counted in `unknown_ids`.
        """
        scorer = self._open()
        if isinstance(rows, Batch):
            return scorer.scores(rows, out)
        if out is not None:
            raise ConfigError("`out` takes the scores of an encoded batch; of other rows they are allocated")
        if isinstance(rows, Mapping):
            rows = [rows]
        if isinstance(rows, Sequence) and not isinstance(rows, str) and (not rows or isinstance(rows[0], Mapping)):
            return scorer.scores(self._batch_of_rows(rows))
        parts = [scorer.scores(self._batch(table)) for table in self._tables(rows)]
        return np.concatenate(parts) if parts else scorer.empty(0)

    def _tables(self, rows: Rows) -> Iterator[pa.Table]:
        """Rows as tables of the features' columns, as far as they are there; of files, others are not read."""
        schema = self.encoder.schema
        data = Dataset(rows, schema.format)
        names = data.schema.names
        if not data.files:
            self._check_known(names)
        return (table for table, _ in data.read(self._present(names), _READ))

    def _present(self, names: Sequence[str]) -> list[str]:
        """The features' columns among others."""
        found = [name for name in self.columns if name in names]
        if not found:
            raise DataError(f"expected columns {', '.join(self.columns)}, got {', '.join(names) or 'none'}")
        return found

    def _check_known(self, names: Sequence[str]) -> None:
        odd = next((name for name in names if name not in self._known), None)
        if odd is not None:
            hint = nearest(odd, list(self.columns))
            raise DataError(f"column `{odd}` is no feature's: {hint}; pass rows[session.columns]")

    @property
    def columns(self) -> list[str]:
        """The columns that features are read from."""
        return list(self.encoder.schema.columns)

    def encode(self, table: pa.Table) -> Batch:
        """The batch of a table's rows; columns that are absent are missing in every row, and counted.

        Raises:
            ConfigError: After `close`.
            DataError: When it is no Arrow table, or a column is of no feature or mistyped.
        """
        self._open()
        if not isinstance(table, pa.Table):
            raise DataError(f"expected an Arrow table, got {type(table).__name__}: `predict` takes other rows, too")
        self._check_known(table.column_names)
        self._present(table.column_names)
        return self._batch(table)

    def _batch(self, table: pa.Table) -> Batch:
        counts = Counts()
        batch = self.encoder.encode(self._complete(table), labels=False, counts=counts)
        self._count(counts)
        return batch

    def encode_rows(self, rows: Sequence[Mapping[str, Any]]) -> Batch:
        """The batch of rows given as dicts; what is absent is missing, and counted.

        Raises:
            ConfigError: After `close`.
            DataError: When a row has a column of no feature, or a value that cannot be read.
        """
        self._open()
        return self._batch_of_rows(rows)

    def _batch_of_rows(self, rows: Sequence[Mapping[str, Any]]) -> Batch:
        counts = Counts()
        batch = self._encode_rows(rows, counts)
        self._count(counts)
        return batch

    def _count(self, counts: Counts) -> None:
        with self._lock:
            self.counts.merge(counts)

    def _complete(self, table: pa.Table) -> pa.Table:
        for name in self.encoder.schema.columns:
            if name not in table.column_names:
                table = table.append_column(name, pa.nulls(table.num_rows))
        return table

    def step_times(self, batch: Batch) -> tuple[float, float]:
        """Microseconds that look-ups and network of a batch take, on one thread."""
        return self._open().step_times(batch)

    @property
    def unknown_ids(self) -> int:
        """Ids of encoded batches so far that were out of their tables' range: each read row 0."""
        return self._open().unknown_ids

    @property
    def table_bytes(self) -> int:
        """Bytes of all stored rows."""
        return self._open().table_bytes

    def profile(self, seconds: float = 0.3) -> list[SizeProfile]:
        """Where the time of each batch size goes, on uniform ids."""
        return profile(self, seconds=seconds)

    def warm_up(self) -> None:
        """Make this thread's buffers and run every engine once, so that the next call is as fast as all others."""
        for size in self.choice.engines:
            self.predict(drawn(self, min(size, self.max_batch)))

    def rank(
        self, user: Mapping[str, Any], candidates: Rows | Sequence[Mapping[str, Any]], k: int, task: str | None = None
    ) -> Ranking:
        """The k best of n candidates for one user, whose features are encoded and looked up once.

        Args:
            user: Columns of side `user`, and of side `context` where candidates do not have them.
            candidates: Columns of side `item`: dicts, an Arrow table or a DataFrame. What is absent is missing.
            k: How many; all where there are fewer.
            task: The label to rank by, where a model has several.

        Raises:
            ConfigError: After `close`, when `k` is below 1, or the label is not named.
            DataError: When a column is of no feature or on the wrong side, or a value cannot be read.
        """
        scorer, column, k = self._open(), self._task(task), _number("k", k)
        if not isinstance(user, Mapping):
            raise DataError(f"expected the user as a mapping of columns to values, got {type(user).__name__}")
        if not (isinstance(candidates, (list, tuple)) and all(isinstance(row, Mapping) for row in candidates)):
            candidates = _whole(candidates)
        scores, counts = scorer.rank(user, candidates)
        self._count(counts)
        return best(scores if scores.ndim == 1 else scores[:, column], k)

    def _task(self, task: str | None) -> int:
        if task is None and len(self._tasks) == 1:
            return 0
        if task not in self._tasks:
            raise ConfigError(f"expected the label to rank by, one of {', '.join(self._tasks)}, got {task}")
        return self._tasks.index(task)

    def close(self) -> None:
        """Give back tables and engines, as soon as the calls that are at work have ended. Closing twice is fine."""
        self._scorer = None

    def __enter__(self) -> InferenceSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _whole(rows: Any) -> pa.Table:
    """A frame as one table; nothing that is named is opened.

    Raises:
        DataError: When it is none.
    """
    if isinstance(rows, (str, Path, list, tuple)):
        raise DataError(f"expected candidates as dicts, an Arrow table or a DataFrame, got {_told(rows)}")
    data = Dataset(rows)
    parts = [table for table, _ in data.read()]
    return pa.concat_tables(parts) if parts else data.schema.empty_table()


def _told(rows: Any) -> str:
    """What kind of rows somebody gave."""
    name = type(rows).__name__
    odd = next((row for row in rows if not isinstance(row, Mapping)), None) if isinstance(rows, (list, tuple)) else None
    return name if odd is None else f"a {name} with {type(odd).__name__}"


def _one_of(name: str, value: object, known: Sequence[str]) -> None:
    if not isinstance(value, str) or value not in known:
        raise ConfigError(f"expected {name} as one of {', '.join(known)}, got {value!r}")


def _number(name: str, value: Any, most: int | None = None) -> int:
    """A whole number of 1 to `most`, numpy's among them."""
    try:
        found = 0 if isinstance(value, (bool, np.bool_)) else operator.index(value)
    except TypeError:
        found = 0
    if found < 1 or (most is not None and found > most):
        limit = "1 or more" if most is None else f"1 to {most:,}"
        raise ConfigError(f"expected {name} of {limit}, a whole number, got {value!r}")
    return found


def check_device(device: str | torch.device, plan: Plan | None) -> None:
    """Refuse what cannot be before tables are read, which may take minutes.

    Raises:
        ConfigError: When there is no such device, or the plan is for another kind.
    """
    if str(device) == "cpu":
        for_cpu(plan)
    else:
        find_gpu(device)
        for_gpu(plan)


def session(
    run: str | Path,
    plan: Literal["auto"] | str | Path | Plan = "auto",
    backend: Literal["auto"] | Backend = "auto",
    precision: Literal["auto"] | Precision = "auto",
    max_batch: int | None = None,
    threads: int = 1,
    storage: Storing = "huge",
    device: str | torch.device = "cpu",
) -> InferenceSession:
    """Open a trained model for inference.

    Args:
        run: Folder of a trained model or of an export, or the name of a model that recsys brings along.
        plan: How tables are stored and looked up: a plan or its file; by default the export's, where it has one. A GPU
            takes a GPU's plan, which says where rows lie; without one they lie in its memory, as far as they fit there.
        backend: What runs the network; by default what is fastest here for each batch size, measured once.
        precision: Of the network's matrix products; by default float32, and of an export the fastest that has passed
            its quality gate.
        max_batch: Most rows that run at once; larger batches are split. By default 512, and 8192 on a GPU.
        threads: Among which a batch is shared out; on a GPU one.
        storage: `huge` copies the tables to huge pages, which is fastest; `map` reads an export's file in place, which
            is ready at once and shared between processes. A GPU gets a copy of its own of either: with `map` the only
            one in memory.
        device: `cpu`, or a GPU: `cuda`, `cuda:1`.

    Raises:
        CheckpointError: When the folder does not load.
        ConfigError: When arguments contradict each other or the model.
        MissingExtraError: When a back end that was asked for is not installed.
    """
    _one_of("storage", storage, get_args(Storing))
    given = None if plan == "auto" else read_plan(plan) if isinstance(plan, (str, Path)) else plan
    check_device(device, given)
    parts = open_parts(Path(run), given, storage)
    return InferenceSession(parts, given, backend, precision, max_batch, threads, device)
