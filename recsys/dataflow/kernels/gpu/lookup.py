"""The Triton kernel of all look-ups of one dim and dtype. Import it where it is launched: Triton may be absent.

A program does a block of bags of one slot. Its tile is [bags, lanes, dim]: `lanes` ids of each bag are read at a time,
and their sums meet at the end. Single ids are bags of one. What a program does stands in a work list, so that slots
with long bags have smaller blocks, come first, and all of them go in one launch.

A slot is a row of int64 numbers, `FIELDS`. Addresses are absolute, so rows may lie anywhere that the GPU can read: in
its own memory, or in pinned host memory over the link. Where a table lies in both, a word of two int32 for each 32 rows
says which rows are on the device (a bit each) and how many are before them: row i is then the device's row
h = before + popcount(bits below i), or the host's row i - h; where the host has all rows, its row i. Where there is a
remap and no host, the CPU adds the other rows, and their ids are left out here.

Tried on an H100 without gain: two steps of a bag at once (more registers, fewer warps, slower), rows that pass by the
first cache (int8 1.6 times as slow: a row's header is in the same line), rows kept in the second one by hint, work
ordered by batch and not by slot. Tables in shared memory, or streamed through it, are not built:
shared memory gives 6.6 TB/s where rows of 128 bytes out of 9 MB come from the second cache at 6.1 (`recsys profile`).
"""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["FIELDS", "look_up"]

FIELDS = ("device", "host", "remap", "rows", "feature", "column", "mean", "long", "cold")
"""Addresses of the rows on the device, on the host, and of the remap (0: there is none); rows of the table; the feature
among those of a batch; the first column; whether to divide by a bag's ids; whether its blocks are those of long bags;
whether the host has the rows that are not on the device and no others.
"""


@triton.jit
def _popcount(bits):
    bits = bits - ((bits >> 1) & 0x55555555)
    bits = (bits & 0x33333333) + ((bits >> 2) & 0x33333333)
    bits = (bits + (bits >> 4)) & 0x0F0F0F0F
    return (bits * 0x01010101 & 0xFFFFFFFF) >> 24


@triton.jit
def _addresses(ids, present, device, host, remap, cold, STRIDE: tl.constexpr, SPLIT: tl.constexpr):
    """Where the rows of ids begin, and which of them are to be read; ids are int64."""
    where = device + ids * STRIDE
    if SPLIT:
        if remap != 0:
            words = tl.load(remap.to(tl.pointer_type(tl.int64), bitcast=True) + (ids >> 5))
            bit = ids & 31
            bits = words & 0xFFFFFFFF
            before = ((words >> 32) & 0xFFFFFFFF) + _popcount(bits & ((1 << bit) - 1))
            hot = ((bits >> bit) & 1) != 0
            where = tl.where(hot, device + before * STRIDE, host + (ids - before * cold) * STRIDE)
            if host == 0:
                present = present & hot
    return where, present


@triton.jit
def _columns(
    where, present,
    DIM: tl.constexpr, WIDTH: tl.constexpr, DTYPE: tl.constexpr, STRIDE: tl.constexpr, NATIVE: tl.constexpr,
):  # fmt: skip
    """Stored columns of rows as float32, [*where, WIDTH]; zeros where they are not present."""
    align: tl.constexpr = 16 if STRIDE % 16 == 0 else (8 if STRIDE % 8 == 0 else (4 if STRIDE % 4 == 0 else 2))
    columns = tl.arange(0, WIDTH)[None, None, :]
    mask = present[:, :, None]
    if WIDTH != DIM:
        mask = mask & (columns < DIM)
    if DTYPE == "int8":
        place = where.to(tl.pointer_type(tl.uint8), bitcast=True)
        if STRIDE % 2 == 0:
            place = tl.multiple_of(place, [align, align])
        stored = tl.load(place[:, :, None] + columns, mask=mask, other=0)
        return _floats(stored) if NATIVE else stored.to(tl.float32)
    if DTYPE == "fp16":
        halves = tl.multiple_of(where.to(tl.pointer_type(tl.float16), bitcast=True), [align, align])
        return tl.load(halves[:, :, None] + columns, mask=mask, other=0.0).to(tl.float32)
    floats = tl.multiple_of(where.to(tl.pointer_type(tl.float32), bitcast=True), [align, align])
    return tl.load(floats[:, :, None] + columns, mask=mask, other=0.0)


