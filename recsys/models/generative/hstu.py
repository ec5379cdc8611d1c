"""HSTU: attention whose weights are no shares, gated by what asks."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recsys.models.generative.base import Places, SequenceConfig, SequenceModel

__all__ = ["HSTU", "HSTUBlock", "HSTUConfig"]


class HSTUConfig(SequenceConfig):
    """HSTU (Zhai et al. 2024)."""

    name: Literal["hstu"] = "hstu"


class HSTUBlock(nn.Module):
    """``[u,v,q,k] = SiLU(LN(x) W)``, ``A_ij = SiLU(q_i·k_j + r_{p_i - p_j}) / n``, ``y = W_o (LN(A v) ⊙ u) + b + x``.

    Row j is looked at only where it may be (causal); r is learnt, one number a distance, shared by the heads; the norms
    have no weights, as in the authors' code. n is the context, not the batch's longest history, so that a score does
    not depend on who else is asked about. Zhai et al. 2024, arXiv 2402.17152, section 3.

    r is of positions alone. The paper adds a second one of time passed, in buckets; histories need not have times.

    Args:
        config: Width, heads, dropout and context.
    """

    def __init__(self, config: SequenceConfig) -> None:
        super().__init__()
        width, self.heads, self.context = config.width, config.heads, config.context
        self.uvqk = nn.Linear(width, 4 * width, bias=False)
        self.distance = nn.Parameter(torch.empty(config.context))
        self.out = nn.Linear(width, width)
        self.dropout = nn.Dropout(config.dropout)
        nn.init.normal_(self.uvqk.weight, std=0.02)
        nn.init.normal_(self.distance, std=0.02)
        nn.init.xavier_uniform_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, places: Places) -> Tensor:
        """[B, L, d] from [B, L, d]."""
        u, v, q, k = F.silu(self.uvqk(_normed(x))).chunk(4, dim=-1)
        seen = self._weights(q, k, places) @ self._by_head(v)
        gated = _normed(seen.transpose(1, 2).flatten(2)) * u
        out: Tensor = x + self.out(self.dropout(gated))
        return out

    def _weights(self, q: Tensor, k: Tensor, places: Places) -> Tensor:
        """A [B, heads, L, L] of queries and keys [B, L, d]."""
        back = places.positions.unsqueeze(2) - places.positions.unsqueeze(1)
        bias = self.distance[back.clamp(0, self.context - 1)].unsqueeze(1)
        raw = self._by_head(q) @ self._by_head(k).transpose(2, 3) + bias
        return F.silu(raw).masked_fill(~places.visible.unsqueeze(1), 0.0) / self.context

    def _by_head(self, x: Tensor) -> Tensor:
        """[B, L, d] -> [B, heads, L, d / heads]."""
        return x.reshape(*x.shape[:2], self.heads, x.shape[2] // self.heads).transpose(1, 2)


def _normed(x: Tensor) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], eps=1e-6)


class HSTU(SequenceModel):
    """`HSTUBlock` after `HSTUBlock`, as `SequenceModel` says.

    Zhai et al. 2024, arXiv 2402.17152. Published figures for MovieLens and Amazon Books score by cosine at a
    temperature of 0.05 (`SequenceConfig.temperature`), and train with sampled negatives.

    Args:
        items: I, how many items there are.
        config: Sizes.
    """

    def __init__(self, items: int, config: HSTUConfig) -> None:
        super().__init__(items, config, [HSTUBlock(config) for _ in range(config.layers)])
