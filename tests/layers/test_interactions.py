from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from recsys.layers.attention import TargetAttention
from recsys.layers.interactions import CrossNetwork, OnlyDense, SimLayer, factorisation_machine, pairwise_dots
from recsys.layers.mlp import MLP
from tests.helpers import randomise


def fill(layer: nn.Module, weight: list[list[float]], bias: list[float] | None = None) -> None:
    assert isinstance(layer, nn.Linear)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor(weight))
        if bias is not None:
            layer.bias.copy_(torch.tensor(bias))


def dot(a: Tensor, b: Tensor) -> float:
    return sum((p * q for p, q in zip(a.tolist(), b.tolist(), strict=True)), 0.0)


@st.composite
def embeddings(draw: st.DrawFn) -> Tensor:
    """[B, F, d] with B 0–3, F 1–5 and d 1–6."""
    shape = draw(st.tuples(st.integers(0, 3), st.integers(1, 5), st.integers(1, 6)))
    return torch.randn(shape, generator=torch.Generator().manual_seed(draw(st.integers(0, 99))))


def test_cross_network_by_hand() -> None:
    cross = CrossNetwork(2, 2)
    fill(cross.layers[0], [[1.0, 2.0], [0.0, 1.0]], [1.0, 0.0])
    fill(cross.layers[1], [[0.0, 1.0], [1.0, 0.0]], [0.0, -1.0])
    # x0 = (1, 2): W0 x0 + b0 = (6, 2), x1 = (1·6 + 1, 2·2 + 2) = (7, 6);
    # W1 x1 + b1 = (6, 6), x2 = (1·6 + 7, 2·6 + 6) = (13, 18).
    assert cross(torch.tensor([[1.0, 2.0], [0.0, 0.0]])).tolist() == [[13.0, 18.0], [0.0, 0.0]]


def test_low_rank_cross_network_by_hand() -> None:
    cross = CrossNetwork(2, 1, rank=1)
    layer = cross.layers[0]
    assert isinstance(layer, nn.Sequential)
    fill(layer[0], [[1.0, -1.0]])
    fill(layer[1], [[2.0], [3.0]], [0.5, 0.0])
    # x0 = (3, 1): Vᵀx0 = 2, U·2 + b = (4.5, 6), x1 = (3·4.5 + 3, 1·6 + 1).
    assert cross(torch.tensor([[3.0, 1.0]])).tolist() == [[16.5, 7.0]]


def test_low_rank_is_the_product_of_its_factors() -> None:
    low, full = CrossNetwork(6, 3, rank=2), CrossNetwork(6, 3)
    randomise(low)
    for thin, square in zip(low.layers, full.layers, strict=True):
        down, up, bias = thin.parameters()
        fill(square, (up @ down).tolist(), bias.tolist())
    x = torch.randn(4, 6)
    torch.testing.assert_close(low(x), full(x))


def test_only_dense_by_hand() -> None:
    layer = OnlyDense(2, scale=0.5)
    fill(layer.linear, [[1.0, 0.0], [1.0, 1.0]], [1.0, -9.0])
    # relu(W x + b) = (2 + 1, relu(2 + 4 - 9)) = (3, 0): the second gate is shut.
    assert layer(torch.tensor([[2.0, 4.0]])).tolist() == [[0.5 * 3 * 2, 0.0]]


def test_only_dense_vanishes_with_shut_gates() -> None:
    torch.manual_seed(0)
    x = 1e-3 * torch.randn(256, 64)
    first, second = OnlyDense(64, bias=0.0), OnlyDense(64, bias=0.0)
    once = first(x)
    twice = second(once)
    assert 1e-8 < once.std().item() < 1e-6
    assert twice.std().item() < 1e-4 * once.std().item()


@pytest.mark.parametrize("layers", [1, 2, 4])
def test_only_dense_with_open_gates_starts_as_the_identity(layers: int) -> None:
    torch.manual_seed(0)
    x = 1e-3 * torch.randn(256, 64)
    out = nn.Sequential(*(OnlyDense(64) for _ in range(layers)))(x)
    torch.testing.assert_close(out, x, rtol=0.05, atol=0)


@pytest.mark.parametrize("activation", ["identity", "relu"])
def test_sim_layer_is_the_double_loop(activation: str) -> None:
    layer = SimLayer(4, tasks=2, activation=activation)
    randomise(layer)
    e = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(1))
    expected = torch.zeros(3, 2)
    for b in range(3):
        pair = 0
        for i in range(4):
            for j in range(i + 1, 4):
                s = dot(e[b, i], e[b, j])
                expected[b] += layer.weight[pair].detach() * (max(s, 0.0) if activation == "relu" else s)
                pair += 1
    torch.testing.assert_close(layer(e), expected)


