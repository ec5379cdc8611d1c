"""Counting ids: what is counted is what is there, however it comes in, and sampling from it gives it back."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recsys.data.batch import Batch, JaggedIds
from recsys.dataflow import counting
from recsys.dataflow.counting import IdCounter, measure, measure_tables
from recsys.dataflow.ids import hottest, sample, unique_share
from recsys.dataflow.workload import Ids
from recsys.errors import ConfigError, DataError
from recsys.layers.tables import EmbeddingTables, Lookup, Table
from tests.helpers import jagged


def test_counted_by_hand() -> None:
    found = measure([5, 5, 1, 9, -1], [2, 0, 3], rows=8, batch_sizes=[1, 2, 3, 4], source="a file")
    assert found.bags == ((0, 1 / 3), (2, 1 / 3), (3, 1 / 3))
    assert found.distribution == "measured"
    assert found.hot == ((1, 0.4), (2, 0.8), (3, 1.0))  # 9 and -1 are no rows of the table: both read row 0
    assert found.unique == ((1, 3 / 5), (2, 1 / 2), (3, 3 / 5))  # there are no 4 bags
    assert found.source == "measured on 3 bags of a file"


Bags = list[list[int]]
BAGS = st.lists(st.lists(st.integers(-2, 9), max_size=4), min_size=1, max_size=30)


def slow(bags: Bags, rows: int, batch_sizes: list[int]) -> tuple[dict[int, float], list[float], dict[int, float]]:
    """Bag sizes, the hot-row curve at every row, and distinct ids of batches, in plain Python."""
    read = [[i if 0 <= i < rows else 0 for i in bag] for bag in bags]
    sizes = {n: count / len(bags) for n, count in Counter(map(len, bags)).items()}
    hits = [count for _, count in Counter(i for bag in read for i in bag).most_common()]
    curve = [float(f"{sum(hits[: n + 1]) / sum(hits):.6g}") for n in range(len(hits))]
    unique = {}
    for size in batch_sizes:
        full = [read[at : at + size] for at in range(0, len(read) - size + 1, size)]
        batches = [[i for bag in batch for i in bag] for batch in full]
        ids = sum(map(len, batches))
        if ids:
            unique[size] = round(sum(len(set(batch)) for batch in batches) / ids, 6)
    return sizes, curve, unique


@given(bags=BAGS, cuts=st.lists(st.integers(0, 30), max_size=5))
def test_pieces_count_as_the_slow_way_does(bags: Bags, cuts: list[int]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(counting, "_BLOCK", 4)  # so that a few bags make several blocks
        counter = IdCounter(8, [4, 1, 2])
    bounds = [0, *sorted(min(cut, len(bags)) for cut in cuts), len(bags)]
    for start, stop in pairwise(bounds):
        part = bags[start:stop]
        flat = np.array([i for bag in part for i in bag], dtype=np.int32)
        counter.add(flat, np.array([len(bag) for bag in part], dtype=np.int64))
    found = counter.ids()
    sizes, curve, unique = slow(bags, 8, [1, 2, 4])
    assert dict(found.bags) == pytest.approx(sizes)
    assert [share for _, share in found.hot] == pytest.approx(curve)
    assert dict(found.unique) == unique
    assert counter.ids() == found


def test_bags_of_one_id_need_no_lengths() -> None:
    assert measure([3, 1, 3], None, 5) == measure([3, 1, 3], [1, 1, 1], 5)


def test_many_small_additions_count_as_one_large() -> None:
    values = np.random.default_rng(0).integers(0, 50, 20_000)
    counter = IdCounter(50)
    for part in np.split(values, 4000):
        counter.add(part)
    assert counter.ids() == measure(values, None, 50)


@given(st.dictionaries(st.integers(0, 5000), st.integers(1, 1000), min_size=1, max_size=200))
def test_the_sizes_of_bags_are_few_and_have_the_true_mean(sizes: dict[int, int]) -> None:
    found = counting._histogram(Counter(sizes))
    assert len(found) <= 32
    assert [n for n, _ in found] == sorted({n for n, _ in found})
    assert sum(share for _, share in found) == pytest.approx(1)
    mean = sum(n * count for n, count in sizes.items()) / sum(sizes.values())
    assert sum(n * share for n, share in found) == pytest.approx(mean, rel=1e-12, abs=1e-12)
    assert min(sizes) <= found[0][0]
    assert found[-1][0] <= max(sizes)


@pytest.mark.parametrize(
    "like",
    [
        {"distribution": "uniform"},
        {"exponent": 1.2},
        {"distribution": "equal"},
        {"distribution": "measured", "hot": ((1, 0.3), (50, 0.8), (300, 1.0))},
    ],
)
def test_measuring_samples_gives_back_what_they_were_drawn_from(like: dict[str, Any]) -> None:
    ids, rows = Ids(bags=((1, 0.5), (5, 0.5)), **like), 300
    values, lengths = sample(ids, rows, 100_000, np.random.default_rng(0))
    found = measure(values, lengths, rows)
    assert found.mean == pytest.approx(3, rel=0.01)
    n = np.arange(1, rows + 1)
    np.testing.assert_allclose(hottest(found, rows, n), hottest(ids, rows, n), atol=0.02)  # by chance some are hotter
    for size, share in found.unique:
        expected = unique_share(ids, rows, size) if size > 1 else share  # one bag holds 1 or 5 ids, and never 3
        assert share == pytest.approx(expected, rel=0.02)


def test_empty_bags_are_counted_and_hit_nothing() -> None:
    found = measure([], [0, 0], 5)
    assert found.bags == ((0, 1.0),)
    assert (found.distribution, found.hot, found.unique) == ("uniform", (), ())
    assert found.source == "measured on 2 bags, all of them empty"


@pytest.mark.parametrize(
    ("values", "lengths", "told"),
    [
        ([1, 2], [1], "the bags' lengths tell of 1 ids, there are 2"),
        ([1], [2, -1], "the bags' lengths tell of 1 ids, there are 1"),
        ([1.0, float("nan")], None, "expected ids as a row of whole numbers, got float64 of shape (2,)"),
        ([[1], [2]], None, "got int64 of shape (2, 1)"),
        (["a"], None, "expected ids as a row of whole numbers"),
        ([1], [0.5], "expected lengths as a row of whole numbers"),
        ([], None, "the data: no rows to count ids in"),
    ],
)
def test_what_is_no_bag_of_ids_is_refused(values: Any, lengths: Any, told: str) -> None:
    with pytest.raises(DataError) as refused:
        measure(values, lengths, 5)
    assert told in str(refused.value)


def test_a_batch_holds_a_bag_at_least() -> None:
    with pytest.raises(ConfigError, match="batch sizes of 1 or more, got 0"):
        IdCounter(5, [64, 0])


def tables() -> EmbeddingTables:
    return EmbeddingTables(
        features=["user", "item", "seen"],
        tables=[Table("user", 6, 4), Table("item", 9, 4), Table("item:first", 9, 1)],
        lookups=[
            Lookup("user", "user", "user"),
            Lookup("item", "item", "item"),
            Lookup("mean", "seen", "item", "mean"),
            Lookup("seen", "seen", "item", "none"),
            Lookup("item:first", "item", "item:first"),
        ],
    )


def batches(weights: bool = False) -> list[Batch]:
    bags = [[[0], [5], [5]], [[8], [9], [8]], [[1, 2], [], [1, 1, 1]]]
    scales = [[[1.0] * len(bag) for bag in feature] for feature in bags]
    ids = jagged(["user", "item", "seen"], bags, scales if weights else None)
    return [Batch(torch.zeros(3, 0), ids)]


def test_every_look_up_of_a_model_is_counted() -> None:
    found = measure_tables(tables(), batches(), "toy", "Toy.", [3, 1], source="rows")
    assert (found.name, found.about, found.batch_sizes) == ("toy", "Toy.", (1, 3))
    assert [(table.name, table.rows, table.dim) for table in found.tables] == [
        ("user", 6, 4),
        ("item", 9, 4),
        ("item:first", 9, 1),
    ]
    assert [(n.name, n.table, n.pooling, n.weighted) for n in found.lookups] == [
        ("user", "user", "sum", False),
        ("item", "item", "sum", False),
        ("mean", "item", "mean", False),
        ("seen", "item", "none", False),
        ("item:first", "item:first", "sum", False),
    ]
    user, item, mean, seen, first = (lookup.ids for lookup in found.lookups)
    assert user == measure([0, 5, 5], None, 6, [1, 3], "rows")
    assert item == first == measure([8, 0, 8], None, 9, [1, 3], "rows")
    assert mean == seen == measure([1, 2, 1, 1, 1], [2, 0, 3], 9, [1, 3], "rows")


def test_weights_are_seen() -> None:
    found = measure_tables(tables(), batches(weights=True), "toy")
    assert all(lookup.weighted for lookup in found.lookups)


def test_a_model_without_look_ups_or_rows_has_no_workload() -> None:
    with pytest.raises(DataError, match="rows: no rows to count ids in"):
        measure_tables(tables(), [], "toy", source="rows")
    with pytest.raises(DataError, match="`toy` looks nothing up"):
        measure_tables(
            EmbeddingTables([], [], []), [Batch(torch.zeros(3, 1), JaggedIds((), torch.zeros(0).long()))], "toy"
        )
