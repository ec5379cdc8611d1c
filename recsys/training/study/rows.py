"""The rows of a study's settings, encoded once a process."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence

import pyarrow as pa

from recsys.data.batch import Batch
from recsys.data.encoder import Encoder
from recsys.data.protocol import hashed
from recsys.data.readers import Dataset
from recsys.data.schema import Schema
from recsys.data.sources import load as load_source
from recsys.data.stream import Examples, Resident, encoded, needed
from recsys.data.synthetic import STARTS, Synthetic, chunks
from recsys.data.synthetic import schema as synthetic_schema
from recsys.errors import DataError
from recsys.training.progressive import in_order_of_time
from recsys.training.study.config import Setting, StudyData, SyntheticRows

__all__ = ["identity", "schema_of", "splits", "stream"]


def stream(setting: Setting, hashes: int = 1) -> tuple[Encoder, Examples]:
    """All rows of a progressive study, in the order of time."""
    return _stream(setting, hashes, identity(setting.data))


def splits(setting: Setting, hashes: int = 1) -> tuple[Encoder, Examples, Examples, Examples]:
    """Rows to train, to validate and to test on; the encoder learns from the first."""
    return _splits(setting, hashes, identity(setting.data))


@functools.lru_cache(maxsize=2)
def _stream(setting: Setting, hashes: int, identity: str) -> tuple[Encoder, Examples]:
    schema, data = _opened(setting.data, ("train", "valid", "test"))
    assert setting.bits is not None
    return in_order_of_time(hashed(schema, setting.bits, hashes), data)


@functools.lru_cache(maxsize=2)
def _splits(setting: Setting, hashes: int, identity: str) -> tuple[Encoder, Examples, Examples, Examples]:
    schema, train = _opened(setting.data, ("train",))
    schema = schema if setting.bits is None else hashed(schema, setting.bits, hashes)
    encoder = Encoder.fit(schema, (table for table, _ in train.read(needed(schema))))
    others = [_opened(setting.data, (split,))[1] for split in ("valid", "test")]
    train_rows, valid, test = (Resident(Batch.concat(list(encoded(data, encoder)))) for data in (train, *others))
    return encoder, train_rows, valid, test


def schema_of(setting: Setting, hashes: int = 1) -> Schema:
    """The schema that a setting's rows are encoded by."""
    data = setting.data
    if data.synthetic is not None:
        found = synthetic_schema(_world(data.synthetic))
    else:
        found = Schema.load(data.schema_file or load_source(data.source or "").schema)
    return found if setting.bits is None else hashed(found, setting.bits, hashes)


def identity(data: StudyData) -> str:
    """What changes when the rows or their schema do."""
    if data.synthetic is not None:
        return ""
    opened, rows = _opened(data, [split for split in ("train", "valid", "test") if data.source or getattr(data, split)])
    schema = opened.model_dump(mode="json")
    if data.source is not None:
        return json.dumps([load_source(data.source).folder.name, schema])  # named after its contents
    return json.dumps([schema, *rows.identity()])


def _opened(data: StudyData, splits: Sequence[str]) -> tuple[Schema, Dataset]:
    """Schema, and the rows of some splits, one after the other."""
    if data.synthetic is not None:
        return _made(data, splits)
    if data.source is not None:
        source = load_source(data.source)
        schema = Schema.load(data.schema_file or source.schema)
        return schema, Dataset([source.file(split) for split in splits], schema.format)
    assert data.schema_file is not None
    schema = Schema.load(data.schema_file)
    files = [file for split in splits for file in getattr(data, split)]
    if not files:
        raise DataError(f"data `{data.name}` of the study names no files for {' and '.join(splits)}")
    return schema, Dataset(files, schema.format)


def _made(data: StudyData, splits: Sequence[str]) -> tuple[Schema, Dataset]:
    """Synthetic rows; a stream takes its rows from where a training does."""
    assert data.synthetic is not None
    config, rows = _world(data.synthetic), data.synthetic.rows
    wanted = (
        [("train", rows)] if len(splits) > 1 else [(s, rows if s == "train" else max(rows // 10, 1)) for s in splits]
    )
    tables = [table for split, n in wanted for table in chunks(config, n, STARTS[split])]
    return synthetic_schema(config), Dataset(pa.concat_tables(tables))


def _world(rows: SyntheticRows) -> Synthetic:
    return Synthetic.model_validate(rows.model_dump(exclude={"rows"}))
