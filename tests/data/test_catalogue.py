"""Catalogues: numbers from 1, 0 for what is unknown, and files that give back what was saved."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.data.catalogue import Catalogue
from recsys.errors import DataError
from tests.helpers import tidy

FILMS = Catalogue(pa.array(["7", "b", "3"]), pa.array(["Alien", None, "Brazil"]))


def names(*made: str | None) -> pa.Array:
    return pa.array(made, pa.large_string())


def test_items_are_numbered_from_one_and_what_is_unknown_is_zero() -> None:
    assert len(FILMS) == 3
    found = FILMS.indices(pa.array(["3", "7", None, "c", " b ", "7.0"]))
    assert found.tolist() == [3, 1, 0, 0, 2, 1]
    assert found.dtype == "int32"
    assert FILMS.indices(pa.array([7, 3, None, 8])).tolist() == [1, 3, 0, 0]
    assert FILMS.indices(pa.array([3.0, float("nan")])).tolist() == [3, 0]
    assert FILMS.indices(pa.array([], pa.string())).tolist() == []


@given(st.lists(st.text(max_size=4).map(tidy).filter(bool), unique=True), st.lists(st.text(max_size=4)))
def test_indices_are_positions_in_a_list(known: list[str], asked: list[str]) -> None:
    catalogue = Catalogue(names(*known))
    found = [tidy(one) for one in [*asked, *known]]
    expected = [1 + known.index(text) if text is not None and text in known else 0 for text in found]
    assert catalogue.indices(names(*asked, *known)).tolist() == expected


@pytest.mark.parametrize("texts", [None, pa.array(["Alien", None, "Brazil"])])
def test_a_file_gives_back_what_was_saved(tmp_path: Path, texts: pa.Array | None) -> None:
    made = Catalogue(FILMS.names, texts)
    made.save(tmp_path / "items.parquet")
    found = Catalogue.load(tmp_path / "items.parquet")
    assert found.names.to_pylist() == ["7", "b", "3"]
    assert (found.texts is None) == (texts is None)
    assert texts is None or found.texts == texts
    assert found.fingerprint() == made.fingerprint()


def test_the_fingerprint_is_of_the_names_in_their_order() -> None:
    assert Catalogue(FILMS.names).fingerprint() == FILMS.fingerprint()
    assert Catalogue(FILMS.names.cast(pa.large_string())).fingerprint() == FILMS.fingerprint()
    for others in (["b", "7", "3"], ["7", "b"], ["7b", "3"]):
        assert Catalogue(names(*others)).fingerprint() != FILMS.fingerprint()


def test_a_table_becomes_a_catalogue_in_its_order() -> None:
    table = pa.table({"film": [9, 4], "title": ["Jaws", " "]})
    made = Catalogue.of(table, "film", "title")
    assert made.names.to_pylist() == ["9", "4"]
    assert made.texts is not None
    assert made.texts.to_pylist() == ["Jaws", None]
    assert Catalogue.of(table, "film").texts is None


def test_texts_are_looked_up_by_name() -> None:
    table = pa.table({"id": ["b", "3", "x", "b", None], "title": ["Jaws", None, "X", "Jaws 2", "?"]})
    found = Catalogue(FILMS.names).described(table, "id", "title")
    assert found.names == FILMS.names
    assert found.texts is not None
    assert found.texts.to_pylist() == [None, "Jaws", None]


@pytest.mark.parametrize(
    ("made", "told"),
    [
        ((names("1", None),), "expected a text for each item's name"),
        ((pa.array([1, 2]),), "expected a text for each item's name, got int64"),
        ((names("1", "b", "c", "b", "1"),), "2 names stand again; the first is `b`"),
        ((names("1.0"),), "canonical form"),
        ((names(" a"),), "canonical form"),
        ((names("1", "2"), pa.array(["x"])), "expected 2 texts, one an item, got 1 string"),
        ((names("1"), pa.array([2])), "expected 1 texts, one an item, got 1 int64"),
    ],
)
def test_what_is_no_catalogue_is_refused(made: tuple[pa.Array, ...], told: str) -> None:
    with pytest.raises(DataError, match=told):
        Catalogue(*made)


def test_a_table_that_is_no_catalogue_is_refused() -> None:
    with pytest.raises(DataError, match="column `film`: 1 of 2 items have no name"):
        Catalogue.of(pa.table({"film": ["a", "NA"]}), "film")
    with pytest.raises(DataError, match="missing column `title`"):
        Catalogue.of(pa.table({"film": ["a"]}), "film", "title")
    with pytest.raises(DataError, match="column `title`: expected text, got int64"):
        Catalogue.of(pa.table({"film": ["a"], "title": [1]}), "film", "title")
    broken = pa.Array.from_buffers(pa.string(), 1, [*pa.array(["ab"]).buffers()[:2], pa.py_buffer(b"\xff\xfe")])
    with pytest.raises(DataError, match="column `film`: its text cannot be read, is it UTF-8"):
        Catalogue.of(pa.table({"film": broken}), "film")
    with pytest.raises(DataError, match="column `title`: its text cannot be read, is it UTF-8"):
        Catalogue.of(pa.table({"film": ["a"], "title": broken}), "film", "title")


def test_a_file_that_is_no_catalogue_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "items.parquet"
    with pytest.raises(DataError, match="no such file"):
        Catalogue.load(path)
    pq.write_table(pa.table({"name": ["a"]}), path)
    with pytest.raises(DataError, match="expected a catalogue's columns `item` and `text`, got name"):
        Catalogue.load(path)
    pq.write_table(pa.table({"item": ["a", "a"], "text": ["x", "y"]}), path)
    with pytest.raises(DataError, match=r"items\.parquet: expected each item once"):
        Catalogue.load(path)


def test_an_empty_catalogue_knows_nothing(tmp_path: Path) -> None:
    empty = Catalogue(names())
    empty.save(tmp_path / "none.parquet")
    assert len(Catalogue.load(tmp_path / "none.parquet")) == 0
    assert empty.indices(pa.array(["a"])).tolist() == [0]
