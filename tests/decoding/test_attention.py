from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from recsys.decoding.attention import causal, masked, spread

LOOSE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


def written_out(q: Tensor, k: Tensor, v: Tensor, seen: Tensor) -> Tensor:
    """float64 attention of q [A, H, d] over k, v [kv, S, d], row a seeing the keys where seen [A, S]."""
    group = q.shape[1] // len(k)
    k, v = (one.double().repeat_interleave(group, dim=0) for one in (k, v))
    scores = torch.einsum("ahd,hsd->has", q.double(), k) / math.sqrt(q.shape[2])
    weights = scores.masked_fill(~seen, -torch.inf).softmax(-1)
    return torch.einsum("has,hsd->ahd", weights, v)


def drawn(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


@pytest.mark.parametrize("dtype", LOOSE)
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("length", [1, 5, 64, 65, 200])
def test_causal_attention(length: int, kv_heads: int, dtype: torch.dtype) -> None:
    q = drawn(length, 4, 6, dtype=dtype)
    k, v = (drawn(kv_heads, length, 6 + extra, dtype=dtype)[..., :6] for extra in (0, 1))
    seen = torch.ones(length, length, dtype=torch.bool).tril()
    expected = written_out(q, k, v, seen)
    torch.testing.assert_close(causal(q, k, v).double(), expected, atol=LOOSE[dtype], rtol=LOOSE[dtype])
    torch.testing.assert_close(causal(q[-1:], k, v).double(), expected[-1:], atol=LOOSE[dtype], rtol=LOOSE[dtype])


@pytest.mark.parametrize("dtype", LOOSE)
@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_masked_attention(kv_heads: int, dtype: torch.dtype) -> None:
    batch, beams, length = 3, 5, 11
    q = drawn(batch * beams, 4, 6, dtype=dtype)
    k, v = (drawn(batch, kv_heads, length + extra, 6, dtype=dtype)[:, :, :length] for extra in (0, 1))
    seen = torch.rand(batch, beams, length, generator=torch.Generator().manual_seed(0)) < 0.5
    seen[..., 0] = True
    found = masked(q, k, v, spread(seen, 4, kv_heads, dtype)).view(batch, beams, 4, 6)
    for request in range(batch):
        rows = q.view(batch, beams, 4, 6)[request]
        expected = written_out(rows, k[request], v[request], seen[request])
        torch.testing.assert_close(found[request].double(), expected, atol=LOOSE[dtype], rtol=LOOSE[dtype])