def test_sim_layer_with_ones_and_identity_is_a_factorisation_machine() -> None:
    layer = SimLayer(5)
    nn.init.ones_(layer.weight)
    e = torch.randn(4, 5, 3)
    torch.testing.assert_close(layer(e), factorisation_machine(e))


def test_sim_layer_is_fwfm_s_term() -> None:
    """FwFM (Pan et al. 2018): one symmetric matrix r of field pairs, ``½ Σ_{i≠j} r_ij ⟨e_i, e_j⟩``."""
    layer, e = SimLayer(3), torch.randn(2, 3, 4)
    randomise(layer)
    r = torch.zeros(3, 3)
    r[0, 1], r[0, 2], r[1, 2] = layer.weight.detach().squeeze(1)
    expected = 0.5 * ((r + r.T) * torch.einsum("bid,bjd->bij", e, e)).sum(dim=(1, 2))
    torch.testing.assert_close(layer(e).squeeze(1), expected)


@pytest.mark.parametrize("activation", ["identity", "relu"])
def test_sim_layer_starts_silent_but_learns(activation: str) -> None:
    layer = SimLayer(3, activation=activation)
    out = layer(torch.rand(2, 3, 4))
    assert not out.any()
    out.sum().backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.all()


@settings(deadline=None)
@given(embeddings())
def test_factorisation_machine_is_the_double_loop(e: Tensor) -> None:
    size, fields, _ = e.shape
    expected = [sum((dot(e[b, i], e[b, j]) for i in range(fields) for j in range(i)), 0.0) for b in range(size)]
    torch.testing.assert_close(factorisation_machine(e), torch.tensor(expected).view(size, 1), rtol=1e-4, atol=1e-4)


@settings(deadline=None)
@given(embeddings())
def test_pairwise_dots_come_row_by_row(e: Tensor) -> None:
    size, fields, _ = e.shape
    pairs = torch.triu_indices(fields, fields, 1)
    expected = [[dot(e[b, i], e[b, j]) for i in range(fields) for j in range(i + 1, fields)] for b in range(size)]
    want = torch.tensor(expected).view(size, fields * (fields - 1) // 2)
    torch.testing.assert_close(pairwise_dots(e, pairs), want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("hidden", "out", "kinds"),
    [
        ((), 2, ["Linear"]),
        ((5,), 2, ["Linear", "ReLU", "Linear"]),
        ((5, 6), None, ["Linear", "ReLU", "Linear", "ReLU"]),
        ((), None, []),
    ],
)
def test_mlp_shapes(hidden: tuple[int, ...], out: int | None, kinds: list[str]) -> None:
    mlp = MLP(3, hidden, out)
    assert [type(layer).__name__ for layer in mlp] == kinds
    assert mlp(torch.rand(4, 3)).shape == (4, (out or (3, *hidden)[-1]))


def test_mlp_drops_hidden_units_in_training_only() -> None:
    mlp = MLP(3, (200,), None, dropout=0.5)
    x = torch.ones(1, 3)
    mlp.eval()
    kept = mlp(x)
    assert torch.equal(mlp(x), kept)
    mlp.train()
    zeros = (mlp(x)[kept > 0] == 0).float().mean().item()
    assert 0.2 < zeros < 0.8


def attention(dim: int = 3) -> TargetAttention:
    layer = TargetAttention(dim, (5,))
    randomise(layer)
    return layer


def test_target_attention_is_the_loop_over_rows_and_steps() -> None:
    layer = attention()
    target, history, lengths = torch.randn(3, 3), torch.randn(3, 4, 3), torch.tensor([4, 1, 0])
    out = layer(target, history, lengths)
    for b in range(3):
        expected = torch.zeros(3)
        for t in range(int(lengths[b])):
            q, e = target[b], history[b, t]
            expected = expected + layer.unit(torch.cat([q, e, q - e, q * e])) * e
        torch.testing.assert_close(out[b], expected)


def test_padding_changes_nothing() -> None:
    layer = attention()
    target, history, lengths = torch.randn(2, 3), torch.randn(2, 2, 3), torch.tensor([2, 1])
    padded = torch.cat([history, torch.randn(2, 5, 3)], dim=1)
    padded[1, 1] = 7.0
    torch.testing.assert_close(layer(target, padded, lengths), layer(target, history, lengths))


def test_an_empty_history_gives_zeros() -> None:
    out = attention()(torch.randn(2, 3), torch.randn(2, 1, 3), torch.tensor([0, 1]))
    assert not out[0].any()
    assert out[1].any()


def test_attention_of_no_examples() -> None:
    assert attention()(torch.zeros(0, 3), torch.zeros(0, 1, 3), torch.zeros(0, dtype=torch.int64)).shape == (0, 3)
