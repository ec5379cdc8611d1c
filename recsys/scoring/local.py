"""Score files on this machine: in bounded memory, and resumed after a kill without losing or repeating a row.

A Parquet file cannot be read before its footer is written, so a job writes parts, and a journal of them, into a folder
beside the output, and joins the parts at the end. Each part's record holds the place in the input where the next one
begins.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

import recsys
from recsys.data.ahead import side_by_side
from recsys.data.batch import Batch
from recsys.data.encoder import Counts, Encoder
from recsys.data.readers import Dataset, Place, Rows, files_in
from recsys.dataflow.platform import read_cores
from recsys.errors import ConfigError, DataError
from recsys.files import locked, make_folder, move, replacing, sweep
from recsys.inference.backends import Precision, absent
from recsys.inference.choice import measured
from recsys.inference.network import flops
from recsys.inference.parts import Parts, from_checkpoint
from recsys.inference.plans import Plan
from recsys.inference.session import MAX_BATCH, InferenceSession
from recsys.models.checkpoint import Checkpoint
from recsys.scoring.journal import Journal

__all__ = ["PART_ROWS", "Scored", "score", "session_for"]

PART_ROWS = 1 << 18
"""Rows of a part: what a kill may cost, and the most that is held before it is written."""
_FORMAT = 1
_MARK = b"recsys.scores"
"""Key of an output's metadata, by which it may be replaced: any other Parquet file is somebody's data."""
_ROW_BYTES = 200
"""Of a row of text, about."""
_WORTH_FLOPS = 1e12
"""Work of a job, some ten seconds of a core in eager torch, from which on it is worth building back ends."""


@dataclass(frozen=True)
class Scored:
    """What a scoring job did.

    Attributes:
        rows: Scored in all.
        resumed: Of them, those that an earlier call had finished.
        seconds: Of this call.
        columns: Of the output.
        files: How many were written.
        counts: What the encoder met, in all rows.
    """

    rows: int
    resumed: int
    seconds: float
    columns: tuple[str, ...]
    files: int = 1
    counts: Counts = field(default_factory=Counts)

    @property
    def rows_per_second(self) -> float:
        """Rows scored a second by this call, reading and writing included."""
        return (self.rows - self.resumed) / max(self.seconds, 1e-9)


class _File(NamedTuple):
    source: Path
    target: Path


def score(
    model: Checkpoint | InferenceSession,
    source: str | Path,
    target: str | Path,
    keep: Sequence[str] = (),
    *,
    batch_size: int = 16_384,
    overwrite: bool = False,
    show: bool = True,
) -> Scored:
    """Write the columns `keep` and the scores of every row of `source` to `target`, in the same order.

    The score's column is ``score``; with several tasks it is ``score_TASK`` for each. Of a folder every file gives a
    Parquet file of the same name under `target`. Each output appears whole at its end or not at all; a job that was
    killed goes on when it is called again.

    Args:
        model: From `recsys.session`, or from `recsys.load`, whose tables are then copied. Of a session, every core has
            a thread that encodes and scores.
        source: A file (Parquet, CSV, TSV) or a folder of them with the schema's columns; labels are not needed.
        target: The Parquet file to write, or the folder.
        keep: Columns of `source` to copy; those of a text file as text.
        batch_size: Rows at a time.
        overwrite: Discard the unfinished work of another job, and replace a Parquet file that no job has written.
        show: A progress bar on standard error.

    Raises:
        ConfigError: When `batch_size` is below 1.
        DataError: When a file cannot be read or written, a column is absent or would stand twice, another job writes
            to `target`, it holds the unfinished work of another one, or a file that is there is none of scores.
    """
    started = time.monotonic()
    source, target = Path(source), Path(target)
    if batch_size < 1:
        raise ConfigError(f"expected a batch_size of 1 or more rows, got {batch_size}")
    try:
        files = _files(source, target)
        for file in files:
            _check_replaceable(file.target, overwrite)
    except OSError as error:
        raise DataError(f"{error.filename or target}: cannot be read or written: {error.strerror or error}") from None
    schema = model.encoder.schema
    columns = list(dict.fromkeys([*schema.columns, *keep]))
    opened = [Dataset(file.source, schema.format, columns) for file in files]
    outputs = [_output(model.encoder, file, data, keep) for file, data in zip(files, opened, strict=True)]
    work = _work_folder(target, source.is_dir())
    make_folder(work.parent)
    with locked(work.with_suffix(".lock")):
        if overwrite:
            shutil.rmtree(work, ignore_errors=True)
        make_folder(work)
        sweep(work)
        given = isinstance(model, InferenceSession)
        session = model if isinstance(model, InferenceSession) else session_for(from_checkpoint(model), source)
        journal = _journal(work, session, source, files, opened, keep)
        with _bar(opened, journal, show) as bar, contextlib.nullcontext() if given else session:
            resumed = int(bar.n)
            for f, (file, data, output) in enumerate(zip(files, opened, outputs, strict=True)):
                _Job(session, data, output, columns, batch_size, journal, f, bar).run(file.target)
        parts = [record for record in journal.records if "rows" in record]
        shutil.rmtree(work, ignore_errors=True)
    rows = sum(record["rows"] for record in parts)
    return Scored(rows, resumed, time.monotonic() - started, tuple(outputs[0].names), len(files), _counts(parts))


def _counts(parts: Sequence[Mapping[str, Any]]) -> Counts:
    """What the encoder met in all parts."""
    found = Counts()
    for record in parts:
        found.merge(Counts(**record["counts"]))
    return found


def _journal(
    work: Path,
    session: InferenceSession,
    source: Path,
    files: Sequence[_File],
    opened: Sequence[Dataset],
    keep: Sequence[str],
) -> Journal:
    """What was done of this job; a job is the same if model, precision, columns and files are."""
    inputs = [
        [str(file.source.relative_to(source)), *data.identity()[0]] for file, data in zip(files, opened, strict=True)
    ]
    header = {"format": _FORMAT, "run": f"{session.source} {session.precision}", "keep": list(keep), "input": inputs}
    return Journal(work / "journal.jsonl", header)


class _Job:
    """One file of a job."""

    def __init__(
        self,
        session: InferenceSession,
        data: Dataset,
        output: pa.Schema,
        columns: list[str],
        batch_size: int,
        journal: Journal,
        number: int,
        bar: tqdm[Any],
    ) -> None:
        self.session, self.data, self.output, self.columns = session, data, output, columns
        self.batch_size, self.journal, self.number, self.bar = batch_size, journal, number, bar
        self.kept = output.names[: len(output.names) - len(session.encoder.schema.labels)]  # scores come last
        mine = [record for record in journal.records if record["file"] == number]
        self.parts = [record for record in mine if "rows" in record]
        self.scored = any("scored" in record for record in mine)
        self.done = any("done" in record for record in mine)

    def run(self, target: Path) -> None:
        """Do what is left to do."""
        if self.done:
            if not target.is_file():
                raise DataError(f"{target}: this job wrote it and it is gone; say overwrite to start again")
            return
        if not self.scored:
            self._score()
            self.journal.append({"file": self.number, "scored": True})
        self._join(target)
        self.journal.append({"file": self.number, "done": True})
        for record in self.parts:
            self._path(record["part"]).unlink(missing_ok=True)

    def _join(self, target: Path) -> None:
        """Put the parts together among them, so that a kill leaves nothing beside the target, and then in its place."""
        joined = self.journal.path.with_name("joined.parquet")
        with replacing(joined) as temporary, pq.ParquetWriter(temporary, self.output, compression="zstd") as writer:
            for record in self.parts:
                writer.write_table(self._part(record))
        make_folder(target.parent)
        move(joined, target)

    def _score(self) -> None:
        start = Place(*self.parts[-1]["next"]) if self.parts else Place()
        held: list[pa.Table] = []
        counts, place = Counts(), start
        tables = self.data.read(self.columns, self.batch_size, start=start)
        for scored, found, place in side_by_side(tables, self._scored, len(read_cores())):
            held.append(scored)
            counts.merge(found)
            self.bar.update(scored.num_rows)
            if sum(table.num_rows for table in held) >= PART_ROWS:
                self._write(held, counts, place)
                held, counts = [], Counts()
        if held:
            self._write(held, counts, place)

    def _scored(self, read: tuple[pa.Table, Place]) -> tuple[pa.Table, Counts, Place]:
        table, place = read
        counts = Counts()
        batch = self.session.encoder.encode(table, labels=False, counts=counts, keys=self.kept)
        return _with_scores(batch, self.session.predict(batch), self.output), counts, place

    def _write(self, held: list[pa.Table], counts: Counts, place: Place) -> None:
        """Write a part, then its record: a part without one is written again."""
        part = pa.concat_tables(held)
        number = len(self.parts)
        with replacing(self._path(number)) as temporary:
            pq.write_table(part, temporary, compression="zstd")
        record = {"file": self.number, "part": number, "rows": part.num_rows, "next": place, "counts": asdict(counts)}
        self.journal.append(record)
        self.parts.append(record)

    def _part(self, record: dict[str, Any]) -> pa.Table:
        path = self._path(record["part"])
        try:
            table = pq.read_table(path)
        except (OSError, pa.ArrowException):
            table = None
        if table is None or table.num_rows != record["rows"]:
            raise DataError(f"{path}: a part of this job was altered; say overwrite to start again")
        return table

    def _path(self, part: int) -> Path:
        return self.journal.path.with_name(f"{self.number:05}-{part:05}.parquet")


def _work_folder(target: Path, folder: bool) -> Path:
    """Where parts are kept, on the file system of the outputs: beside a file, in a folder."""
    if folder:
        return target / ".recsys.job"
    real = target.resolve()  # of a link, beside what it points to
    return real.with_name(f".{real.name}.job")


def _files(source: Path, target: Path) -> list[_File]:
    """What is read and what is written, file by file."""
    if not source.is_dir():
        if target.exists() and not target.is_file():
            raise DataError(f"{target}: expected the name of a file to write, got a folder or a device")
        if target.exists() and source.exists() and target.samefile(source):
            raise DataError(f"{target}: is the input itself; name another file")
        return [_File(source, target)]
    one, other = source.resolve(), target.resolve()
    if target.is_file():
        raise DataError(f"{target}: expected a folder to write to, as the input is one, got a file")
    if one.is_relative_to(other) or other.is_relative_to(one):
        raise DataError(f"{target}: input and output must not lie in each other; name another folder")
    files = [_File(path, target / _renamed(path.relative_to(source))) for path in files_in(source)]
    seen: dict[Path, Path] = {}
    for file in files:
        first = seen.setdefault(file.target, file.source)
        if first != file.source:
            raise DataError(f"{first} and {file.source} would both be written to {file.target}; rename one")
        if file.source.resolve().is_relative_to(other) or not file.target.resolve().is_relative_to(other):
            raise DataError(f"{file.source} or {file.target}: a link leads into the other folder or elsewhere; copy it")
    return files


def _check_replaceable(target: Path, overwrite: bool) -> None:
    """Make sure that a file which is there may be replaced: it is empty, or was written by a scoring job.

    Raises:
        DataError: When it is no Parquet file, or one without the mark of scores and `overwrite` is not set.
    """
    if not target.exists() or target.stat().st_size == 0:
        return
    try:
        marked = _MARK in (pq.read_schema(target).metadata or {})
    except pa.ArrowException:
        raise DataError(f"{target}: is there already and is no Parquet file of scores; name another file") from None
    if not marked and not overwrite:
        raise DataError(
            f"{target}: is there already and is not marked as written by a scoring job of this version; name another "
            "file, or say overwrite"
        )


def _renamed(path: Path) -> Path:
    packed = path.with_suffix("") if path.suffix in (".gz", ".bz2") else path
    return packed.with_suffix(".parquet")


def session_for(
    parts: Parts, rows: Rows, precision: Precision = "fp32", device: str = "cpu", plan: Plan | None = None
) -> InferenceSession:
    """A session to score rows: the fastest back end if that has been measured or the rows are worth it, else eager.

    Building and measuring all back ends takes half a minute or so, once. The precision does not depend on it, so that
    a job that goes on does so as it began.
    """
    if device != "cpu":
        return InferenceSession(parts, plan, precision=precision, device=device)
    data = Dataset(rows, parts.encoder.schema.format)
    work = flops(parts.program) * (data.rows or data.bytes / _ROW_BYTES)
    able = not absent("eager", precision)
    known = measured(parts.program_for(precision), precision, MAX_BATCH)
    return InferenceSession(parts, plan, "eager" if able and not known and work < _WORTH_FLOPS else "auto", precision)


def _output(encoder: Encoder, file: _File, data: Dataset, keep: Sequence[str]) -> pa.Schema:
    """The columns that are written and their types."""
    types, tasks = data.schema, encoder.inputs.tasks
    for name in keep:
        if name not in types.names:
            raise DataError(f"{file.source}: no column `{name}` to keep; it has: {', '.join(types.names)}")
        if types.names.count(name) > 1:
            raise DataError(f"{file.source}: column `{name}` stands twice; rename one to keep it")
    names = ["score"] if len(tasks) == 1 else [f"score_{task.name}" for task in tasks]
    twice = [name for name in (*keep, *names) if (*keep, *names).count(name) > 1]
    if twice:
        raise DataError(f"the output would hold column `{twice[0]}` twice; leave it out of keep")
    data.need(encoder.schema.columns)
    kinds = [pa.float32() if task.kind == "binary" else pa.float64() for task in tasks]
    fields = [types.field(name) for name in keep] + list(map(pa.field, names, kinds))
    return pa.schema(fields, metadata={_MARK: recsys.__version__})


def _bar(opened: list[Dataset], journal: Journal, show: bool) -> tqdm[Any]:
    known = [data.rows for data in opened]
    total = None if None in known else sum(rows or 0 for rows in known)
    before = sum(record.get("rows", 0) for record in journal.records)
    quiet = None if show else True
    return tqdm(total=total, initial=before, desc="score", unit=" rows", unit_scale=True, disable=quiet)


def _with_scores(batch: Batch, scores: np.ndarray[Any, Any], output: pa.Schema) -> pa.Table:
    kept = [] if batch.keys is None else batch.keys.columns
    kinds = output.types[len(kept) :]
    scores = scores.reshape(len(batch), len(kinds))
    columns = [pa.array(scores[:, i].astype(kind.to_pandas_dtype())) for i, kind in enumerate(kinds)]
    return pa.Table.from_arrays([*kept, *columns], names=output.names).cast(output)
