"""How well a column alone predicts: against scikit-learn, and on halves."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats  # noqa: F401  (loaded before tests are timed)
from sklearn.metrics import roc_auc_score

from recsys.data import leaks


@given(st.lists(st.tuples(st.integers(-3, 3), st.booleans()), min_size=20, max_size=80))
def test_auc_is_scikit_learns(rows: list[tuple[int, bool]]) -> None:
    scores, positive = np.array([r[0] for r in rows], dtype=float), np.array([r[1] for r in rows])
    found = leaks.auc(scores, positive)
    if min(positive.sum(), (~positive).sum()) < 10:
        assert found is None
    else:
        assert found == pytest.approx(roc_auc_score(positive, scores))


def test_numbers_count_in_either_direction_and_by_being_missing() -> None:
    positive = np.arange(40) % 2 == 0
    assert leaks.of_numbers(np.where(positive, -1.0, 1.0), positive) == 1.0
    assert leaks.of_numbers(np.where(positive, np.nan, 5.0), positive) == 1.0
    assert leaks.of_numbers(np.zeros(40), positive) == 0.5


def test_categories_are_measured_on_rows_that_they_did_not_learn_from() -> None:
    rng = np.random.default_rng(0)
    positive = rng.random(2000) < 0.5
    telling = pa.array(["yes" if one else None for one in positive], pa.string())
    alone = pa.array([f"row {i}" for i in range(2000)])
    assert leaks.of_categories(telling, positive) == 1.0
    assert leaks.of_categories(alone, positive) == 0.5
    assert leaks.of_categories(alone.slice(0, 10), positive[:10]) is None
