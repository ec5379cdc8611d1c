"""From the published files to rows: worked out by hand, equal from both layouts, and without a look ahead."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.data.movielens import GENRES, HISTORY, Raw, histories, read_archive, read_wheel, rows
from recsys.errors import DataError
from tests.data.tiny import archive_members, wheel_members, write_archive, write_wheel, write_zip


@pytest.fixture
def raw(tmp_path: Path) -> Raw:
    return read_archive(write_archive(tmp_path))


def test_rows_as_worked_out_by_hand(raw: Raw) -> None:
    made = rows(raw).to_pydict()
    assert made["user"] == [1, 1, 1, 1, 1, 2]
    assert made["item"] == [1, 2, 3, 4, 5, 1]
    assert made["timestamp"] == [100, 100, 200, 200, 300, 881250949]
    assert made["rating"] == [5, 4, 3, 4, 2, 4]
    assert made["label"] == [1, 1, 0, 1, 0, 1]
    assert made["age"] == [24] * 5 + [53]
    assert made["gender"] == ["M"] * 5 + ["F"]
    assert made["occupation"] == ["technician"] * 5 + ["other"]
    assert made["zip_prefix"] == ["01"] * 5 + ["E2"]
    assert made["hour"] == [0] * 5 + [15]
    assert made["weekday"] == [3] * 6  # 1 January 1970 and 4 December 1997 were Thursdays
    assert made["year"] == [1995, 1995, None, 1995, 1995, 1995]
    titles = ["Toy Story", "GoldenEye", "unknown", "Giving, The", "Misérables, Les (Hugo)", "Toy Story"]
    assert made["title"] == titles
    assert made["genres"][:3] == [
        ["Animation", "Children's", "Comedy"],
        ["Action", "Adventure", "Thriller"],
        ["unknown"],
    ]


def test_the_history_does_not_see_its_own_second(raw: Raw) -> None:
    assert rows(raw)["history"].to_pylist() == [[], [], [1, 2], [1, 2], [1, 2, 4], []]


def test_types_do_not_depend_on_the_values(raw: Raw) -> None:
    empty = Raw(np.empty((0, 4), dtype=np.int64), {}, {})
    assert rows(empty).schema == rows(raw).schema
    assert rows(empty).num_rows == 0


def test_both_layouts_give_the_same_rows(tmp_path: Path, raw: Raw) -> None:
    other = read_wheel(write_wheel(tmp_path))
    assert other.people == raw.people
    assert other.films == raw.films
    assert rows(other).equals(rows(raw))


interactions = st.lists(st.tuples(st.integers(1, 4), st.integers(0, 12), st.integers(1, 9), st.booleans()), max_size=80)


@given(interactions)
def test_histories_equal_the_obvious_loop(made: list[tuple[int, int, int, bool]]) -> None:
    made = sorted(made)
    users, seconds, items = (np.array([row[i] for row in made], dtype=np.int64) for i in range(3))
    liked = np.array([row[3] for row in made], dtype=np.bool_)
    found = histories(users, items, seconds, liked).to_pylist()
    for row, history in zip(made, found, strict=True):
        expected = [item for user, second, item, likes in made if user == row[0] and second < row[1] and likes]
        assert history == expected[-HISTORY:]


def test_a_long_history_keeps_its_end() -> None:
    n = HISTORY + 5
    arange = np.arange(n, dtype=np.int64)
    found = histories(np.ones(n, dtype=np.int64), arange, arange, np.ones(n, dtype=np.bool_)).to_pylist()
    assert found[-1] == list(range(n - 1 - HISTORY, n - 1))


def broken(name: str, before: bytes, after: bytes) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        members = archive_members()
        assert before in members[name]
        return write_zip(folder / "ml-100k.zip", members | {name: members[name].replace(before, after)})

    return write


def test_a_member_that_is_absent(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"has no `ml-100k/u\.item`"):
        read_archive(write_wheel(tmp_path))
    with pytest.raises(DataError, match=r"has no `recbole/.*\.inter`"):
        read_wheel(write_archive(tmp_path))


@pytest.mark.parametrize(
    ("write", "told"),
    [
        (broken("ml-100k/u.data", b"1\t5\t2\t300", b"1\t5\t2"), "`ml-100k/u.data`, line 1: expected 4 fields, got 3"),
        (broken("ml-100k/u.data", b"\t300", b"\tsoon"), "a number cannot be read"),
        (broken("ml-100k/u.data", b"2\t1\t4", b"9\t1\t4"), "1 users have ratings and no line, such as 9"),
        (broken("ml-100k/u.data", b"1\t5\t2", b"1\t77\t2"), "1 items have ratings and no line, such as 77"),
        (broken("ml-100k/u.user", b"technician", b"tech|nician"), "line 1: expected 5 fields, got 6"),
        (broken("ml-100k/u.user", b"other", b"\xff"), "cannot be read"),
    ],
)
def test_broken_members_are_named(tmp_path: Path, write: Callable[[Path], Path], told: str) -> None:
    with pytest.raises(DataError) as caught:
        read_archive(write(tmp_path))
    assert told in str(caught.value)
    assert "ml-100k.zip" in str(caught.value)


def test_an_unknown_genre_is_refused(tmp_path: Path) -> None:
    members = wheel_members()
    name = "recbole/dataset_example/ml-100k/ml-100k.item"
    path = write_zip(tmp_path / "w.whl", members | {name: members[name].replace(b"Musical", b"Opera")})
    with pytest.raises(DataError, match=r"unknown genres \['Opera'\]"):
        read_wheel(path)


def test_what_is_no_zip_file(tmp_path: Path) -> None:
    path = tmp_path / "ml-100k.zip"
    path.write_bytes(b"<html>Sign in to the hotel's network</html>")
    with pytest.raises(DataError, match="cannot be read: File is not a zip file"):
        read_archive(path)


def test_a_member_that_unpacks_to_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recsys.data.movielens._MOST_BYTES", 10)
    with pytest.raises(DataError, match="too large to be MovieLens-100K"):
        read_archive(write_archive(tmp_path))


def test_genres_are_those_of_the_archive() -> None:
    assert len(GENRES) == len(set(GENRES)) == 19
