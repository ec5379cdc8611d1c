"""Files and frames, whole and broken."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.data.readers import Dataset, open_parquet, read, tables
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
    with pytest.raises(
        DataError,
        match="expected paths, an Arrow table, a DataFrame or anything else with columns that exports Arrow, got int",
    ):
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
    frame = pd.DataFrame({"a": [1, 2], "b": pd.Series([1, ["x"]], dtype=object)})
    assert read(frame, ["a"])["a"].to_pylist() == [1, 2]
    with pytest.raises(DataError, match="column `b`: holds list values among others"):
        read(frame, ["b"])


def test_mixed_types_and_huge_integers_become_text() -> None:
    mixed = pd.Series([1, "x", None, 2.5, 10**30], dtype=object)
    frame = pd.DataFrame({"mixed": mixed, "huge": pd.Series([2**64, 2**70, None, 1, 0], dtype=object)})
    assert read(frame)["mixed"].to_pylist() == ["1", "x", None, "2.5", str(10**30)]
    assert [str(v) for v in read(frame)["huge"].to_pylist()] == [str(2**64), str(2**70), "None", "1", "0"]


def test_polars_and_duckdb_are_read_as_arrow() -> None:
    import duckdb
    import polars

    table = pa.table({"a": [1, 2], "b": ["x", None]})
    assert read(polars.from_arrow(table)).to_pylist() == table.to_pylist()
    assert read(duckdb.from_arrow(table), ["b"]).to_pylist() == [{"b": "x"}, {"b": None}]


def test_a_folder_is_all_its_files_and_several_files_are_one(tmp_path: Path) -> None:
    (tmp_path / "day=1").mkdir()
    (tmp_path / "day=2").mkdir()
    (tmp_path / "day=1" / "part-0.parquet").write_bytes(b"")
    for name in ("_SUCCESS", ".part-0.crc", "day=2/.hidden"):
        (tmp_path / name).write_text("x")
    with pytest.raises(DataError, match=r"part-0\.parquet: the file is empty"):
        Dataset(tmp_path)
    pq.write_table(pa.table({"a": [1, 2]}), tmp_path / "day=1" / "part-0.parquet")
    (tmp_path / "day=2" / "x.csv").write_text("b,a\n0,3\n")
    assert read(tmp_path / "day=1")["a"].to_pylist() == [1, 2]
    both = Dataset([tmp_path / "day=1", tmp_path / "day=2" / "x.csv"])
    assert [table["a"].to_pylist() for table, _ in both.read(["a"])] == [[1, 2], ["3"]]
    assert both.rows is None
    assert Dataset(tmp_path / "day=1").rows == 2
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(DataError, match="holds no data files"):
        Dataset(empty)


def test_pieces_and_places_cover_every_row_once(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"a": range(100_000)}), path, row_group_size=7_000)
    data = Dataset(path)
    pieces = list(data.pieces())
    assert sum(piece.rows or 0 for piece in pieces) == 100_000 == data.rows
    assert all((piece.rows or 0) >= 1 << 14 for piece in pieces[:-1])
    read_back: list[int] = []
    places = [(table["a"].to_pylist(), place) for table, place in data.read(["a"], 3_000, pieces)]
    for start in (places[0][1], places[7][1], places[-1][1]):
        rest = [a for table, _ in data.read(["a"], 2_000, pieces, start) for a in table["a"].to_pylist()]
        before = places[[place for _, place in places].index(start)][0][-1] + 1
        assert rest == list(range(before, 100_000))
    for piece in reversed(pieces):
        read_back = [a for t, _ in data.read(["a"], pieces=[piece]) for a in t["a"].to_pylist()] + read_back
    assert read_back == list(range(100_000))


def test_a_file_that_changes_while_it_is_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"a": range(60_000)}), path, row_group_size=20_000)
    reading = Dataset(path).read(["a"])
    next(reading)
    pq.write_table(pa.table({"a": range(60_001)}), path)
    with pytest.raises(DataError, match=r"rows\.parquet: was changed while it was being read"):
        list(reading)
    path.unlink()
    with pytest.raises(DataError, match="no such file"):
        read(path)


def test_other_formats_are_named(tmp_path: Path) -> None:
    excel = tmp_path / "book.xlsx"
    excel.write_bytes(b"PK\x03\x04rest")
    with pytest.raises(DataError, match="got a zip or Excel file"):
        read(excel)


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


def test_of_very_many_columns_fewer_rows_are_held() -> None:
    wide = pa.table({f"c{i}": pa.nulls(3000) for i in range(9000)})
    assert max(table.num_rows for table in tables(wide)) == (1 << 24) // 9000


def test_types_of_several_files_become_one_that_loses_no_value(tmp_path: Path) -> None:
    kinds = [pa.array([None, None], pa.null()), pa.array([1, 300], pa.int16()), pa.array([2**40, 1], pa.int64())]
    for i, column in enumerate(kinds):
        pq.write_table(pa.table({"a": column, "b": [True, False] if i == 0 else [5, 6]}), tmp_path / f"{i}.parquet")
    found = read(tmp_path)
    assert found["a"].to_pylist() == [None, None, 1, 300, 2**40, 1]
    assert found["b"].to_pylist() == ["true", "false", "5", "6", "5", "6"]  # text: no number says what a boolean does


def test_a_file_that_is_named_twice_is_refused(tmp_path: Path, parquet: Path) -> None:
    (tmp_path / "link.parquet").symlink_to(parquet)
    for rows in ([parquet, parquet], [parquet, tmp_path / "link.parquet"]):
        with pytest.raises(DataError, match="is named twice"):
            Dataset(rows)


def test_text_that_is_no_unicode_is_said() -> None:
    with pytest.raises(DataError, match="column `a`: its text cannot be written as UTF-8"):
        read(pd.DataFrame({"a": pd.Series(["x", "\ud800"], dtype=object)}))
