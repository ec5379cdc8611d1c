"""Recommendations without learning, for a model to beat: what is popular, and what the user did last.

Both are called as models are by `recsys.training.protocol.measure`: histories in, scores of all items out.
"""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor

from recsys.data.histories import Histories

__all__ = ["Popularity", "RepeatLast"]


class Popularity:
    """The same list for everyone: an item's score is how often it occurs in training.

    Args:
        counts: [I + 1] how often; of 0, which is no item, never.
    """

    def __init__(self, counts: Tensor) -> None:
        self.counts = counts.double()  # exact, so that two items tie only where they are as popular

    @classmethod
    def of(cls, train: Histories, items: int) -> Self:
        """Count what is trained on.

        Args:
            train: What may be known.
            items: I, the catalogue's length.

        Raises:
            DataError: When an item is not in a catalogue of this length.
        """
        return cls(torch.from_numpy(train.popularity(items)))

    def __call__(self, items: Tensor, offsets: Tensor) -> Tensor:
        """Scores [B, I + 1] of B histories, which do not matter; a view that cannot be written to."""
        return self.counts.expand(len(offsets) - 1, -1)


class RepeatLast(Popularity):
    """First the item that the user did last, then what is popular: hard to beat where people repeat themselves."""

    def __call__(self, items: Tensor, offsets: Tensor) -> Tensor:
        """Scores [B, I + 1].

        Args:
            items: [T] of B histories, oldest first.
            offsets: [B + 1].
        """
        scores = self.counts.repeat(len(offsets) - 1, 1)
        rows = (offsets.diff() > 0).nonzero().squeeze(1)  # an empty history has no last item
        scores[rows, items[offsets[1:][rows] - 1]] = self.counts.max() + 1
        return scores
