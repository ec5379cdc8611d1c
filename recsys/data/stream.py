"""Encoded rows in bounded memory: in order for measuring, shuffled window by window for training.

An epoch reads the pieces of a data set in a random order and cuts what comes into windows of `shuffle_rows` rows; the
rows of a window are permuted as a whole. The order depends on seed and epoch alone, so a step can be returned to.
"""

from __future__ import annotations

import bisect
import contextlib
import functools
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Protocol

import pyarrow as pa
import torch

from recsys.data.ahead import ahead
from recsys.data.batch import Batch
from recsys.data.encoder import Counts, Encoder
from recsys.data.readers import BEGIN, Dataset, Piece, Place, Rows
from recsys.data.schema import Schema
from recsys.errors import DataError

__all__ = ["Examples", "Resident", "Streamed", "encode_all", "encoded", "named_tables", "needed"]

Naming = Callable[[], contextlib.AbstractContextManager[None]]


class Examples(Protocol):
    """Labelled rows that a model is trained on or measured on."""

    rows: int

    def shuffled(self, epoch: int, seed: int, batch_size: int, skip: int = 0) -> Generator[Batch]:
        """The epoch's batches from batch number `skip` on."""
        ...

    def in_order(self, batch_size: int) -> Iterator[Batch]:
        """All rows in order."""
        ...


class Resident:
    """Rows that are encoded once and stay in memory."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.rows = len(batch)

    def shuffled(self, epoch: int, seed: int, batch_size: int, skip: int = 0) -> Generator[Batch]:
        """Batches of one permutation of all rows."""
        return _permuted(self.batch, _generator(seed, epoch), batch_size, skip)

    def in_order(self, batch_size: int) -> Iterator[Batch]:
        """All rows in order."""
        for start in range(0, self.rows, batch_size):
            yield self.batch.slice(start, start + batch_size)


class Streamed:
    """Rows that are read and encoded anew in every epoch, one window ahead of the model.

    Memory: about three windows of encoded rows, one in use and one being put together.

    Args:
        data: The rows.
        pieces: Of `data`, each with its number of rows.
        encoder: Fitted.
        shuffle_rows: Rows of a window.
    """

    def __init__(self, data: Dataset, pieces: Sequence[Piece], encoder: Encoder, shuffle_rows: int) -> None:
        self.data, self.encoder, self.shuffle_rows = data, encoder, shuffle_rows
        self.pieces = [piece for piece in pieces if piece.rows]
        self.rows = sum(piece.rows or 0 for piece in self.pieces)

    def shuffled(self, epoch: int, seed: int, batch_size: int, skip: int = 0) -> Generator[Batch]:
        """Batches of the epoch's windows; a window is a whole number of batches."""
        generator = _generator(seed, epoch)
        order = torch.randperm(len(self.pieces), generator=generator).tolist()
        pieces = [self.pieces[p] for p in order]
        batches = max(self.shuffle_rows // batch_size, 1)
        first, within = divmod(skip, batches)
        seeds = torch.randint(2**62, (self.rows // (batches * batch_size) + 1,), generator=generator).tolist()
        start = _place(pieces, first * batches * batch_size)
        for w, window in enumerate(ahead(self._windows(pieces, start, batches * batch_size)), first):
            order_within = torch.Generator().manual_seed(seeds[w])
            yield from _permuted(window, order_within, batch_size, within if w == first else 0)

    def in_order(self, batch_size: int) -> Iterator[Batch]:
        """All rows in order, `batch_size` at a time or fewer."""
        for batch in ahead(encoded(self.data, self.encoder, pieces=self.pieces)):
            yield from Resident(batch).in_order(batch_size)

    def _windows(self, pieces: Sequence[Piece], start: Place, rows: int) -> Iterator[Batch]:
        parts: list[Batch] = []
        have = 0
        for batch in encoded(self.data, self.encoder, pieces=pieces, start=start):
            parts.append(batch)
            have += len(batch)
            while have >= rows:
                surplus = have - rows
                last = parts.pop()
                parts.append(last.slice(0, len(last) - surplus))
                yield Batch.concat(parts)
                parts, have = [last.slice(len(last) - surplus, len(last))], surplus
        if have:
            yield Batch.concat(parts)


def encoded(
    data: Dataset,
    encoder: Encoder,
    counts: Counts | None = None,
    pieces: Iterable[Piece] | None = None,
    start: Place = BEGIN,
) -> Iterator[Batch]:
    """The labelled rows of a data set, table by table.

    Raises:
        DataError: With the file's name, when a column or a label is not as the schema says.
    """
    counts = counts if counts is not None else Counts()
    for table, naming in named_tables(data, needed(encoder.schema), pieces, start):
        with naming():
            batch = encoder.encode(table, counts=counts)
        yield batch


def encode_all(encoder: Encoder, rows: Rows, counts: Counts | None = None) -> Batch:
    """All labelled rows as one encoded batch in memory.

    Raises:
        DataError: With the file's name, when there are no rows, or a column or a label is not as the schema says.
    """
    data = Dataset(rows, encoder.schema.format, needed(encoder.schema))
    return Batch.concat(list(encoded(data, encoder, counts)))


def named_tables(
    data: Dataset, columns: Sequence[str], pieces: Iterable[Piece] | None = None, start: Place = BEGIN
) -> Iterator[tuple[pa.Table, Naming]]:
    """`Dataset.read`, each table with a context that begins what is wrong with it with the name of its file."""
    for p, piece in enumerate(data.pieces() if pieces is None else pieces):
        naming = functools.partial(_naming, data.files[piece.file].path if data.files else None)
        if p >= start.piece:
            begin = Place(0, start.rows if p == start.piece else 0)
            for table, _ in data.read(columns, pieces=[piece], start=begin):
                yield table, naming


def needed(schema: Schema) -> list[str]:
    """The columns that training reads: features, labels and the group."""
    columns = [*schema.columns, *(label.source for label in schema.labels), *([schema.group] if schema.group else [])]
    return list(dict.fromkeys(columns))


@contextlib.contextmanager
def _naming(path: Path | None) -> Iterator[None]:
    try:
        yield
    except DataError as error:
        raise error if path is None or str(error).startswith(str(path)) else DataError(f"{path}: {error}") from None


def _generator(seed: int, epoch: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed * 100_003 + epoch)


def _permuted(batch: Batch, generator: torch.Generator, batch_size: int, skip: int) -> Generator[Batch]:
    order = torch.randperm(len(batch), generator=generator)
    for start in range(skip * batch_size, len(batch), batch_size):
        yield batch.take(order[start : start + batch_size])


def _place(pieces: Sequence[Piece], row: int) -> Place:
    """Where row number `row` stands when the pieces are read one after the other."""
    ends = list(accumulate(piece.rows or 0 for piece in pieces))
    p = bisect.bisect_right(ends, row)
    return Place(p, row - (ends[p - 1] if p else 0))
