"""A corpus of nasty data: each is read with one defined answer, or refused in one sentence that names what is wrong."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recsys.data.batch import Batch
from recsys.data.encoder import Counts, Encoder
from recsys.data.readers import Dataset, read
from recsys.data.schema import (
    Bucketed,
    Categorical,
    Feature,
    Hashing,
    Label,
    LogSquare,
    MultiValued,
    Numeric,
    Quantiles,
    Schema,
    Sequence,
    Vocabulary,
)
from recsys.data.stream import encode_all
from recsys.errors import DataError, RecsysError, SchemaError

HUGE = 2**63
UTC = datetime.UTC


def schema(*features: Feature) -> Schema:
    return Schema(labels=(Label(name="y"),), features=features)


def encoded(rows: Any, *features: Feature) -> Batch:
    made = schema(*features)
    return encode_all(Encoder.fit(made, [read(rows)]), rows)


def written(folder: Path, content: bytes | pa.Table | str, suffix: str) -> Path:
    path = folder / f"nasty.{suffix}"
    if isinstance(content, pa.Table):
        pq.write_table(content, path)
    else:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


CATEGORY, NUMBER = Categorical(name="c"), Numeric(name="c")
READ: dict[str, tuple[Any, str, Feature, list[Any]]] = {
    "huge integers in text are categories of their own": (
        f"y,c\n0,{HUGE * 10**6}\n1,{HUGE * 10**6 + 1}\n", "csv", CATEGORY, [2, 3]),
    "unsigned integers beyond int64": (
        pa.table({"y": [0, 1], "c": pa.array([HUGE, HUGE + 1], pa.uint64())}), "parquet", CATEGORY, [2, 3]),
    "one instant in two time zones": (
        pa.table({"y": [0, 1], "c": pa.array([datetime.datetime(2020, 1, 1, tzinfo=UTC)] * 2).cast(
            pa.timestamp("us", "Asia/Tokyo"))}), "parquet", CATEGORY, [2, 2]),
    "windows line ends and no last line end": ("y,c\r\n0,a\r\n1,b", "csv", CATEGORY, [2, 3]),
    "blank lines": ("y,c\n\n0,a\n\n1,a\n\n", "csv", CATEGORY, [2, 2]),
    "line ends, delimiters and quotes inside quotes": ('y,c\n0,"a\n,""b"\n1,"a\n,""b"\n', "csv", CATEGORY, [2, 2]),
    "the two ways to write é": ("y,c\n0,é\n1,e\u0301\n", "csv", CATEGORY, [3, 2]),
    "an emoji and a zero-width space": ("y,c\n0,😀\n1,\u200b\n", "csv", CATEGORY, [3, 2]),
    "missing in many words": ("y,c\n0,NA\n1,\n0,null\n1,NaN\n", "csv", CATEGORY, [1, 1, 1, 1]),
    "numbers that are no numbers": ("y,c\n0,inf\n1,-inf\n0,nan\n1,?\n", "csv", NUMBER, [0.0, 0.0, 0.0, 0.0]),
    "a constant number": ("y,c\n0,0.1\n1,0.1\n", "csv", NUMBER, [0.0, 0.0]),
    "numbers near the end of float64": ("y,c\n0,1e308\n1,-1e308\n", "csv", NUMBER, [0.0, 0.0]),
    "a column of nulls": (pa.table({"y": [0, 1], "c": pa.nulls(2)}), "parquet", CATEGORY, [1, 1]),
    "a column of nulls as a number": (pa.table({"y": [0, 1], "c": pa.nulls(2)}), "parquet", NUMBER, [0.0, 0.0]),
    "booleans as labels and categories": (
        pa.table({"y": [True, False], "c": [True, None]}), "parquet", CATEGORY, [2, 1]),
    "dictionaries with unused and repeated values": (
        pa.table({"y": [0, 1], "c": pa.DictionaryArray.from_arrays(pa.array([3, 1]), pa.array(["x", "a", "b", "a "]))}),
        "parquet", CATEGORY, [2, 2]),
    "one row": ("y,c\n1,a\n", "csv", CATEGORY, [2]),
}  # fmt: skip


@pytest.mark.parametrize("case", READ, ids=lambda case: case.replace(" ", "_"))
def test_what_can_be_read_has_one_answer(case: str, tmp_path: Path) -> None:
    content, suffix, feature, expected = READ[case]
    batch = encoded(written(tmp_path, content, suffix), feature)
    found = batch.dense[:, 0].tolist() if isinstance(feature, Numeric) else batch.ids.values.tolist()
    assert found == expected


def nested() -> pa.Table:
    return pa.table({"y": [0, 1], "c": [{"a": 1}, {"a": 2}]})


def twice() -> pa.Table:
    return pa.Table.from_arrays([pa.array([0, 1]), pa.array([1, 2]), pa.array([1, 2])], names=["y", "c", "c"])


REFUSED: dict[str, tuple[Any, str, Feature, str]] = {
    "a struct": (nested(), "parquet", CATEGORY, "column `c`: expected one value a row, got struct"),
    "a struct as a number": (nested(), "parquet", NUMBER, "column `c`: expected numbers, got struct"),
    "a list where one value is expected": (
        pa.table({"y": [0], "c": [[1]]}), "parquet", CATEGORY, "is the feature `multi-valued`"),
    "one value where a list is expected": (
        pa.table({"y": [0], "c": [1]}), "parquet", Sequence(name="c"), "expected lists, got int64"),
    "lists of lists": (
        pa.table({"y": [0], "c": [[[1]]]}), "parquet", MultiValued(name="c"), "expected one value a row, got list"),
    "duplicate columns": (twice(), "parquet", CATEGORY, "column `c` stands twice"),
    "duplicate columns of text": ("y,c,c\n0,1,2\n", "csv", CATEGORY, "column `c` stands twice"),
    "invalid UTF-8": (b"y,c\n0,\xff\xfe\n", "csv", CATEGORY, "column `c` holds bytes that are not UTF-8"),
    "invalid UTF-8 bytes": (
        pa.table({"y": [0], "c": pa.array([b"\xff"], pa.binary())}), "parquet", CATEGORY, "cannot be read as text"),
    "text among numbers": ("y,c\n0,1\n1,twelve\n", "csv", NUMBER, "column `c`: expected numbers.*twelve"),
    "a label in words": ("y,c\nyes,1\nno,2\n", "csv", CATEGORY, "column `y`: expected numbers"),
    "a label out of range": ("y,c\n0,1\n7,2\n", "csv", CATEGORY, r"expected values in \[0, 1\], got 0 … 7"),
    "a missing label": ("y,c\n0,1\n,2\n", "csv", CATEGORY, "label `y`: 1 of 2 rows have no finite value"),
    "no rows": ("y,c\n", "csv", CATEGORY, "no rows"),
    "an empty file": (b"", "csv", CATEGORY, "the file is empty"),
    "a file of blank lines": ("\n\n\n", "csv", CATEGORY, "expected a first line that names the columns"),
    "zero bytes": (b"\0" * 99, "csv", CATEGORY, "binary data"),
    "no such column": ("y,d\n0,1\n", "csv", CATEGORY, "missing column `c`; it has: y, d"),
    "a cut-off Parquet file": (b"PAR1" + b"x" * 50, "parquet", CATEGORY, "not a whole Parquet file"),
    "HTML": ("<!doctype html>\n<p>Not found</p>\n", "csv", CATEGORY, "missing column"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.replace(" ", "_"))
def test_what_cannot_be_read_is_refused_in_one_sentence(case: str, tmp_path: Path) -> None:
    content, suffix, feature, told = REFUSED[case]
    path = written(tmp_path, content, suffix)
    made = schema(feature)
    good = Encoder.fit(made, [pa.table({"y": [0], "c": [["1"]] if "list" in str(feature.kind) or isinstance(
        feature, (MultiValued, Sequence)) else ["1"]})])  # fmt: skip
    with pytest.raises(DataError, match=told) as caught:
        encode_all(good, path) if case != "no rows" else Encoder.fit(made, [read(path)])
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_mixed_types_in_a_column_of_objects_are_text(tmp_path: Path) -> None:
    frame = pd.DataFrame({"y": [0, 1, 0, 1], "c": pd.Series([1, "1", 1.0, None], dtype=object)})
    assert encoded(frame, CATEGORY).ids.values.tolist() == [2, 2, 2, 1]


def test_a_category_seen_only_in_test_is_counted() -> None:
    encoder = Encoder.fit(schema(CATEGORY), [pa.table({"y": [0, 1], "c": ["a", "b"]})])
    counts = Counts()
    encoder.encode(pa.table({"y": [0, 1, 1], "c": ["a", "z", None]}), counts=counts)
    assert (counts.unknown["c"], counts.missing["c"], counts.values["c"]) == (1, 1, 3)


def test_a_history_that_is_cut_is_counted() -> None:
    feature = Sequence(name="c", max_length=2)
    rows = pa.table({"y": [0, 1], "c": [["a"], ["a", "b", "c"]]})
    counts = Counts()
    Encoder.fit(schema(feature), [rows]).encode(rows, counts=counts)
    assert counts.sentences() == ["c: 1 rows had more values than max_length, and kept their last"]


CELLS = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**70), 2**70), st.floats(), st.text(max_size=6),
    st.sampled_from(["NA", "?", " 1.0", "1e400", "-0.0", "TRUE", "\\N", "a|b|", "2020-01-01"]),
)  # fmt: skip
FEATURES: list[Callable[[str], Feature]] = [
    lambda name: Numeric(name=name),
    lambda name: Numeric(name=name, transform="log"),
    lambda name: Categorical(name=name, encoding=Vocabulary(min_count=2)),
    lambda name: Categorical(name=name, encoding=Hashing(bits=1)),
    lambda name: Bucketed(name=name, buckets=Quantiles(count=3)),
    lambda name: Bucketed(name=name, buckets=LogSquare(), encoding=Hashing(bits=3)),
    lambda name: MultiValued(name=name, separator="|"),
    lambda name: Sequence(name=name, separator="|", max_length=2),
]


@given(
    st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=12),
    st.lists(st.tuples(CELLS, CELLS), max_size=12),
    st.sampled_from(FEATURES), st.sampled_from(FEATURES),
)  # fmt: skip
def test_any_cells_are_encoded_within_bounds_or_refused(
    train: list[tuple[Any, Any]], test: list[tuple[Any, Any]], first: Any, second: Any
) -> None:
    made = schema(first("a"), second("b"))
    frames = [
        pd.DataFrame({"y": np.zeros(len(rows)), "a": _objects(rows, 0), "b": _objects(rows, 1)})
        for rows in (train, test)
    ]
    try:
        encoder = Encoder.fit(made, [read(frames[0])])
        batches = [encoder.encode(read(frame), labels=False) for frame in frames]
    except RecsysError as error:
        refused = str(error)
    else:
        refused = ""
    assert "\n" not in refused
    if refused:
        return
    for batch, frame in zip(batches, frames, strict=True):
        assert len(batch) == len(frame)
        assert torch.isfinite(batch.dense).all()
        for f, feature in enumerate(made.id_features):
            ids, lengths, _ = batch.ids.feature(f)
            assert ((ids >= 0) & (ids < encoder.rows(feature))).all()
            assert lengths is None or int(lengths.sum()) == ids.numel()
    again = Encoder.from_json(encoder.to_json(), "here").encode(read(frames[0]), labels=False)
    assert again.ids.values.equal(batches[0].ids.values)
    assert again.dense.equal(batches[0].dense)


def _objects(rows: list[tuple[Any, Any]], i: int) -> pd.Series[Any]:
    return pd.Series([row[i] for row in rows], dtype=object)


def test_a_schema_of_contradictions_is_refused() -> None:
    with pytest.raises(SchemaError, match="buckets are nobody else's"):
        Schema.parse(
            {
                "labels": [{"name": "y"}],
                "features": [{"name": "a", "kind": "categorical"}, {"name": "b", "kind": "bucketed", "shares": "a"}],
            },
            "here",
        )


def test_a_file_may_grow_between_opening_and_reading_only_with_an_error(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("a\n1\n")
    data = Dataset(path)
    with path.open("a") as file:
        file.write("2\n")
    with pytest.raises(DataError, match="was changed while it was being read"):
        list(data.read())
