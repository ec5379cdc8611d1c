"""Which items a request may be given: allow and deny lists, asked of subtrees."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from recsys.decoding.trie import ItemTrie
from recsys.errors import DataError

__all__ = ["Lists", "Permits", "each"]

Lists = Sequence[npt.NDArray[Any] | None]
"""Items for each request; None where a request has no list."""


@dataclass(frozen=True)
class Permits:
    """For each request of a batch the items that are listed, as places in the trie's order.

    A node's items are a range of places, so two binary searches count how many of them are listed, and a beam never
    enters a subtree in which nothing is left.
    """

    places: Tensor
    """[B, D] int64 ascending, filled up with I."""
    denying: Tensor
    """[B, 1] bool: whether the listed items are the forbidden ones, or else the only ones."""
    strange: int
    """Listed numbers that the catalogue has no item of; they change nothing."""

    @classmethod
    def of(cls, trie: ItemTrie, allow: Lists, deny: Lists) -> Permits | None:
        """Lists as permits; None when no request has any.

        Args:
            trie: Of the catalogue.
            allow: Items that each request may be given only; an empty list permits none.
            deny: Items that it may not be given, even if allowed.

        Raises:
            DataError: When a list holds no whole numbers.
        """
        if all(one is None for one in (*allow, *deny)):
            return None
        places, denying, strange = [], [], 0
        for allowed, denied in zip(allow, deny, strict=True):
            kept, unknown = _known(allowed, len(trie))
            forbidden, unheard = _known(denied, len(trie))
            strange += unknown + unheard
            listed = forbidden if allowed is None else np.setdiff1d(kept, forbidden, assume_unique=True)
            places.append(trie.places[torch.from_numpy(listed).to(trie.places.device)].sort().values)
            denying.append(allowed is None)
        filled = torch.nn.utils.rnn.pad_sequence(places, batch_first=True, padding_value=len(trie))
        return cls(filled, torch.tensor(denying, device=filled.device).unsqueeze(1), strange)

    def permits(self, low: Tensor, high: Tensor) -> Tensor:
        """Whether anything is left of ranges of places, [B, N] bool.

        Args:
            low: [B, N] where each range starts.
            high: [B, N] where it ends, exclusive.
        """
        listed = torch.searchsorted(self.places, high) - torch.searchsorted(self.places, low)
        return torch.where(self.denying, listed < high - low, listed > 0)


def each(lists: Lists | None, batch: int, name: str) -> Lists:
    """One list or None for each request.

    Raises:
        DataError: When there are not as many as requests.
    """
    if lists is None:
        return [None] * batch
    if len(lists) != batch:
        raise DataError(f"expected one {name} list (or None) for each of {batch} requests, got {len(lists)}")
    return lists


def _known(items: npt.NDArray[Any] | None, size: int) -> tuple[npt.NDArray[np.int64], int]:
    """The distinct items of a list that the catalogue has, and how many numbers it has not."""
    items = np.empty(0, dtype=np.int64) if items is None else np.asarray(items)
    if items.ndim != 1 or (items.dtype.kind not in "iu" and len(items)):
        raise DataError(f"expected a list of whole item numbers, got {items.dtype} {list(items.shape)}")
    known = (items >= 1) & (items <= size)
    return np.unique(items[known]).astype(np.int64), int((~known).sum())
