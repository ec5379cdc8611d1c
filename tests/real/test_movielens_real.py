"""MovieLens-100K as fetched: its published counts, the split, and no look ahead."""

from __future__ import annotations

from collections import defaultdict

import pandas as pd
import pyarrow.parquet as pq
import pytest

from recsys.data import cache, sources
from recsys.data.digest import digest

NAME = "movielens-100k"


@pytest.fixture(scope="module")
def source() -> sources.Source:
    if sources.state(NAME) == "not fetched":
        pytest.skip(f"needs MovieLens-100K: recsys data fetch {NAME}")
    return sources.load(NAME)


@pytest.fixture(scope="module")
def splits(source: sources.Source) -> dict[str, pd.DataFrame]:
    return {split: pq.read_table(source.file(split)).to_pandas() for split in cache.SPLITS}


@pytest.fixture(scope="module")
def rows(splits: dict[str, pd.DataFrame]) -> pd.DataFrame:
    return pd.concat(splits.values(), ignore_index=True)


def test_the_published_counts(rows: pd.DataFrame) -> None:
    assert len(rows) == 100_000
    assert rows["user"].nunique() == 943
    assert rows["item"].nunique() == 1682
    assert not rows.duplicated(["user", "item"]).any()
    assert rows["rating"].value_counts().to_dict() == {4: 34174, 3: 27145, 5: 21201, 2: 11370, 1: 6110}
    assert rows["label"].eq(rows["rating"] >= 4).all()
    assert rows.groupby("user").size().min() == 20


def test_the_contents_are_those_of_the_manifest(source: sources.Source) -> None:
    manifest = sources.describe(NAME)
    tables = [pq.read_table(source.file(split)) for split in cache.SPLITS]
    assert digest(tables) == manifest.digest
    assert tuple(table.num_rows for table in tables) == manifest.rows == (80_000, 10_058, 9_942)


def test_no_row_sees_its_own_second_or_later(rows: pd.DataFrame) -> None:
    liked: dict[int, dict[int, int]] = defaultdict(dict)
    for user, item, second, label in rows[["user", "item", "timestamp", "label"]].itertuples(index=False):
        if label:
            liked[user][item] = second
    for user, second, history in rows[["user", "timestamp", "history"]].itertuples(index=False):
        seen = [liked[user][item] for item in history]
        assert seen == sorted(seen)
        before = sum(other < second for other in liked[user].values())
        assert len(seen) == min(before, 20)
        assert all(other < second for other in seen)


def test_the_future_stands_in_later_splits(splits: dict[str, pd.DataFrame]) -> None:
    ends = {split: rows.groupby("user")["timestamp"].agg(["min", "max", "size"]) for split, rows in splits.items()}
    assert all(len(end) == 943 for end in ends.values())
    assert (ends["train"]["max"] <= ends["valid"]["min"]).all()
    assert (ends["valid"]["max"] <= ends["test"]["min"]).all()
    total = sum(end["size"] for end in ends.values())
    assert (abs(ends["train"]["size"] - 0.8 * total) <= 0.5).all()


def test_what_is_missing_and_what_is_not(rows: pd.DataFrame) -> None:
    assert rows.loc[rows["year"].isna(), "title"].unique().tolist() == ["unknown"]
    assert rows["year"].min() == 1922
    assert rows["year"].max() == 1998
    assert rows.drop(columns="year").notna().all().all()
    assert rows["genres"].str.len().min() == 1
    assert sorted(rows["hour"].unique()) == list(range(24))
    assert sorted(rows["weekday"].unique()) == list(range(7))
    moments = pd.to_datetime(rows["timestamp"], unit="s", utc=True)
    assert moments.dt.hour.eq(rows["hour"]).all()
    assert moments.dt.day_of_week.eq(rows["weekday"]).all()
