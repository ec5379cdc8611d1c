"""One training step: loss, gradients, and row-sparse optimisers for the tables beside AdamW for the network."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from recsys.data.batch import Batch
from recsys.data.encoder import Task
from recsys.models.base import RankingModel
from recsys.training.optimizers import RowAdam
from recsys.training.recipe import TrainingConfig

__all__ = ["Steps", "task_loss"]


def task_loss(logits: Tensor, labels: Tensor, tasks: tuple[Task, ...]) -> Tensor:
    """``Σ_t w_t · mean_b loss_t``: cross entropy of binary tasks, squared error of standardised regression labels.

    Args:
        logits: [B, tasks].
        labels: [B, tasks].
        tasks: Kinds, weights and scales.
    """
    losses = [
        task.weight
        * (
            F.binary_cross_entropy_with_logits(logits[:, t], labels[:, t].to(logits.dtype))
            if task.kind == "binary"
            else F.mse_loss(logits[:, t], ((labels[:, t] - task.shift) / task.scale).to(logits.dtype))
        )
        for t, task in enumerate(tasks)
    ]
    return torch.stack(losses).sum()


class Steps:
    """Takes training steps of one model.

    Args:
        model: Changed in place.
        config: Optimisers and their rates.
    """

    def __init__(self, model: RankingModel, config: TrainingConfig) -> None:
        self.model, self.config = model, config
        self.optimizers = _optimizers(model, config)

    def step(self, batch: Batch) -> tuple[float, Tensor]:
        """Learn from a batch; a loss that is not finite changes no weight.

        Returns:
            The loss before the step, and the logits [B, tasks] that it is of.
        """
        loss, logits = self.backward(batch)
        if math.isfinite(loss):
            self._update()
        return loss, logits

    def backward(self, batch: Batch) -> tuple[float, Tensor]:
        """Loss and logits [B, tasks] of a batch; its gradients stand in the parameters, if the loss is finite."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        assert batch.labels is not None
        logits = self.model(batch)
        loss = task_loss(logits, batch.labels, self.model.inputs.tasks)
        value = loss.item()
        if math.isfinite(value):
            loss.backward()  # type: ignore[no-untyped-call]
        return value, logits.detach()

    def _update(self) -> None:
        if self.config.table_l2:
            self._decay_rows()
        # torch's sparse optimisers build their tensors from valid parts; said aloud, or each process warns once.
        with torch.sparse.check_sparse_tensor_invariants(enable=False):  # type: ignore[no-untyped-call]
            for optimizer in self.optimizers:
                optimizer.step()

    @torch.no_grad()
    def _decay_rows(self) -> None:
        """Add the gradient of ``½ λ Σ ‖e‖²`` over the rows that the batch read, each once."""
        for rows in self.model.tables.storages():
            if rows.grad is not None:
                grad = rows.grad.coalesce()
                values = grad.values() + self.config.table_l2 * rows[grad.indices()[0]]
                rows.grad = torch.sparse_coo_tensor(
                    grad.indices(), values, grad.shape, is_coalesced=True, check_invariants=False
                )


def _optimizers(model: RankingModel, config: TrainingConfig) -> list[torch.optim.Optimizer]:
    """Row-sparse for the tables, AdamW for the network with weight decay on its matrices alone."""
    tables = list(model.tables.parameters())
    own = {id(parameter) for parameter in tables}
    network = [parameter for parameter in model.parameters() if id(parameter) not in own]
    groups = [
        {"params": [p for p in network if p.dim() > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in network if p.dim() <= 1], "weight_decay": 0.0},
    ]
    rate = config.table_learning_rate or config.learning_rate
    optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, lr=config.learning_rate)] if network else []
    if tables:
        sparse = {"adam": RowAdam, "adagrad": torch.optim.Adagrad}[config.table_optimizer]
        optimizers.append(sparse(tables, lr=rate))
    return optimizers
