"""Which rows are hot, and how hot they are."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recsys.dataflow.heat import assumed, counted, even
from recsys.dataflow.ids import hottest, sample, scatter
from recsys.dataflow.workload import Ids, Workload, WorkloadLookup, WorkloadTable
from tests.dataflow.gpu_made import workload
from tests.dataflow.made import HOT


def test_of_made_up_ids_the_hottest_rows_are_known() -> None:
    made = workload([5000], ids=3)
    heat = assumed(made)["t0"]
    assert heat.ids == pytest.approx(3)
    for n in (1, 7, 600, 5000):
        assert heat.share(n) == pytest.approx(hottest(made.lookups[0].ids, 5000, np.array([n]))[0], rel=0.02)
        assert set(heat.chosen(n).nonzero().flatten().tolist()) == set(scatter(np.arange(n), 5000).tolist())


def test_look_ups_of_one_table_add_up() -> None:
    lookups = tuple(
        WorkloadLookup(name=name, table="t", ids=Ids(bags=((n, 1.0),), distribution=kind))
        for name, n, kind in (("a", 2, "uniform"), ("b", 1, "equal"))
    )
    made = Workload(name="w", tables=(WorkloadTable(name="t", rows=100, dim=4),), lookups=lookups)
    heat = assumed(made)["t"]
    assert heat.ids == pytest.approx(3)
    assert heat.share(1) == pytest.approx((2 / 100 + 1) / 3)


@pytest.mark.parametrize("made_up", [True, False])
def test_where_nobody_knows_which_rows_are_hot_all_are_alike(made_up: bool) -> None:
    made = workload([1000])
    ids = Ids(distribution="measured", hot=HOT) if made_up else made.lookups[0].ids
    made = made.model_copy(update={"lookups": (made.lookups[0].model_copy(update={"ids": ids}),)})
    heat = assumed(made, made_up)["t0"]
    assert heat.share(250) == pytest.approx(0.25)
    assert heat.chosen(3).nonzero().flatten().tolist() == [0, 1, 2]


@given(st.lists(st.integers(0, 30), min_size=1, max_size=60), st.integers(0, 60))
def test_counted_rows_are_taken_from_the_most_hits_on(hits: list[int], n: int) -> None:
    found = counted({"t": np.array(hits)}, 10)["t"]
    assert found.rows.sum() == len(hits)
    assert (np.diff(found.hits) <= 1e-12).all()
    assert found.ids == pytest.approx(sum(hits) / 10)
    n = min(n, len(hits))
    chosen = found.chosen(n).numpy()
    assert chosen.sum() == n
    assert sorted(np.array(hits)[chosen]) == sorted(hits)[len(hits) - n :]
    more = found.chosen(min(n + 1, len(hits))).numpy()
    assert (chosen <= more).all()


def test_what_was_seen_by_chance_is_not_believed() -> None:
    """Of even ids, the rows of a sample that were hit most are no hotter than others; of Zipf's the truth is told."""
    rng = np.random.default_rng(0)
    rows, count = 20_000, 20_000
    even_hits = np.bincount(rng.integers(0, rows, count), minlength=rows)
    naive = np.sort(even_hits)[::-1][: rows // 10].sum() / count
    assert naive > 0.25
    assert counted({"t": even_hits}, count)["t"].share(rows // 10) == pytest.approx(0.1, abs=0.03)
    ids = Ids()
    hits = np.bincount(sample(ids, rows, count, rng)[0], minlength=rows)
    found, others = counted({"t": hits}, count)["t"], sample(ids, rows, count, rng)[0]
    for n in (100, 2000, 10_000):
        got = found.chosen(n).numpy()[others].mean()
        assert found.share(n) == pytest.approx(got, abs=0.03)


def test_a_table_that_is_not_read_is_cold() -> None:
    assert even(10, 0.0).share(10) == 1.0
    assert counted({"t": np.zeros(5, dtype=np.int64)}, 0)["t"].ids == 0
    assert torch.equal(counted({"t": np.zeros(5, dtype=np.int64)}, 0)["t"].chosen(2), torch.arange(5) < 2)
