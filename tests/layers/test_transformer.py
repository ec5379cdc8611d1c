from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from recsys.config import Config
from recsys.errors import ConfigError
from recsys.layers.transformer import (
    Causal,
    RMSNorm,
    Transformer,
    TransformerConfig,
    rotate,
    rotation_of,
)
from tests.helpers import randomise

TINY = TransformerConfig(width=12, layers=3, heads=4, kv_heads=2, head_dim=6, ffn=10)


def tiny(config: TransformerConfig = TINY) -> Transformer:
    transformer = Transformer(config)
    randomise(transformer, std=0.4)
    return transformer


def rows(batch: int, length: int, width: int = 12, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(batch * length, width, generator=generator), torch.arange(length).repeat(batch)


class Masked(Causal):
    """One sequence, attention written out; after layer `full` the rows in `gone` are hidden from all others."""

    def __init__(self, gone: Tensor | None = None, full: int = 0) -> None:
        super().__init__(1)
        self.gone, self.full = gone, full

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        group = q.shape[1] // k.shape[1]
        out = torch.zeros_like(q)
        for row in range(len(q)):
            for head in range(q.shape[1]):
                scores = k[: row + 1, head // group] @ q[row, head] / math.sqrt(q.shape[2])
                if self.gone is not None and layer >= self.full:
                    scores[self.gone[self.gone <= row]] = -math.inf
                out[row, head] = scores.softmax(0) @ v[: row + 1, head // group]
        return out


class Dropping(Causal):
    """EARN's way: behind layer `full`, only the rows `kept` are left."""

    def __init__(self, kept: Tensor, full: int, early: bool) -> None:
        super().__init__(1)
        self.kept, self.full, self.early = kept, full, early

    def rows(self, layer: int, x: Tensor, positions: Tensor) -> Tensor | None:
        return self.kept if layer == self.full and not self.early else None

    def asking(self, layer: int) -> Tensor | None:
        return self.kept if layer == self.full - 1 and self.early else None

    def attend(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if len(q) == len(k):
            return super().attend(layer, q, k, v)
        every = torch.zeros(len(k), *q.shape[1:])
        every[self.kept] = q
        return super().attend(layer, every, k, v)[self.kept]


def test_rms_norm_by_hand() -> None:
    norm = RMSNorm(2, eps=0.0)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, 2.0]))
    # mean(x²) = (1 + 49) / 2 = 25
    torch.testing.assert_close(norm(torch.tensor([[1.0, 7.0]])), torch.tensor([[0.2, 2.8]]))


def test_rotation_by_hand() -> None:
    cos, sin = rotation_of(torch.tensor([0, 3]), head_dim=4, theta=100.0, dtype=torch.float32)
    # angles of position 3: 3 · 100^0 and 3 · 100^(-2/4)
    torch.testing.assert_close(cos[:, 0], torch.tensor([[1.0, 1.0], [math.cos(3.0), math.cos(0.3)]]))
    turned = rotate(torch.tensor([[[1.0, 0.0, 0.0, 2.0]]]), (cos[1:], sin[1:]))
    expected = [math.cos(3.0), -2 * math.sin(0.3), math.sin(3.0), 2 * math.cos(0.3)]
    torch.testing.assert_close(turned[0, 0], torch.tensor(expected))


def test_rotated_products_depend_on_distance_only() -> None:
    q, k = torch.randn(2, 1, 1, 8).expand(2, 5, 1, 8)
    near = rotation_of(torch.arange(5), 8, 10_000.0, torch.float32)
    far = rotation_of(torch.arange(5) + 100, 8, 10_000.0, torch.float32)
    products = [rotate(q, r)[:, 0] @ rotate(k, r)[:, 0].T for r in (near, far)]
    torch.testing.assert_close(products[0], products[1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_attention_equals_attention_written_out(kv_heads: int) -> None:
    config = TransformerConfig.parse({**TINY.model_dump(), "kv_heads": kv_heads}, "test")
    transformer = tiny(config)
    x, positions = rows(1, 7)
    torch.testing.assert_close(transformer(x, positions, Causal(1)), transformer(x, positions, Masked()))


def test_sequences_do_not_see_each_other_and_rows_not_what_comes_later() -> None:
    transformer = tiny()
    x, positions = rows(3, 5)
    together = transformer(x, positions, Causal(3))
    alone = transformer(x[5:10], positions[5:10], Causal(1))
    torch.testing.assert_close(together[5:10], alone)
    torch.testing.assert_close(transformer(x[5:8], positions[5:8], Causal(1)), alone[:3])


@pytest.mark.parametrize("early", [False, True])
def test_rows_dropped_behind_a_layer_equal_rows_hidden_from_it_on(early: bool) -> None:
    transformer = tiny()
    x, positions = rows(1, 6)
    kept, gone = torch.tensor([0, 4, 5]), torch.tensor([1, 2, 3])
    dropped = transformer(x, positions, Dropping(kept, 2, early))
    torch.testing.assert_close(dropped, transformer(x, positions, Masked(gone, 2))[kept])


def test_gradients_are_those_of_finite_differences() -> None:
    config = TransformerConfig(width=4, layers=2, heads=2, kv_heads=1, head_dim=2, ffn=3)
    transformer = tiny(config).double()
    x, positions = rows(2, 3, width=4)
    # RMSNorm computes in float32 by design; here the sum is watched closely enough for steps of 1e-2.
    inputs = x.double().requires_grad_()

    def total(inner: Tensor) -> Tensor:
        squared: Tensor = transformer(inner, positions, Causal(2)).square().sum()
        return squared

    total(inputs).backward()  # type: ignore[no-untyped-call]
    assert inputs.grad is not None
    for row, column in ((0, 0), (3, 2), (5, 3)):
        step = torch.zeros_like(x, dtype=torch.float64)
        step[row, column] = 1e-2
        slope = (total(inputs.detach() + step) - total(inputs.detach() - step)) / 2e-2
        assert inputs.grad[row, column].item() == pytest.approx(slope.item(), rel=2e-2, abs=1e-3)
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in transformer.parameters())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"heads": 4, "kv_heads": 3}, "heads 4 must be a multiple of kv_heads 3"),
        ({"head_dim": 5}, "head_dim: input should be a multiple of 2"),
    ],
)
def test_shapes_that_cannot_be(wrong: dict[str, int], message: str) -> None:
    assert issubclass(TransformerConfig, Config)
    with pytest.raises(ConfigError, match=message):
        TransformerConfig.parse(wrong, "test")
