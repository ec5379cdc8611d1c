"""What every sequence model is: items and positions in, blocks over the history, inner products with all items out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from recsys.config import Config
from recsys.errors import ConfigError, DataError

__all__ = ["Places", "SequenceConfig", "SequenceModel"]


class SequenceConfig(Config):
    """What all sequence models have in common."""

    context: int = Field(50, ge=1)
    """Newest events of a history that the model reads."""
    width: int = Field(64, ge=1)
    """Columns of an item's embedding and of every block."""
    layers: int = Field(2, ge=0)
    """How many blocks."""
    heads: int = Field(2, ge=1)
    """Attention heads of a block; they share the width evenly."""
    dropout: float = Field(0.2, ge=0, lt=1)
    """Share of units that training drops."""
    temperature: float | None = Field(None, gt=0)
    """If given, scores are cosines divided by it; otherwise inner products."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"expected a `width` that `heads` divides, got {self.width} and {self.heads}")
        return self


@dataclass(frozen=True)
class Places:
    """Where the rows of a batch stand in their histories, and which of them each may look at.

    Made once, before the first block, and handed to every block; when rows are let go of in between, those that are
    left keep their positions.
    """

    positions: Tensor
    """[B, L] or [1, L] int64: 0 is the oldest event that the model reads."""
    visible: Tensor
    """[B, L, L] or [1, L, L] bool: whether row i (second axis) may look at row j (third)."""

    @classmethod
    def causal(cls, length: int, device: torch.device) -> Self:
        """`length` rows, each of which sees itself and what came before."""
        positions = torch.arange(length, device=device).unsqueeze(0)
        return cls(positions, positions.unsqueeze(1) <= positions.unsqueeze(2))


class SequenceModel(nn.Module):
    """``h_t = norm(block_k(… block_1(√d · E[i_≤t] + P[0…t])))`` and ``score(i) = ⟨h_t, E[i]⟩``.

    One embedding E serves input and output, as in SASRec (arXiv 1808.09781, section 3.3). Input rows are multiplied by
    √d, as its code and HSTU's (arXiv 2402.17152) do. With a temperature τ, both sides of the product are scaled to
    length one and the score is divided by τ, in place of the last norm.

    Histories are left-aligned: padding comes after the newest event. Then looking back only is all the masking that is
    needed, a batch is as wide as its longest history, and an event keeps its position when another one is appended, so
    that keys and values of a history can be kept.

    A subclass makes its blocks and passes them on.

    Args:
        items: I, how many items there are.
        config: Sizes.
        blocks: In order; each makes [B, L, d] of x [B, L, d] and its `Places`, a row from those that it may look at.

    Raises:
        ConfigError: When there are no items.
    """

    def __init__(self, items: int, config: SequenceConfig, blocks: Iterable[nn.Module]) -> None:
        super().__init__()
        if items < 1:
            raise ConfigError(f"expected at least one item, got {items}")
        self.config = config
        self.items = nn.Embedding(items + 1, config.width, padding_idx=0)
        self.positions = nn.Embedding(config.context, config.width)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.Identity() if config.temperature else nn.LayerNorm(config.width)
        with torch.no_grad():
            # As in HSTU's code; an input row is then about as long as its position's.
            self.items.weight[1:].normal_(0.0, 0.02)
            self.positions.weight.normal_(0.0, config.width**-0.5)

    def hidden(self, items: Tensor) -> Tensor:
        """What the model knows after each event, [B, L, d]; what stands at padding has no meaning.

        Args:
            items: [B, L] of 1 … I, left-aligned, 0 being padding; L at most the context.

        Raises:
            DataError: When rows are longer than the context.
        """
        places = Places.causal(items.shape[1], items.device)
        x = self.embed(items, places)
        for block in self.blocks:
            x = block(x, places)
        normed: Tensor = self.norm(x)
        return normed

    def embed(self, items: Tensor, places: Places) -> Tensor:
        """Rows of items [B, L] at their places, [B, L, d]."""
        if items.shape[1] > self.config.context:
            raise DataError(
                f"expected rows of at most {self.config.context} events, the model's context, got {items.shape[1]}; "
                "pass the newest ones"
            )
        x = self.items(items) * self.config.width**0.5 + self.positions(places.positions)
        dropped: Tensor = self.dropout(x)
        return dropped

    def queries(self, h: Tensor) -> Tensor:
        """The left side of a score after h [..., d], [..., d]."""
        return F.normalize(h, dim=-1) / self.config.temperature if self.config.temperature else h

    def keys(self) -> Tensor:
        """The right side of all items' scores, [I + 1, d]; row 0 is no item's."""
        rows: Tensor = self.items.weight
        return F.normalize(rows, dim=-1) if self.config.temperature else rows

    def score(self, h: Tensor) -> Tensor:
        """Scores of all items after h [..., d]: [..., I + 1], column 0 at -inf because it is no item."""
        scores = self.queries(h) @ self.keys().T
        scores[..., 0] = -torch.inf
        return scores

    def next_scores(self, items: Tensor, lengths: Tensor) -> Tensor:
        """Scores of all items as the next event of each history, [B, I + 1].

        Args:
            items: [B, L] as `hidden` takes them.
            lengths: [B] events of each row. One without events is scored like a history of padding alone: finite, the
                same for all such rows, and nothing that training has seen.
        """
        newest = (lengths - 1).clamp(min=0)
        h = self.hidden(items)
        return self.score(h[torch.arange(len(h), device=h.device), newest])
