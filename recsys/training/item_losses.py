"""Losses of predicting the next item: against one other item, against some, or against all."""

from __future__ import annotations

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from recsys.errors import DataError

__all__ = ["ItemLoss", "bce", "cross_entropy", "item_loss", "sampled_softmax"]

ItemLoss = Literal["bce", "sampled", "full"]
"""Which loss: `bce`, `sampled_softmax` or `cross_entropy`."""

_LOGITS = 1 << 24
"""Most logits held at a time, 64 MiB; a few arrays of that size live at once."""


def item_loss(kind: ItemLoss, queries: Tensor, keys: Tensor, targets: Tensor, negatives: int) -> Tensor:
    """The loss of that kind, a scalar.

    Args:
        kind: Which.
        queries: [N, d] what the model knows at N places.
        keys: [I + 1, d] all items; row 0 is none.
        targets: [N] of 1 … I: what came next.
        negatives: How many others `sampled_softmax` draws.

    Raises:
        DataError: When a loss against others is asked for and there is one item only.
    """
    if kind == "bce":
        return bce(queries, keys, targets)
    if kind == "sampled":
        return sampled_softmax(queries, keys, targets, negatives)
    return cross_entropy(queries, keys, targets)


def bce(queries: Tensor, keys: Tensor, targets: Tensor) -> Tensor:
    """``-mean(ln σ(s_target) + ln σ(-s_other))``, one other item a place, uniform among all but the target.

    Kang and McAuley 2018, arXiv 1808.09781, section 3.5. It draws from what the user never touched; here a draw may
    be another item of the user's own, of which there are few among many.

    Args:
        queries: [N, d].
        keys: [I + 1, d]; row 0 is no item.
        targets: [N] of 1 … I.

    Raises:
        DataError: When there is one item only.
    """
    others = _others(targets, len(keys) - 1)
    right, wrong = ((queries * F.embedding(of, keys)).sum(dim=1) for of in (targets, others))
    return -(F.logsigmoid(right) + F.logsigmoid(-wrong)).mean()


def _others(targets: Tensor, items: int) -> Tensor:
    """For each target another item, uniform: [N]."""
    _need_two(items)
    drawn = torch.randint(1, items, targets.shape, device=targets.device)
    return drawn + (drawn >= targets)


def _need_two(items: int) -> None:
    if items < 2:
        raise DataError(f'expected at least two items to tell apart, got {items}; train with loss = "full"')


def sampled_softmax(queries: Tensor, keys: Tensor, targets: Tensor, negatives: int) -> Tensor:
    """Cross entropy against `negatives` items, uniform and shared by the batch, so that scoring them is one product.

    ``mean(-s_t + ln(exp s_t + (I - 1) / n · Σ_j exp s_j))`` over the n drawn items that are not the target itself. The
    factor is the logQ correction of a uniform draw: with it the sum estimates that over all other items, so that the
    loss is near `cross_entropy` whatever the number drawn. HSTU's published code leaves it out.

    Args:
        queries: [N, d].
        keys: [I + 1, d]; row 0 is no item.
        targets: [N] of 1 … I.
        negatives: How many items are drawn, with repetitions.

    Raises:
        DataError: When there is one item only.
    """
    _need_two(len(keys) - 1)
    drawn = torch.randint(1, len(keys), (negatives,), device=targets.device)
    return _against(queries, keys, targets, drawn)


def _against(queries: Tensor, keys: Tensor, targets: Tensor, drawn: Tensor) -> Tensor:
    """`sampled_softmax` with the items that were drawn, [n]."""
    right = (queries * F.embedding(targets, keys)).sum(dim=1, keepdim=True)
    wrong = _single(queries @ F.embedding(drawn, keys).T)
    same = targets.unsqueeze(1) == drawn
    others = (~same).sum(dim=1, keepdim=True).clamp(min=1)
    wrong = wrong.masked_fill(same, -torch.inf) + (math.log(len(keys) - 2) - others.log())
    return (torch.cat([right, wrong], dim=1).logsumexp(dim=1) - right.squeeze(1)).mean()


def cross_entropy(queries: Tensor, keys: Tensor, targets: Tensor) -> Tensor:
    """``mean(-s_t + ln Σ_j exp s_j)`` over all items j, exact, without ever holding N · I logits.

    They are made for some places at a time, turned into gradients at once and dropped: what stays is as large as
    `queries` and `keys`. So the gradient needs no second pass, and can itself not be differentiated.

    Args:
        queries: [N, d].
        keys: [I + 1, d]; row 0 is no item.
        targets: [N] of 1 … I.
    """
    loss: Tensor = _CrossEntropy.apply(queries, keys, targets)  # type: ignore[no-untyped-call]
    return loss


class _CrossEntropy(torch.autograd.Function):
    """Cross entropy that computes its gradients while it has the logits."""

    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, targets: Tensor) -> Tensor:
        """The loss; the gradients wait in `ctx`."""
        total = queries.new_zeros((), dtype=torch.promote_types(queries.dtype, torch.float32))
        to_queries, to_keys = torch.empty_like(queries), torch.zeros_like(keys)
        size = max(_LOGITS // len(keys), 1)
        for start in range(0, len(queries), size):
            part = slice(start, start + size)
            q, t = queries[part], targets[part]
            logits = _single(q @ keys.T)
            logits[:, 0] = -torch.inf
            shares = logits.log_softmax(dim=1)
            total -= shares.gather(1, t.unsqueeze(1)).sum()
            shares.exp_().scatter_add_(1, t.unsqueeze(1), -torch.ones_like(shares[:, :1])).div_(len(queries))
            to_queries[part] = shares @ keys
            to_keys += shares.T @ q
        ctx.save_for_backward(to_queries, to_keys)
        return total / len(queries)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        """Scale what `forward` found."""
        to_queries, to_keys = ctx.saved_tensors
        return to_queries * grad, to_keys * grad, None


def _single(logits: Tensor) -> Tensor:
    """At least float32: sums of many exponentials need it."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))
