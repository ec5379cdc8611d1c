"""A linear layer and what follows it, element by element, as one kernel. Triton may be absent: import it late.

    out = add + scale * act(x W' + bias) * factor        act: ReLU or nothing; all but the product may be left out

A cross of DCNv2 is x_l + x_0 * (W x_l + b), a layer of DCN²'s OnlyDense s * relu(W x + b) * x, one of an MLP
relu(W x + b): a kernel each, where a library has one for the product and another for the rest.

Products of float32 are three of TF32: `recsys.inference.cuda.linear_kernel` says how, and what they keep.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
from torch import Tensor

from recsys.inference.cuda.linear_kernel import fused_linear

__all__ = ["COLUMNS", "linear", "rounded"]

COLUMNS = 16
"""Rows of weights and of what is given out are filled up to a multiple of as many, so that they are read by 16 bytes,
and so that Triton knows."""


class _Tile(NamedTuple):
    """Of the output; `depth` numbers of float32, or twice as many of bfloat16, are read of each row in a step."""

    rows: int
    columns: int
    depth: int
    warps: int


_TILES = (
    _Tile(128, 128, 32, 8),
    _Tile(128, 64, 32, 4),
    _Tile(64, 64, 32, 4),
    _Tile(64, 32, 64, 4),
    _Tile(32, 32, 64, 4),
    _Tile(16, 32, 64, 4),
)
"""The largest first. Of 64 rows on, a product is one of four warps (wgmma). Small ones wait for memory: they read more
at a time."""
_BUSY = 0.75
"""Of the GPU's processors, which have a tile each before larger tiles, that read less twice, are worth it."""
_STAGES = 3


def rounded(x: Tensor) -> Tensor:
    """The nearest TF32 numbers of float32 ones, ties away from zero; what is not finite stays."""
    near = ((x.contiguous().view(torch.int32) + 0x1000) & -0x2000).view(torch.float32)
    return torch.where(x.isfinite(), near, x)


@torch.library.custom_op(
    "recsys::linear",
    mutates_args=(),
    schema="(Tensor x, Tensor high, Tensor? low, Tensor? bias, Tensor? scale, Tensor? factor, Tensor? add, "
    "SymInt columns, bool relu) -> Tensor",
)
def linear(
    x: Tensor,
    high: Tensor,
    low: Tensor | None,
    bias: Tensor | None,
    scale: Tensor | None,
    factor: Tensor | None,
    add: Tensor | None,
    columns: int,
    relu: bool,
) -> Tensor:
    """The formula above, float32.

    Args:
        x: [B, K] float32.
        high: [N, K'], K' >= K and N multiples of `COLUMNS`, rows and columns beyond the layer's own of zeros: bfloat16,
            or TF32 numbers as float32.
        low: What TF32 leaves of the weights, alike, for products of float32.
        bias: [N], zero where the layer has none.
        scale: [N].
        factor: [B, >= columns].
        add: [B, >= columns].
        columns: The layer's own, up to N.
        relu: Whether act is one.

    Returns:
        [B, N], zeros beyond `columns`.
    """
    rows, written = len(x), len(high)
    out = x.new_empty(rows, written)
    if not rows:
        return out
    x = _side_by_side(x)
    factor, add = (None if one is None else _side_by_side(one) for one in (factor, add))
    precision = "bf16" if high.dtype is torch.bfloat16 else "tf32" if low is None else "fp32"
    tile = _tile(rows, written, precision == "fp32", *_gpu(x))
    grid = (-(-rows // tile.rows), -(-written // tile.columns))
    fused_linear[grid](
        x, high, *(out if one is None else one for one in (low, bias, scale, factor, add)), out,
        rows, columns, written,
        x.stride(0), high.stride(0), *(0 if one is None else one.stride(0) for one in (factor, add)), written,
        DEPTH=x.shape[1], PRECISION=precision, BIAS=bias is not None, SCALE=scale is not None,
        FACTOR=factor is not None, ADD=add is not None, RELU=relu,
        BLOCK_ROWS=tile.rows, BLOCK_COLUMNS=tile.columns, BLOCK_DEPTH=tile.depth * (2 if precision == "bf16" else 1),
        num_warps=tile.warps, num_stages=_STAGES,
    )  # fmt: skip
    return out


@linear.register_fake
def _(x: Tensor, high: Tensor, *_: object) -> Tensor:
    return x.new_empty(x.shape[0], high.shape[0])


def _side_by_side(x: Tensor) -> Tensor:
    """With a row's columns one after the other."""
    return x if x.stride(1) == 1 else x.contiguous()


def _tile(rows: int, columns: int, split: bool, processors: int, shared: int) -> _Tile:
    """The largest tile of which the GPU has enough to do; where none is, the smallest.

    Args:
        rows: Of the output.
        columns: Of the output.
        split: Whether weights are two numbers each.
        processors: Of the GPU.
        shared: Bytes of memory that a program may take, in which steps wait.
    """
    able = [
        tile
        for tile in _TILES
        if tile.rows <= max(rows, _TILES[-1].rows)
        and 4 * _STAGES * tile.depth * (tile.rows + tile.columns * (1 + split)) <= shared
    ]
    tiles = (-(-rows // tile.rows) * -(-columns // tile.columns) for tile in able)
    return next((tile for tile, count in zip(able, tiles, strict=True) if count >= _BUSY * processors), able[-1])


def _gpu(x: Tensor) -> tuple[int, int]:
    """Processors where x lies, and bytes of shared memory of a program; on a CPU, for tests, those do not matter."""
    if not x.is_cuda:
        return 1, 1 << 30
    found = triton.runtime.driver.active.utils.get_device_properties(x.get_device())
    return found["multiprocessor_count"], found["max_shared_mem"]
