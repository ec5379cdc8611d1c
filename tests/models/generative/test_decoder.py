from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from recsys.errors import CheckpointError, DataError
from recsys.layers.transformer import TransformerConfig
from recsys.models.generative.decoder import Decoder, DecoderConfig
from recsys.models.generative.llama import load_llama, to_llama
from recsys.models.generative.tokens import BOS, PAD, Vocabulary
from tests.helpers import randomise

LAYERS = TransformerConfig(width=16, layers=2, heads=4, kv_heads=2, head_dim=4, ffn=24)
PAIRS = Vocabulary((3, 4))
TOKENS = torch.tensor([[BOS, 2, 5, 3, 8], [BOS, 4, 6, PAD, PAD]])


def tiny(tied: bool = True, seed: int = 0) -> Decoder:
    decoder = Decoder(DecoderConfig(transformer=LAYERS, tied=tied), PAIRS)
    randomise(decoder, seed, std=0.3)
    return decoder


def log_probability(decoder: Decoder, row: int, places: list[int]) -> float:
    """Of the tokens at the places, each given those before it."""
    logits = decoder(TOKENS[row : row + 1])[0].detach().log_softmax(-1)
    return float(sum(logits[place - 1, TOKENS[row, place]] for place in places))


def test_logits_of_each_next_token() -> None:
    assert tiny()(TOKENS).shape == (2, 5, len(PAIRS))


def test_padding_on_the_right_changes_nothing() -> None:
    decoder = tiny()
    torch.testing.assert_close(decoder(TOKENS)[1, :3], decoder(TOKENS[1:, :3])[0])


def test_loss_is_the_mean_over_tokens_of_items() -> None:
    decoder = tiny()
    total = log_probability(decoder, 0, [1, 2, 3, 4]) + log_probability(decoder, 1, [1, 2])
    assert decoder.loss(TOKENS).item() == pytest.approx(-total / 6, rel=1e-5)


def test_loss_of_the_last_item_only() -> None:
    decoder = tiny()
    total = log_probability(decoder, 0, [3, 4]) + log_probability(decoder, 1, [1, 2])
    assert decoder.loss(TOKENS, last_only=True).item() == pytest.approx(-total / 4, rel=1e-5)


def test_a_batch_without_items_has_no_loss() -> None:
    with pytest.raises(DataError, match="expected tokens of items"):
        tiny().loss(torch.tensor([[BOS, PAD], [BOS, PAD]]))


@pytest.mark.parametrize("tied", [True, False])
def test_every_weight_gets_a_gradient(tied: bool) -> None:
    decoder = tiny(tied)
    decoder.loss(TOKENS).backward()  # type: ignore[no-untyped-call]
    for name, weight in decoder.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.abs().sum() > 0, name
    assert (decoder.head.weight is decoder.embedding.weight) == tied


def test_a_fresh_model_guesses_evenly_and_learns() -> None:
    torch.manual_seed(0)
    decoder = Decoder(DecoderConfig(transformer=LAYERS), PAIRS)
    assert decoder.loss(TOKENS).item() == pytest.approx(math.log(len(PAIRS)), abs=0.05)
    optimizer = torch.optim.AdamW(decoder.parameters(), lr=0.02)
    for _ in range(60):
        optimizer.zero_grad()
        decoder.loss(TOKENS).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    # All is certain but the first token, for which there are two answers: 2 of 6 tokens cost ln 2.
    assert decoder.loss(TOKENS).item() == pytest.approx(math.log(2) / 3, abs=0.05)


@pytest.mark.parametrize("tied", [True, False])
def test_llama_weights_come_back(tied: bool) -> None:
    source, copy = tiny(tied, seed=1), tiny(tied, seed=2)
    load_llama(copy, to_llama(source))
    torch.testing.assert_close(copy(TOKENS), source(TOKENS), rtol=0, atol=0)


def test_llama_weights_that_do_not_fit() -> None:
    decoder = tiny()
    weights = to_llama(decoder)

    def without(name: str) -> dict[str, Tensor]:
        return {key: weight for key, weight in weights.items() if key != name}

    load_llama(decoder, without("lm_head.weight"))
    with pytest.raises(CheckpointError, match=r"`model.layers.1.mlp.up_proj.weight` is missing"):
        load_llama(decoder, without("model.layers.1.mlp.up_proj.weight"))
    with pytest.raises(CheckpointError, match=r"`model.layers.2.bias` has no place in the decoder"):
        load_llama(decoder, {**weights, "model.layers.2.bias": torch.ones(1)})
    with pytest.raises(CheckpointError, match=r"expected `norm.weight` of shape \[16\], got \[15\]"):
        load_llama(decoder, {**weights, "model.norm.weight": torch.ones(15)})
    with pytest.raises(CheckpointError, match="make the decoder with tied=False"):
        load_llama(decoder, {**weights, "lm_head.weight": torch.ones(len(PAIRS), 16)})
