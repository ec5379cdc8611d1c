"""What every ranking model is: tables, a layout, and a network."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from recsys.config import Config
from recsys.data.batch import Batch
from recsys.data.encoder import IdInput, Inputs, Task
from recsys.errors import ConfigError
from recsys.layers.tables import EmbeddingTables, InputLayout, Lookup, Table

__all__ = ["FIRST_ORDER", "ModelConfig", "RankingModel", "Sequences", "build_tables", "to_scores"]

Sequences = dict[str, tuple[Tensor, Tensor]]
FIRST_ORDER = ":first"
"""Suffix of the look-ups and tables that hold first-order terms."""


class ModelConfig(Config):
    """What all ranking models have in common."""

    embedding_dim: int = Field(16, ge=1)
    """Columns of an embedding row."""
    embedding_std: float = Field(0.01, gt=0)
    """Standard deviation of the rows at the start."""
    collision_weights: bool = False
    """One learnable scalar a row that multiplies it (DCN²); folded into the rows at export."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Share of hidden units that training drops."""


class RankingModel(nn.Module):
    """Tables (huge, memory-bound) and a network (small, compute-bound), joined in training, apart in inference.

    A subclass builds its tables, passes them on, and writes `network`.

    Attributes:
        inputs: What the data looks like.
        tables: What the data flow places.
        layout: Named column slices of the network's input.
    """

    def __init__(self, inputs: Inputs, tables: EmbeddingTables) -> None:
        super().__init__()
        self.inputs = inputs
        self.tables = tables
        self.layout: InputLayout = tables.layout

    @property
    def fields(self) -> list[str]:
        """The embeddings of x, in its order: pooled fields that are no first-order terms."""
        return [name for name in self.layout.slices if not name.endswith(FIRST_ORDER)]

    def network(self, x: Tensor, sequences: Sequences) -> Tensor:
        """Logits [B, tasks] from the input x [B, width] and name -> (rows [B, L, d], lengths [B])."""
        raise NotImplementedError

    def forward(self, batch: Batch) -> Tensor:
        """Logits [B, tasks]."""
        return self.network(*self.tables(batch))

    @torch.no_grad()
    def predict(self, batch: Batch) -> Tensor:
        """[B, tasks]: probabilities of binary tasks, values of regression tasks; float64 if there is one of these."""
        return to_scores(self(batch), self.inputs.tasks)


def to_scores(logits: Tensor, tasks: Sequence[Task]) -> Tensor:
    """[B, tasks] of logits [B, tasks]: probabilities of binary tasks, values of regression tasks.

    float32, or float64 if one of them is a regression.
    """
    if all(task.kind == "binary" for task in tasks):
        return logits.sigmoid()
    columns = [
        logits[:, t].sigmoid().double() if task.kind == "binary" else logits[:, t].double() * task.scale + task.shift
        for t, task in enumerate(tasks)
    ]
    return torch.stack(columns, dim=1)


def build_tables(
    inputs: Inputs,
    config: ModelConfig,
    *,
    sequences: Literal["mean", "none"] = "mean",
    embeddings: bool = True,
    first_order: bool = False,
) -> EmbeddingTables:
    """The tables of a model.

    Args:
        inputs: What the data looks like.
        config: Dims and start values.
        sequences: Whether sequences are pooled, or left to the network.
        embeddings: One row of `embedding_dim` columns an id.
        first_order: Beside it, a row of one column a task: the id's own weight.
    """
    lookups: list[Lookup] = []
    tables: dict[str, Table] = {}
    for wanted, suffix, dim in ((embeddings, "", config.embedding_dim), (first_order, FIRST_ORDER, len(inputs.tasks))):
        # Fields of several hashes come last: their rows have another dim, and so another place in x.
        for feature in sorted(inputs.ids, key=lambda one: one.parts) if wanted else ():
            if suffix and feature.part > 1:
                continue  # a first-order term is one number, which no hashes can share
            unpooled = sequences == "none" and feature.kind == "sequence" and not suffix
            pooling: Literal["sum", "mean", "none"] = (
                "none" if unpooled else "sum" if feature.kind == "categorical" else "mean"
            )
            name = feature.table + suffix
            columns = dim if suffix else _columns(feature, config)
            tables[name] = Table(name, feature.rows, columns, feature.reserved)
            lookups.append(Lookup(feature.name + suffix, feature.name, name, pooling, feature.feature + suffix))
    if first_order and embeddings:
        _check_first_order({tables[n.table].dim for n in lookups if not n.name.endswith(FIRST_ORDER)}, inputs)
    _check_memory(list(tables.values()))
    return EmbeddingTables(
        features=[feature.name for feature in inputs.ids],
        tables=list(tables.values()),
        lookups=lookups,
        dense=len(inputs.dense),
        collision_weights=config.collision_weights,
        std=config.embedding_std,
    )


def _columns(feature: IdInput, config: ModelConfig) -> int:
    """Columns of the table that one of a feature's hashes reads.

    Raises:
        ConfigError: When the embedding cannot be shared out among the hashes.
    """
    if config.embedding_dim % feature.parts:
        raise ConfigError(
            f"embedding_dim {config.embedding_dim} is no multiple of the {feature.parts} hashes of feature "
            f"`{feature.feature}`, each of which gives as many of its columns"
        )
    return config.embedding_dim // feature.parts


def _check_first_order(dims: set[int], inputs: Inputs) -> None:
    """Look-ups of one dim lie side by side, so first-order terms would come between embeddings of several dims.

    Raises:
        ConfigError: When one dim of several is the number of tasks.
    """
    if len(dims) > 1 and len(inputs.tasks) in dims:
        told = ", ".join(map(str, sorted(dims)))
        raise ConfigError(
            f"embeddings of {told} columns, some of {len(inputs.tasks)} as the first-order terms have: take another "
            "embedding_dim, or as many hashes for all features"
        )


def _check_memory(tables: list[Table]) -> None:
    """Refuse tables that this machine cannot hold before it tries.

    Raises:
        ConfigError: With the sum and the largest table.
    """
    size = sum(table.rows * table.dim * 4 for table in tables)
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if size > memory and torch.get_default_device().type != "meta":
        largest = max(tables, key=lambda table: table.rows * table.dim)
        raise ConfigError(
            f"the tables need {size / 1e9:.1f} GB and this machine has {memory / 1e9:.1f} GB; the largest is "
            f"`{largest.name}`, {largest.rows:,} rows of {largest.dim}: take fewer bits or a smaller embedding_dim"
        )
