"""What residual quantisation gives, whoever learnt it, and what it asks of vectors.

Level by level a vector is replaced by the nearest row of a codebook, and what is left goes to the next level:
``r_0 = x; c_l = argmin_k ‖r_l - e_lk‖²; r_{l+1} = r_l - e_{l,c_l}``, so ``x ≈ Σ_l e_{l,c_l}``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from recsys.data.semantic_ids import MOST_LEVELS, SemanticIds
from recsys.errors import ConfigError, DataError

__all__ = ["Epoch", "Floats", "Quantised", "checked", "distinct_rows", "share_left"]

Floats = npt.NDArray[np.float32]

_HUGE = 1e15
"""Magnitude of values whose squares float32 cannot sum."""


@dataclass(frozen=True)
class Epoch:
    """Losses of one pass of an RQ-VAE over the items, means over its batches.

    Attributes:
        reconstruction: Of the decoder, a share of the variance of the standardised vectors.
        quantisation: Of the codebooks, summed over levels, without the commitment term.
        reset: Codes that no item had and that were put elsewhere after the epoch.
    """

    reconstruction: float
    quantisation: float
    reset: int


@dataclass(frozen=True, eq=False)
class Quantised:
    """Semantic ids and what they stand for.

    Attributes:
        ids: Of the I items.
        codebooks: [levels, size, d] float32; of an RQ-VAE in its latent space.
        left: [levels] share of the vectors' variance that is lost when only the first 1, 2, … levels are kept:
            ``Σ_i ‖x_i - x̂_i‖² / Σ_i ‖x_i - x̄‖²``. An RQ-VAE's x̂ is what the decoder makes of the sum of codes.
        epochs: Of an RQ-VAE.
    """

    ids: SemanticIds
    codebooks: Floats
    left: tuple[float, ...]
    epochs: tuple[Epoch, ...] = ()


def checked(x: npt.ArrayLike, levels: int, size: int) -> Floats:
    """Vectors [I, d] as float32 that can be quantised with `size` codes a level.

    Raises:
        ConfigError: When levels or size cannot be.
        DataError: When the vectors are no such table, hold NaN, infinite or huge values, or fewer distinct rows than
            codes.
    """
    if not 1 <= levels <= MOST_LEVELS or size < 2:
        raise ConfigError(f"expected 1 to {MOST_LEVELS} levels of 2 codes or more, got {levels} of {size}")
    rows = np.asarray(x)
    if rows.ndim != 2 or rows.dtype.kind not in "fiu" or not rows.size:
        raise DataError(f"expected vectors [items, d] of numbers, got {list(rows.shape)} of {rows.dtype}")
    with np.errstate(over="ignore"):  # what becomes infinite is refused
        made = np.ascontiguousarray(rows, dtype=np.float32)
    if bad := int((~(np.abs(made) < _HUGE).all(axis=1)).sum()):
        raise DataError(f"{bad} of {len(rows)} vectors hold NaN, infinite values or some beyond ±{_HUGE:.0e}")
    if (found := distinct_rows(made, size)) < size:
        raise DataError(f"{found} distinct vectors cannot have {size} codes a level; choose a smaller size")
    return made


def distinct_rows(rows: Floats, enough: int) -> int:
    """How many different rows there are, or `enough` if there are as many.

    Args:
        rows: [n, d], contiguous.
        enough: Where counting may end.
    """
    found = 0
    for part in (rows[: 4 * enough], rows):  # mostly the first ones are enough
        raw = np.ascontiguousarray(part + np.float32(0))  # -0 and 0 are equal, and so must their bytes be
        found = len(np.unique(raw.view(np.dtype((np.void, raw.itemsize * raw.shape[1])))))
        if found >= enough:
            return enough
    return found


def share_left(x: Floats, residual: Floats) -> float:
    """``Σ_i ‖residual_i‖² / Σ_i ‖x_i - x̄‖²``, summed in float64.

    Args:
        x: [I, d], not all rows equal, on a scale that squares survive.
        residual: [I, d].
    """
    centred = x - x.mean(axis=0, dtype=np.float64).astype(np.float32)
    return _squares(residual) / _squares(centred)


def _squares(rows: Floats) -> float:
    return float(np.einsum("id,id->i", rows, rows).sum(dtype=np.float64))
