"""DeepFM: a factorisation machine beside a deep network, on one set of embeddings."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from recsys.data.encoder import Inputs
from recsys.errors import SchemaError
from recsys.layers.interactions import factorisation_machine
from recsys.layers.mlp import MLP
from recsys.models.base import ModelConfig, RankingModel, Sequences, build_tables
from recsys.models.ranking.lr import FirstOrder

__all__ = ["DeepFM", "DeepFMConfig"]


class DeepFMConfig(ModelConfig):
    """DeepFM (Guo et al. 2017)."""

    name: Literal["deepfm"] = "deepfm"
    hidden: tuple[int, ...] = (150, 150)
    """Columns of the deep network's hidden layers."""


class DeepFM(RankingModel):
    """``logit = first order + Σ_{i<j} ⟨e_i, e_j⟩ + MLP(x)`` (arXiv 1703.04247); tasks share the pairs, scaled each.

    Raises:
        SchemaError: When the data has no id feature.
    """

    def __init__(self, inputs: Inputs, config: DeepFMConfig) -> None:
        if not inputs.ids:
            raise SchemaError("deepfm needs an id feature; for numbers alone take dcn2, dcnv2 or lr")
        super().__init__(inputs, build_tables(inputs, config, first_order=True))
        tasks = len(inputs.tasks)
        self.first = FirstOrder(self.layout, len(inputs.dense), tasks)
        self.pair_scale = nn.Parameter(torch.ones(tasks))
        self.width = self.layout.width - tasks * sum(feature.part == 1 for feature in inputs.ids)
        self.mlp = MLP(self.width, config.hidden, tasks, config.dropout)

    def network(self, x: Tensor, sequences: Sequences) -> Tensor:
        """Logits [B, tasks]."""
        pairs = factorisation_machine(self.layout.stack(x, self.fields))
        logits: Tensor = self.first(x) + pairs * self.pair_scale + self.mlp(x[:, : self.width])
        return logits
