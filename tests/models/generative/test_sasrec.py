"""SASRec against torch's own transformer."""

from __future__ import annotations

import torch
from torch import nn

from recsys.models.generative.base import Places
from recsys.models.generative.sasrec import SASRec, SASRecBlock, SASRecConfig

CONFIG = SASRecConfig(context=7, width=12, heads=3, layers=2, dropout=0.0)


def torchs(ours: SASRecBlock) -> nn.TransformerEncoderLayer:
    """torch's layer with the weights of ours."""
    layer = nn.TransformerEncoderLayer(12, 3, dim_feedforward=12, dropout=0.0, norm_first=True, batch_first=True)
    pairs: list[tuple[nn.Module, nn.Module]] = [
        (layer.self_attn.out_proj, ours.out),
        (layer.linear1, ours.up),
        (layer.linear2, ours.down),
    ]
    pairs += [(layer.norm1, ours.attention_norm), (layer.norm2, ours.network_norm)]
    for theirs, own in pairs:
        theirs.load_state_dict(own.state_dict())
    layer.self_attn.load_state_dict({"in_proj_weight": ours.qkv.weight, "in_proj_bias": ours.qkv.bias}, strict=False)
    return layer.train()  # its evaluation mode takes a fused path of its own


def model() -> SASRec:
    torch.manual_seed(5)
    made = SASRec(20, CONFIG)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.2)
        made.items.weight[0] = 0.0
    return made


def test_a_block_is_torchs_encoder_layer() -> None:
    block = model().blocks[0]
    assert isinstance(block, SASRecBlock)
    x = torch.randn(4, 7, 12)
    hidden = nn.Transformer.generate_square_subsequent_mask(7)
    torch.testing.assert_close(block(x, Places.causal(7, x.device)), torchs(block)(x, src_mask=hidden, is_causal=True))


def test_attention_is_torchs_multihead_attention() -> None:
    block = model().blocks[1]
    assert isinstance(block, SASRecBlock)
    attention = torchs(block).self_attn
    x = torch.randn(4, 7, 12)
    blocked = torch.ones(7, 7, dtype=torch.bool).triu(1)
    theirs, _ = attention(x, x, x, attn_mask=blocked)
    torch.testing.assert_close(block._attention(x, Places.causal(7, x.device)), theirs)


def test_the_model_is_scaled_items_and_positions_through_torchs_layers() -> None:
    ours = model().eval()
    rows = torch.tensor([[4, 2, 19, 1, 1, 7, 20], [3, 8, 0, 0, 0, 0, 0]])
    x = ours.items.weight[rows] * 12**0.5 + ours.positions.weight
    for block in ours.blocks:
        assert isinstance(block, SASRecBlock)
        x = torchs(block)(x, src_mask=nn.Transformer.generate_square_subsequent_mask(7), is_causal=True)
    torch.testing.assert_close(ours.hidden(rows), ours.norm(x))
