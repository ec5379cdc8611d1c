"""How requests pass through a decoder's layers: the seam of accelerators."""

from __future__ import annotations

from torch import Tensor, nn

from recsys.decoding.cache import Cache, Packed
from recsys.decoding.passes import Prompt, Steps
from recsys.layers.transformer import Pass

__all__ = ["Method"]


class Method:
    """What a request goes through when nothing is left out; accelerators override what they change.

    Rows may be added to prompts (`embed`), dropped between layers, and kept in the cache or not, layer by layer
    (`prompt`, `step`). What is left must be one row a request after a prompt, and one a beam after a step.
    """

    def embed(self, embedding: nn.Embedding, tokens: Tensor, rows: Packed) -> tuple[Tensor, Packed]:
        """The rows that enter the first layer, [T, width], and how they make up the prompts.

        Args:
            embedding: Of tokens.
            tokens: [T] of all prompts.
            rows: Which tokens belong to which.
        """
        return embedding(tokens), rows

    def prompt(self, cache: Cache, rows: Packed) -> Pass:
        """The pass that fills a cache, and leaves the row of each request from which its first token is guessed."""
        return Prompt(cache, rows)

    def step(self, cache: Cache, ancestors: list[Tensor]) -> Pass:
        """The pass of one more token of every beam."""
        return Steps(cache, ancestors)
