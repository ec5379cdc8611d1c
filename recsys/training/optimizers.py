"""A row-sparse Adam that touches a row once: `torch.optim.SparseAdam`, rearranged."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["RowAdam"]


class _Rows(NamedTuple):
    """The distinct ids [U] of ids [n], and which of them each id is [n]."""

    ids: Tensor
    distinct: Tensor
    place: Tensor


class RowAdam(torch.optim.Optimizer):
    """Adam of the rows that a batch read, and of no other.

    For a row read at step t with summed gradient g: ``m ← β₁ m + (1-β₁) g``, ``v ← β₂ v + (1-β₂) g²``,
    ``e ← e - lr · √(1-β₂ᵗ) / (1-β₁ᵗ) · m / (√v + ε)`` (Kingma & Ba 2015, arXiv 1412.6980; lazy: m and v of other rows
    do not decay). t counts the steps of the table, not of the row.

    This and the state are `torch.optim.SparseAdam`'s, whose training goes on with it. That one adds sparse tensors to
    whole tables; here the rows are read, changed and written back, and tables that are read by the same ids have their
    repeated ids found once.

    Args:
        params: Tables [rows, dim] whose gradients are sparse.
        lr: Learning rate.
        betas: β₁ and β₂.
        eps: ε.
    """

    def __init__(
        self,
        params: Iterable[Tensor],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Change the tables that have a gradient.

        Args:
            closure: Makes the gradients anew and returns the loss, as every optimizer of torch may be asked to.
        """
        loss = None if closure is None else torch.enable_grad()(closure)()
        rows: _Rows | None = None
        for group in self.param_groups:
            for table in group["params"]:
                if table.grad is not None:
                    rows = _rows(table.grad, rows)
                    self._update(table, rows.distinct, _summed(table.grad, rows), group)
        return loss

    def _update(self, table: Tensor, rows: Tensor, grad: Tensor, group: dict[str, Any]) -> None:
        """Of the distinct `rows` [U], whose gradient is `grad` [U, dim]."""
        state = self.state[table]
        if not state:
            state |= {"step": 0, "exp_avg": torch.zeros_like(table), "exp_avg_sq": torch.zeros_like(table)}
        state["step"] += 1
        (beta1, beta2), t = group["betas"], state["step"]
        # A table of one column is flat from here on: its elements are moved faster than its rows.
        whole, means, squares = (tensor.squeeze(1) for tensor in (table, state["exp_avg"], state["exp_avg_sq"]))
        mean = means.index_select(0, rows).lerp_(grad, 1 - beta1)
        means.index_copy_(0, rows, mean)
        square = squares.index_select(0, rows).mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        squares.index_copy_(0, rows, square)
        rate = group["lr"] * math.sqrt(1 - beta2**t) / (1 - beta1**t)
        whole.index_add_(0, rows, mean.div_(square.sqrt_().add_(group["eps"])).mul_(-rate))  # its `alpha` is slow


def _rows(grad: Tensor, last: _Rows | None) -> _Rows:
    """The rows of a gradient; `last` if they are the same."""
    ids = grad._indices()[0]
    if last is not None and torch.equal(ids, last.ids):
        return last
    if grad.is_coalesced():
        return _Rows(ids, ids, torch.arange(len(ids), device=ids.device))
    return _Rows(ids, *torch.unique(ids, return_inverse=True))


def _summed(grad: Tensor, rows: _Rows) -> Tensor:
    """[U, dim], or [U] for one column: the gradients of each distinct row, added up."""
    values = grad._values().squeeze(1)
    if len(rows.distinct) == len(rows.ids) and grad.is_coalesced():
        return values
    return values.new_zeros(len(rows.distinct), *values.shape[1:]).index_add_(0, rows.place, values)