@triton.jit
def _floats(stored):
    """Bytes as float32: q becomes the last byte of 2^23 + q, from which 2^23 is taken away.

    A permutation and a sum, where a conversion would need a permutation and a slower one.
    """
    bits = tl.inline_asm_elementwise(
        """
        prmt.b32 $0, $4, 0x4B000000, 0x7440;
        prmt.b32 $1, $4, 0x4B000000, 0x7441;
        prmt.b32 $2, $4, 0x4B000000, 0x7442;
        prmt.b32 $3, $4, 0x4B000000, 0x7443;
        """,
        "=r,=r,=r,=r,r",
        [stored],
        dtype=tl.uint32,
        is_pure=True,
        pack=4,
    )
    return bits.to(tl.float32, bitcast=True) - 8388608.0


@triton.jit
def _header(where, present, DIM: tl.constexpr, STRIDE: tl.constexpr):
    """Scale and bias of int8 rows, [*where]; zeros where they are not present."""
    if STRIDE % 8 == 0 and DIM % 8 == 0:  # both in one go
        both = tl.load((where + DIM).to(tl.pointer_type(tl.int64), bitcast=True), mask=present, other=0)
        scale = (both & 0xFFFFFFFF).to(tl.uint32).to(tl.float32, bitcast=True)
        return scale, (both >> 32).to(tl.int32).to(tl.float32, bitcast=True)
    return _float_at(where + DIM, present), _float_at(where + DIM + 4, present)


@triton.jit
def _float_at(where, present):
    """Floats that need not be aligned, put together byte by byte."""
    byte = where.to(tl.pointer_type(tl.uint8), bitcast=True)
    word = tl.load(byte, mask=present, other=0).to(tl.uint32)
    word |= tl.load(byte + 1, mask=present, other=0).to(tl.uint32) << 8
    word |= tl.load(byte + 2, mask=present, other=0).to(tl.uint32) << 16
    word |= tl.load(byte + 3, mask=present, other=0).to(tl.uint32) << 24
    return word.to(tl.float32, bitcast=True)


@triton.jit(do_not_specialize=["batch", "x_stride", "x_offset"])
def look_up(
    work,
    slots,
    values,
    offsets,
    weights,
    x,
    unknown,
    batch,
    x_stride,
    x_offset,
    DIM: tl.constexpr,
    WIDTH: tl.constexpr,
    DTYPE: tl.constexpr,
    STRIDE: tl.constexpr,
    SHORT: tl.constexpr,
    LONG: tl.constexpr,
    LANES: tl.constexpr,
    ONE: tl.constexpr,
    WEIGHTED: tl.constexpr,
    CHECKED: tl.constexpr,
    SPLIT: tl.constexpr,
    NATIVE: tl.constexpr,
    OUT: tl.constexpr,
):
    """Fill the columns of every slot, and add to `unknown` how many ids were out of range; these read row 0.

    Args:
        work: [programs] int64: slot << 32 | first bag.
        slots: [slots, FIELDS] int64.
        values: Ids, feature after feature, int32 or int64.
        offsets: [features * batch + 1]; not read where ONE.
        weights: [ids] float32; read where WEIGHTED.
        x: [batch, x_stride], the network's input.
        unknown: [1] int32.
        batch: Bags of a feature.
        x_stride: Columns from one row of x to the next.
        x_offset: Columns from where `x` points to its first.
        DIM: Columns of a row; WIDTH is the next power of two.
        DTYPE: "fp32", "fp16" or "int8".
        STRIDE: Bytes of a stored row.
        SHORT: Bags of a block of short bags, one lane each.
        LONG: Bags of a block of long bags, with LANES lanes each.
        LANES: As it says.
        ONE: Every bag holds one id.
        WEIGHTED: Every id has a weight.
        CHECKED: Whether ids may be out of range.
        SPLIT: Whether some table lies on device and host.
        NATIVE: Whether a GPU runs it, and not Triton's interpreter, which knows no assembly.
        OUT: Columns begin at multiples of so many from where `x` points.
    """
    job = tl.load(work + tl.program_id(0))
    slot = slots + (job >> 32) * 9
    first = (job & 0xFFFFFFFF).to(tl.int32)
    if ONE:
        _block(slot, first, values, offsets, weights, x, unknown, batch, x_stride, x_offset,
               DIM, WIDTH, DTYPE, STRIDE, SHORT, 1, ONE, WEIGHTED, CHECKED, SPLIT, NATIVE, OUT)  # fmt: skip
    else:
        if tl.load(slot + 7) != 0:
            _block(slot, first, values, offsets, weights, x, unknown, batch, x_stride, x_offset,
                   DIM, WIDTH, DTYPE, STRIDE, LONG, LANES, ONE, WEIGHTED, CHECKED, SPLIT, NATIVE, OUT)  # fmt: skip
        else:
            _block(slot, first, values, offsets, weights, x, unknown, batch, x_stride, x_offset,
                   DIM, WIDTH, DTYPE, STRIDE, SHORT, 1, ONE, WEIGHTED, CHECKED, SPLIT, NATIVE, OUT)  # fmt: skip


