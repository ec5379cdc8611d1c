"""Ids that look like real ones: the hot-row curve of a distribution, and batches drawn from it.

Ranks count rows from the hottest on: rank 0 is the hottest. `scatter` says which row has which rank, so that hot rows
lie all over a table, as they do where vocabularies are hashed.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from recsys.data.batch import JaggedIds
from recsys.dataflow.workload import Ids, Workload, WorkloadLookup
from recsys.errors import ConfigError

__all__ = ["batch", "curve", "grid", "harmonic", "hottest", "sample", "scatter", "unique_share"]

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

POINTS = 64
"""Most points of a computed hot-row curve."""

_HEAD = 1024
"""Ranks whose hits are added one by one; the sum over those behind is a formula."""

_GUIDE = 1 << 16
"""Cells of the guide table that many draws go through."""


def grid(rows: int, points: int = POINTS) -> Ints:
    """Numbers of rows from 1 to `rows`, about evenly spaced by ratio: at most so many points."""
    if rows <= points:
        return np.arange(1, rows + 1)
    return np.unique(np.round(np.geomspace(1, rows, points)).astype(np.int64))


def curve(ids: Ids, rows: int) -> tuple[Ints, Floats]:
    """The hot-row curve: n, ascending, and the share of the ids that fall on the n hottest rows; at last (rows, 1.0).

    Between two points rows count as equally hot.
    """
    if ids.distribution == "equal":
        n = np.unique([1, rows])
    elif ids.distribution == "measured":
        n = np.array([n for n, _ in ids.hot if n < rows] + [rows])
    else:
        n = grid(rows)
    shares = hottest(ids, rows, n)
    shares[-1] = 1.0
    return n, shares


def hottest(ids: Ids, rows: int, n: Ints) -> Floats:
    """The share of the ids that fall on the n hottest of N rows, for each of `n`, which ascend.

    uniform n / N; zipf H(n) / H(N), see `harmonic`; equal 1; measured as it was, and where the table has been cut below
    that, of the ids on the rows that are left.
    """
    n = np.clip(n, 0, rows)
    if ids.distribution == "uniform":
        return n / rows
    if ids.distribution == "equal":
        return (n > 0).astype(np.float64)
    if ids.distribution == "zipf":
        found = harmonic(n, ids.exponent) / harmonic(np.array([rows]), ids.exponent)
    else:
        known, shares = zip((0, 0.0), *ids.hot, strict=True)
        found = np.interp(n, known, shares) / np.interp(rows, known, shares)
    return np.minimum(np.maximum.accumulate(found), 1.0)


def harmonic(n: Ints, exponent: float) -> Floats:
    """Generalised harmonic numbers, H(n) = Σ k^-s for k = 1 … n.

    Up to m = 1024 it is the sum itself, beyond it is Euler and Maclaurin's formula, exact to rounding:
    H(m) + ∫ f + (f(n) - f(m)) / 2 + (f'(n) - f'(m)) / 12 with f(x) = x^-s, integrated from m to n.
    """
    head = np.append(0.0, np.cumsum(np.arange(1, _HEAD + 1, dtype=np.float64) ** -exponent))
    m, x = float(_HEAD), np.maximum(n, _HEAD).astype(np.float64)
    power = (1 - exponent) * np.log(x / m)
    grown = np.divide(np.expm1(power), power, out=np.ones_like(x), where=power != 0)
    area = m ** (1 - exponent) * np.log(x / m) * grown
    ends = x**-exponent - m**-exponent
    slopes = -exponent * (x ** (-exponent - 1) - m ** (-exponent - 1))
    total: Floats = head[np.minimum(n, _HEAD)] + np.where(n > _HEAD, area + ends / 2 + slopes / 12, 0.0)
    return total


def scatter(ranks: Ints, rows: int) -> Ints:
    """The rows of a table that have these ranks: a fixed bijection of 0 … rows - 1 that looks random.

    Multiplying by an odd number and folding the high bits onto the low ones are bijections of k bits; what comes out at
    `rows` or above goes through them again, until it is inside.
    """
    bits = max(int(rows - 1).bit_length(), 1)
    found = _mixed(ranks.astype(np.uint64), bits)
    outside = np.flatnonzero(found >= rows)
    while outside.size:
        found[outside] = _mixed(found[outside], bits)
        outside = outside[found[outside] >= rows]
    return found.astype(np.int64)


def _mixed(x: npt.NDArray[np.uint64], bits: int) -> npt.NDArray[np.uint64]:
    mask, shift = np.uint64((1 << bits) - 1), np.uint64((bits + 1) // 2)
    for odd in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB):
        x = (x * np.uint64(odd) + np.uint64(odd >> 7)) & mask
        x ^= x >> shift
    return x


def sample(ids: Ids, rows: int, bags: int, rng: np.random.Generator) -> tuple[Ints, Ints | None]:
    """Draw bags of ids.

    Args:
        ids: What they look like.
        rows: Of the table.
        bags: How many.
        rng: Of one seed, the same calls draw the same.

    Returns:
        The bags' ids, one bag behind the other, and how many ids each holds: None when each holds one.
    """
    lengths = _lengths(ids, bags, rng)
    count = bags if lengths is None else int(lengths.sum())
    return scatter(_ranks(ids, rows, rng.random(count)), rows), lengths


def _lengths(ids: Ids, bags: int, rng: np.random.Generator) -> Ints | None:
    sizes = np.array([n for n, _ in ids.bags])
    if len(sizes) == 1:
        return None if sizes[0] == 1 else np.full(bags, sizes[0])
    ends = np.cumsum([share for _, share in ids.bags])
    lengths: Ints = sizes[_first_above(ends / ends[-1], rng.random(bags))]
    return lengths


def _ranks(ids: Ids, rows: int, u: Floats) -> Ints:
    """Ranks of draws u in [0, 1): the hot-row curve inverted."""
    if ids.distribution == "uniform":
        return np.minimum((u * rows).astype(np.int64), rows - 1)
    if ids.distribution == "zipf":
        return _zipf_ranks(ids.exponent, rows, u)
    n, shares = curve(ids, rows)
    k = _first_above(shares, u)
    first, before = np.append(0, n)[k], np.append(0.0, shares)[k]
    part = (u - before) / (shares[k] - before)
    ranks: Ints = np.minimum(first + (part * (n[k] - first)).astype(np.int64), n[k] - 1)
    return ranks


def _zipf_ranks(exponent: float, rows: int, u: Floats) -> Ints:
    """The first ranks by their sums; those behind by the integral of x^-s over a unit around each, which inverts."""
    known = min(rows, _HEAD)
    total = harmonic(np.array([rows]), exponent)
    ends = np.minimum(harmonic(np.arange(1, known + 1), exponent) / total, 1.0)
    ends = np.append(ends[:-1] if known == rows else ends, 1.0)
    ranks = _first_above(ends, u)
    tail = np.flatnonzero(ranks == known)
    if tail.size:
        v = (u[tail] - ends[-2]) / (1 - ends[-2])
        ranks[tail] = _tail_ranks(exponent, known, rows, v)
    return ranks


def _tail_ranks(exponent: float, known: int, rows: int, v: Floats) -> Ints:
    """Where the integral of x^-s from known + ½ on has v of what it has at rows + ½."""
    start, log = known + 0.5, np.log((rows + 0.5) / (known + 0.5))
    power = (1 - exponent) * log
    x = start * np.exp(v * log if power == 0 else np.log1p(v * np.expm1(power)) / (1 - exponent))
    ranks: Ints = np.minimum((x - 0.5).astype(np.int64), rows - 1)
    return ranks


def _first_above(ends: Floats, u: Floats) -> Ints:
    """The first k with ends[k] > u, for every u in [0, 1); `ends` ascends to 1.

    Many draws go through a table of equal cells: most cells lie within one k, and only the others are searched.
    """
    if u.size < _GUIDE:
        return np.searchsorted(ends, u, side="right")
    guide = np.searchsorted(ends, np.arange(_GUIDE + 1) / _GUIDE, side="right")
    cells = (u * _GUIDE).astype(np.int64)
    found = guide[cells]
    open_ = np.flatnonzero(found != guide[cells + 1])
    found[open_] = np.searchsorted(ends, u[open_], side="right")
    return found


def batch(workload: Workload, size: int, rng: np.random.Generator, index_dtype: torch.dtype = torch.int64) -> JaggedIds:
    """Draw a batch for all look-ups of a workload; its features are the look-ups' names, in their order.

    Ids are drawn one without regard to another, so that less repeats in a batch than `Ids.unique` has of real ones.
    Where a look-up is weighted, weights are drawn evenly from 0 to 1.

    Raises:
        ConfigError: When a table has more rows than `index_dtype` can tell apart.
    """
    limit = torch.iinfo(index_dtype).max
    largest = max(workload.tables, key=lambda table: table.rows, default=None)
    if largest is not None and largest.rows - 1 > limit:
        raise ConfigError(f"table `{largest.name}` has {largest.rows:,} rows, more than {index_dtype} ids can tell")
    parts = [_part(lookup, workload.table(lookup.table).rows, size, rng, index_dtype) for lookup in workload.lookups]
    return JaggedIds.stack(tuple(lookup.name for lookup in workload.lookups), parts)


def _part(
    lookup: WorkloadLookup, rows: int, size: int, rng: np.random.Generator, index_dtype: torch.dtype
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    values, lengths = sample(lookup.ids, rows, size, rng)
    weights = torch.from_numpy(rng.random(len(values), dtype=np.float32)) if lookup.weighted else None
    return torch.from_numpy(values).to(index_dtype), None if lengths is None else torch.from_numpy(lengths), weights


def unique_share(ids: Ids, rows: int, batch: int) -> float:
    """Distinct ids ÷ ids expected of a batch of so many bags, each drawn by the hot-row curve without regard to others.

    Σ (1 - (1 - p)^N) / N over the rows' shares p, for N ids. Real batches repeat more: what one user looks at is alike.
    """
    count = batch * ids.mean
    if count <= 1:
        return 1.0
    n, shares = curve(ids, rows)
    sizes = np.diff(n, prepend=0)
    with np.errstate(divide="ignore"):  # a row that is always hit: log(0)
        missed = count * np.log1p(-np.minimum(np.diff(shares, prepend=0.0) / sizes, 1.0))
    return float(min((sizes * -np.expm1(missed)).sum() / count, 1.0))
