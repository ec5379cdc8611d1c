"""HSTU against its formula, number by number."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from recsys.models.generative.base import Places
from recsys.models.generative.hstu import HSTU, HSTUBlock, HSTUConfig

Rows = list[list[float]]


def silu(value: float) -> float:
    return value / (1 + math.exp(-value))


def normed(row: list[float]) -> list[float]:
    mean = sum(row) / len(row)
    spread = sum((value - mean) ** 2 for value in row) / len(row)
    return [(value - mean) / math.sqrt(spread + 1e-6) for value in row]


def times(weight: Rows, row: list[float]) -> list[float]:
    return [sum(w * value for w, value in zip(line, row, strict=True)) for line in weight]


def slow(block: HSTUBlock, x: Rows, positions: list[int]) -> Rows:
    """One history through a block, in loops."""
    width, heads = len(x[0]), block.heads
    size = width // heads
    uvqk, last, bias, r = (w.tolist() for w in (block.uvqk.weight, block.out.weight, block.out.bias, block.distance))
    parts = [[silu(value) for value in times(uvqk, normed(row))] for row in x]
    u, v, q, k = ([row[p * width : (p + 1) * width] for row in parts] for p in range(4))
    out = []
    for i, row in enumerate(x):
        seen = [0.0] * width
        for head in range(heads):
            columns = range(head * size, (head + 1) * size)
            for j in range(i + 1):
                product = sum(q[i][c] * k[j][c] for c in columns)
                weight = silu(product + r[positions[i] - positions[j]]) / block.context
                for c in columns:
                    seen[c] += weight * v[j][c]
        gated = [a * b for a, b in zip(normed(seen), u[i], strict=True)]
        out.append([a + b + c for a, b, c in zip(times(last, gated), bias, row, strict=True)])
    return out


def block(heads: int) -> HSTUBlock:
    torch.manual_seed(heads)
    made = HSTUBlock(HSTUConfig(context=9, width=8, heads=heads, dropout=0.0)).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.5)
    return made


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_a_block_is_its_formula(heads: int) -> None:
    made, x = block(heads), torch.randn(3, 6, 8, dtype=torch.float64)
    expected = torch.tensor([slow(made, rows, list(range(6))) for rows in x.tolist()], dtype=torch.float64)
    torch.testing.assert_close(made(x, Places.causal(6, x.device)), expected)


def test_distances_are_those_of_the_positions_that_are_left() -> None:
    made, x, kept = block(2), torch.randn(1, 3, 8, dtype=torch.float64), [0, 4, 7]
    places = Places(torch.tensor([kept]), torch.ones(1, 3, 3, dtype=torch.bool).tril())
    expected = torch.tensor([slow(made, x[0].tolist(), kept)], dtype=torch.float64)
    torch.testing.assert_close(made(x, places), expected)


def test_one_event_by_hand() -> None:
    # LN((1, -1)) = (1, -1) but for 1e-6. With W = rows (1, 0), (0, 1) four times: u = v = q = k = (silu 1, silu -1)
    # = (.731, -.269). A = silu(q·k + r)/n scales v, which the norm takes out: LN(A v) = (1, -1). y = (1, -1)·u + x.
    made = HSTUBlock(HSTUConfig(context=1, width=2, heads=1, dropout=0.0)).double()
    with torch.no_grad():
        made.uvqk.weight.copy_(torch.eye(2).repeat(4, 1))
        made.out.weight.copy_(torch.eye(2))
        made.distance.fill_(1.0)
    x = torch.tensor([[[1.0, -1.0]]], dtype=torch.float64)
    y: Tensor = made(x, Places.causal(1, x.device))
    assert y[0, 0].tolist() == pytest.approx([1 + 0.7310586, -1 + 0.2689414], abs=1e-4)


def test_published_sizes_count_their_weights() -> None:
    """The authors' MovieLens-1M model: 2 blocks of 1 head, width 50, 200 events; here without the biases of time."""
    config = HSTUConfig(context=200, width=50, layers=2, heads=1, temperature=0.05)
    model = HSTU(3952, config)
    one_block = 50 * 200 + 200 + 50 * 50 + 50
    assert sum(parameter.numel() for parameter in model.parameters()) == 3953 * 50 + 200 * 50 + 2 * one_block
