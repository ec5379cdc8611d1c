"""Attention of rows [A, heads, head_dim] over cached keys and values, in which heads come before rows.

On a CPU it is written as products and a softmax: torch's fused kernel there took 1.4 times as long for a prompt of 257
rows in float32, 2.3 times in bfloat16 (8 heads of 64, one Zen 5 core), for it multiplies blocks too small for its BLAS.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["causal", "masked", "spread"]

_ROWS = {torch.float32: 64}
"""Queries taken together on a CPU: of more, more of the product is hidden by the mask; of fewer, products get slow."""


def causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """One sequence: each row sees itself and the rows before it; one row alone is the last and sees all.

    Args:
        q: [L or 1, heads, head_dim].
        k: [kv_heads, L, head_dim].
        v: [kv_heads, L, head_dim].

    Returns:
        As `q`.
    """
    if q.device.type == "cpu":
        return _causal_products(q, k, v)
    rows = q.transpose(0, 1).unsqueeze(0)
    out = functional.scaled_dot_product_attention(
        rows, k.unsqueeze(0), v.unsqueeze(0), is_causal=len(q) > 1, enable_gqa=q.shape[1] != k.shape[0]
    )
    return out.squeeze(0).transpose(0, 1)


def masked(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """W beams of each of B requests over the keys of their request.

    The heads that share keys become rows beside the beams, so that no key is ever copied.

    Args:
        q: [B · W, heads, head_dim].
        k: [B, kv_heads, S, head_dim].
        v: [B, kv_heads, S, head_dim].
        mask: [B · kv_heads, heads / kv_heads · W, S] added to the scores; `spread` makes it.

    Returns:
        As `q`.
    """
    batch, kv_heads, _, head_dim = k.shape
    grouped = q.view(batch, -1, kv_heads, q.shape[1] // kv_heads, head_dim).permute(0, 2, 3, 1, 4)
    rows = grouped.reshape(*mask.shape[:2], head_dim)
    if q.device.type == "cpu":
        out = _masked_products(rows, k.flatten(0, 1), v.flatten(0, 1), mask)
    else:
        wide = (tensor.view(batch, kv_heads, -1, tensor.shape[-1]) for tensor in (rows, mask))
        out = functional.scaled_dot_product_attention(next(wide), k, v, next(wide))
    return out.view(grouped.shape).permute(0, 3, 1, 2, 4).reshape(q.shape)


def spread(seen: Tensor, heads: int, kv_heads: int, dtype: torch.dtype) -> Tensor:
    """What beams see, as what `masked` adds to scores: 0, or -inf where nothing is seen.

    Args:
        seen: [B, W, S] bool.
        heads: That ask.
        kv_heads: That answer.
        dtype: Of the scores.
    """
    added = torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, -torch.inf)
    return added.repeat(1, heads // kv_heads, 1).repeat_interleave(kv_heads, dim=0)


def _causal_products(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """`causal`, some rows at a time over the keys that the last of them sees."""
    kv_heads, length, head_dim = k.shape
    out, step = torch.empty_like(q), _ROWS.get(q.dtype, 128)
    later = torch.full((step, step), -torch.inf, dtype=q.dtype).triu_(1)
    q = (q / math.sqrt(head_dim)).view(len(q), kv_heads, -1, head_dim)
    for start in range(0, len(q), step):
        grouped = q[start : start + step].permute(1, 2, 0, 3)
        size = grouped.shape[2]
        end = length - len(q) + start + size
        scores = torch.bmm(grouped.reshape(kv_heads, -1, head_dim), k[:, :end].transpose(1, 2))
        scores.view(*grouped.shape[:3], end)[..., end - size :].add_(later[:size, :size])
        seen = torch.bmm(scores.softmax(-1), v[:, :end])
        out[start : start + size] = seen.view(grouped.shape).permute(2, 0, 1, 3).flatten(1, 2)
    return out


def _masked_products(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    """``softmax(q kᵀ / sqrt(head_dim) + mask) v`` of [N, A, head_dim] over [N, S, head_dim]."""
    scores = torch.baddbmm(mask, q, k.transpose(1, 2), alpha=1 / math.sqrt(q.shape[2]))
    return torch.bmm(scores.softmax(-1), v)
