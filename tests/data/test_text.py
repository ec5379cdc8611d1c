"""CSV and TSV files: layouts, parts that cut no record, and files that are not what they should be."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.data import readers, text
from recsys.data.readers import Dataset, read
from recsys.data.text import Dialect, blocks, parse, split
from recsys.data.values import dictionary, whole
from recsys.errors import DataError

CELLS = st.text(st.sampled_from('ab ,"\n;é0.'), max_size=6)
ROWS = st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=25)
LAYOUT = Dialect(",", ("a", "b"), 0, quotes=True)


def written(rows: list[tuple[str, str]]) -> bytes:
    file = io.StringIO()
    csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL).writerows(rows)
    return file.getvalue().encode()


@given(ROWS, st.integers(4, 60))
def test_parts_of_any_size_hold_every_record_once(rows: list[tuple[str, str]], size: int) -> None:
    data = written(rows)
    spans = list(split(io.BytesIO(data), LAYOUT, size))
    assert [start for start, _ in spans[1:]] == [stop for _, stop in spans[:-1]]
    found = []
    for start, stop in spans:
        for block in blocks(io.BytesIO(data), LAYOUT, start, stop, 7):
            found += [tuple(row.values()) for row in parse(block, LAYOUT, ["a", "b"]).to_pylist()]
    assert found == rows


@pytest.mark.parametrize("delimiter", [",", "\t", ";", "|"])
def test_the_delimiter_is_found_and_names_are_tidied(tmp_path: Path, delimiter: str) -> None:
    path = tmp_path / "x.txt"
    path.write_text("\ufeff" + delimiter.join(["", " a ", '"b c"']) + "\r\n" + delimiter.join(["0", "1", "x"]) + "\r\n")
    assert read(path).to_pylist() == [{"column1": "0", "a": "1", "b c": "x"}]


@pytest.mark.parametrize(("suffix", "pack"), [("", bytes), (".gz", gzip.compress), (".bz2", bz2.compress)])
def test_packed_text_is_unpacked_and_read_in_blocks(
    tmp_path: Path, suffix: str, pack: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(readers, "_BLOCK", 1000)
    path = tmp_path / f"x.csv{suffix}"
    content = "a,b\n" + "".join(f"{i},x\n" for i in range(5000))
    path.write_bytes(pack(content.encode()))  # type: ignore[operator]
    data = Dataset(path)
    assert [int(v) for table, _ in data.read(["a"], 64) for v in table["a"].to_pylist()] == list(range(5000))
    places = [place for _, place in data.read(["a"], 64)]
    rest = [int(v) for table, _ in data.read(["a"], 64, start=places[20]) for v in table["a"].to_pylist()]
    assert rest == list(range(5000 - len(rest), 5000))
    assert len(rest) < 4900


def test_missing_in_words_is_missing_and_an_empty_value_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text('a\nNA\n"NULL"\n \\N\n""\nNamibia\n')
    assert read(path)["a"].to_pylist() == ["NA", "NULL", " \\N", "", "Namibia"]  # as they stand, for --keep
    assert dictionary(whole(read(path)["a"]), "a")[1].tolist() == [-1, -1, -1, -1, 0]


def test_values_are_those_that_pandas_reads(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("i,f,b,t\n1,1.0,True,x\n,,False,NA\n3,2.5,true,007a\n")
    frame = read(pd.read_csv(path))
    for name in ("i", "f", "t"):
        for table in (read(path), frame):
            texts, codes = dictionary(whole(table[name]), name)
            found = [None if code < 0 else texts[code].as_py() for code in codes]
            assert found == {"i": ["1", None, "3"], "f": ["1", None, "2.5"], "t": ["x", None, "007a"]}[name]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"a,b\n1,2\n1,2,3\n", r"expected 2 values a line, got 3 in `1,2,3`"),
        (b"a,b\n1,2\n1\n", r"expected 2 values a line, got 1 in `1`"),
        (b"a,b\n1,\xff\xfe\n", r"column `b` holds bytes that are not UTF-8; convert"),
        (b"\xe9,b\n1,2\n", r"its first line is not UTF-8"),
        ("a,b\n1,2\n".encode("utf-16"), r"got UTF-16 or binary data"),
        (b"1,2\n3,4\n", r"expected a first line that names the columns, got `1,2`"),
        (b"\n1,2\n", r"expected a first line that names the columns"),
        (b"a,b,a\n1,2,3\n", r"column `a` stands twice"),
    ],
)
def test_broken_text_is_named(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"x\.csv: .*{told}"):
        read(path)


def test_packed_text_that_was_cut_off_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.csv.gz"
    path.write_bytes(gzip.compress(b"a,b\n" + b"1,2\n" * 9000)[:-30])
    with pytest.raises(DataError, match=r"x\.csv\.gz: cannot be read .*was it cut off"):
        read(path)


def test_a_column_beside_those_that_stand_twice_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("a,b,a\n1,2,3\n")
    assert read(path, ["b"]).to_pylist() == [{"b": "2"}]


def test_a_lone_quote_spoils_no_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "_BLOCK", 64)
    monkeypatch.setattr(text, "_LONGEST", 200)
    path = tmp_path / "x.csv"
    path.write_text("a,b\n" + '5" disk,1\n' + "x,2\n" * 100)
    assert len(read(path)) == 101


CRITEO = "\t".join(["1", "2", "", *["3"] * 11, "68fd1e64", "", *["0a0b"] * 24])


def test_criteo_is_read_by_name_with_or_without_labels(tmp_path: Path) -> None:
    train, test = tmp_path / "train.txt", tmp_path / "test.txt"
    train.write_text(f"{CRITEO}\n" * 3)
    test.write_text(f"{CRITEO[2:]}\n")
    row = read(train, format="criteo").to_pylist()[0]
    assert list(row)[:2] + list(row)[-1:] == ["label", "I1", "C26"]
    assert (row["label"], row["I2"], row["C1"], row["C2"]) == ("1", "", "68fd1e64", "")
    assert read(test, format="criteo").to_pylist()[0] == {name: v for name, v in row.items() if name != "label"}
    test.write_text("1\t2\n")
    with pytest.raises(DataError, match=r"expected 40 values a line .*Criteo"):
        read(test, format="criteo")
    with pytest.raises(DataError, match="name the format"):
        read(train)


def test_avazu_hours_become_hour_of_day_and_weekday(tmp_path: Path) -> None:
    path = tmp_path / "train.csv"
    path.write_text("id,click,hour,C1\n1,0,14102123,1005\n2,1,14102600,1005\n3,1,,1\n")
    found = read(path, ["hour_of_day", "weekday", "click"], format="avazu")
    assert found["hour_of_day"].to_pylist() == [23, 0, None]
    assert found["weekday"].to_pylist() == [1, 6, None]  # Tuesday 21 October 2014, and a Sunday
    path.write_text("id,click,hour,C1\n1,0,2014-10-21,1005\n")
    with pytest.raises(DataError, match="expected a time as Avazu writes it"):
        read(path, format="avazu")


def test_a_parquet_file_needs_no_format(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"label": [1], "C1": ["x"]}), tmp_path / "x.parquet")
    assert read(tmp_path / "x.parquet", format="criteo").num_rows == 1


def test_a_quote_that_never_closes_is_said_and_loses_no_row(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    for content in ('a,b\n1,"2\n3,4\n', 'a,b\n1,2\n3,"4'):
        path.write_text(content)
        with pytest.raises(DataError, match=r'x\.csv: a quoted value begins with `"[24]` and does not end'):
            read(path)


@given(
    st.lists(st.tuples(st.sampled_from(['5" disk', 'a "b" c', "plain", "x"]), CELLS), min_size=1), st.integers(4, 80)
)
def test_a_quote_inside_a_value_moves_no_record(rows: list[tuple[str, str]], size: int) -> None:
    lines = [f'{first},"{second.replace(chr(34), chr(34) * 2)}"\n' for first, second in rows]
    data = "".join(lines).encode()
    spans = list(split(io.BytesIO(data), LAYOUT, size))
    found = [
        tuple(row.values()) for start, stop in spans for row in parse(data[start:stop], LAYOUT, ["a", "b"]).to_pylist()
    ]
    assert found == rows


@pytest.mark.parametrize(
    "header",
    ["0,1,2,label", "id,2019,2020,2021", "nan,b", '"a\nb",c', ",".join(["x" * 30] + [f"c{i}" for i in range(20_000)])],
)
def test_unusual_headers_are_read(tmp_path: Path, header: str) -> None:
    path = tmp_path / "x.csv"
    width = len(next(csv.reader(io.StringIO(header))))
    path.write_text(f"{header}\n{','.join('1' * width)}\n")
    data = read(path)
    assert (data.num_rows, len(data.schema)) == (1, width)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"a,b\r1,2\r", "lines end in CR alone"),
        (b'{"a": 1}\n{"a": 2}\n', "got JSON"),
        (b"sep=;\na;b\n1;2\n", "a hint for Excel"),
    ],
)
def test_what_is_nearly_csv_is_said(tmp_path: Path, content: bytes, told: str) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(content)
    with pytest.raises(DataError, match=told):
        read(path)


def test_damaged_gzip_is_said_wherever_the_damage_is(tmp_path: Path) -> None:
    whole_file = gzip.compress(b"a,b\n" + b"".join(b"%d,x\n" % (i * i) for i in range(3000)))
    path = tmp_path / "x.csv.gz"
    refused = 0
    for at in range(12, len(whole_file), len(whole_file) // 30):
        path.write_bytes(whole_file[:at] + bytes([whole_file[at] ^ 0xFF]) + whole_file[at + 1 :])
        try:
            read(path)
        except DataError:
            refused += 1
    assert refused > 20


def test_an_empty_line_of_one_column_is_a_missing_value(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("a\n1\n\n\n3\n")
    assert read(path)["a"].to_pylist() == ["1", "", "", "3"]
