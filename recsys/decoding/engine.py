"""From histories to the best items: prefill each prompt once, then a beam search in which every beam is an item."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from recsys.decoding import beam
from recsys.decoding.cache import Cache, Packed, lineage
from recsys.decoding.fused import FusedDecoder
from recsys.decoding.lists import Lists, Permits, each
from recsys.decoding.method import Method
from recsys.decoding.trie import ItemTrie
from recsys.errors import ConfigError
from recsys.models.generative.decoder import Decoder
from recsys.models.generative.tokens import Prompts

__all__ = ["Engine", "Histories", "Recommended"]

Histories = tuple[npt.NDArray[Any], npt.NDArray[Any]]
"""Items [E] and offsets [B + 1]: what each user did, oldest first."""

_TOGETHER = {"cpu": 8}
"""Requests decoded as one batch, at most, 64 on other devices. It bounds the cache's memory, and on a CPU more of them
gain nothing: one core took 145 ms a request alone, 122 by fours, 121 by eights and 131 by 32 (12 layers of 512)."""


@dataclass(frozen=True)
class Recommended:
    """The best items for each history."""

    items: npt.NDArray[np.int32]
    """[B, k] best first; 0 where there are no more."""
    scores: npt.NDArray[np.float32]
    """[B, k] log-probability of each item's tokens given the history; -inf beside 0."""
    counts: dict[str, int]
    """What was left out: items `cut` off the far end of histories, `unknown` ones in them, numbers in lists that are no
    item's (`strange`), and recommendations `missing` because there were no more."""


class Engine:
    """Decodes a model over a trie.

    Prompts of different lengths go through the layers one behind the other, without padding. All beams of a request
    share its prompt's keys and values, and a step of all beams of all requests is one batch.

    Args:
        model: A trained decoder, whose weights are copied.
        trie: Of the catalogue.
        beams: Prefixes kept at each level; the most items that can be asked for.
        dtype: Of weights, keys and values. Scores are float32 sums of log-probabilities in any case.
        method: How requests pass through the layers.

    Raises:
        ConfigError: When the trie is of other ids than the model, or there is no beam.
    """

    def __init__(
        self,
        model: Decoder,
        trie: ItemTrie,
        beams: int = 20,
        dtype: torch.dtype = torch.float32,
        method: Method | None = None,
    ) -> None:
        trie.check(model.vocabulary, model.ids)
        if beams < 1:
            raise ConfigError(f"expected at least one beam, got {beams}")
        self.device = model.embedding.weight.device
        self.model, self.context = FusedDecoder(model, dtype), model.config.context
        self.trie, self.beams = trie.to(self.device), beams
        self.method = method or Method()

    def recommend(
        self, histories: Histories, k: int, allow: Lists | None = None, deny: Lists | None = None
    ) -> Recommended:
        """The k best items of each history.

        Args:
            histories: Items and offsets; an empty history is answered with what the model expects of anybody.
            k: Items a history, at most as many as there are beams.
            allow: For each history the only items it may be given, or None.
            deny: For each history the items it must not be given, or None.

        Raises:
            ConfigError: When k is not from 1 to the number of beams.
            DataError: When offsets or lists are none.
        """
        if not 1 <= k <= self.beams:
            raise ConfigError(f"expected k from 1 to the {self.beams} beams of this engine, got {k}")
        prompts = self.trie.vocabulary.prompts(self.trie.codes, *histories, self.context)
        batch = len(prompts.offsets) - 1
        allowed, denied = each(allow, batch, "allow"), each(deny, batch, "deny")
        items, scores = np.zeros((batch, k), dtype=np.int32), np.full((batch, k), -np.inf, dtype=np.float32)
        strange = 0
        for part, tokens, lengths in _parts(prompts, _TOGETHER.get(self.device.type, 64)):
            permits = Permits.of(self.trie, [allowed[row] for row in part], [denied[row] for row in part])
            strange += permits.strange if permits else 0
            with torch.inference_mode():
                found = self._decode(tokens, lengths, k, permits)
            items[part], scores[part] = found[0].cpu().numpy(), found[1].cpu().numpy()
        missing = int((items == 0).sum())
        counts = {"cut": prompts.cut, "unknown": prompts.unknown, "strange": strange, "missing": missing}
        return Recommended(items, scores, counts)

    def _decode(self, tokens: Tensor, lengths: list[int], k: int, permits: Permits | None) -> tuple[Tensor, Tensor]:
        """Items and scores [B, k] of one batch of prompts."""
        model, trie, batch = self.model, self.trie, len(lengths)
        widths = [*(min(self.beams, level.sink) for level in trie.levels[:-1]), self.beams]
        cache = Cache(len(model.transformer.blocks), widths[:-1])
        x, rows = self.method.embed(model.embedding, tokens.to(self.device), Packed.of(lengths, self.device))
        x = model.transformer(x, rows.positions(), self.method.prompt(cache, rows))
        beams, ancestors = beam.start(trie, batch), list[Tensor]()
        for level, width in enumerate(widths):
            logits = model.logits(x).view(batch, -1, len(trie.vocabulary))
            step = beam.advance(trie, level, beams, logits, width, permits)
            beams = step.beams
            if level == len(widths) - 1:
                break
            ancestors = lineage(ancestors, step.parents)
            positions = (rows.lengths + level).repeat_interleave(width)
            x = model.transformer(model.embedding(step.tokens.flatten()), positions, self.method.step(cache, ancestors))
        return beam.ranked(trie, beams, k)


def _parts(prompts: Prompts, size: int) -> Iterator[tuple[npt.NDArray[np.int64], Tensor, list[int]]]:
    """Prompts in batches of similar lengths: which they are, their tokens, their lengths."""
    lengths = np.diff(prompts.offsets)
    order = np.argsort(lengths, kind="stable")
    for start in range(0, len(order), size):
        part = order[start : start + size]
        tokens = [prompts.tokens[prompts.offsets[row] : prompts.offsets[row + 1]] for row in part]
        yield part, torch.from_numpy(np.concatenate(tokens)), lengths[part].tolist()
