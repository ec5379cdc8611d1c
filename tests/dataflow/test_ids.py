"""Drawn ids: they fall on the rows as the hot-row curve says, and the curve is the one that was asked for."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.dataflow import ids as ids_module
from recsys.dataflow.ids import batch, curve, grid, harmonic, hottest, sample, scatter, unique_share
from recsys.dataflow.workload import Ids, Workload, WorkloadLookup, WorkloadTable
from recsys.errors import ConfigError
from tests.dataflow.made import HOT, ids_like

LIKE = [
    {"distribution": "uniform"},
    {"distribution": "equal"},
    {"distribution": "zipf"},
    {"distribution": "zipf", "exponent": 1.0},
    {"distribution": "zipf", "exponent": 0.4},
    {"distribution": "zipf", "exponent": 2.0},
    {"distribution": "zipf", "exponent": 40.0},
    {"distribution": "measured", "hot": HOT},
]


@pytest.mark.parametrize("exponent", [1e-6, 0.5, 1 - 1e-9, 1.0, 1 + 1e-9, 1.05, 3.0, 60.0])
def test_harmonic_numbers_are_the_sums(exponent: float) -> None:
    terms = np.arange(1, 300_001, dtype=np.float64) ** -exponent
    n = np.array([0, 1, 2, 1023, 1024, 1025, 2000, 54_321, 300_000])
    np.testing.assert_allclose(harmonic(n, exponent), [math.fsum(terms[:k]) for k in n], rtol=1e-14)


@given(st.integers(1, 10**9), st.integers(2, 64))
def test_a_grid_ascends_from_one_to_all_rows(rows: int, points: int) -> None:
    n = grid(rows, points)
    assert (n[0], n[-1]) == (1, rows)
    assert len(n) <= points
    assert (np.diff(n) > 0).all()


@given(ids_like(), st.integers(1, 10**8))
def test_a_curve_ascends_to_all_rows_and_all_ids(ids: Ids, rows: int) -> None:
    n, shares = curve(ids, rows)
    assert n.dtype == np.int64
    assert len(n) == len(shares) <= 64
    assert (np.diff(n) > 0).all()
    assert (np.diff(shares) >= 0).all()
    assert shares[0] > 0
    assert (n[-1], shares[-1]) == (rows, 1.0)


@pytest.mark.parametrize("like", LIKE)
@given(rows=st.integers(1, 3000))
@settings(max_examples=20)
def test_a_curve_is_exact_at_its_points(like: dict[str, Any], rows: int) -> None:
    heat = {
        "uniform": np.ones(rows),
        "equal": np.arange(rows) == 0,
        "zipf": np.arange(1, rows + 1) ** -like.get("exponent", 1.05),
        "measured": np.diff(np.interp(np.arange(rows + 1), [0, *(n for n, _ in HOT)], [0, *(s for _, s in HOT)])),
    }[like["distribution"]]
    sums = np.cumsum(heat) / heat.sum()
    n, shares = curve(Ids(**like), rows)
    np.testing.assert_allclose(shares, sums[n - 1], rtol=1e-9)
    every = np.arange(1, rows + 1)
    np.testing.assert_allclose(hottest(Ids(**like), rows, every), sums, rtol=1e-9)


def test_a_measured_curve_of_a_cut_table_is_of_the_ids_that_are_left() -> None:
    ids = Ids(distribution="measured", hot=((1, 0.4), (3, 0.6), (10, 1.0)))
    n, shares = curve(ids, 3)
    assert n.tolist() == [1, 3]
    np.testing.assert_allclose(shares, [0.4 / 0.6, 1])
    n, shares = curve(ids, 20)
    assert n.tolist() == [1, 3, 10, 20]
    assert shares.tolist() == [0.4, 0.6, 1, 1]


@given(st.integers(1, 5000))
def test_every_rank_has_a_row_of_its_own(rows: int) -> None:
    assert sorted(scatter(np.arange(rows), rows).tolist()) == list(range(rows))


@pytest.mark.parametrize("rows", [10_000, 40_000_000, 2**32 + 1])
def test_hot_rows_lie_all_over_the_table(rows: int) -> None:
    found = scatter(np.arange(1000), rows)
    assert len(np.unique(found)) == 1000
    counts, _ = np.histogram(found, bins=10, range=(0, rows))
    assert counts.min() > 50  # of 100
    assert np.diff(np.sort(found)).min() < 0.3 * rows / 1000  # at random, not on a lattice


@pytest.mark.parametrize("count", [1000, 300_000])
@pytest.mark.parametrize("rows", [1, 3, 1024, 1025, 50_000])
@pytest.mark.parametrize("like", LIKE)
def test_samples_hit_the_curve(like: dict[str, Any], rows: int, count: int) -> None:
    ids = Ids(**like)
    values, lengths = sample(ids, rows, count, np.random.default_rng(1))
    assert lengths is None
    assert values.dtype == np.int64
    hits = np.bincount(values, minlength=rows)
    assert len(hits) == rows  # none out of range
    sums = np.cumsum(hits[scatter(np.arange(rows), rows)]) / count
    far = np.abs(sums - hottest(ids, rows, np.arange(1, rows + 1))).max()
    assert far < 2 / np.sqrt(count)  # Kolmogorov and Smirnov: more happens once in 1,500 times


def test_the_tail_of_a_large_table_is_hit_as_it_should_be() -> None:
    rows, count = 40_000_000, 1_000_000
    ranks = ids_module._ranks(Ids(), rows, np.random.default_rng(2).random(count))
    for n in (1024, 10_000, 10**6, 2 * 10**7):
        expected = hottest(Ids(), rows, np.array([n]))[0]
        assert (ranks < n).mean() == pytest.approx(expected, abs=4 * np.sqrt(expected * (1 - expected) / count))


@given(st.lists(st.integers(0, 3), min_size=1, max_size=20), st.integers(0, 9))
@settings(max_examples=20)
def test_the_guide_table_finds_what_a_search_finds(weights: list[int], seed: int) -> None:
    ends = np.cumsum([*weights, 1]) / (sum(weights) + 1)
    u = np.random.default_rng(seed).random(1 << 16)
    u[: len(ends) - 1] = ends[:-1]  # on the bounds themselves
    u = u[u < 1]
    u = np.append(u, np.zeros((1 << 16) - len(u)))
    assert (ids_module._first_above(ends, u) == np.searchsorted(ends, u, side="right")).all()


def test_a_seed_decides_all() -> None:
    ids = Ids(bags=((0, 0.5), (3, 0.5)))
    first, again, other = (sample(ids, 1000, 50, np.random.default_rng(seed)) for seed in (7, 7, 8))
    for one, two in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, two)
    assert first[0].tolist() != other[0].tolist()


def test_bags_are_as_long_as_they_should_be() -> None:
    rng = np.random.default_rng(0)
    values, lengths = sample(Ids(bags=((0, 0.2), (2, 0.5), (7, 0.3))), 100, 100_000, rng)
    assert lengths is not None
    assert len(values) == lengths.sum()
    sizes, counts = np.unique(lengths, return_counts=True)
    assert sizes.tolist() == [0, 2, 7]
    np.testing.assert_allclose(counts / 100_000, [0.2, 0.5, 0.3], atol=0.01)
    values, lengths = sample(Ids(bags=((4, 1.0),)), 100, 3, rng)
    assert lengths is not None
    assert (len(values), lengths.tolist()) == (12, [4, 4, 4])
    for bags in (((1, 1.0),), ((3, 1.0),), ((1, 0.5), (3, 0.5))):
        values, lengths = sample(Ids(bags=bags), 100, 0, rng)
        assert len(values) == 0
        assert lengths is None or len(lengths) == 0


@pytest.mark.parametrize("like", LIKE)
def test_the_expected_share_of_distinct_ids_is_that_of_samples(like: dict[str, Any]) -> None:
    ids, rng = Ids(bags=((2, 0.5), (4, 0.5)), **like), np.random.default_rng(3)
    shares = []
    for _ in range(30):
        values, _ = sample(ids, 20_000, 512, rng)
        shares.append(len(np.unique(values)) / len(values))
    assert unique_share(ids, 20_000, 512) == pytest.approx(np.mean(shares), rel=0.02)


def test_the_expected_share_of_distinct_ids_at_its_ends() -> None:
    assert unique_share(Ids(), 1000, 1) == 1
    assert unique_share(Ids(), 1000, 0) == 1
    assert unique_share(Ids(bags=((0, 1.0),)), 1000, 64) == 1
    assert unique_share(Ids(distribution="equal"), 1000, 64) == pytest.approx(1 / 64)
    assert unique_share(Ids(), 1, 64) == pytest.approx(1 / 64)
    assert unique_share(Ids(distribution="uniform"), 10, 1000) == pytest.approx(0.01)


def two(**lookup: Any) -> Workload:
    tables = (WorkloadTable(name="small", rows=5, dim=2), WorkloadTable(name="large", rows=10**6, dim=2))
    lookups = (WorkloadLookup(name="b", table="large"), WorkloadLookup(name="a", table="small", **lookup))
    return Workload(name="two", tables=tables, lookups=lookups)


def test_a_batch_has_the_look_ups_in_their_order() -> None:
    ids = batch(two(), 64, np.random.default_rng(0))
    assert (ids.features, ids.size, ids.offsets, ids.weights) == (("b", "a"), 64, None, None)
    assert ids.values.dtype == torch.int64
    assert ids.values[:64].max() >= 5 > ids.values[64:].max()
    assert len(batch(two(), 0, np.random.default_rng(0)).values) == 0


def test_a_batch_has_bags_and_weights_where_they_are_wanted() -> None:
    made = two(ids=Ids(bags=((3, 1.0),)), weighted=True)
    ids = batch(made, 4, np.random.default_rng(0), torch.int32)
    assert ids.values.dtype == torch.int32
    assert ids.lengths().tolist() == [[1] * 4, [3] * 4]
    assert ids.weights is not None
    assert ids.weights[:4].tolist() == [1, 1, 1, 1]
    assert 0 <= ids.weights[4:].min() < ids.weights[4:].max() < 1


def test_ids_that_do_not_fit_their_type_are_refused() -> None:
    tables = (WorkloadTable(name="t", rows=2**31 + 1, dim=1),)
    made = Workload(name="w", tables=tables, lookups=(WorkloadLookup(name="f", table="t"),))
    assert batch(made, 3, np.random.default_rng(0)).size == 3
    with pytest.raises(ConfigError, match=r"`t` has 2,147,483,649 rows, more than torch.int32 ids can tell"):
        batch(made, 3, np.random.default_rng(0), torch.int32)
