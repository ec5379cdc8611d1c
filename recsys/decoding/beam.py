"""Beam search over a trie of items: which prefixes are kept after one more token."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from recsys.decoding.lists import Permits
from recsys.decoding.trie import ItemTrie

__all__ = ["Beams", "Step", "advance", "best", "ranked", "start"]


@dataclass(frozen=True)
class Beams:
    """The kept prefixes of each request, in lexicographic order; places that none fills hold the sink and -inf."""

    scores: Tensor
    """[B, W] float32 log-probability of each prefix given the prompt."""
    nodes: Tensor
    """[B, W] int64 where they stand in the trie."""


@dataclass(frozen=True)
class Step:
    """What one more token made of the beams."""

    beams: Beams
    tokens: Tensor
    """[B, W] int64 the token that each beam took."""
    parents: Tensor
    """[B, W] int64 the beam that it was, 0 … W' - 1 of the W' before."""


def start(trie: ItemTrie, batch: int) -> Beams:
    """One beam a request, at the root."""
    nodes = trie.start(batch)
    return Beams(torch.zeros(nodes.shape, device=nodes.device), nodes)


def advance(trie: ItemTrie, level: int, beams: Beams, logits: Tensor, width: int, permits: Permits | None) -> Step:
    """Add a token to every beam and keep the best ``width`` of all: ``score + log softmax(logits)[token]``.

    The softmax is over the whole vocabulary and the mask comes after it, as with transformers'
    `prefix_allowed_tokens_fn`: what a model gives to tokens that lead to no item is lost, not shared out, so that
    the score of an item is its exact log-probability. Among equal scores the prefix that comes first is kept.

    Args:
        trie: Of the items.
        level: Of the token.
        beams: W' a request.
        logits: [B, W', V] of the next token.
        width: W, how many to keep.
        permits: What the requests' lists leave.
    """
    children, sink = trie.children(level, beams.nodes), trie.levels[level].sink
    absent = children.absent
    if permits is not None:
        bounds = trie.levels[level].bounds
        flat = children.nodes.masked_fill(absent, sink).flatten(1)
        absent = ~permits.permits(bounds[flat], bounds[flat + 1]).view(absent.shape)
    told = logits.float().log_softmax(-1).gather(-1, children.tokens)
    scores = _filled((told + beams.scores.unsqueeze(-1)).masked_fill_(absent, -torch.inf), width, -torch.inf)
    # Children of beams in lexicographic order are in it, and so are the kept ones once their places are sorted.
    kept = best(scores, width).sort(dim=1).values
    scores = scores.gather(1, kept)
    nodes = _filled(children.nodes, width, sink).gather(1, kept).masked_fill_(scores.isneginf(), sink)
    parents = (kept // absent.shape[2]).clamp_(max=absent.shape[1] - 1)
    return Step(Beams(scores, nodes), _filled(children.tokens, width, 0).gather(1, kept), parents)


def _filled(candidates: Tensor, width: int, value: float) -> Tensor:
    """[B, W', C] -> [B, N], N at least the width."""
    flat = candidates.flatten(1)
    short = width - flat.shape[1]
    return functional.pad(flat, (0, short), value=value) if short > 0 else flat


def best(scores: Tensor, width: int) -> Tensor:
    """Places of the best of each row, best first, [B, width]; of equal ones the earlier, always.

    `torch.topk` promises no order of ties. Here none are left: scores become whole numbers of the same order, with
    the place below them.

    Args:
        scores: [B, N] float32, none above 0 (and no NaN), as log-probabilities are.
        width: How many, at most N.
    """
    places = torch.arange(scores.shape[1], device=scores.device)
    # The bits of numbers from 0 up ascend with them. 0 - s, not -s: the latter makes a -0 of a 0, whose sign is a bit.
    keys = torch.add(places, (0.0 - scores).view(torch.int32), alpha=2**32)
    return keys.topk(width, dim=1, largest=False).indices


def ranked(trie: ItemTrie, beams: Beams, k: int) -> tuple[Tensor, Tensor]:
    """Items and scores of finished beams, best first, [B, k] each; 0 and -inf where there are fewer.

    Args:
        trie: Of the items.
        beams: After the last level.
        k: How many, at most as many as there are beams.
    """
    order = best(beams.scores, k)
    return trie.leaves(beams.nodes.gather(1, order)), beams.scores.gather(1, order)
