"""The items of a catalogue as a prefix trie of their codes, in compressed sparse rows."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from recsys.data.semantic_ids import SemanticIds
from recsys.errors import ConfigError, DataError
from recsys.models.generative.tokens import Vocabulary

__all__ = ["Children", "ItemTrie", "Level"]


@dataclass(frozen=True)
class Children:
    """The nodes below some nodes, each row filled up to the level's widest."""

    tokens: Tensor
    """[..., C] int64 token that leads to each child, ascending."""
    nodes: Tensor
    """[..., C] int64 the children."""
    absent: Tensor
    """[..., C] bool where there is none; tokens and nodes there have no meaning."""


@dataclass(frozen=True)
class Level:
    """The N nodes at one depth in lexicographic order, and behind them the sink, a node without children and items."""

    first: Tensor
    """[parents + 1] int64 where the children of each node above start; the last parent is the sink above."""
    counts: Tensor
    """[parents + 1] int64 how many children it has."""
    tokens: Tensor
    """[N + C] int64 the token that leads to a node, and C that mean nothing, so that C can be read from any place."""
    bounds: Tensor
    """[N + 2] int64; node n has the items at places bounds[n] … bounds[n + 1] - 1 of `ItemTrie.items`."""
    reach: Tensor
    """[C] int64 0 … C - 1, C the most children that a node above has."""

    @property
    def sink(self) -> int:
        """N, the node that stands for none."""
        return len(self.bounds) - 2

    def to(self, device: torch.device) -> Level:
        """The level on a device."""
        return Level(*(getattr(self, field.name).to(device) for field in fields(self)))


@dataclass(frozen=True, eq=False)
class ItemTrie:
    """Which tokens may follow: every path from the root is an item, and every item a path.

    A level is a matrix of compressed sparse rows, so that the children of all beams are one gather whatever the
    catalogue's size (STATIC: arXiv 2602.22647). A node's items are contiguous, for they are sorted by their codes.

    Attributes:
        vocabulary: Of the tokens.
        codes: [I, levels] as given; item i has row i - 1.
        levels: One a token of an item.
        items: [I] int64 item numbers in lexicographic order of their codes.
        places: [I + 1] int64 where an item stands in `items`; item 0 at I, behind all.
        fingerprint: Of the semantic ids; see `SemanticIds.fingerprint`.
    """

    vocabulary: Vocabulary
    codes: npt.NDArray[Any]
    levels: tuple[Level, ...]
    items: Tensor
    places: Tensor
    fingerprint: str

    @classmethod
    def build(cls, codes: npt.NDArray[Any], vocabulary: Vocabulary) -> Self:
        """Sort the items by their codes and cut them into nodes, level after level.

        Args:
            codes: [I, levels]; item i has row i - 1.
            vocabulary: Whose sizes bound the codes.

        Raises:
            DataError: When there are no items, a code is out of range, or items share all their codes: neither
                could then be told from the other, and a level that numbers them apart is needed.
        """
        tokens = vocabulary.tokens(codes)
        if not len(tokens):
            raise DataError("expected a catalogue of at least one item, got none")
        order = _order(tokens, vocabulary)
        tokens = tokens[order]
        fresh = np.ones(len(tokens), dtype=bool)
        fresh[1:] = False
        bounds, levels = np.array([0, len(tokens)]), []
        for level in range(vocabulary.levels):
            column = np.ascontiguousarray(tokens[:, level])
            fresh[1:] |= column[1:] != column[:-1]
            starts = np.flatnonzero(fresh)
            levels.append(_level(bounds, starts, column))
            bounds = np.append(starts, len(tokens))
        _check_unique(levels[-1], codes, order)
        places = np.empty(len(order) + 1, dtype=np.int64)
        places[0], places[order + 1] = len(order), np.arange(len(order))
        items = torch.from_numpy(order + 1)
        mark = SemanticIds(codes.astype(np.int32), vocabulary.sizes).fingerprint()
        return cls(vocabulary, codes, tuple(levels), items, torch.from_numpy(places), mark)

    def __len__(self) -> int:
        """How many items there are."""
        return len(self.items)

    def start(self, batch: int) -> Tensor:
        """The root as the one beam of each request, [B, 1]."""
        return torch.zeros(batch, 1, dtype=torch.int64, device=self.items.device)

    def children(self, level: int, nodes: Tensor) -> Children:
        """What may follow at a level.

        Args:
            level: Of the children; 0 is the first token of an item.
            nodes: [...] nodes of the level above (the root for level 0), or its sink.
        """
        below = self.levels[level]
        found = below.first[nodes].unsqueeze(-1) + below.reach
        return Children(below.tokens[found], found, below.reach >= below.counts[nodes].unsqueeze(-1))

    def leaves(self, nodes: Tensor) -> Tensor:
        """The items of nodes of the last level, [...]; 0 for its sink."""
        return torch.where(nodes < len(self), self.items[nodes.clamp(max=len(self) - 1)], 0)

    def check(self, vocabulary: Vocabulary, ids: str) -> None:
        """Refuse to decode a model that was trained on other ids.

        Args:
            vocabulary: Of the model.
            ids: Fingerprint of the semantic ids it was trained on; an empty one matches any.

        Raises:
            ConfigError: When they differ from the trie's.
        """
        if vocabulary != self.vocabulary:
            sizes = f"levels of {self.vocabulary.sizes} codes, the model's ids {vocabulary.sizes}"
            raise ConfigError(f"the trie is of another catalogue: it has {sizes}; build it from the model's ids")
        if ids and ids != self.fingerprint:
            differ = f"fingerprint {self.fingerprint[:12]}, the model's ids {ids[:12]}"
            raise ConfigError(f"the trie is of another catalogue: it has {differ}; build it from the model's ids")

    def to(self, device: torch.device) -> ItemTrie:
        """The trie on a device."""
        levels = tuple(level.to(device) for level in self.levels)
        return replace(self, levels=levels, items=self.items.to(device), places=self.places.to(device))


