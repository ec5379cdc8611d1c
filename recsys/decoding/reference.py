"""What decoding must give, the slow and obvious way: no cache, no batch, no trie of arrays."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from recsys.models.generative.decoder import Decoder

__all__ = ["beam_search", "every_item"]

Answer = list[tuple[int, float]]
"""Items and their log-probabilities, best first."""


def every_item(model: Decoder, codes: npt.NDArray[Any], prompt: list[int]) -> Answer:
    """All items by the log-probability of their tokens behind a prompt, each by a forward of its own.

    Args:
        model: A decoder.
        codes: [I, levels].
        prompt: Tokens.
    """
    items = model.vocabulary.tokens(codes).tolist()
    scores = [_log_probability(model, prompt, tokens) for tokens in items]
    best = sorted(range(len(items)), key=lambda row: (-scores[row], items[row]))
    return [(row + 1, scores[row]) for row in best]


def beam_search(model: Decoder, codes: npt.NDArray[Any], prompt: list[int], beams: int) -> Answer:
    """A beam search that forwards the whole prefix for every beam, over a set of prefixes.

    Args:
        model: A decoder.
        codes: [I, levels].
        prompt: Tokens.
        beams: Prefixes kept at each level.
    """
    items = {tuple(tokens): row + 1 for row, tokens in enumerate(model.vocabulary.tokens(codes).tolist())}
    kept: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
    for level in range(model.vocabulary.levels):
        prefixes = {tokens[: level + 1] for tokens in items}
        grown = []
        for score, prefix in kept:
            told = _next(model, [*prompt, *prefix])
            grown += [(score + float(told[p[-1]]), p) for p in prefixes if p[:-1] == prefix]
        kept = sorted(grown, key=lambda one: (-one[0], one[1]))[:beams]
    return [(items[prefix], score) for score, prefix in kept]


def _next(model: Decoder, tokens: list[int]) -> Tensor:
    """Log-probabilities of what follows, [V] float32."""
    with torch.no_grad():
        told: Tensor = model(torch.tensor([tokens], device=model.embedding.weight.device))[0, -1]
    return told.float().log_softmax(-1)


def _log_probability(model: Decoder, prompt: list[int], tokens: list[int]) -> float:
    """Of the tokens behind the prompt."""
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *tokens]], device=model.embedding.weight.device))[0].float()
    told = logits.log_softmax(-1)[len(prompt) - 1 : -1]
    return float(told[torch.arange(len(tokens)), torch.tensor(tokens)].sum())
