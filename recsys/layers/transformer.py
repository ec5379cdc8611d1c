"""A Llama-style transformer over packed rows: RMSNorm, rotary positions, grouped-query attention, SwiGLU.

Rows of all sequences lie one behind the other, x [T, width], with the positions [T] that they have in their sequences.
The layers know rows only. What a row attends to, which keys and values are kept, and which rows go on is the business
of a `Pass`: training, prefilling a cache, a decode step and every accelerator is one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from recsys.config import Config

__all__ = [
    "Block",
    "Causal",
    "Pass",
    "RMSNorm",
    "Rotation",
    "Transformer",
    "TransformerConfig",
    "rotate",
    "rotation_of",
]

Rotation = tuple[Tensor, Tensor]
"""Cosines and sines of rows' angles, [T, 1, head_dim / 2] each."""

_INIT_STD = 0.02
"""Of all weights at the start, as Llama's."""


class TransformerConfig(Config):
    """A stack of Llama blocks (Touvron et al. 2023, arXiv 2302.13971)."""

    width: int = Field(256, gt=0)
    """Columns of a row between blocks."""
    layers: int = Field(4, gt=0)
    """How many blocks."""
    heads: int = Field(4, gt=0)
    """Heads that ask."""
    kv_heads: int = Field(4, gt=0)
    """Heads of keys and values; each is shared by heads / kv_heads that ask (Ainslie et al. 2023, arXiv 2305.13245)."""
    head_dim: int = Field(64, gt=0, multiple_of=2)
    """Columns of a head."""
    ffn: int = Field(704, gt=0)
    """Hidden columns of SwiGLU."""
    rope_theta: float = Field(10_000.0, gt=0)
    """Base of the rotary angles."""
    norm_eps: float = Field(1e-6, gt=0)
    """What RMSNorm adds to the mean square."""

    @model_validator(mode="after")
    def _whole_groups(self) -> Self:
        if self.heads % self.kv_heads:
            raise ValueError(f"heads {self.heads} must be a multiple of kv_heads {self.kv_heads}")
        return self


class Pass(Protocol):
    """One way of rows through the layers: what they attend to, what is kept, and which of them go on.

    A pass is made for the rows of one call of `Transformer`, and may hold state from layer to layer. Positions never
    change: a row that goes on keeps the rotary angles that it had.
    """

    def rows(self, layer: int, x: Tensor, positions: Tensor) -> Tensor | None:
        """Which rows enter a layer, as indices into x [T, width]; None for all. The others are gone for good."""
        ...

    def asking(self, layer: int) -> Tensor | None:
        """Which of the rows in a layer ask and go on from it, as indices; None for all.

        The others give the layer their keys and values and are then gone: the last layer of a prefill needs a query
        of the last row only.
        """
        ...

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """What attention gives the rows that ask: [A, heads, head_dim].

        Args:
            layer: Counted from 0.
            q: [A, heads, head_dim] rotated queries of the rows that ask.
            k: [T, kv_heads, head_dim] rotated keys of all rows in the layer.
            v: [T, kv_heads, head_dim] their values.
        """
        ...


class Causal:
    """The pass of training: B sequences of L rows each, every row sees itself and the rows before it.

    Padding on the right needs no mask: no row sees what comes after it.

    Args:
        batch: B.
    """

    def __init__(self, batch: int) -> None:
        self.batch = batch

    def rows(self, layer: int, x: Tensor, positions: Tensor) -> Tensor | None:
        """All."""
        return None

    def asking(self, layer: int) -> Tensor | None:
        """All."""
        return None

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """``softmax(q kᵀ / sqrt(head_dim) + mask) v`` within each sequence."""
        q, k, v = (rows.view(self.batch, -1, *rows.shape[1:]).transpose(1, 2) for rows in (q, k, v))
        out = functional.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=q.shape[1] != k.shape[1])
        return out.transpose(1, 2).flatten(0, 1)


