"""What residual quantisation asks of vectors, and the share of variance that it loses."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.errors import ConfigError, DataError
from recsys.training.quantised import checked, distinct_rows, share_left


@pytest.mark.parametrize(("levels", "size"), [(0, 2), (65, 2), (3, 1), (3, -1)])
def test_levels_and_sizes_that_cannot_be(levels: int, size: int) -> None:
    with pytest.raises(ConfigError, match="expected 1 to 64 levels of 2 codes or more"):
        checked(np.eye(4), levels, size)


@pytest.mark.parametrize(
    ("x", "told"),
    [
        ([1.0, 2.0], "expected vectors [items, d] of numbers, got [2] of float64"),
        ([["a"], ["b"]], "expected vectors [items, d] of numbers, got [2, 1] of <U1"),
        ([[True], [False]], "expected vectors [items, d] of numbers, got [2, 1] of bool"),
        (np.zeros((0, 3)), "expected vectors [items, d] of numbers, got [0, 3]"),
        (np.zeros((3, 0)), "expected vectors [items, d] of numbers, got [3, 0]"),
        ([[1.0], [np.nan], [-np.inf]], "2 of 3 vectors hold NaN, infinite values or some beyond ±1e+15"),
        ([[1.0], [2.0], [-1e15]], "1 of 3 vectors hold NaN"),
        ([[1.0, 1.0], [1.0, 1.0], [2.0, 1.0]], "2 distinct vectors cannot have 3 codes a level; choose a smaller size"),
        ([[0.0], [-0.0], [1e-60]], "1 distinct vectors cannot have 3 codes a level"),
    ],
)
def test_vectors_that_cannot_be_quantised(x: Any, told: str) -> None:
    with pytest.raises(DataError, match=re.escape(told)):
        checked(x, 3, 3)


@pytest.mark.parametrize("dtype", [np.int8, np.float16, np.float64, ">f4"])
def test_vectors_become_float32(dtype: Any) -> None:
    found = checked(np.arange(6).reshape(2, 3).T.astype(dtype), 1, 3)
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    assert found.tolist() == [[0, 3], [1, 4], [2, 5]]


@given(st.lists(st.tuples(st.sampled_from([0.0, -0.0, 1.5]), st.integers(0, 2)), min_size=1), st.integers(1, 8))
def test_distinct_rows_are_those_of_a_set(rows: list[tuple[float, int]], enough: int) -> None:
    assert distinct_rows(np.array(rows, dtype=np.float32), enough) == min(enough, len(set(rows)))


def test_the_share_left_is_the_residuals_over_the_variance() -> None:
    x = np.array([[0, 5], [4, 5]], dtype=np.float32)  # 4 + 4 around the mean
    assert share_left(x, np.array([[1, 0], [0, -1]], dtype=np.float32)) == pytest.approx(2 / 8)
