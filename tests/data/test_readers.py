"""Files and frames, whole and broken."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.data.readers import open_parquet, read, tables
from recsys.errors import ConfigError, DataError


@pytest.fixture
def parquet(tmp_path: Path) -> Path:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"a": list(range(1000)), "b": [str(i) for i in range(1000)]}), path, row_group_size=300)
    return path


def test_rows_come_in_order_and_in_bounded_tables(parquet: Path) -> None:
    parts = list(tables(parquet, ["a"], size=128))
    assert max(part.num_rows for part in parts) <= 128
    assert [v for part in parts for v in part["a"].to_pylist()] == list(range(1000))
    assert all(part.column_names == ["a"] for part in parts)


def test_frames_tables_and_batches_read_alike(parquet: Path) -> None:
    expected = pq.read_table(parquet)
    frame = expected.to_pandas()
    for rows in (str(parquet), expected, frame, expected.to_batches()[0]):
        assert read(rows, ["a"])["a"].to_pylist()[:300] == list(range(300))


def test_anything_that_exports_arrow_is_read() -> None:
    class Exports:
        def __arrow_c_stream__(self, requested_schema: object = None) -> object:
            return pa.table({"a": [1, 2]}).__arrow_c_stream__(requested_schema)

    assert read(Exports())["a"].to_pylist() == [1, 2]


def test_what_is_no_data_is_refused() -> None:
    with pytest.raises(DataError, match="expected a path, an Arrow table or a DataFrame, got int"):
        read(5)


def test_missing_columns_are_named_before_reading(parquet: Path) -> None:
    with pytest.raises(DataError, match=r"rows\.parquet: missing columns `x`, `y`; it has: a, b"):
        read(parquet, ["a", "x", "y"])
    with pytest.raises(DataError, match="the data: missing column `x`"):
        read(pd.DataFrame({"a": [1]}), ["x"])


def test_a_column_that_stands_twice_is_named(tmp_path: Path) -> None:
    twice = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"])
    pq.write_table(twice, tmp_path / "twice.parquet")
    for rows in (twice, tmp_path / "twice.parquet"):
        with pytest.raises(DataError, match="column `a` stands twice"):
            read(rows, ["a"])


def test_columns_that_are_not_wanted_are_not_converted() -> None:
    frame = pd.DataFrame({"a": [1, 2], "b": pd.Series([1, "x"], dtype=object)})
    assert read(frame, ["a"])["a"].to_pylist() == [1, 2]
    with pytest.raises(DataError, match="a column cannot be read"):
        read(frame, ["b"])


def test_a_size_below_one_is_refused(parquet: Path) -> None:
    with pytest.raises(ConfigError, match="at least 1 row"):
        list(tables(parquet, size=0))


def test_broken_files_are_named(tmp_path: Path, parquet: Path) -> None:
    empty, cut, text = tmp_path / "empty.parquet", tmp_path / "cut.parquet", tmp_path / "text.parquet"
    empty.touch()
    cut.write_bytes(parquet.read_bytes()[:-20])
    text.write_text("a,b\n1,2\n")
    for path, told in ((empty, "the file is empty"), (cut, "was it cut off"), (text, "not a whole Parquet file"),
                       (tmp_path / "none.parquet", "no such file"), (tmp_path, "got a folder")):  # fmt: skip
        with pytest.raises(DataError, match=told):
            open_parquet(path)


def test_a_damaged_page_is_named(tmp_path: Path, parquet: Path) -> None:
    damaged = bytearray(parquet.read_bytes())
    damaged[10:2000] = b"\xff" * 1990
    path = tmp_path / "damaged.parquet"
    path.write_bytes(bytes(damaged))
    with pytest.raises(DataError, match=r"damaged\.parquet: a page cannot be read"):
        read(path)


def test_an_empty_table_gives_no_rows() -> None:
    assert read(pa.table({"a": pa.array([], pa.int64())})).num_rows == 0
