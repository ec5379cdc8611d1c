"""Lists of items out of scores of all items: the best first, some left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from recsys.data.catalogue import Catalogue
from recsys.errors import ConfigError, DataError

__all__ = ["Given", "Names", "Recommended", "best", "given"]

Names = Sequence[Sequence[Any]]
"""A list of items' names for each history."""


@dataclass(frozen=True)
class Given:
    """Lists of names as items of a catalogue, one list behind the other.

    Attributes:
        items: [T] int64, numbers 1 … I.
        offsets: [B + 1]; list b is items[offsets[b] : offsets[b + 1]].
        unknown: Names that the catalogue does not have; they are left out.
    """

    items: Tensor
    offsets: Tensor
    unknown: int

    def rows(self) -> Tensor:
        """The list of each item, [T]."""
        return torch.repeat_interleave(torch.arange(len(self.offsets) - 1), self.offsets.diff())


def given(catalogue: Catalogue, lists: Names) -> Given:
    """Look up names.

    Raises:
        DataError: When `lists` are no lists of names.
    """
    if isinstance(lists, str) or any(
        isinstance(one, str) or not isinstance(one, Sequence | np.ndarray) for one in lists
    ):
        raise DataError("expected a list of items for each history, such as [['a', 'b'], ['c']]")
    try:
        names = pa.array([name for one in lists for name in one])
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise DataError(f"expected names of items that are all text or all whole numbers: {error}") from None
    numbers = catalogue.indices(names) if len(names) else np.zeros(0, np.int32)
    known = numbers > 0
    owners = np.repeat(np.arange(len(lists)), [len(one) for one in lists])[known]
    offsets = np.searchsorted(owners, np.arange(len(lists) + 1))
    items = torch.from_numpy(numbers[known].astype(np.int64))
    return Given(items, torch.from_numpy(offsets.astype(np.int64)), int((~known).sum()))


@dataclass(frozen=True)
class Recommended:
    """The best items of each history.

    Attributes:
        items: [B, k] int64, numbers of the catalogue, the best first; 0 where there are no more.
        scores: [B, k] float32; -inf where there is no item.
        catalogue: Whose numbers they are.
        unknown: Items of the histories that the catalogue does not have; they were left out.
        cut: Items of the histories that were older than the model reads.
    """

    items: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float32]
    catalogue: Catalogue
    unknown: int = 0
    cut: int = 0

    def names(self) -> list[list[str]]:
        """The items by name; lists are shorter where there are no more."""
        flat = self.catalogue.names.take(pa.array(np.maximum(self.items, 1).reshape(-1) - 1)).to_pylist()
        k = self.items.shape[1]
        return [flat[b * k : b * k + int((row > 0).sum())] for b, row in enumerate(self.items)]


def best(scores: Tensor, k: int, allow: Given | None, deny: Given | None) -> tuple[Tensor, Tensor]:
    """The k best items of each row and their scores, [B, k] each; of equal scores the lower number comes first.

    Args:
        scores: [B, I + 1]; column 0 is no item. It is changed.
        k: Of each list.
        allow: Items that may be recommended to each; by default all.
        deny: Items that may not.

    Raises:
        ConfigError: When `k` is not within 1 … I.
        DataError: When a score is NaN.
    """
    if not 1 <= k < scores.shape[1]:
        raise ConfigError(f"expected lists of 1 to {scores.shape[1] - 1} items, got {k}")
    scores[:, 0] = -torch.inf
    if scores.isnan().any():
        bad = int(scores.isnan().count_nonzero())
        raise DataError(f"{bad} of {scores[:, 1:].numel()} scores are NaN: the weights are, or far too large")
    if allow is not None:
        kept = torch.full_like(scores, -torch.inf)
        at = (allow.rows().to(scores.device), allow.items.to(scores.device))
        kept[at] = scores[at]
        scores = kept
    if deny is not None:
        scores[deny.rows().to(scores.device), deny.items.to(scores.device)] = -torch.inf
    edge = scores.topk(k, dim=1).values[:, -1:]  # its order of equal scores is not defined
    rows, items = (scores >= edge).nonzero(as_tuple=True)
    order = scores[rows, items].argsort(descending=True, stable=True)
    order = order[rows[order].argsort(stable=True)]
    rows, items = rows[order], items[order]
    place = torch.arange(len(rows), device=rows.device) - torch.searchsorted(rows, rows)
    listed = torch.zeros(len(scores), k, dtype=torch.int64, device=scores.device)
    listed[rows[place < k], place[place < k]] = items[place < k]
    found = scores.gather(1, listed)
    return torch.where(found > -torch.inf, listed, 0), found
