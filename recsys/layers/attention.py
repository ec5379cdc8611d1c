"""Attention of a target over a history."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from recsys.layers.mlp import MLP

__all__ = ["TargetAttention"]


class TargetAttention(nn.Module):
    """DIN's activation unit: ``Σ_t a(e_t, q) · e_t``, a weight a step from what it has in common with the target.

    ``a = MLP([q, e, q - e, q ⊙ e])``, without a softmax, so that the strength of an interest survives
    (Zhou et al. 2018, arXiv 1706.06978, section 4.3). ReLU takes the place of the paper's Dice.

    Args:
        dim: Columns of an embedding.
        hidden: Columns of the unit's hidden layers.
    """

    def __init__(self, dim: int, hidden: Sequence[int] = (36,)) -> None:
        super().__init__()
        self.unit = MLP(4 * dim, hidden, 1)

    def forward(self, target: Tensor, history: Tensor, lengths: Tensor) -> Tensor:
        """Target [B, d], history [B, L, d], lengths [B] -> [B, d]; an empty history gives zeros."""
        query = target.unsqueeze(1).expand_as(history)
        weights: Tensor = self.unit(torch.cat([query, history, query - history, query * history], dim=2))
        present = torch.arange(history.shape[1], device=lengths.device) < lengths.unsqueeze(1)
        return (weights * present.unsqueeze(2) * history).sum(dim=1)
