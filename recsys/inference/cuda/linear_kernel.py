"""The Triton kernel of a linear layer and what follows it. Import it where it is launched: Triton may be absent.

A program makes a tile of the output: it reads as many rows of x and of the weights in steps along their columns, and
leaves the next steps' reading to the GPU meanwhile. Products are those of tensor cores, which add up in float32. What
they read is bfloat16, or TF32, of 11 significant bits. For float32 products each number is split in two of TF32,

    x w  ~  high_x high_w + high_x low_w + low_x high_w        (what is left out is below 2^-22 of it)

of which halves of the weights were made before. Source: 3xTF32, as CUTLASS's example 27 has it.
"""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["fused_linear"]


@triton.jit
def _tf32(x):
    """The nearest of 11 significant bits, ties away from zero.

    What is not finite stays: 0x7FFFFFFF, which a GPU has for not a number, would become -0.
    """
    bits = x.to(tl.int32, bitcast=True)
    near = (bits + 0x1000) & -0x2000
    return tl.where((bits & 0x7F800000) == 0x7F800000, bits, near).to(tl.float32, bitcast=True)


@triton.jit
def fused_linear(
    x, high, low, bias, scale, factor, add, out,
    rows, columns, written, x_stride, w_stride, factor_stride, add_stride, out_stride,
    DEPTH: tl.constexpr, PRECISION: tl.constexpr, BIAS: tl.constexpr, RELU: tl.constexpr, SCALE: tl.constexpr,
    FACTOR: tl.constexpr, ADD: tl.constexpr,
    BLOCK_ROWS: tl.constexpr, BLOCK_COLUMNS: tl.constexpr, BLOCK_DEPTH: tl.constexpr,
):  # fmt: skip
    """One tile of `out` [rows, written]; columns from `columns` on are those of zeros that fill rows up."""
    row = tl.program_id(0) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    column = tl.program_id(1) * BLOCK_COLUMNS + tl.arange(0, BLOCK_COLUMNS)
    step = tl.arange(0, BLOCK_DEPTH)
    here, there = row < rows, column < written
    left = x + row.to(tl.int64)[:, None] * x_stride
    right = column[None, :] * w_stride
    total = tl.zeros([BLOCK_ROWS, BLOCK_COLUMNS], dtype=tl.float32)
    for start in range(0, DEPTH, BLOCK_DEPTH):
        at = start + step
        inside = at < DEPTH
        a = tl.load(left + at[None, :], mask=here[:, None] & inside[None, :], other=0.0)
        place, known = right + at[:, None], inside[:, None] & there[None, :]
        w = tl.load(high + place, mask=known, other=0.0)
        if PRECISION == "bf16":
            total = tl.dot(a.to(tl.bfloat16), w, total)
        else:
            a_high = _tf32(a)
            if PRECISION == "fp32":
                small = tl.load(low + place, mask=known, other=0.0)
                total = tl.dot(_tf32(a - a_high), w, total, input_precision="tf32")
                total = tl.dot(a_high, small, total, input_precision="tf32")
            total = tl.dot(a_high, w, total, input_precision="tf32")
    if BIAS:
        total += tl.load(bias + column, mask=there, other=0.0)[None, :]
    if RELU:
        total = tl.where(total < 0, 0.0, total)  # and not a number stays so, as torch has it
    if SCALE:
        total *= tl.load(scale + column, mask=there, other=0.0)[None, :]
    given = here[:, None] & (column < columns)[None, :]
    if FACTOR:
        total *= tl.load(factor + row.to(tl.int64)[:, None] * factor_stride + column[None, :], mask=given, other=0.0)
    if ADD:
        total += tl.load(add + row.to(tl.int64)[:, None] * add_stride + column[None, :], mask=given, other=0.0)
    place = row.to(tl.int64)[:, None] * out_stride + column[None, :]
    tl.store(out + place, total, mask=here[:, None] & there[None, :])
