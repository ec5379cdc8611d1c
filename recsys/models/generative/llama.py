"""Weights of Llama checkpoints in a `Decoder`, and back; as Hugging Face's transformers names them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from recsys.errors import CheckpointError
from recsys.models.generative.decoder import Decoder

__all__ = ["load_llama", "to_llama"]

_FUSED = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "out": ("self_attn.o_proj",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
    "attention_norm": ("input_layernorm",),
    "ffn_norm": ("post_attention_layernorm",),
}
"""A block's weight -> Llama's, one below the other."""

_WHOLE = {
    "embedding.weight": "model.embed_tokens.weight",
    "norm.weight": "model.norm.weight",
    "head.weight": "lm_head.weight",
}


def load_llama(decoder: Decoder, weights: Mapping[str, Tensor]) -> None:
    """Copy the weights of a LlamaForCausalLM into a decoder of the same shape.

    Args:
        decoder: Where to.
        weights: The checkpoint's state; a tied head may be absent.

    Raises:
        CheckpointError: When a weight is missing, of another shape, or has no place in the decoder.
    """
    state = decoder.state_dict()
    names = _names(decoder)
    if decoder.config.tied:
        weights = _tied(weights)
    known = {name for group in names.values() for name in group}
    if missing := sorted(known - set(weights)):
        raise CheckpointError(f"expected weights of a LlamaForCausalLM, `{missing[0]}` is missing")
    if extra := sorted(set(weights) - known):
        raise CheckpointError(f"`{extra[0]}` has no place in the decoder; expected weights of a LlamaForCausalLM")
    fused = {own: torch.cat([weights[name] for name in group]) for own, group in names.items()}
    for own, weight in fused.items():
        if weight.shape != state[own].shape:
            came = f"{list(weight.shape)} from `{names[own][0]}`"
            raise CheckpointError(f"expected `{own}` of shape {list(state[own].shape)}, got {came}")
    decoder.load_state_dict(fused)


def to_llama(decoder: Decoder) -> dict[str, Tensor]:
    """A decoder's weights under Llama's names, as `load_llama` reads them; the head is there even when tied."""
    config = decoder.config.transformer
    rows = {
        "qkv": [heads * config.head_dim for heads in (config.heads, config.kv_heads, config.kv_heads)],
        "gate_up": [config.ffn, config.ffn],
    }
    llama: dict[str, Tensor] = {}
    for own, group in _names(decoder).items():
        weight = decoder.state_dict()[own]
        parts = weight.split(rows.get(own.split(".")[-2], [len(weight)]))
        llama.update(zip(group, parts, strict=True))
    return llama


def _tied(weights: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """With the embedding as the head."""
    embedding = weights.get("model.embed_tokens.weight", torch.empty(0))
    if "lm_head.weight" in weights and not torch.equal(weights["lm_head.weight"], embedding):
        raise CheckpointError("expected a tied head, got one with weights of its own; make the decoder with tied=False")
    return {**weights, "lm_head.weight": embedding}


def _names(decoder: Decoder) -> dict[str, tuple[str, ...]]:
    """Each of the decoder's weights -> those of Llama that it holds."""
    names: dict[str, tuple[str, ...]] = {own: (theirs,) for own, theirs in _WHOLE.items()}
    for layer in range(decoder.config.transformer.layers):
        for own, group in _FUSED.items():
            theirs = tuple(f"model.layers.{layer}.{name}.weight" for name in group)
            names[f"transformer.blocks.{layer}.{own}.weight"] = theirs
    return names
