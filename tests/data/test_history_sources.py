"""Lines of users and their items, and the histories of bundled data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recsys.data import sources
from recsys.data.cache import SPLITS
from recsys.data.catalogue import Catalogue
from recsys.data.history_sources import histories_of, read_lines
from recsys.data.values import NO_VALUE
from recsys.errors import DataError
from tests.data.test_histories import named
from tests.data.tiny import write_archive
from tests.helpers import tidy

names = st.text(min_size=1, max_size=4).filter(lambda text: len(text.split()) == 1 and text.strip() not in NO_VALUE)
lines = st.dictionaries(
    names.map(str.strip).map(tidy).filter(bool), st.lists(names.map(str.strip), max_size=5), max_size=6
)
spaces = st.sampled_from([" ", "  ", "\t", " \t "])
ends = st.sampled_from(["\n", "\r\n", " \n", "\n\n"])


def write(folder: Path, text: str | bytes) -> Path:
    path = folder / "lines.txt"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lines, spaces, ends, st.booleans())
def test_what_is_written_is_read(tmp_path: Path, made: dict[str, list[str]], space: str, end: str, mark: bool) -> None:
    text = end.join(space.join([user, *items]) for user, items in made.items()) + end
    found = read_lines(write(tmp_path, b"\xef\xbb\xbf" * mark + text.encode()))
    assert named(found) == {user: [tidy(item) for item in items] for user, items in made.items() if items}
    assert found.rows == len(found.histories.items) == sum(map(len, made.values()))
    assert found.missing == {}


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused_with_a_reason(tmp_path: Path, text: bytes) -> None:
    told = ""
    try:
        found = read_lines(write(tmp_path, text))
        assert found.histories.lengths().sum() == found.rows
    except DataError as error:
        told = str(error)
    assert not told or "lines.txt: " in told


def test_users_and_items_keep_their_numbers(tmp_path: Path) -> None:
    found = read_lines(write(tmp_path, "10 2 10 1\n2 1\n\n1 3 2"))
    assert named(found) == {"1": ["3", "2"], "2": ["1"], "10": ["2", "10", "1"]}
    assert found.catalogue.names.to_pylist() == ["1", "2", "3", "10"]
    assert list(named(found)) == ["1", "2", "10"]


def test_many_lines_are_read_in_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, "".join(f"u{user} {user} {user % 7}\n" for user in range(40)))
    expected = named(read_lines(path))
    assert expected["u39"] == ["39", "4"]
    monkeypatch.setattr("recsys.data.history_sources._TOKENS", 5)
    assert named(read_lines(path)) == expected


def test_items_outside_a_catalogue_are_left_out_and_counted(tmp_path: Path) -> None:
    known = Catalogue(pa.array(["3", "1"]))
    found = read_lines(write(tmp_path, "a 1 2 3\nb 2\n"), known)
    assert named(found) == {"a": ["1", "3"]}
    assert found.histories.items.tolist() == [2, 1]
    assert (found.rows, found.unknown) == (4, 2)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"", "the file is empty"),
        (b"1 2\n\n2 \xff\n", "line 3: expected text in UTF-8"),
        (b"1 2\n1 3\n", "line 2: user `1` stands on line 1 already; join the two lines"),
        (b"a 1\n2 1\n\na 3\n2.0 7", "line 5: user `2` stands on line 2 already"),
        (
            b"1 2\n2 nan\n",
            "line 2: expected `user item item …`, got a name of the item that stands for a missing value",
        ),
        (b"1 2\nNA\n", "line 2: expected `user item item …`, got a name of the user that stands"),
    ],
)
def test_what_cannot_be_read_is_said_with_its_line(tmp_path: Path, text: bytes, told: str) -> None:
    with pytest.raises(DataError, match=told):
        read_lines(write(tmp_path, text))


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.txt: no such file"):
        read_lines(tmp_path / "none.txt")


def test_wikipedia_has_one_event_an_edit() -> None:
    found = histories_of("wikipedia")
    made = found.histories
    assert (len(made), len(found.catalogue), len(made.items)) == (8_227, 1_000, 157_474)
    assert made.users.to_pylist() == [str(user) for user in range(1, 8_228)]
    assert found.catalogue.names.to_pylist() == [str(page) for page in range(1, 1_001)]
    assert 1 - len(made.collapsed().items) / len(made.items) == pytest.approx(0.7913, abs=1e-4)
    assert made.times is None


def test_movielens_has_titles_and_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = write_archive(tmp_path)
    made = sources._movielens_archive(archive)
    for split, rows in zip(SPLITS, made, strict=True):
        pq.write_table(rows, tmp_path / f"{split}.parquet")
    monkeypatch.setattr(sources, "load", lambda name: sources.Source(name, archive, tmp_path))
    found = histories_of("movielens-100k")
    assert found.catalogue.names.to_pylist() == ["1", "2", "3", "4", "5"]
    assert found.catalogue.texts is not None
    assert found.catalogue.texts.to_pylist() == [
        "Toy Story (1995)",
        "GoldenEye (1995)",
        "unknown",
        "Giving, The (1995)",
        "Misérables, Les (Hugo) (1995)",
    ]
    assert found.histories.times is not None
    assert found.histories.times.tolist() == [100, 100, 200, 200, 300, 881250949]
    first, second = np.split(found.histories.items, [5])
    assert (set(first[:2]), set(first[2:4]), first[4], second.tolist()) == ({1, 2}, {3, 4}, 5, [1])


def test_unknown_histories_name_the_nearest() -> None:
    with pytest.raises(DataError, match="no histories of `movielens`: did you mean `movielens-100k`"):
        histories_of("movielens")
