"""A `Decoder` computes what transformers' LlamaForCausalLM does with the same weights."""

from __future__ import annotations

import pytest
import torch

from recsys.layers.transformer import TransformerConfig
from recsys.models.generative.decoder import Decoder, DecoderConfig
from recsys.models.generative.llama import load_llama, to_llama
from recsys.models.generative.tokens import Vocabulary
from tests.helpers import randomise

transformers = pytest.importorskip("transformers", reason="transformers is not installed: pip install transformers")

pytestmark = pytest.mark.parity


@pytest.mark.parametrize(("kv_heads", "tied"), [(4, True), (2, False), (1, True)])
def test_logits_and_loss_equal_llamas(kv_heads: int, tied: bool) -> None:
    layers = TransformerConfig(
        width=32, layers=3, heads=4, kv_heads=kv_heads, head_dim=6, ffn=40, rope_theta=500.0, norm_eps=1e-5
    )
    decoder = Decoder(DecoderConfig(transformer=layers, tied=tied), Vocabulary((8, 8, 8)))
    randomise(decoder, std=0.2)
    llama = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=26,
            hidden_size=32,
            intermediate_size=40,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=kv_heads,
            head_dim=6,
            rms_norm_eps=1e-5,
            rope_parameters={"rope_type": "default", "rope_theta": 500.0},
            tie_word_embeddings=tied,
            pad_token_id=1,
            bos_token_id=0,
            eos_token_id=None,
        )
    ).eval()
    llama.load_state_dict(to_llama(decoder))
    tokens = torch.randint(2, 26, (2, 50), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        theirs = llama(tokens, labels=tokens)
        torch.testing.assert_close(decoder(tokens), theirs.logits, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(decoder.loss(tokens), theirs.loss, rtol=1e-4, atol=1e-5)
    fresh = Decoder(decoder.config, decoder.vocabulary)
    load_llama(fresh, llama.state_dict())
    torch.testing.assert_close(fresh(tokens), decoder(tokens), rtol=0, atol=0)
