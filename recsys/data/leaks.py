"""How well one column alone predicts a label: what predicts it nearly always was mostly not known beforehand."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["auc", "of_categories", "of_numbers"]

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

_LEAST = 10
"""Rows of either class below which an AUC says little."""


def auc(scores: Floats, positive: Bools) -> float | None:
    """The chance that a positive row scores above a negative one, ties counting half; None for too few of either."""
    from scipy.stats import rankdata

    ones = int(positive.sum())
    zeros = positive.size - ones
    if min(ones, zeros) < _LEAST:
        return None
    ranks = rankdata(scores)
    return float((ranks[positive].sum() - ones * (ones + 1) / 2) / (ones * zeros))


def of_numbers(values: Floats, positive: Bools) -> float | None:
    """AUC of a number in the better direction, with missing values below or above all others."""
    found = [auc(np.where(np.isnan(values), end, values), positive) for end in (-np.inf, np.inf)]
    return max((max(a, 1 - a) for a in found if a is not None), default=None)


def of_categories(values: pa.Array, positive: Bools) -> float | None:
    """AUC of each value's share of positives, learnt on the first half of the rows and measured on the second.

    The share counts one more row of the overall share, which is also what a value unseen in the first half gets.
    """
    coded = pc.dictionary_encode(values, null_encoding="encode")
    codes = coded.indices.to_numpy(zero_copy_only=False)
    half = codes.size // 2
    overall = float(positive[:half].mean()) if half else 0.0
    seen = np.bincount(codes[:half], minlength=len(coded.dictionary))
    ones = np.bincount(codes[:half], weights=positive[:half], minlength=len(coded.dictionary))
    return auc(((ones + overall) / (seen + 1))[codes[half:]], positive[half:])
