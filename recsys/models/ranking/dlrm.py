"""DLRM: dot products of embeddings between two MLPs."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from recsys.data.encoder import Inputs
from recsys.errors import SchemaError
from recsys.layers.interactions import pairwise_dots
from recsys.layers.mlp import MLP
from recsys.models.base import ModelConfig, RankingModel, Sequences, build_tables

__all__ = ["DLRM", "DLRMConfig"]


class DLRMConfig(ModelConfig):
    """DLRM (Naumov et al. 2019)."""

    name: Literal["dlrm"] = "dlrm"
    bottom: tuple[int, ...] = (64,)
    """Columns of the hidden layers that read the numbers; their output has the embeddings' dim."""
    hidden: tuple[int, ...] = (150, 150)
    """Columns of the top network's hidden layers."""


class DLRM(RankingModel):
    """``logit = MLP([z, ⟨e_i, e_j⟩ for i < j])``, z = MLP(numbers) being one of the embeddings (arXiv 1906.00091).

    Raises:
        SchemaError: When there are no two vectors to multiply.
    """

    pairs: Tensor

    def __init__(self, inputs: Inputs, config: DLRMConfig) -> None:
        if len({feature.feature for feature in inputs.ids}) + bool(inputs.dense) < 2:
            raise SchemaError("dlrm needs two id features, or one and a number, to take a dot product of")
        super().__init__(inputs, build_tables(inputs, config))
        numbers, dim = len(inputs.dense), config.embedding_dim
        self.bottom = MLP(numbers, (*config.bottom, dim), None) if numbers else None
        vectors = len(self.fields) + bool(numbers)
        self.register_buffer("pairs", torch.triu_indices(vectors, vectors, 1), persistent=False)
        width = vectors * (vectors - 1) // 2 + (dim if numbers else 0)
        self.top = MLP(width, config.hidden, len(inputs.tasks), config.dropout)

    def network(self, x: Tensor, sequences: Sequences) -> Tensor:
        """Logits [B, tasks]."""
        vectors, parts = self.layout.stack(x, self.fields), []
        if self.bottom is not None:
            dense = self.bottom(x[:, self.layout.dense])
            vectors, parts = torch.cat([dense.unsqueeze(1), vectors], dim=1), [dense]
        logits: Tensor = self.top(torch.cat([*parts, pairwise_dots(vectors, self.pairs)], dim=1))
        return logits
