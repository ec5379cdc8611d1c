"""How rows pass through the layers when decoding: a prompt that fills a cache, and steps that read it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from recsys.decoding.attention import causal, masked, spread
from recsys.decoding.cache import Cache, Packed

__all__ = ["Prompt", "Steps"]


class Prompt:
    """Prompts of all lengths one behind the other, without padding; the last layer asks for their last rows only.

    Args:
        cache: Where keys and values go.
        rows: The prompts.
    """

    def __init__(self, cache: Cache, rows: Packed) -> None:
        self.cache, self.kept = cache, rows

    def rows(self, layer: int, x: Tensor, positions: Tensor) -> Tensor | None:
        """All."""
        return None

    def asking(self, layer: int) -> Tensor | None:
        """All but in the last layer, from which nothing is needed but what the next token is guessed from."""
        return self.kept.last() if layer == len(self.cache.keys) - 1 else None

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Store, then attend within each prompt."""
        self.cache.store(layer, k, v, self.kept)
        out = torch.empty_like(q)
        whole = len(q) == len(k)
        for request, (start, stop) in enumerate(self.kept.spans):
            asked = slice(start, stop) if whole else slice(request, request + 1)
            out[asked] = causal(q[asked], *self.cache.prompt(layer, request))
        return out


class Steps:
    """One more token of every beam, [B · W] rows, request after request.

    Args:
        cache: With the prompts, and the steps before this one.
        ancestors: Of each step up to this one; see `lineage`.
    """

    def __init__(self, cache: Cache, ancestors: Sequence[Tensor]) -> None:
        self.cache, self.ancestors = cache, ancestors
        self.step = len(ancestors) - 1
        self._masks: dict[int, Tensor] = {}

    def rows(self, layer: int, x: Tensor, positions: Tensor) -> Tensor | None:
        """All."""
        return None

    def asking(self, layer: int) -> Tensor | None:
        """All."""
        return None

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Attend to the request's prompt and to the tokens that the beam has generated."""
        keys, values = self.cache.append(layer, self.step, k, v)
        return masked(q, keys, values, self.mask(layer, q.shape[1], keys))

    def mask(self, layer: int, heads: int, keys: Tensor) -> Tensor:
        """What is added to a layer's scores, for `masked`; the same for all layers that keep the same rows.

        Args:
            layer: Counted from 0.
            heads: That ask.
            keys: [B, kv_heads, S, head_dim].
        """
        rows = id(self.cache.kept[layer])
        if rows not in self._masks:
            seen = self.cache.mask(layer, self.ancestors)
            self._masks[rows] = spread(seen, heads, keys.shape[1], keys.dtype)
        return self._masks[rows]
