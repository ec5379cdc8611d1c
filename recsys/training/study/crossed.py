"""Intervals of a mean over seeds and windows at once."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy import stats

from recsys.training.bootstrap import Interval

__all__ = ["crossed_interval"]


def crossed_interval(measured: npt.NDArray[np.float64], level: float = 0.95) -> Interval:
    """The mean of a table [seeds, windows] and its interval, where other seeds *and* other windows might have come.

    Two crossed random effects, ``d_sw = μ + a_s + b_w + e_sw``. With the mean squares of seeds M_S, of windows M_W and
    of the remainder M_E, ``Var(mean) = (M_S + c M_W - M_E) / (S W)``, with Satterthwaite's degrees of freedom for
    Student's t (Searle, Casella and McCulloch 1992, "Variance Components", chapter 4). Windows that follow each other
    are alike: their means are taken for a first-order autoregression with correlation ρ, so that W of them tell as much
    as W / c independent ones, ``c = (1 + ρ) / (1 - ρ)``. An estimate below what seeds or windows alone would give is
    chance, and is raised to the larger of these. What differs from window to window for both of two arms cancels when
    `measured` holds their differences.

    Args:
        measured: [S, W] numbers, S + W at least 3, windows in their order; with one seed, or one window, the other
            alone counts.
        level: Share of intervals that hold the true mean.
    """
    seeds, windows = measured.shape
    mean = float(measured.mean())
    rows, columns = measured.mean(axis=1) - mean, measured.mean(axis=0) - mean
    rest = measured - mean - rows[:, None] - columns[None, :]
    alike = _inflation(columns)
    freedom = np.array([seeds - 1, (windows - 1) / alike, (seeds - 1) * (windows - 1)], dtype=np.float64)
    sums = np.array([windows * np.square(rows).sum(), seeds * np.square(columns).sum(), np.square(rest).sum()])
    squares = np.divide(sums, freedom, out=np.zeros(3), where=freedom > 0)
    total = max(squares[0] + squares[1] - squares[2], squares[:2].max())
    if not total > 0:
        return Interval(mean, mean, mean) if measured.size > 1 else Interval(mean, math.nan, math.nan)
    largest = squares.max()  # degrees of freedom have no unit: shares of it keep squares of tiny numbers above 0
    spread = np.divide(np.square(squares / largest), freedom, out=np.zeros(3), where=freedom > 0).sum()
    degrees = max((total / largest) ** 2 / spread, freedom[:2][freedom[:2] > 0].min())
    reach = float(stats.t.ppf((1 + level) / 2, degrees)) * math.sqrt(total / measured.size)
    return Interval(mean, mean - reach, mean + reach)


def _inflation(columns: npt.NDArray[np.float64]) -> float:
    """``(1 + ρ) / (1 - ρ)`` of the windows' centred means; at least 1, and of too few windows 1.

    Of W values the sample's correlation is too low by (1 + 3ρ) / W (Kendall 1954), which is put back.
    """
    windows, power = len(columns), float(np.square(columns).sum())
    if windows < 8 or not power > 0:
        return 1.0
    found = float((columns[1:] * columns[:-1]).sum()) / power
    correlation = min(max((windows * found + 1) / (windows - 3), 0.0), 0.9)
    return (1 + correlation) / (1 - correlation)
