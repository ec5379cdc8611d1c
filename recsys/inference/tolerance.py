"""What the quality gate lets pass."""

from __future__ import annotations

from pydantic import Field

from recsys.config import Config

__all__ = ["Tolerance"]


class Tolerance(Config):
    """What may be lost."""

    auc: float = Field(0.001, ge=0)
    """AUC, at the lower end of the difference's 95 % interval."""
    normalised_entropy: float = Field(0.001, ge=0)
    """Normalised entropy, at the upper end."""
    rmse: float = Field(0.001, ge=0)
    """RMSE of a regression, at the upper end, as a share of the label's standard deviation."""
    mean_difference: float = Field(0.01, ge=0)
    """Mean difference of the two scores: of probabilities as it is, of a regression as a share of the label's standard
    deviation, or of the trained model's scores' where there are no labels."""
    rank_correlation: float = Field(0.999, ge=-1, le=1)
    """Least rank correlation (Spearman) of the two scores."""
