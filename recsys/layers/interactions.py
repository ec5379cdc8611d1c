"""Layers that let features meet: cross networks, OnlyDense, similarities, dot products and factorisation machines."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["CrossNetwork", "OnlyDense", "SimLayer", "factorisation_machine", "pairwise_dots"]


class CrossNetwork(nn.Module):
    """DCNv2's explicit feature crosses: ``x_{l+1} = x_0 ⊙ (W x_l + b) + x_l``.

    With a `rank` the square matrix is a product, ``W = U Vᵀ`` with U, V [width, rank]
    (Wang et al. 2021, arXiv 2008.13535, equations 1 and 2).

    Args:
        width: Columns of x.
        layers: How many crosses; the polynomial degree is one more.
        rank: Columns of U and V; None keeps W full.
    """

    def __init__(self, width: int, layers: int, rank: int | None = None) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_cross_product(width, rank) for _ in range(layers))

    def forward(self, x0: Tensor) -> Tensor:
        """[B, width] -> [B, width]."""
        x = x0
        for layer in self.layers:
            x = torch.addcmul(x, x0, layer(x))
        return x


def _cross_product(width: int, rank: int | None) -> nn.Module:
    layers = [nn.Linear(width, width)] if rank is None else [nn.Linear(width, rank, bias=False), nn.Linear(rank, width)]
    for layer in layers:
        nn.init.xavier_uniform_(layer.weight)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    return layers[0] if rank is None else nn.Sequential(*layers)


class OnlyDense(nn.Module):
    """DCN²'s replacement of a cross: ``x ← φ · relu(W x + b) ⊙ x`` (arXiv 2506.21624, section 3.2).

    It multiplies the layer's own input, not x_0, and has no residual, so L layers reach degree 2^L, and a small
    input vanishes: with W at Glorot's scale and b = 0 inputs of 1e-3 leave as 1e-6, and their gradients fall below
    Adam's epsilon. Starting at ``b = 1`` opens every gate, so that a layer begins as the identity (times φ).

    Args:
        width: Columns of x.
        scale: φ at the start; it is learnt.
        bias: b at the start; the paper's notes give 0.
    """

    def __init__(self, width: int, scale: float = 1.0, bias: float = 1.0) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)
        self.scale = nn.Parameter(torch.tensor(scale))
        nn.init.xavier_normal_(self.linear.weight)
        nn.init.constant_(self.linear.bias, bias)

    def forward(self, x: Tensor) -> Tensor:
        """[B, width] -> [B, width]."""
        return self.scale * torch.relu(self.linear(x)) * x


class SimLayer(nn.Module):
    """DCN²'s explicit similarities, an extra logit: ``Σ_{i<j} v_ij · act(⟨e_i, e_j⟩)`` (arXiv 2506.21624, 3.3).

    With the identity as activation this is FwFM's interaction term (Pan et al. 2018): one embedding a feature, one
    scalar a pair of features. The paper's text does not say where its activation sits; it is on each product here.
    v starts at zero, so that training starts from the network without it.

    Args:
        fields: F, how many embeddings there are.
        tasks: How many logits.
        activation: `identity` or `relu`.
    """

    pairs: Tensor

    def __init__(self, fields: int, tasks: int = 1, activation: str = "identity") -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(fields * (fields - 1) // 2, tasks))
        self.activation = torch.relu if activation == "relu" else nn.Identity()
        self.fields = fields
        self.register_buffer("pairs", torch.triu_indices(fields, fields, 1), persistent=False)

    def forward(self, embeddings: Tensor) -> Tensor:
        """[B, F, d] -> [B, tasks]."""
        # All F² products against a strictly upper triangular v: picking the pairs would cost more, most of it in the
        # gradient, which would be scattered back into [B, F, F].
        upper = self.weight.new_zeros(self.fields, self.fields, self.weight.shape[1])
        upper[self.pairs[0], self.pairs[1]] = self.weight
        gram: Tensor = self.activation(embeddings @ embeddings.transpose(1, 2))
        return gram.flatten(1) @ upper.flatten(0, 1)


def pairwise_dots(embeddings: Tensor, pairs: Tensor) -> Tensor:
    """[B, F, d] -> [B, F(F-1)/2]: the dot products ⟨e_i, e_j⟩ of the `pairs` [2, F(F-1)/2], as DLRM takes them."""
    gram = embeddings @ embeddings.transpose(1, 2)
    return gram[:, pairs[0], pairs[1]]


def factorisation_machine(embeddings: Tensor) -> Tensor:
    """[B, F, d] -> [B, 1]: ``Σ_{i<j} ⟨e_i, e_j⟩ = ½ Σ_d ((Σ_i e_i)² - Σ_i e_i²)`` (Rendle 2010)."""
    total = embeddings.sum(dim=1).square() - embeddings.square().sum(dim=1)
    return 0.5 * total.sum(dim=1, keepdim=True)
