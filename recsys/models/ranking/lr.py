"""Logistic regression: one weight an id, one a number."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recsys.data.encoder import Inputs
from recsys.layers.tables import InputLayout
from recsys.models.base import FIRST_ORDER, ModelConfig, RankingModel, Sequences, build_tables

__all__ = ["LR", "FirstOrder", "LRConfig"]


class LRConfig(ModelConfig):
    """Logistic regression."""

    name: Literal["lr"] = "lr"


class FirstOrder(nn.Module):
    """``b + Σ_i w_i + u·numbers``, w_i being the rows of the first-order tables.

    Args:
        layout: Of the model's input.
        numbers: How many numbers there are.
        tasks: How many logits.
    """

    def __init__(self, layout: InputLayout, numbers: int, tasks: int) -> None:
        super().__init__()
        own = [part for name, part in layout.slices.items() if name.endswith(FIRST_ORDER)]
        self.part = slice(own[0].start, own[-1].stop) if own else slice(0, 0)
        self.terms, self.tasks, self.numbers = len(own), tasks, numbers
        self.weight = nn.Parameter(torch.zeros(tasks, numbers))
        self.bias = nn.Parameter(torch.zeros(tasks))

    def forward(self, x: Tensor) -> Tensor:
        """[B, width] -> [B, tasks]."""
        ids = x[:, self.part].view(x.shape[0], self.terms, self.tasks).sum(dim=1)
        return ids + F.linear(x[:, : self.numbers], self.weight, self.bias)


class LR(RankingModel):
    """``logit = b + Σ_i w_i + u·numbers``: what every interaction must beat."""

    def __init__(self, inputs: Inputs, config: LRConfig) -> None:
        super().__init__(inputs, build_tables(inputs, config, embeddings=False, first_order=True))
        self.first = FirstOrder(self.layout, len(inputs.dense), len(inputs.tasks))

    def network(self, x: Tensor, sequences: Sequences) -> Tensor:
        """Logits [B, tasks]."""
        logits: Tensor = self.first(x)
        return logits
