"""Attention of rows [A, heads, head_dim] over cached keys and values, heads before rows."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

__all__ = ["causal", "masked"]


def causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """One sequence: each row sees itself and the rows before it; one row alone is the last and sees all.

    Args:
        q: [L or 1, heads, head_dim].
        k: [kv_heads, L, head_dim].
        v: [kv_heads, L, head_dim].

    Returns:
        As `q`.
    """
    grouped = q.shape[1] != k.shape[0]
    q = q.transpose(0, 1).unsqueeze(0)
    out = functional.scaled_dot_product_attention(
        q, k.unsqueeze(0), v.unsqueeze(0), is_causal=q.shape[2] > 1, enable_gqa=grouped
    )
    return out.squeeze(0).transpose(0, 1)


def masked(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """W beams of each of B requests over the keys of their request.

    The heads that share keys become rows beside the beams, so that no key is ever copied.

    Args:
        q: [B · W, heads, head_dim].
        k: [B, kv_heads, S, head_dim].
        v: [B, kv_heads, S, head_dim].
        mask: [B, W, S] added to the scores.

    Returns:
        As `q`.
    """
    batch, kv_heads, _, head_dim = k.shape
    group = q.shape[1] // kv_heads
    beams = mask.shape[1]
    rows = q.view(batch, beams, kv_heads, group, head_dim).permute(0, 2, 3, 1, 4).flatten(2, 3)
    seen = mask.repeat(1, group, 1).unsqueeze(1) if group > 1 else mask.unsqueeze(1)
    out = functional.scaled_dot_product_attention(rows, k, v, seen)
    return out.view(batch, kv_heads, group, beams, head_dim).permute(0, 3, 1, 2, 4).reshape(q.shape)
