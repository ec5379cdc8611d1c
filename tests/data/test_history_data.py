"""Histories as a recipe names them."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.data.catalogue import Catalogue
from recsys.data.history_data import HistoryData
from recsys.errors import ConfigError, DataError


def test_lines_are_collapsed_and_short_users_left_out(tmp_path: Path) -> None:
    path = tmp_path / "lines.txt"
    path.write_text("u a a b\nv c\nw a c c\n")
    found = HistoryData(lines=path, collapse=True, least=2).open()
    assert found.histories.users.to_pylist() == ["u", "w"]
    assert found.histories.items.tolist() == [1, 2, 1, 3]


def test_events_have_columns_of_any_name_and_texts(tmp_path: Path) -> None:
    pq.write_table(
        pa.table({"who": [1, 1, 2], "what": ["x", "y", "x"], "when": [5, 3, 4]}), tmp_path / "events.parquet"
    )
    pq.write_table(pa.table({"what": ["y", "x"], "title": ["Why", "Ex"]}), tmp_path / "items.parquet")
    found = HistoryData(
        events=(tmp_path / "events.parquet",), user="who", item="what", time="when", texts=tmp_path / "items.parquet",
        text="title",
    ).open()  # fmt: skip
    assert found.histories.items.tolist() == [2, 1, 1]
    assert found.catalogue.texts is not None
    assert found.catalogue.texts.to_pylist() == ["Ex", "Why"]


def test_items_are_numbered_by_the_catalogue_that_is_given(tmp_path: Path) -> None:
    path = tmp_path / "lines.txt"
    path.write_text("u a b\n")
    catalogue = Catalogue(pa.array(["z", "b"], pa.large_string()))
    found = HistoryData(lines=path).open(catalogue)
    assert (found.histories.items.tolist(), found.unknown) == ([2], 1)
    with pytest.raises(DataError, match="expected events of users of items that the model knows, got none"):
        HistoryData(lines=path).open(Catalogue(pa.array(["z"], pa.large_string())))


def test_one_kind_of_data_is_named() -> None:
    with pytest.raises(ConfigError, match="name one of `source`, `events` and `lines`, got none"):
        HistoryData.parse({}, "data")
    with pytest.raises(ConfigError, match="got source and lines"):
        HistoryData.parse({"source": "wikipedia", "lines": "a.txt"}, "data")
