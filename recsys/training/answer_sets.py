"""Recall and NDCG where a question has several answers: all that a user did later, as graph recommenders are measured.

At k, with n answers (He et al. 2020, "LightGCN", arXiv 2002.02126, section 4.1, as its code computes them):

- recall: answers among the first k / n;
- NDCG: Σ 1 / log₂(1 + j) over the places j ≤ k that hold an answer, / the same sum over the places 1 … min(n, k).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from recsys.data.questions import Ragged
from recsys.errors import ConfigError, DataError
from recsys.models.generative.lists import best
from recsys.training.ranks import check_ks, pairs

__all__ = ["set_metrics", "set_values", "top_items"]


def top_items(scores: Tensor, k: int, seen: Ragged | None = None) -> Tensor:
    """The k items of the highest scores, the best first, [B, k] int64; 0 where fewer are left.

    Of equal scores the lower number comes first. Where ties matter and there is one answer a question, `ranks` is fair.

    Args:
        scores: [B, I + 1], higher is better; column 0 never counts, and an item of score -inf is never given.
        k: Of each list; at most I.
        seen: Items to leave out.

    Raises:
        ConfigError: When `k` is not within 1 … I.
        DataError: When a score is NaN, or shapes do not fit.
    """
    kept = scores.clone() if scores.is_floating_point() else scores.double()
    if seen is not None:
        kept[pairs(seen, kept.shape, kept.device)] = -torch.inf
    return best(kept, k, None, None)[0]


def set_values(lists: Tensor, answers: Ragged, ks: Sequence[int]) -> dict[str, Tensor]:
    """What each question is worth, by metric (``recall@20``, ``ndcg@20``, …), [B] float64 each.

    Args:
        lists: [B, K] distinct items, the best first; 0, which is no item, may stand in several places.
        answers: B sets of items, none of them empty.
        ks: How many recommendations count; at most K.

    Raises:
        ConfigError: When a k is not within 1 … K.
        DataError: When there are no lists, shapes do not fit, a list has an item twice, or a question has no answer.
    """
    check_ks(ks)
    if not len(lists):
        raise DataError("expected lists of questions to measure, got none")
    if max(ks) > lists.shape[1]:
        raise ConfigError(f"metrics at {max(ks)} need lists of as many items, got {lists.shape[1]}")
    hits, counts = _hits(lists.cpu().long(), answers)
    worth = 1 / torch.arange(2, lists.shape[1] + 2, dtype=torch.float64).log2()
    ideal = worth.cumsum(0)
    values: dict[str, Tensor] = {}
    for k in ks:
        values[f"recall@{k}"] = hits[:, :k].sum(dim=1) / counts
        values[f"ndcg@{k}"] = (hits[:, :k] @ worth[:k]) / ideal[counts.clamp(max=k).long() - 1]
    return values


def set_metrics(lists: Tensor, answers: Ragged, ks: Sequence[int]) -> dict[str, float]:
    """The means of `set_values` over all questions."""
    return {name: float(values.mean()) for name, values in set_values(lists, answers, ks).items()}


def _hits(lists: Tensor, answers: Ragged) -> tuple[Tensor, Tensor]:
    """Where a list holds an answer, [B, K] float64, and how many distinct answers each question has, [B] float64."""
    sorted_lists = lists.sort(dim=1).values
    if ((sorted_lists[:, 1:] == sorted_lists[:, :-1]) & (sorted_lists[:, 1:] > 0)).any():
        raise DataError("expected each item once in a list, got one twice, which would count as two hits")
    width = 1 + max(int(items.max()) for items in (lists, answers[0]) if items.numel())
    rows, items = pairs(answers, (len(lists), width), lists.device)
    keys = torch.unique((rows * width + items)[items > 0])
    counts = torch.bincount(keys // width, minlength=len(lists)).double()
    if not (counts > 0).all():
        raise DataError(f"{int((counts == 0).sum())} of {len(lists)} questions have no answer; leave them out")
    places = torch.arange(len(lists)).unsqueeze(1) * width + lists
    return torch.isin(places, keys).double(), counts
