"""Where the answer stands among all items, and what that is worth: HR, recall, NDCG and MRR of one answer a question.

A rank counts from 1; 0 says that the answer is not in a list at all. Of a question with rank r, at k:

- HR (hit rate) and recall: 1 if r ≤ k. With one answer they are the same number, and papers report either.
- NDCG: 1 / log₂(1 + r) if r ≤ k (Järvelin and Kekäläinen 2002, "Cumulated Gain-Based Evaluation of IR Techniques"; the
  ideal is rank 1, which is worth 1).
- MRR: 1 / r if r ≤ k.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from recsys.data.questions import Ragged
from recsys.errors import ConfigError, DataError

__all__ = ["check_ks", "list_ranks", "pairs", "rank_metrics", "rank_values", "ranks", "ranks_reference"]


def ranks(scores: Tensor, answers: Tensor, seen: Ragged | None = None) -> Tensor:
    """The rank of each answer among all items: 1 and how many others score as high or higher, [B] int64.

    A tie counts against the answer. A model that scores everything alike knows nothing, and must not be told to have
    ranked all answers first; to break ties by the items' numbers, as a sort does, rewards whoever numbered them well
    (popular items come first in many data sets). So a model whose scores are coarse, in bfloat16 for example, pays.

    Args:
        scores: [B, I + 1], higher is better; column 0, which is no item, never counts. -inf rules an item out.
        answers: [B], 1 … I.
        seen: Items to leave out of each ranking; the answer itself always stays. By default none is left out.

    Raises:
        DataError: When shapes do not fit, a score is NaN, or an answer or a seen item is not among the items.
    """
    answers = _checked(scores, answers).unsqueeze(1)
    as_high = scores >= scores.gather(1, answers)
    as_high[:, 0] = False
    if seen is not None:
        as_high[pairs(seen, scores.shape, scores.device)] = False
        as_high.scatter_(1, answers, True)
    return as_high.sum(dim=1, dtype=torch.int32).long()  # a sum copies the mask first, by default as int64


def ranks_reference(scores: Tensor, answers: Tensor, seen: Ragged | None = None) -> Tensor:
    """The slow and obvious twin of `ranks`."""
    found = []
    for row, answer in enumerate(answers.tolist()):
        left_out = set() if seen is None else set(seen[0][seen[1][row] : seen[1][row + 1]].tolist())
        others = [item for item in range(1, scores.shape[1]) if item != answer and item not in left_out]
        found.append(1 + sum(bool(scores[row, item] >= scores[row, answer]) for item in others))
    return torch.tensor(found, dtype=torch.int64)


def list_ranks(lists: Tensor, answers: Tensor, seen: Ragged | None = None) -> Tensor:
    """The place of each answer in a list of recommendations, from 1; 0 where it is absent, [B] int64.

    For models that give their best items and no score for each. What is no item (0) keeps its place.

    Args:
        lists: [B, k] items, the best first. Metrics beyond k cannot be had from them.
        answers: [B], 1 and above.
        seen: Items to leave out of each list, the answer apart; what comes after moves up.

    Raises:
        DataError: When shapes do not fit, or an answer is no item.
    """
    if lists.dim() != 2 or answers.shape != lists.shape[:1]:
        raise DataError(f"expected lists [B, k] and answers [B], got {list(lists.shape)} and {list(answers.shape)}")
    answers = _items(answers.to(lists.device), "answers").unsqueeze(1)
    hits = lists == answers
    counts = torch.ones_like(hits)
    if seen is not None:
        _items(lists, "items of the lists", least=0)
        width = 1 + max((int(column.max()) for column in (lists, seen[0]) if column.numel()), default=0)
        rows, items = pairs(seen, (len(lists), width), lists.device)
        keys = torch.arange(len(lists), device=lists.device).unsqueeze(1) * width + lists
        counts = ~torch.isin(keys, rows * width + items) | hits
    first = hits & (hits.cumsum(dim=1) == 1)
    return torch.where(first, counts.cumsum(dim=1), 0).sum(dim=1)


def rank_values(ranks: Tensor, ks: Sequence[int]) -> dict[str, Tensor]:
    """What each question is worth, by metric (``hr@10``, ``recall@10``, ``ndcg@10``, ``mrr@10``, …), [B] float64 each.

    Args:
        ranks: [B] integers from 0, as `ranks` and `list_ranks` give them.
        ks: How many recommendations count.

    Raises:
        ConfigError: When a k is below 1.
        DataError: When there are no ranks, or one is below 0.
    """
    check_ks(ks)
    if not ranks.numel():
        raise DataError("expected ranks of questions to measure, got none")
    r = _items(ranks, "ranks", least=0).to("cpu", torch.float64)
    values: dict[str, Tensor] = {}
    for k in ks:
        hit = (r >= 1) & (r <= k)
        values[f"hr@{k}"] = values[f"recall@{k}"] = hit.double()
        values[f"ndcg@{k}"] = torch.where(hit, 1 / (1 + r).log2(), 0.0)
        values[f"mrr@{k}"] = torch.where(hit, 1 / r, 0.0)
    return values


def rank_metrics(ranks: Tensor, ks: Sequence[int]) -> dict[str, float]:
    """The means of `rank_values` over all questions."""
    return {name: float(values.mean()) for name, values in rank_values(ranks, ks).items()}


def check_ks(ks: Sequence[int]) -> None:
    """Raise ConfigError when there is no k, or one is below 1."""
    if not ks or min(ks) < 1:
        raise ConfigError(f"expected numbers of recommendations to count, each 1 or more, got {list(ks)}")


def pairs(lists: Ragged, shape: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor]:
    """The row of each value of a ragged list, and the values: the places [T] that they mark in a matrix of a shape.

    Raises:
        DataError: When there are not as many lists as rows, or a value is not below the number of columns.
    """
    rows, width = shape
    values, offsets = (part.to(device) for part in lists)
    sound = offsets.dim() == 1 and len(offsets) == rows + 1 and int(offsets[0]) == 0
    if not sound or int(offsets[-1]) != len(values) or bool((offsets.diff() < 0).any()):
        raise DataError(f"expected {rows + 1} offsets that ascend from 0 to the {len(values)} items of {rows} lists")
    if len(values) and not 0 <= int(values.min()) <= int(values.max()) < width:
        raise DataError(f"items run from 0 to {width - 1}, got {int(values.min())} to {int(values.max())}")
    return torch.arange(rows, device=device).repeat_interleave(offsets.diff()), values


def _checked(scores: Tensor, answers: Tensor) -> Tensor:
    if scores.dim() != 2 or answers.shape != scores.shape[:1]:
        raise DataError(f"expected scores [B, I + 1], answers [B]; got {list(scores.shape)}, {list(answers.shape)}")
    answers = _items(answers.to(scores.device), "answers")
    if answers.numel() and int(answers.max()) >= scores.shape[1]:
        raise DataError(f"answer {int(answers.max())} has no score: there are {scores.shape[1] - 1} items")
    real = scores[:, 1:]
    if real.numel() and real.amax().isnan():  # NaN wins every maximum, which costs a twentieth of looking for it
        raise DataError(f"{int(real.isnan().count_nonzero())} of {real.numel()} scores are NaN, which have no rank")
    return answers


def _items(items: Tensor, what: str, least: int = 1) -> Tensor:
    if items.is_floating_point() or items.dtype == torch.bool:
        raise DataError(f"expected {what} as integers, got {items.dtype}")
    if items.numel() and int(items.min()) < least:
        raise DataError(f"expected {what} from {least}, got {int(items.min())}")
    return items.long()
