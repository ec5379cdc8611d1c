"""DCN²: collision-weighted look-ups, OnlyDense instead of crosses, and explicit similarities."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import Tensor, nn

from recsys.data.encoder import Inputs
from recsys.layers.interactions import OnlyDense, SimLayer
from recsys.layers.mlp import MLP
from recsys.models.base import ModelConfig, RankingModel, Sequences, build_tables

__all__ = ["DCN2", "DCN2Config"]


class DCN2Config(ModelConfig):
    """DCN² (Škrlj et al. 2025)."""

    name: Literal["dcn2"] = "dcn2"
    embedding_std: float = Field(0.05, gt=0)
    """Standard deviation of the rows at the start; OnlyDense multiplies them with each other, so not too small."""
    collision_weights: bool = True
    """One learnable scalar a row that multiplies it; folded into the rows at export."""
    onlydense_layers: int = Field(1, ge=0)
    """How many OnlyDense layers."""
    onlydense_scale: float = 1.0
    """φ at the start."""
    onlydense_bias: float = 1.0
    """The gates' bias at the start: 1 opens them."""
    similarities: bool = True
    """Whether SimLayer adds its logit."""
    similarity_activation: Literal["identity", "relu"] = "identity"
    """What each dot product of SimLayer goes through."""
    hidden: tuple[int, ...] = (150, 150)
    """Columns of the MLP's hidden layers."""


class DCN2(RankingModel):
    """``logit = MLP(OnlyDense^L(x)) + Σ_{i<j} v_ij ⟨e_i, e_j⟩``, x being the numbers and the embeddings w·e.

    Škrlj et al. 2025, arXiv 2506.21624. The paper's open text leaves the start values, the number of layers and
    φ (constant or learnt) unsaid; `DCN2Config` says what was chosen, `OnlyDense` why.
    """

    def __init__(self, inputs: Inputs, config: DCN2Config) -> None:
        super().__init__(inputs, build_tables(inputs, config))
        width, tasks = self.layout.width, len(inputs.tasks)
        self.onlydense = nn.Sequential(
            *(OnlyDense(width, config.onlydense_scale, config.onlydense_bias) for _ in range(config.onlydense_layers))
        )
        self.mlp = MLP(width, config.hidden, tasks, config.dropout)
        pairs = config.similarities and len(self.fields) > 1
        self.sim = SimLayer(len(self.fields), tasks, config.similarity_activation) if pairs else None

    def network(self, x: Tensor, sequences: Sequences) -> Tensor:
        """Logits [B, tasks]."""
        logits: Tensor = self.mlp(self.onlydense(x))
        if self.sim is not None:
            logits = logits + self.sim(self.layout.stack(x, self.fields))
        return logits