class RMSNorm(nn.Module):
    """``x / sqrt(mean(x²) + eps) · w``, computed in float32 (Zhang and Sennrich 2019, arXiv 1910.07467).

    Args:
        width: Columns.
        eps: Added to the mean square.
    """

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] -> [..., width]."""
        wide = x.float()
        scale = (wide.square().mean(-1, keepdim=True) + self.eps).rsqrt()
        normed: Tensor = self.weight * (wide * scale).to(x.dtype)
        return normed


def rotation_of(positions: Tensor, head_dim: int, theta: float, dtype: torch.dtype) -> Rotation:
    """Angles ``position · theta^(-2j / head_dim)`` for j = 0 … head_dim / 2 - 1 (Su et al. 2021, arXiv 2104.09864).

    Args:
        positions: [T].
        head_dim: Columns of a head.
        theta: Base of the angles.
        dtype: Of the result; angles are float32 whatever the layers compute in.
    """
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32, device=positions.device) / head_dim
    angles = (positions.float().unsqueeze(-1) * theta**-exponents).unsqueeze(1)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(heads: Tensor, rotation: Rotation) -> Tensor:
    """Turn each pair (x_j, x_{j + head_dim / 2}) by its angle: [T, H, head_dim] -> [T, H, head_dim]."""
    cos, sin = rotation
    first, second = heads.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


class Block(nn.Module):
    """``x += out(attention(norm(x)))``, then ``x += down(silu(gate(norm(x))) · up(norm(x)))``.

    Queries, keys and values are one product, gate and up another (SwiGLU: Shazeer 2020, arXiv 2002.05202).

    Args:
        config: Of the transformer.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.heads = (config.heads, config.kv_heads, config.kv_heads)
        self.head_dim = config.head_dim
        self.attention_norm = RMSNorm(config.width, config.norm_eps)
        self.qkv = _linear(config.width, sum(self.heads) * config.head_dim)
        self.out = _linear(config.heads * config.head_dim, config.width)
        self.ffn_norm = RMSNorm(config.width, config.norm_eps)
        self.gate_up = _linear(config.width, 2 * config.ffn)
        self.down = _linear(config.ffn, config.width)

    def forward(self, layer: int, x: Tensor, rotation: Rotation, passing: Pass, asking: Tensor | None) -> Tensor:
        """Rows x [T, width] -> [A, width], the rows that ask."""
        qkv = self.qkv(self.attention_norm(x)).view(len(x), -1, self.head_dim)
        q, k, v = qkv.split(self.heads, dim=1)
        q, k = rotate(q, rotation), rotate(k, rotation)
        if asking is not None:
            q, x = q[asking], x[asking]
        x = x + self.out(passing.attend(layer, q, k, v).flatten(1))
        gate, up = self.gate_up(self.ffn_norm(x)).chunk(2, dim=-1)
        moved: Tensor = x + self.down(functional.silu(gate) * up)
        return moved


class Transformer(nn.Module):
    """Blocks one after the other.

    Args:
        config: Widths and counts.
        blocks: What takes the place of `Block`s; called as they are.
    """

    def __init__(self, config: TransformerConfig, blocks: Iterable[nn.Module] | None = None) -> None:
        super().__init__()
        self.config = config
        self.blocks = nn.ModuleList(blocks or (Block(config) for _ in range(config.layers)))

    def forward(self, x: Tensor, positions: Tensor, passing: Pass) -> Tensor:
        """Rows x [T, width] at positions [T] -> the rows that are left after the last layer, [R, width]."""
        rotation = rotation_of(positions, self.config.head_dim, self.config.rope_theta, x.dtype)
        for layer, block in enumerate(self.blocks):
            rows = passing.rows(layer, x, positions)
            if rows is not None:
                x, positions, rotation = x[rows], positions[rows], _taken(rotation, rows)
            asking = passing.asking(layer)
            x = block(layer, x, rotation, passing, asking)
            if asking is not None:
                positions, rotation = positions[asking], _taken(rotation, asking)
        return x


def _taken(rotation: Rotation, rows: Tensor) -> Rotation:
    return rotation[0][rows], rotation[1][rows]


def _linear(before: int, after: int) -> nn.Linear:
    layer = nn.Linear(before, after, bias=False)
    nn.init.normal_(layer.weight, std=_INIT_STD)
    return layer
