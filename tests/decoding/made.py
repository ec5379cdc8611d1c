"""Small catalogues, models and histories for tests of decoding."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise, product
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from recsys.layers.transformer import TransformerConfig
from recsys.models.generative.decoder import Decoder, DecoderConfig
from recsys.models.generative.tokens import Vocabulary
from tests.helpers import randomise

Codes = npt.NDArray[Any]


def decoder(sizes: tuple[int, ...], kv_heads: int = 2, seed: int = 0, context: int = 40) -> Decoder:
    """Two layers with weights that make tokens differ widely in probability."""
    layers = TransformerConfig(width=16, layers=2, heads=4, kv_heads=kv_heads, head_dim=4, ffn=24)
    model = Decoder(DecoderConfig(transformer=layers, context=context), Vocabulary(sizes))
    randomise(model, seed, std=0.4)
    return model.eval()


def catalogue(sizes: tuple[int, ...], items: int, seed: int = 0) -> Codes:
    """Items with distinct codes in no order."""
    every = np.array(list(product(*map(range, sizes))), dtype=np.int32)
    return np.random.default_rng(seed).permutation(every)[:items]


@st.composite
def catalogues(draw: st.DrawFn) -> tuple[Codes, tuple[int, ...]]:
    """1–20 items of 1–4 levels, and the levels' sizes."""
    sizes = draw(st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple))
    every = list(product(*map(range, sizes)))
    chosen = draw(st.lists(st.sampled_from(every), min_size=1, max_size=20, unique=True))
    return np.array(chosen, dtype=np.int32).reshape(len(chosen), len(sizes)), sizes


def ragged(histories: Sequence[Sequence[int]]) -> tuple[Codes, Codes]:
    """Items and offsets."""
    flat = np.array([item for history in histories for item in history], dtype=np.int32)
    return flat, np.cumsum([0, *map(len, histories)])


def prompts(model: Decoder, codes: Codes, histories: Sequence[Sequence[int]]) -> list[list[int]]:
    """The tokens of each history."""
    made = model.vocabulary.prompts(codes, *ragged(histories), model.config.context)
    return [made.tokens[start:stop].tolist() for start, stop in pairwise(made.offsets)]