@triton.jit
def _block(
    slot, first, values, offsets, weights, x, unknown, batch, x_stride, x_offset,
    DIM: tl.constexpr, WIDTH: tl.constexpr, DTYPE: tl.constexpr, STRIDE: tl.constexpr, BAGS: tl.constexpr,
    LANES: tl.constexpr, ONE: tl.constexpr, WEIGHTED: tl.constexpr, CHECKED: tl.constexpr, SPLIT: tl.constexpr,
    NATIVE: tl.constexpr, OUT: tl.constexpr,
):  # fmt: skip
    """Bags `first` to `first + BAGS` of a slot."""
    device, host, remap, cold = tl.load(slot), tl.load(slot + 1), tl.load(slot + 2), tl.load(slot + 8)
    rows, feature, column = tl.load(slot + 3), tl.load(slot + 4), tl.load(slot + 5)
    bags = first + tl.arange(0, BAGS)
    inside = bags < batch
    begin = feature * batch + bags
    lane = tl.arange(0, LANES)[None, :]
    if ONE:
        present = inside[:, None] & (lane < 1)
        sums = _rows(begin[:, None] + lane, present, values, weights, unknown, device, host, remap, cold, rows,
                     DIM, WIDTH, DTYPE, STRIDE, WEIGHTED, CHECKED, SPLIT, NATIVE)  # fmt: skip
    else:
        end = tl.load(offsets + begin + 1, mask=inside, other=0).to(tl.int64)
        begin = tl.load(offsets + begin, mask=inside, other=0).to(tl.int64)
        count = (end - begin).to(tl.int32)
        sums = tl.zeros([BAGS, LANES, WIDTH], dtype=tl.float32)
        step, most = 0, tl.max(count, axis=0)
        while step < most:  # Triton's interpreter takes no range of a tensor with numpy 2.4
            at = step + lane
            sums += _rows(begin[:, None] + at, at < count[:, None], values, weights, unknown, device, host, remap, cold,
                          rows, DIM, WIDTH, DTYPE, STRIDE, WEIGHTED, CHECKED, SPLIT, NATIVE)  # fmt: skip
            step += LANES
    pooled = tl.sum(sums, axis=1) if LANES > 1 else tl.reshape(sums, [BAGS, WIDTH])
    if not ONE:
        if tl.load(slot + 6) != 0:
            pooled = pooled / tl.maximum(count, 1).to(tl.float32)[:, None]
    columns = tl.arange(0, WIDTH)[None, :]
    mask = inside[:, None] & (columns < DIM)
    start = tl.multiple_of(x_offset + column, OUT)
    place = x + bags.to(tl.int64)[:, None] * tl.multiple_of(x_stride.to(tl.int64), OUT) + start + columns
    # Single ids write most of what passes, and wide rows would push those of small tables out of the second cache.
    policy: tl.constexpr = "evict_first" if ONE and WIDTH >= 64 else ""
    tl.store(place, pooled.to(x.dtype.element_ty), mask=mask, eviction_policy=policy)


@triton.jit
def _rows(
    at, present, values, weights, unknown, device, host, remap, cold, rows,
    DIM: tl.constexpr, WIDTH: tl.constexpr, DTYPE: tl.constexpr, STRIDE: tl.constexpr,
    WEIGHTED: tl.constexpr, CHECKED: tl.constexpr, SPLIT: tl.constexpr, NATIVE: tl.constexpr,
):  # fmt: skip
    """The weighted rows of the ids at some places, [*at, WIDTH]; zeros where they are not present."""
    ids = tl.load(values + at, mask=present, other=0)
    if CHECKED:
        if ids.dtype == tl.int32:  # as unsigned numbers negative ids are beyond all rows, too
            known = ids.to(tl.uint32, bitcast=True) < tl.minimum(rows, 0x80000000).to(tl.uint32)
        else:
            known = ids.to(tl.uint64, bitcast=True) < rows.to(tl.uint64, bitcast=True)
        tl.atomic_add(unknown + tl.zeros_like(ids), 1, mask=present & ~known, sem="relaxed")
        ids = tl.where(known, ids, 0)
    ids = ids.to(tl.int64)
    where, present = _addresses(ids, present, device, host, remap, cold, STRIDE, SPLIT)
    found = _columns(where, present, DIM, WIDTH, DTYPE, STRIDE, NATIVE)
    if DTYPE == "int8":
        scale, bias = _header(where, present, DIM, STRIDE)
        found = found * scale[:, :, None] + bias[:, :, None]
    if WEIGHTED:
        found = found * tl.load(weights + at, mask=present, other=0.0)[:, :, None]
    return found
