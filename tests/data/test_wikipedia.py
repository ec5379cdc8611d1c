"""Wikipedia edits: runs collapse, histories look back only, and both rows of a visit are in one split."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.data import sources
from recsys.data.cache import SPLITS
from recsys.data.digest import digest
from recsys.data.encoder import Encoder
from recsys.data.schema import Schema
from recsys.data.wikipedia import HISTORY, events, splits, visits
from recsys.errors import DataError
from recsys.shelves import shelf

BUNDLED = shelf("data") / "wikipedia" / "wikipedia.parquet"


def write(folder: Path, **columns: list[object]) -> Path:
    path = folder / "edits.parquet"
    pq.write_table(pa.table(columns), path)
    return path


@pytest.fixture(scope="module")
def parts() -> tuple[pa.Table, ...]:
    return splits(BUNDLED)


def test_edits_are_numbered_within_a_user(tmp_path: Path) -> None:
    made = events(write(tmp_path, user=[3, 3, 3, 8], page=[5, 5, 9, 5]))
    assert made.to_pydict() == {"user": [3, 3, 3, 8], "page": [5, 5, 9, 5], "position": [0, 1, 2, 0]}


def test_runs_collapse_and_histories_hold_what_came_before(tmp_path: Path) -> None:
    edits = events(write(tmp_path, user=[1, 1, 1, 1, 1, 2, 2, 3], page=[7, 7, 8, 8, 7, 7, 9, 4]))
    assert visits(edits).to_pydict() == {  # users 2 and 3 have two visits and one
        "user": [1, 1],
        "page": [8, 7],
        "history": [[7], [7, 8]],
        "position": [1, 2],
        "previous": [7, 8],
    }


def test_a_history_keeps_the_last_pages(tmp_path: Path) -> None:
    pages: list[object] = [1, 2] * HISTORY
    made = visits(events(write(tmp_path, user=[1] * len(pages), page=pages)))
    assert made["history"][-1].as_py() == pages[-HISTORY - 1 : -1]


@pytest.mark.parametrize(
    ("columns", "told"),
    [
        ({"user": [1], "item": [1]}, "missing column `page`"),
        ({"user": [], "page": []}, "it holds no edits"),
        ({"user": [2, 1], "page": [1, 1]}, "not sorted by `user`"),
        ({"user": [1, None], "page": [1, 1]}, "column `user`: expected whole numbers without a gap"),
        ({"user": [1], "page": ["Main_Page"]}, "column `page`: expected whole numbers without a gap, got "),
        ({"user": [1, 1, 1], "page": [1, 2, 1]}, "2 pages are visited; expected 3 or more"),
    ],
)
def test_what_cannot_be_read_is_said(tmp_path: Path, columns: dict[str, list[object]], told: str) -> None:
    with pytest.raises(DataError, match=told):
        splits(write(tmp_path, **columns))


def test_the_bundled_edits_are_those_published() -> None:
    made = events()
    users, pages = made["user"].to_numpy(), made["page"].to_numpy()
    assert (made.num_rows, len(np.unique(users)), len(np.unique(pages))) == (157_474, 8_227, 1_000)
    repeats = (users[1:] == users[:-1]) & (pages[1:] == pages[:-1])
    assert repeats.sum() / len(users) == pytest.approx(0.7913, abs=1e-4)


def test_both_rows_of_a_visit_are_in_one_split(parts: tuple[pa.Table, ...]) -> None:
    for part in parts:
        yes, no = part.to_pandas().iloc[::2], part.to_pandas().iloc[1::2]
        assert (yes["label"] == 1).all()
        assert (no["label"] == 0).all()
        for name in ("user", "position"):
            assert (yes[name].to_numpy() == no[name].to_numpy()).all()
        last = yes["history"].map(lambda history: history[-1]).to_numpy()
        for pages in (yes["page"].to_numpy(), last):
            assert (no["page"].to_numpy() != pages).all()


def test_a_split_comes_after_the_one_before_it(parts: tuple[pa.Table, ...]) -> None:
    train, valid, test = (part.to_pandas().groupby("user")["position"] for part in parts)
    for earlier, later in ((train, valid), (valid, test), (train, test)):
        last, first = earlier.max(), later.min()
        both = sorted(set(last.index) & set(first.index))
        assert len(both) > 100
        assert (last.loc[both].to_numpy() < first.loc[both].to_numpy()).all()


def test_the_other_page_is_drawn_by_a_power_of_its_popularity(parts: tuple[pa.Table, ...]) -> None:
    train = parts[0].to_pandas()
    visited, drawn = (np.bincount(train["page"][train["label"] == label], minlength=1001) for label in (1, 0))
    top = np.argsort(-visited)[:100]
    expected = (1.0 + visited[1:]) ** 0.75
    expected *= len(train) / 2 / expected.sum()
    assert drawn[top].sum() == pytest.approx(expected[top - 1].sum(), rel=0.05)


def test_it_is_bundled_as_a_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parts: tuple[pa.Table, ...]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert sources.state("wikipedia") == "bundled"
    source, manifest = sources.load("wikipedia"), sources.describe("wikipedia")
    assert tuple(part.num_rows for part in parts) == manifest.rows
    assert digest(pq.read_table(source.file(split)) for split in SPLITS) == manifest.digest == digest(parts)
    schema = Schema.load(source.schema)
    encoder = Encoder.fit(schema, [parts[0]])
    batch = encoder.encode(parts[2])
    assert len(batch) == manifest.rows[2]
    history = next(feature for feature in encoder.inputs.ids if feature.name == "history")
    assert (history.table, history.shares) == ("page", "page")
