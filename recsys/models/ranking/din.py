"""DIN: attention of the candidate over the user's history."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from recsys.data.encoder import Inputs
from recsys.errors import SchemaError
from recsys.layers.attention import TargetAttention
from recsys.layers.mlp import MLP
from recsys.models.base import ModelConfig, RankingModel, Sequences, build_tables

__all__ = ["DIN", "DINConfig"]


class DINConfig(ModelConfig):
    """DIN (Zhou et al. 2018)."""

    name: Literal["din"] = "din"
    attention_hidden: tuple[int, ...] = (36,)
    """Columns of the activation unit's hidden layers."""
    hidden: tuple[int, ...] = (150, 150)
    """Columns of the MLP's hidden layers."""


class DIN(RankingModel):
    """``logit = MLP([x, Σ_t a(e_t, q) e_t])``: the history weighted by what it shares with the candidate q.

    A sequence's candidate is the feature that it shares: a history that shares `item` attends from `item`
    (arXiv 1706.06978).

    Raises:
        SchemaError: When no sequence of the data shares a categorical feature.
    """

    def __init__(self, inputs: Inputs, config: DINConfig) -> None:
        super().__init__(inputs, build_tables(inputs, config, sequences="none"))
        categorical = {f.name for f in inputs.ids if f.kind == "categorical" and f.part == 1}
        self.target = {f.name: f.shares for f in inputs.ids if f.kind == "sequence" and f.part == 1}
        if not self.target or any(target not in categorical for target in self.target.values()):
            raise SchemaError(
                'din needs a sequence, and every sequence must share a categorical feature (`shares = "item"`) '
                "to attend from it"
            )
        dim = config.embedding_dim
        self.attention = nn.ModuleList(TargetAttention(dim, config.attention_hidden) for _ in self.target)
        width = self.layout.width + dim * len(self.target)
        self.mlp = MLP(width, config.hidden, len(inputs.tasks), config.dropout)

    def network(self, x: Tensor, sequences: Sequences) -> Tensor:
        """Logits [B, tasks]."""
        parts = [x]
        for attention, (name, target) in zip(self.attention, self.target.items(), strict=True):
            rows, lengths = sequences[name]
            parts.append(attention(x[:, self.layout.slices[str(target)]], rows, lengths))
        logits: Tensor = self.mlp(torch.cat(parts, dim=1))
        return logits
