"""Tokens of a generative model over semantic ids, and histories of items as prompts."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import numpy.typing as npt

from recsys.errors import ConfigError, DataError

__all__ = ["BOS", "PAD", "SPECIALS", "Prompts", "Vocabulary"]

BOS = 0
"""The first token of every prompt."""
PAD = 1
"""Fills rows of a rectangular batch; never attended to, never a target."""
SPECIALS = 2
"""How many tokens are no codes."""


@dataclass(frozen=True)
class Prompts:
    """Histories as tokens, one behind the other, and what was left out of them."""

    tokens: npt.NDArray[np.int64]
    """[T]."""
    offsets: npt.NDArray[np.int64]
    """[B + 1]; prompt b is tokens[offsets[b] : offsets[b + 1]] and starts with BOS."""
    cut: int
    """Items left out because they are older than the context reaches."""
    unknown: int
    """Items left out because the catalogue has none of their number."""


@dataclass(frozen=True)
class Vocabulary:
    """One token space for all levels: ``token(level, code) = first[level] + code``, behind the specials.

    A code of one level and the same code of another are different tokens, so a token says which level it is of.
    """

    sizes: tuple[int, ...]
    """How many codes each level has."""

    def __post_init__(self) -> None:
        if not self.sizes or min(self.sizes) < 1:
            raise ConfigError(f"expected at least one level, each of at least one code, got sizes {self.sizes}")

    def __len__(self) -> int:
        return SPECIALS + sum(self.sizes)

    @property
    def levels(self) -> int:
        """Tokens an item has."""
        return len(self.sizes)

    @property
    def first(self) -> tuple[int, ...]:
        """The token of each level's code 0."""
        return tuple(accumulate(self.sizes[:-1], initial=SPECIALS))

    def token(self, level: int, code: int) -> int:
        """The token of a code.

        Raises:
            DataError: When there is no such level or code.
        """
        if not (0 <= level < self.levels and 0 <= code < self.sizes[level]):
            raise DataError(f"expected a code of levels of sizes {self.sizes}, got code {code} of level {level}")
        return self.first[level] + code

    def code(self, token: int) -> tuple[int, int]:
        """The level and the code of a token.

        Raises:
            DataError: When it is a special token or none at all.
        """
        for level, first in enumerate(self.first):
            if first <= token < first + self.sizes[level]:
                return level, token - first
        raise DataError(f"expected a token from {SPECIALS} to {len(self) - 1}, got {token}")

    def tokens(self, codes: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        """Codes of items [I, levels] -> their tokens [I, levels].

        Raises:
            DataError: When the columns are not one a level, or a code is out of range.
        """
        if codes.ndim != 2 or codes.shape[1] != self.levels or codes.dtype.kind not in "iu":
            raise DataError(f"expected integer codes [items, {self.levels}], got {codes.dtype} {list(codes.shape)}")
        wrong = ((codes < 0) | (codes >= np.array(self.sizes))).any(axis=1)
        if wrong.any():
            item = int(wrong.argmax())
            raise DataError(f"item {item + 1} has codes {codes[item].tolist()}, but levels have {self.sizes} codes")
        tokens: npt.NDArray[np.int64] = codes.astype(np.int64) + np.array(self.first, dtype=np.int64)
        return tokens

    def prompts(
        self,
        codes: npt.NDArray[Any],
        items: npt.NDArray[Any],
        offsets: npt.NDArray[Any],
        context: int,
    ) -> Prompts:
        """Histories of items -> BOS and the items' tokens, oldest first.

        Numbers outside 1 … I are dropped and counted; of what is left the newest (context - 1) // levels items are
        kept, the others counted. An empty history is [BOS].

        Args:
            codes: [I, levels] of the catalogue; item i has row i - 1.
            items: [E] items of all histories, oldest first.
            offsets: [B + 1]; history b is items[offsets[b] : offsets[b + 1]].
            context: Tokens that a prompt has at most.

        Raises:
            ConfigError: When not even one item fits into the context.
            DataError: When the offsets are none, or the codes are not the vocabulary's.
        """
        if context <= self.levels:
            raise ConfigError(f"expected a context of more than {self.levels} tokens, got {context}")
        _check_offsets(items, offsets)
        known = (items >= 1) & (items <= len(codes))
        history = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))[known]
        kept = items[known]
        counts = np.bincount(history, minlength=len(offsets) - 1)
        newness = np.cumsum(counts)[history] - np.arange(len(kept))  # 1 for the newest of its history
        fits = newness <= (context - 1) // self.levels
        return self._packed(codes, kept[fits], history[fits], counts, int((~known).sum()))

    def _packed(
        self,
        codes: npt.NDArray[Any],
        items: npt.NDArray[Any],
        history: npt.NDArray[np.int64],
        counts: npt.NDArray[np.int64],
        unknown: int,
    ) -> Prompts:
        """Lay out the items that are left; `counts` [B] are the known ones of each history, before cutting."""
        left = np.bincount(history, minlength=len(counts))
        offsets = np.concatenate([[0], np.cumsum(1 + left * self.levels)]).astype(np.int64)
        tokens = np.full(int(offsets[-1]), BOS, dtype=np.int64)
        # Before an item's tokens stand one BOS a history up to its own, and the tokens of the items before it.
        starts = history + 1 + np.arange(len(items)) * self.levels
        tokens[starts[:, None] + np.arange(self.levels)] = self.tokens(codes[items - 1])
        return Prompts(tokens, offsets, int(counts.sum() - left.sum()), unknown)


def _check_offsets(items: npt.NDArray[Any], offsets: npt.NDArray[Any]) -> None:
    if items.ndim != 1 or items.dtype.kind not in "iu" or offsets.ndim != 1 or offsets.dtype.kind not in "iu":
        raise DataError(
            f"expected integer items [E] and offsets [B + 1], got {items.dtype} {list(items.shape)} and "
            f"{offsets.dtype} {list(offsets.shape)}"
        )
    if len(offsets) < 1 or offsets[0] != 0 or offsets[-1] != len(items) or (np.diff(offsets) < 0).any():
        raise DataError(f"expected offsets that ascend from 0 to the {len(items)} items, got {offsets.tolist()[:9]} …")
