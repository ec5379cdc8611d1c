"""A `Decoder` computes what transformers' LlamaForCausalLM does with the same weights, and finds what it generates."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from recsys.decoding.engine import Engine
from recsys.decoding.trie import ItemTrie
from recsys.layers.transformer import TransformerConfig
from recsys.models.generative.decoder import Decoder, DecoderConfig
from recsys.models.generative.llama import load_llama, to_llama
from recsys.models.generative.tokens import BOS, PAD, Vocabulary
from tests.decoding.made import catalogue, decoder, prompts, ragged
from tests.helpers import randomise

transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install transformers")

pytestmark = pytest.mark.parity


def _llama(decoder: Decoder) -> Any:
    """transformers' model with a decoder's weights."""
    config = decoder.config.transformer
    llama = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=len(decoder.vocabulary),
            hidden_size=config.width,
            intermediate_size=config.ffn,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.kv_heads,
            head_dim=config.head_dim,
            rms_norm_eps=config.norm_eps,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
            tie_word_embeddings=decoder.config.tied,
            bos_token_id=BOS,
            pad_token_id=PAD,
            eos_token_id=None,
        )
    ).eval()
    llama.load_state_dict(to_llama(decoder))
    return llama


@pytest.mark.parametrize(("kv_heads", "tied"), [(4, True), (2, False), (1, True)])
def test_logits_and_loss_equal_llamas(kv_heads: int, tied: bool) -> None:
    layers = TransformerConfig(
        width=32, layers=3, heads=4, kv_heads=kv_heads, head_dim=6, ffn=40, rope_theta=500.0, norm_eps=1e-5
    )
    model = Decoder(DecoderConfig(transformer=layers, tied=tied), Vocabulary((8, 8, 8)))
    randomise(model, std=0.2)
    llama = _llama(model)
    tokens = torch.randint(2, 26, (2, 50), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        theirs = llama(tokens, labels=tokens)
        torch.testing.assert_close(model(tokens), theirs.logits, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(model.loss(tokens), theirs.loss, rtol=1e-4, atol=1e-5)
    fresh = Decoder(model.config, model.vocabulary)
    load_llama(fresh, llama.state_dict())
    torch.testing.assert_close(fresh(tokens), model(tokens), rtol=0, atol=0)


def test_recommendations_equal_a_constrained_beam_search_of_transformers() -> None:
    sizes = (6, 7, 5)
    codes = catalogue(sizes, 60)
    model = decoder(sizes)
    trie = ItemTrie.build(codes, model.vocabulary)
    llama = _llama(model)
    histories = [[1, 2, 3, 4], [60, 7, 8, 7]]
    found = Engine(model, trie, beams=6).recommend(ragged(histories), k=6)
    items = {tuple(tokens): row + 1 for row, tokens in enumerate(model.vocabulary.tokens(codes).tolist())}
    tokens = torch.tensor(prompts(model, codes, histories))
    length = tokens.shape[1]

    def allowed(_: int, ids: torch.Tensor) -> list[int]:
        prefix = tuple(ids[length:].tolist())
        return sorted({item[len(prefix)] for item in items if item[: len(prefix)] == prefix})

    theirs = llama.generate(
        tokens,
        attention_mask=torch.ones_like(tokens),
        max_new_tokens=3,
        num_beams=6,
        num_return_sequences=6,
        length_penalty=0.0,
        do_sample=False,
        prefix_allowed_tokens_fn=allowed,
        return_dict_in_generate=True,
        output_scores=True,
    )
    assert found.items.flatten().tolist() == [items[tuple(row)] for row in theirs.sequences[:, length:].tolist()]
    torch.testing.assert_close(torch.from_numpy(found.scores).flatten(), theirs.sequences_scores, rtol=1e-4, atol=1e-4)
