from __future__ import annotations

import pytest
import torch
from torch import nn

from recsys.decoding.fused import FusedBlock, FusedDecoder, scaled, turned
from recsys.decoding.products import OneDNN, Torch, product
from recsys.layers.transformer import Block, Causal, RMSNorm, rotate, rotation_of
from tests.decoding.made import decoder


@pytest.mark.parametrize("kind", [OneDNN, Torch])
@pytest.mark.parametrize("rows", [1, 10, 33])
def test_products_by_both_libraries(kind: type[OneDNN] | type[Torch], rows: int) -> None:
    if kind is OneDNN and not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        pytest.skip("this torch has no oneDNN")
    weight, x, other = torch.randn(7, 5), torch.randn(rows, 5), torch.randn(rows, 7)
    made, plain = kind(weight), x @ weight.T
    torch.testing.assert_close(made(x), plain)
    torch.testing.assert_close(made.silu(x), plain * plain.sigmoid())
    torch.testing.assert_close(made.times(x, other), plain * other)
    kept = other.clone()
    torch.testing.assert_close(made.plus(x, other), plain + other)
    assert torch.equal(other, kept)


def test_products_do_not_follow_the_weights_they_were_made_of() -> None:
    weight, x = nn.Parameter(torch.randn(7, 5)), torch.randn(3, 5)
    made, before = product(weight, torch.float32), x @ weight.detach().T
    nn.init.zeros_(weight)
    torch.testing.assert_close(made(x), before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_scaled_rows_and_turned_heads(dtype: torch.dtype) -> None:
    x = (5 * torch.randn(9, 12)).to(dtype)
    torch.testing.assert_close(scaled(x, 0.1), RMSNorm(12, 0.1).to(dtype)(x).detach())
    heads, rotation = torch.randn(9, 3, 4).to(dtype), rotation_of(torch.arange(9), 4, 10.0, dtype)
    torch.testing.assert_close(turned(heads, rotation), rotate(heads, rotation), atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("kv_heads", [4, 1])
def test_a_fused_decoder_gives_the_decoders_logits(kv_heads: int) -> None:
    model = decoder((4, 5), kv_heads)
    fused, tokens = FusedDecoder(model, torch.float32), torch.randint(0, 11, (2, 9))
    positions = torch.arange(9).repeat(2)
    with torch.no_grad():
        found = fused.logits(fused.transformer(fused.embedding(tokens.flatten()), positions, Causal(2)))
        torch.testing.assert_close(found.view(2, 9, -1), model(tokens), atol=1e-4, rtol=1e-4)


def test_a_block_of_ones_own_stays_as_it_is() -> None:
    class Own(Block):
        pass

    model = decoder((4, 5))
    model.transformer.blocks[1] = Own(model.config.transformer)
    fused = FusedDecoder(model, torch.bfloat16)
    first, second = fused.transformer.blocks
    assert type(first) is FusedBlock
    assert type(second) is Own
    assert next(second.parameters()).dtype == torch.bfloat16
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
