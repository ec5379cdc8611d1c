"""A Triton kernel that measures what shared memory gives. Import it where it is launched: Triton may be absent."""

from __future__ import annotations

import triton
import triton.language as tl

__all__ = ["gather_shared"]


@triton.jit
def gather_shared(table, indices, out, ROUNDS: tl.constexpr, SIZE: tl.constexpr):
    """Gather SIZE float32 numbers of a table in shared memory, again and again, each time elsewhere.

    Args:
        table: [SIZE] float32.
        indices: [programs * SIZE] int32.
        out: [programs * SIZE] float32.
        ROUNDS: How often.
        SIZE: A power of two.
    """
    place = tl.arange(0, SIZE)
    own = tl.program_id(0) * SIZE + place
    values = tl.load(table + place)
    index = tl.load(indices + own)
    total = tl.zeros([SIZE], dtype=tl.float32)
    for _ in range(ROUNDS):
        found = tl.gather(values, index, 0)
        total += found
        index = (index + found.to(tl.int32)) & (SIZE - 1)
    tl.store(out + own, total)
