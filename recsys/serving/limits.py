"""How much one request may ask for."""

from __future__ import annotations

from pydantic import Field

from recsys.config import Config

__all__ = ["Limits"]


class Limits(Config):
    """What one request may ask for; more is refused before anything is computed."""

    max_bytes: int = Field(4 * 2**20, ge=1)
    """Bytes of a body."""
    max_rows: int = Field(10_000, ge=1)
    """Rows of a batch, or candidates of a ranking."""
    max_values: int = Field(4_000_000, ge=1)
    """Values of a ranking, each item of a list one; the user's context counts once for every candidate."""
    seconds: float = Field(10.0, gt=0)
    """How long headers may take to arrive, and then a body."""
