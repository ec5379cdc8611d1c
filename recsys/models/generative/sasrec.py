"""SASRec: self-attention over the history."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn

from recsys.models.generative.base import Places, SequenceConfig, SequenceModel

__all__ = ["SASRec", "SASRecBlock", "SASRecConfig"]


class SASRecConfig(SequenceConfig):
    """SASRec (Kang and McAuley 2018)."""

    name: Literal["sasrec"] = "sasrec"


class SASRecBlock(nn.Module):
    """``x ← x + Attention(LN(x))``, then ``x ← x + W₂ ReLU(W₁ LN(x) + b₁) + b₂``; dropout on weights and both sums.

    Kang and McAuley 2018, arXiv 1808.09781, section 3.2, as its formula ``x + Dropout(g(LayerNorm(x)))`` has it. Its
    code normalises the queries alone and adds to these; here all of attention sees LN(x), and the sum is with x.

    Args:
        config: Width, heads and dropout; the hidden layer is as wide as the model.
    """

    def __init__(self, config: SequenceConfig) -> None:
        super().__init__()
        width, self.heads = config.width, config.heads
        self.attention_norm, self.network_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, width), nn.Linear(width, width)
        self.dropout = nn.Dropout(config.dropout)
        for layer in (self.qkv, self.out, self.up, self.down):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, places: Places) -> Tensor:
        """[B, L, d] from [B, L, d]."""
        x = x + self.dropout(self._attention(self.attention_norm(x), places))
        hidden = self.dropout(F.relu(self.up(self.network_norm(x))))
        out: Tensor = x + self.dropout(self.down(hidden))
        return out

    def _attention(self, x: Tensor, places: Places) -> Tensor:
        split = self.qkv(x).view(*x.shape[:2], 3, self.heads, x.shape[2] // self.heads)
        q, k, v = split.permute(2, 0, 3, 1, 4)  # each [B, heads, L, d / heads]
        drop = self.dropout.p if self.training else 0.0
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=places.visible.unsqueeze(1), dropout_p=drop)
        out: Tensor = self.out(seen.transpose(1, 2).flatten(2))
        return out


class SASRec(SequenceModel):
    """`SASRecBlock` after `SASRecBlock`, as `SequenceModel` says.

    Kang and McAuley 2018, arXiv 1808.09781. Trained with full cross entropy it is far better than its paper's loss
    showed it (Klenitskiy and Vasilev 2023, arXiv 2309.07602).

    Args:
        items: I, how many items there are.
        config: Sizes.
    """

    def __init__(self, items: int, config: SASRecConfig) -> None:
        super().__init__(items, config, [SASRecBlock(config) for _ in range(config.layers)])
