"""Score a Parquet file on this machine, streaming, in bounded memory."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from recsys.data.batch import Batch
from recsys.data.encoder import Counts
from recsys.data.readers import open_parquet, tables
from recsys.errors import DataError
from recsys.files import make_folder, replacing
from recsys.models.checkpoint import Checkpoint

__all__ = ["Scored", "score_file"]


@dataclass(frozen=True)
class Scored:
    """What a scoring job did."""

    rows: int
    seconds: float
    columns: tuple[str, ...]
    counts: Counts = field(default_factory=Counts)

    @property
    def rows_per_second(self) -> float:
        """Rows scored a second, reading and writing included."""
        return self.rows / max(self.seconds, 1e-9)


def score_file(
    checkpoint: Checkpoint,
    source: Path,
    target: Path,
    keep: Sequence[str] = (),
    batch_size: int = 16_384,
    show: bool = True,
) -> Scored:
    """Write the columns `keep` and the scores of every row of `source` to `target`, in the same order.

    The score's column is ``score``; with several tasks it is ``score_TASK`` for each. `target` appears whole at the
    end or not at all.

    Args:
        checkpoint: From `recsys.load`.
        source: A Parquet file with the schema's columns; labels are not needed.
        target: The Parquet file to write.
        keep: Columns of `source` to copy.
        batch_size: Rows at a time: what bounds the memory.
        show: A progress bar on standard error.

    Raises:
        DataError: When a file cannot be read or written, or a column is absent or would stand twice.
    """
    started, counts = time.monotonic(), Counts()
    with open_parquet(source) as file:
        rows, types = file.metadata.num_rows, file.schema_arrow
    names = _score_names(checkpoint)
    _check(source, target, types, keep, names)
    columns = list(dict.fromkeys([*checkpoint.encoder.schema.columns, *keep]))
    kinds = [pa.float32() if task.kind == "binary" else pa.float64() for task in checkpoint.encoder.inputs.tasks]
    schema = pa.schema([types.field(name) for name in keep] + list(map(pa.field, names, kinds)))
    make_folder(target.parent)
    bar = tqdm(total=rows, desc="score", unit=" rows", unit_scale=True, disable=None if show else True)
    with replacing(target) as temporary, bar, pq.ParquetWriter(temporary, schema, compression="zstd") as writer:
        for table in tables(source, columns, batch_size):
            batch = checkpoint.encoder.encode(table, labels=False, counts=counts, keys=keep)
            writer.write_table(_with_scores(batch, checkpoint.predict_batch(batch), schema))
            bar.update(len(batch))
    return Scored(rows, time.monotonic() - started, (*keep, *names), counts)


def _score_names(checkpoint: Checkpoint) -> list[str]:
    tasks = checkpoint.encoder.inputs.tasks
    return ["score"] if len(tasks) == 1 else [f"score_{task.name}" for task in tasks]


def _check(source: Path, target: Path, types: pa.Schema, keep: Sequence[str], names: Sequence[str]) -> None:
    for name in keep:
        if name not in types.names:
            raise DataError(f"{source}: no column `{name}` to keep; it has: {', '.join(types.names)}")
        if types.names.count(name) > 1:
            raise DataError(f"{source}: column `{name}` stands twice; rename one to keep it")
    twice = [name for name in (*keep, *names) if (*keep, *names).count(name) > 1]
    if twice:
        raise DataError(f"the output would hold column `{twice[0]}` twice; leave it out of keep")
    if target.is_dir():
        raise DataError(f"{target}: expected a file to write, got a folder")
    if target.exists() and target.samefile(source):
        raise DataError(f"{target}: is the input itself; name another file")


def _with_scores(batch: Batch, scores: np.ndarray[Any, Any], schema: pa.Schema) -> pa.Table:
    kept = [] if batch.keys is None else batch.keys.columns
    types = schema.types[len(kept) :]
    columns = [pa.array(scores[:, i].astype(kind.to_pandas_dtype())) for i, kind in enumerate(types)]
    return pa.Table.from_arrays([*kept, *columns], schema=schema)
