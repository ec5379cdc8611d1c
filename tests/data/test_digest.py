"""The checksum of contents: blind to how a table is stored, and to nothing else."""

from __future__ import annotations

import hashlib
import struct
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.data.digest import digest
from recsys.errors import DataError

rows = st.lists(
    st.tuples(
        st.none() | st.integers(-5, 5),
        st.none() | st.text(max_size=3),
        st.none() | st.lists(st.none() | st.integers(0, 3), max_size=3),
    ),
    max_size=8,
)


def table(made: list[Any]) -> pa.Table:
    kinds = {"number": pa.int32(), "text": pa.string(), "list": pa.list_(pa.int32())}
    return pa.table({name: pa.array([row[i] for row in made], kind) for i, (name, kind) in enumerate(kinds.items())})


@given(rows, rows)
def test_equal_exactly_when_the_contents_are(one: list[Any], other: list[Any]) -> None:
    assert (digest([table(one)]) == digest([table(other)])) == (one == other)


@given(rows, st.integers(0, 8))
def test_chunks_slices_and_metadata_do_not_count(made: list[Any], cut: int) -> None:
    whole = table(made)
    chunked = pa.concat_tables([whole.slice(0, cut), whole.slice(cut)]).replace_schema_metadata({"made": "otherwise"})
    assert digest([chunked]) == digest([whole])


def test_what_lies_under_a_missing_value_does_not_count() -> None:
    under = pa.array([1, 2], pa.int32())
    masked = pa.Array.from_buffers(pa.int32(), 2, [pa.array([True, False]).buffers()[1], under.buffers()[1]])
    assert masked.to_pylist() == [1, None]
    assert digest([pa.table({"a": masked})]) == digest([pa.table({"a": pa.array([1, None], pa.int32())})])


@pytest.mark.parametrize(
    "other",
    [
        [pa.table({"a": pa.array([1, 2], pa.int64())})],
        [pa.table({"b": pa.array([1, 2], pa.int32())})],
        [pa.table({"a": pa.array([2, 1], pa.int32())})],
        [pa.table({"a": pa.array([1], pa.int32())}), pa.table({"a": pa.array([2], pa.int32())})],
    ],
)
def test_names_types_order_and_tables_count(other: list[pa.Table]) -> None:
    assert digest(other) != digest([pa.table({"a": pa.array([1, 2], pa.int32())})])


def test_the_bytes_that_are_hashed() -> None:
    """They must not change: the manifests of the sources hold such checksums."""
    made = table([(1, "é", [1, 2]), (None, None, None), (-1, "", [])])
    some = b"\1\0\1"
    numbers = b"column number\nint32 3 1\n" + some + struct.pack("<3i", 1, 0, -1)
    text = b"column text\ntext 3 1\n" + some + struct.pack("<3q", 2, 0, 0) + "é".encode()
    lists = b"column list\nlist 3 1\n" + some + struct.pack("<3q", 2, 0, 0) + b"int32 2 0\n" + struct.pack("<2i", 1, 2)
    assert digest([made]) == hashlib.sha256(b"table 3 3\n" + numbers + text + lists).hexdigest()


def test_types_without_a_checksum_are_refused() -> None:
    with pytest.raises(DataError, match="column `a`: bool has no checksum"):
        digest([pa.table({"a": [True]})])