def _order(tokens: npt.NDArray[np.int64], vocabulary: Vocabulary) -> npt.NDArray[np.int64]:
    """[I] rows in lexicographic order; one sort of whole numbers where all codes of an item fit into 63 bits."""
    if math.prod(vocabulary.sizes) >= 2**63:
        return np.lexsort(tokens.T[::-1])
    keys = np.zeros(len(tokens), dtype=np.int64)
    for level, size in enumerate(vocabulary.sizes):
        keys = keys * size + (tokens[:, level] - vocabulary.first[level])
    return np.argsort(keys, kind="stable")


def _level(above: npt.NDArray[np.int64], starts: npt.NDArray[np.int64], column: npt.NDArray[np.int64]) -> Level:
    """One level from the places where its nodes start and the bounds [parents + 1] of the level above."""
    first = np.searchsorted(starts, above)
    counts = np.append(np.diff(first), 0)
    widest = int(counts.max())
    return Level(
        torch.from_numpy(first),
        torch.from_numpy(counts),
        torch.from_numpy(np.append(column[starts], np.zeros(widest, dtype=np.int64))),
        torch.from_numpy(np.append(starts, [len(column), len(column)])),
        torch.arange(widest),
    )


def _check_unique(last: Level, codes: npt.NDArray[Any], order: npt.NDArray[np.int64]) -> None:
    sizes = last.bounds.diff()
    if int(sizes.max()) > 1:
        node = int(sizes.argmax())
        pair = order[int(last.bounds[node]) : int(last.bounds[node]) + 2]
        shared = int((sizes[sizes > 1]).sum())
        raise DataError(
            f"{shared} items share all their codes with another, such as items {pair[0] + 1} and {pair[1] + 1} with "
            f"{codes[pair[0]].tolist()}; add a level that tells them apart"
        )
