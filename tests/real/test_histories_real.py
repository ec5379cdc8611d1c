"""Real histories: published counts, what repeats, and the baselines' figures under leave-one-out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import recsys
from recsys.data import sources
from recsys.data.histories import Histories, Interactions
from recsys.data.history_sources import histories_of, read_lines
from recsys.training.baselines import Popularity, RepeatLast
from recsys.training.protocol import Protocol, measure

BEAUTY = Path(recsys.__file__).parents[2] / "shared" / "data" / "beauty"


@pytest.fixture(scope="module")
def beauty() -> Interactions:
    path = BEAUTY / "Beauty.txt"
    if not path.is_file():
        pytest.skip(f"needs Amazon's Beauty reviews of 2014 as {path}")
    return read_lines(path)


def figures(made: Histories, items: int, kind: type[Popularity], protocol: Protocol) -> tuple[float, float]:
    held = protocol.hold(made)
    found = measure(kind.of(held.train, items), held.test, protocol, show=False).metrics
    return round(found["hr@10"], 4), round(found["ndcg@10"], 4)


def test_beauty_has_its_published_counts(beauty: Interactions) -> None:
    made = beauty.histories
    assert (len(made), len(beauty.catalogue), len(made.items)) == (22_363, 12_101, 198_502)
    assert made.lengths().min() == made.popularity(len(beauty.catalogue))[1:].min() == 5
    assert beauty.catalogue.names.to_pylist() == [str(item) for item in range(1, 12_102)]
    assert made.of(2).tolist() == [6, 7, 8, 9, 10, 4, 11]
    pairs = np.unique(made.owners() * 12_102 + made.items)
    assert len(pairs) == len(made.items)  # nobody reviews an item twice


def test_beauty_has_titles(beauty: Interactions) -> None:
    found = beauty.catalogue.described(BEAUTY / "Beauty_titles.csv", "item_id", "title")
    assert found.texts is not None
    assert len(found) - found.texts.null_count == 12_094
    assert found.texts[1].as_py() == "OPI Red Shatter Crackle Nail Polish E55 New"


def test_beauty_popularity(beauty: Interactions) -> None:
    assert figures(beauty.histories, 12_101, Popularity, Protocol(seen="left out")) == (0.0110, 0.0053)


def test_wikipedia_repeats_itself() -> None:
    made = histories_of("wikipedia").histories
    assert figures(made, 1_000, RepeatLast, Protocol()) == (0.7562, 0.7509)
    assert figures(made, 1_000, Popularity, Protocol()) == (0.0561, 0.0326)
    visits = made.collapsed()
    assert figures(visits, 1_000, RepeatLast, Protocol()) == (0.0702, 0.0319)
    assert figures(visits, 1_000, Popularity, Protocol()) == (0.0726, 0.0429)


@pytest.fixture(scope="module")
def movielens() -> Interactions:
    if sources.state("movielens-100k") == "not fetched":
        pytest.skip("needs MovieLens-100K: recsys data fetch movielens-100k")
    return histories_of("movielens-100k")


def test_movielens_has_titles_and_times(movielens: Interactions) -> None:
    made = movielens.histories
    assert (len(made), len(movielens.catalogue), len(made.items)) == (943, 1_682, 100_000)
    assert movielens.catalogue.texts is not None
    assert movielens.catalogue.texts[0].as_py() == "Toy Story (1995)"
    assert movielens.catalogue.texts.null_count == 0
    assert made.times is not None
    later = np.diff(made.times) >= 0
    later[made.offsets[1:-1] - 1] = True  # from one user to the next
    assert later.all()


def test_movielens_popularity(movielens: Interactions) -> None:
    left_out = Protocol(seen="left out")
    assert figures(movielens.histories, 1_682, Popularity, left_out) == (0.0848, 0.0430)
    by_time = Protocol(split="global-time", seen="left out")
    assert figures(movielens.histories, 1_682, Popularity, by_time) == (0.0654, 0.0310)


def test_global_time_has_no_training_after_a_question(movielens: Interactions) -> None:
    held = Protocol(split="global-time").hold(movielens.histories)
    times = movielens.histories.times
    assert times is not None
    assert held.train.times is not None
    assert held.train.times.max() < times[held.valid.events].min()
    assert times[held.valid.events].max() < times[held.test.events].min()
    asked = len(held.valid) + len(held.test) + held.short
    assert len(held.train.items) + asked == 100_000
