"""Linear layers with what follows them, against float64; and which parts of a network become one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.fx import GraphModule

from recsys.inference.backends import Precision
from recsys.inference.cuda.fused import FusedLinear, fuse

_OFF: dict[Precision, float] = {"fp32": 1e-6, "tf32": 1e-3, "bf16": 1e-2}
"""How far results may be off, norm over norm."""


def _precisions(device: torch.device) -> list[Precision]:
    """All; but Triton's interpreter has no products of bfloat16."""
    return ["fp32", "tf32", "bf16"] if device.type == "cuda" else ["fp32", "tf32"]


def _off(found: Tensor, expected: Tensor, terms: Tensor) -> float:
    """Norm over norm of what was added up: a sum of large terms can be small, and their errors are not."""
    return float((found.cpu().double() - expected).norm() / terms.norm())


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_layer_is_what_float64_says(device: torch.device, data: st.DataObject) -> None:
    rows, depth, columns = (data.draw(st.integers(1, most)) for most in (70, 90, 80))
    precision, relu = data.draw(st.sampled_from(_precisions(device))), data.draw(st.booleans())
    has_bias, has_scale, has_factor, has_add = (data.draw(st.booleans()) for _ in range(4))
    torch.manual_seed(data.draw(st.integers(0, 1 << 30)))
    x, weight = torch.randn(rows, depth), torch.randn(columns, depth)
    bias, scale = torch.randn(columns) if has_bias else None, torch.randn(columns) if has_scale else None
    factor, add = (torch.randn(rows, columns) if has else None for has in (has_factor, has_add))
    layer = FusedLinear(weight, bias, scale, relu, precision).to(device)
    found = layer(*(None if one is None else one.to(device) for one in (x, factor, add)))
    expected = x.double() @ weight.double().T + (0 if bias is None else bias)
    expected = (expected.relu() if relu else expected) * (1 if scale is None else scale)
    expected = expected * (1 if factor is None else factor) + (0 if add is None else add)
    assert found.shape == (rows, -(-columns // 16) * 16)
    terms = x.double().abs() @ weight.double().abs().T + (0 if bias is None else bias.abs())
    terms = terms * (1 if scale is None else scale.abs()) * (1 if factor is None else factor.abs())
    assert _off(found[:, :columns], expected, terms + (0 if add is None else add.abs())) < _OFF[precision]
    assert not found[:, columns:].any()


def test_products_of_float32_keep_its_bits(device: torch.device) -> None:
    """As a library's do: 22 of 24 bits are left of each number, and errors of many numbers are of no one direction."""
    torch.manual_seed(0)
    x, weight = torch.randn(64, 1024), torch.randn(64, 1024)
    expected = x.double() @ weight.double().T
    found = FusedLinear(weight, None, None, False, "fp32").to(device)(x.to(device))
    assert _off(found, expected, expected) < 1e-6


@pytest.mark.parametrize("rows", [0, 1, 33])
def test_what_lies_around_x_is_not_read(rows: int, device: torch.device) -> None:
    """x begins in the middle of 16 bytes, as the network's input does."""
    layer = FusedLinear(torch.randn(40, 45), None, None, True, "fp32").to(device)
    around = torch.full((rows, 48), float("nan"), device=device)
    around[:, 3:] = torch.randn(rows, 45)
    found = layer(around[:, 3:], around[:, 3:43], around[:, 5:45])
    assert found.isfinite().all()
    torch.testing.assert_close(
        found, layer(*(one.clone() for one in (around[:, 3:], around[:, 3:43], around[:, 5:45])))
    )


@pytest.mark.parametrize("bits", [0x7FC00000, 0x7FFFFFFF, 0x7F800001, 0x7F800000])
@pytest.mark.parametrize("precision", ["fp32", "tf32"])
def test_what_is_not_finite_is_seen(bits: int, precision: Precision, device: torch.device) -> None:
    """A session refuses such scores: neither ReLU nor rounding must hide them, in inputs and in weights."""
    odd = torch.tensor([bits], dtype=torch.int32).view(torch.float32)
    x, weight = torch.ones(1, 16), torch.ones(16, 16)
    spoilt = [one.index_copy(1, torch.tensor([3]), odd.expand(1, 1)) for one in (x, weight[2:3])]
    with np.errstate(invalid="ignore"):  # of Triton's interpreter
        layer = FusedLinear(weight, None, None, True, precision).to(device)
        assert not layer(spoilt[0].to(device)).isfinite().any()
        weight[2:3] = spoilt[1]
        found = FusedLinear(weight, None, None, True, precision).to(device)(x.to(device))
    assert found.isfinite().tolist() == [[column != 2 for column in range(16)]]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.integers(1, 20_000),
    columns=st.integers(16, 5_000),
    split=st.booleans(),
    gpu=st.sampled_from([(1, 1 << 30), (46, 101_376), (132, 232_448)]),
)
def test_tiles_are_as_large_as_keeps_the_gpu_busy(rows: int, columns: int, split: bool, gpu: tuple[int, int]) -> None:
    processors, shared = gpu
    from recsys.inference.cuda.linear import _TILES, _Tile, _tile

    def programs(one: _Tile) -> int:
        return -(-rows // one.rows) * -(-columns // one.columns)

    def fits(one: _Tile) -> bool:
        return (
            one.rows <= max(rows, 16) and 3 * 4 * one.depth * (one.rows + (2 if split else 1) * one.columns) <= shared
        )

    tile = _tile(rows, columns, split, processors, shared)
    assert fits(tile)
    larger = [one for one in _TILES[: _TILES.index(tile)] if fits(one)]
    assert all(programs(one) < 0.75 * processors for one in larger)
    assert programs(tile) >= 0.75 * processors or tile == _TILES[-1]


class _Net(nn.Module):
    """A function of a linear layer, and of the vector and the numbers that it has."""

    def __init__(self, work: Callable[[_Net, Tensor], Tensor]) -> None:
        super().__init__()
        self.linear, self.work = nn.Linear(20, 20), work
        self.scale, self.one = nn.Parameter(torch.randn(20)), nn.Parameter(torch.randn(1))

    def forward(self, x: Tensor) -> Tensor:
        return self.work(self, x)


@pytest.mark.parametrize(
    ("work", "left"),
    [
        (lambda net, x: net.linear(x), []),
        (lambda net, x: net.linear(x).relu(), []),
        (lambda net, x: torch.addcmul(x, x, net.linear(x)), []),
        (lambda net, x: x + x.sin() * net.linear(x), ["sin"]),
        (lambda net, x: net.scale * net.linear(x).relu() * x, []),
        (lambda net, x: net.one * net.linear(x).relu() * x + x, []),
        (lambda net, x: (x * net.linear(x)).relu(), ["relu"]),
        (lambda net, x: (x + net.linear(x)) * x, ["mul"]),
        (lambda net, x: net.linear(x) * 0.5, ["mul"]),
        (lambda net, x: x + net.linear(x) * net.linear(x[:, :1] + x), ["add"]),
        (lambda net, x: torch.addcmul(x, x, net.linear(x), value=0.5), ["addcmul"]),
        (lambda net, x: torch.addcmul(net.linear(x), x, x), ["addcmul"]),
        (lambda net, x: torch.add(x, net.linear(x), alpha=2), ["add"]),
        (lambda net, x: net.linear(x).square() + net.linear(x).sigmoid(), ["square", "sigmoid", "add"]),
        (lambda net, x: net.linear(x) * x[:1], ["mul"]),
        (lambda net, x: net.linear(x) * net.scale * net.scale, ["mul"]),
        (lambda net, x: net.linear(net.linear(x).relu()) + x, []),
    ],
)
def test_what_goes_with_a_layer_does(
    work: Callable[[_Net, Tensor], Tensor], left: list[str], device: torch.device
) -> None:
    torch.manual_seed(0)
    net, x = _Net(work), torch.randn(5, 20)
    program = torch.export.export(net, (x,), dynamic_shapes=({0: torch.export.Dim("rows", min=2)},))
    module = program.module(check_guards=False)
    assert isinstance(module, GraphModule)
    fuse(module, "fp32")
    module.recompile()
    module.to(device)
    with torch.no_grad():
        torch.testing.assert_close(module(x.to(device)).cpu(), net(x), rtol=1e-5, atol=1e-6)
    found = [str(node.target).split(".")[1] for node in module.graph.nodes if node.op == "call_function"]
    assert [one for one in found if one != "slice"] == left  # a slice leaves out the zeros beside what a layer gives
