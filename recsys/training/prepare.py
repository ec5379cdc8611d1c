"""Before training: learn the encoder in one pass over the training rows, and see how many rows there are.

The encoder is kept beside the training's state, so that a training that goes on after a kill does not learn it again.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from tqdm import tqdm

from recsys.data.batch import Batch
from recsys.data.encoder import FIRST, Counts, Encoder, Inputs, Task, id_inputs
from recsys.data.fitting import Fitting
from recsys.data.readers import Dataset, Piece
from recsys.data.schema import MultiValued, Schema, Sequence
from recsys.data.stream import Examples, Resident, Streamed, encoded, named_tables, needed
from recsys.errors import DataError, RecsysError
from recsys.files import read_json, write_json

__all__ = ["Prepared", "outline", "prepare"]

_VALUES = 1 << 24
"""Encoded values of a window, 8 bytes each."""


@dataclass(frozen=True)
class Prepared:
    """What a training starts from.

    Attributes:
        encoder: Fitted on the training rows.
        train: Rows to train on.
        valid: Rows that say when to stop.
        counts: What the encoder met in the validation rows.
    """

    encoder: Encoder
    train: Examples
    valid: Examples
    counts: Counts


def prepare(
    schema: Schema, train: Dataset, valid: Dataset, shuffle_rows: int | None, folder: Path | None, show: bool
) -> Prepared:
    """Fit the encoder, and open both data sets: in memory when they have no more than `shuffle_rows` rows.

    Args:
        schema: What the columns mean.
        train: Rows to train on.
        valid: Rows that say when to stop.
        shuffle_rows: Rows of a window; None: as many as `_VALUES` values make.
        folder: Where the encoder is kept while training, or None.
        show: Progress bars on standard error.

    Raises:
        DataError: With the file's name, when rows are not as the schema says, or there are none.
    """
    shuffle_rows = shuffle_rows or max(_VALUES // _values_a_row(schema), 1)
    encoder, pieces = _fitted(schema, train, None if folder is None else folder / "encoder.json", show)
    rows = sum(piece.rows or 0 for piece in pieces)
    if rows <= shuffle_rows:
        examples: Examples = Resident(Batch.concat(list(encoded(train, encoder, pieces=pieces))))
    else:
        examples = Streamed(train, pieces, encoder, shuffle_rows)
    counts = Counts()
    return Prepared(encoder, examples, _counted(valid, encoder, shuffle_rows, counts), counts)


def outline(schema: Schema) -> Inputs:
    """What a model must know of the data but for the sizes of tables: all have a few rows."""
    ids = tuple(part for feature in schema.id_features for part in id_inputs(schema, feature, FIRST + 1))
    tasks = tuple(Task(label.name, label.kind, label.weight) for label in schema.labels)
    return Inputs(tuple(feature.name for feature in schema.numeric), ids, tasks)


def _values_a_row(schema: Schema) -> int:
    """Encoded values of a row, about: of a list with no bound, eight."""
    sequences = sum(feature.max_length for feature in schema.features if isinstance(feature, Sequence))
    return len(schema.features) + sequences + 8 * sum(isinstance(feature, MultiValued) for feature in schema.features)


def _fitted(schema: Schema, data: Dataset, kept: Path | None, show: bool) -> tuple[Encoder, list[Piece]]:
    identity = [list(file) for file in data.identity()]
    if kept is not None:
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecsysError):
            found = read_json(kept)
            if found["files"] == identity and found["encoder"]["schema"] == schema.model_dump(
                mode="json", exclude_none=True
            ):
                return _restored(found, str(kept))
    encoder, pieces = _fit(schema, data, show)
    if kept is not None:
        state = {"files": identity, "encoder": encoder.to_json(), "counts": asdict(encoder.fitted.counts)}
        write_json(kept, state | {"pieces": [asdict(piece) for piece in pieces]})
    return encoder, pieces


def _restored(found: dict[str, Any], where: str) -> tuple[Encoder, list[Piece]]:
    encoder = Encoder.from_json(found["encoder"], where)
    encoder.fitted.counts = Counts(**found["counts"])
    return encoder, [Piece(**piece) for piece in found["pieces"]]


def _fit(schema: Schema, data: Dataset, show: bool) -> tuple[Encoder, list[Piece]]:
    fitting, pieces = Fitting(schema), []
    for piece in _shown(data, show):
        before = fitting.counts.rows
        for table, naming in named_tables(data, needed(schema), [piece]):
            with naming():
                fitting.add(table)
        pieces.append(replace(piece, rows=fitting.counts.rows - before))
    return Encoder(schema, fitting.learnt()), pieces


def _counted(data: Dataset, encoder: Encoder, most: int, counts: Counts) -> Examples:
    """Encode all rows once; they stay in memory if there are no more than `most`."""
    parts: list[Batch] = []
    pieces = []
    for piece in data.pieces():
        before = counts.rows
        for batch in encoded(data, encoder, counts, [piece]):
            parts.append(batch)
            if counts.rows > most:
                parts.clear()
        pieces.append(replace(piece, rows=counts.rows - before))
    if not counts.rows:
        where = ", ".join(str(file.path) for file in data.files) or "the data"
        raise DataError(f"{where}: no rows to validate on")
    return Resident(Batch.concat(parts)) if counts.rows <= most else Streamed(data, pieces, encoder, most)


def _shown(data: Dataset, show: bool) -> Iterator[Piece]:
    """The pieces, with a progress bar over the bytes of the data."""
    bar = tqdm(desc="reading", total=data.bytes, unit="B", unit_scale=True, leave=False, disable=None if show else True)
    with bar:
        pieces = list(data.pieces())
        for piece in pieces:
            yield piece
            bar.update(data.bytes // len(pieces))
