"""DCNv2: a cross network below or beside a deep network."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from recsys.data.encoder import Inputs
from recsys.layers.interactions import CrossNetwork
from recsys.layers.mlp import MLP
from recsys.models.base import ModelConfig, RankingModel, Sequences, build_tables

__all__ = ["DCNv2", "DCNv2Config"]


class DCNv2Config(ModelConfig):
    """DCNv2 (Wang et al. 2021)."""

    name: Literal["dcnv2"] = "dcnv2"
    structure: Literal["stacked", "parallel"] = "parallel"
    """`stacked`: the deep network reads the crosses; `parallel`: both read x and are joined at the end."""
    cross_layers: int = Field(3, ge=1)
    """How many crosses."""
    rank: int | None = Field(None, ge=1)
    """Rank of the crosses' matrices; by default they are full."""
    hidden: tuple[int, ...] = (150, 150)
    """Columns of the deep network's hidden layers."""


class DCNv2(RankingModel):
    """``stacked: logit = w·MLP(cross(x))``, ``parallel: logit = w·[cross(x), MLP(x)]`` (arXiv 2008.13535, figure 1)."""

    def __init__(self, inputs: Inputs, config: DCNv2Config) -> None:
        super().__init__(inputs, build_tables(inputs, config))
        width, tasks = self.layout.width, len(inputs.tasks)
        self.parallel = config.structure == "parallel"
        self.cross = CrossNetwork(width, config.cross_layers, config.rank)
        self.deep = MLP(width, config.hidden, None, config.dropout)
        top = config.hidden[-1] if config.hidden else width
        self.head = nn.Linear(top + width if self.parallel else top, tasks)

    def network(self, x: Tensor, sequences: Sequences) -> Tensor:
        """Logits [B, tasks]."""
        crossed = self.cross(x)
        top = torch.cat([crossed, self.deep(x)], dim=1) if self.parallel else self.deep(crossed)
        logits: Tensor = self.head(top)
        return logits
