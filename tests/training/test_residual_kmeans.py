"""Residual k-means: worked out by hand, nearest codes everywhere, and every odd input has an answer."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.errors import DataError
from recsys.training import residual_kmeans as module
from recsys.training.quantised import Quantised
from recsys.training.residual_kmeans import residual_kmeans


def vectors(rows: int = 300, columns: int = 5, seed: int = 0) -> npt.NDArray[np.float32]:
    return np.random.RandomState(seed).standard_normal((rows, columns)).astype(np.float32)


def check_nearest(x: npt.NDArray[np.float32], found: Quantised) -> None:
    """Every code is that of the nearest row, and `left` is what the rows leave: the definition, a level at a time."""
    residual = x.astype(np.float64)
    total = np.square(residual - residual.mean(axis=0)).sum()
    for level, codebook in enumerate(found.codebooks.astype(np.float64)):
        used = np.unique(found.ids.codes[:, level])
        distance = np.square(residual[:, None] - codebook[None, used]).sum(axis=2)
        chosen = np.square(residual - codebook[found.ids.codes[:, level]]).sum(axis=1)
        assert chosen == pytest.approx(distance.min(axis=1), rel=1e-3, abs=1e-5 * total / len(x))
        residual = residual - codebook[found.ids.codes[:, level]]
        assert found.left[level] == pytest.approx(np.square(residual).sum() / total, rel=1e-3, abs=1e-6)


def test_two_pairs_by_hand() -> None:
    found = residual_kmeans([[0.0], [1.0], [10.0], [11.0]], levels=2, size=2)
    first, second = found.ids.codes.T.tolist()
    assert first[0] == first[1] != first[2] == first[3]
    assert second[0] == second[2] != second[1] == second[3]
    assert sorted(found.codebooks[0].ravel().tolist()) == pytest.approx([0.5, 10.5])
    assert sorted(found.codebooks[1].ravel().tolist()) == pytest.approx([-0.5, 0.5])
    assert found.left == pytest.approx([1 / 101, 0], abs=1e-6)  # 4 · 0.25 of 2 · (5.5² + 4.5²)
    assert found.ids.sizes == (2, 2)
    assert not found.ids.collisions()


def test_codes_are_those_of_the_nearest_rows() -> None:
    x = vectors()
    found = residual_kmeans(x, levels=3, size=8)
    check_nearest(x, found)
    assert found.codebooks.shape == (3, 8, 5)
    assert all(use.used == 8 for use in found.ids.usage())
    assert list(found.left) == sorted(found.left, reverse=True)


def test_the_same_of_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = residual_kmeans(vectors(), levels=2, size=8)
    monkeypatch.setattr(module, "ROWS_PER_CODE", 10)
    found = residual_kmeans(vectors(), levels=2, size=8)
    check_nearest(vectors(), found)
    assert found.left[0] > whole.left[0]


def test_equal_seeds_agree_and_others_do_not() -> None:
    one, same, other = (residual_kmeans(vectors(), size=8, seed=seed) for seed in (1, 1, 2))
    assert one.ids.fingerprint() == same.ids.fingerprint()
    assert (one.codebooks == same.codebooks).all()
    assert one.ids.fingerprint() != other.ids.fingerprint()


@pytest.mark.parametrize("scale", [2.0**-60, 2.0**40])
def test_scale_does_not_matter(scale: float) -> None:
    plain, scaled = residual_kmeans(vectors(), size=8), residual_kmeans(vectors() * np.float32(scale), size=8)
    assert (plain.ids.codes == scaled.ids.codes).all()
    assert scaled.codebooks / scale == pytest.approx(plain.codebooks, rel=1e-4, abs=1e-6)
    assert scaled.left == pytest.approx(plain.left)


def test_vectors_far_from_zero() -> None:
    x = vectors() + np.float32(1000)
    check_nearest(x, residual_kmeans(x, size=8))


def test_constant_columns_change_nothing() -> None:
    x = vectors()
    wider = np.column_stack([x, np.full(len(x), 3.0, np.float32), np.zeros(len(x), np.float32)])
    plain, found = residual_kmeans(x, size=8), residual_kmeans(wider, size=8)
    assert (plain.ids.codes == found.ids.codes).all()
    assert found.codebooks.sum(axis=0)[:, 5:] == pytest.approx(np.array([[3.0, 0.0]] * 8))


def test_as_many_codes_as_distinct_vectors_leave_nothing() -> None:
    x = np.repeat(vectors(8), 3, axis=0)
    found = residual_kmeans(x, levels=2, size=8)
    assert found.left == pytest.approx((0, 0), abs=1e-10)
    assert [use.used for use in found.ids.usage()] == [8, 1]
    assert [len(group) for group in found.ids.collisions()] == [3] * 8
    assert (found.codebooks[1, 1:] == 0).all()  # what no residual needs
    with pytest.raises(DataError, match="8 distinct vectors cannot have 9 codes a level"):
        residual_kmeans(x, levels=2, size=9)


def test_vectors_with_nan_are_refused() -> None:
    with pytest.raises(DataError, match="1 of 2 vectors hold NaN"):
        residual_kmeans([[1.0], [np.nan]], size=2)


numbers = st.floats(-(2.0**46), 2.0**46, width=32) | st.sampled_from([0.0, 1.0, 1e-30, 1e-45, 16777216.0, 16777217.0])


@settings(max_examples=60)
@given(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=12), st.integers(1, 3), st.integers(2, 4))
def test_every_table_has_codes_or_is_refused(rows: list[tuple[float, float]], levels: int, size: int) -> None:
    x = np.array(rows, dtype=np.float32)
    if len({(a + 0.0, b + 0.0) for a, b in x.tolist()}) < size:
        with pytest.raises(DataError, match="distinct vectors cannot have"):
            residual_kmeans(x, levels, size)
        return
    found = residual_kmeans(x, levels, size)
    assert found.ids.codes.shape == (len(rows), levels)
    assert np.isfinite(found.codebooks).all()
    assert all(0 <= left <= 1 + 1e-3 for left in found.left)
