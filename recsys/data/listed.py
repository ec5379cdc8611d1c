"""Lists in columns: of any list type, or text that a separator splits, such as ``a|b``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys.data.columns import values
from recsys.data.schema import MultiValued
from recsys.data.values import dictionary

__all__ = ["is_list", "listed", "separator", "without_values"]


def listed(array: pa.Array, separator: str | None) -> pa.LargeListArray:
    """Lists of canonical text, as a multi-valued feature reads them; a null list holds one null."""
    feature = MultiValued(name="values", separator=separator)
    flat, lengths, _ = values(pa.table({"values": array}), feature, None)
    assert lengths is not None
    texts, codes = dictionary(flat, "values")
    offsets = np.append(0, np.cumsum(lengths))
    return pa.LargeListArray.from_arrays(pa.array(offsets), texts.take(pa.array(codes, mask=codes < 0)))


def without_values(lists: pa.LargeListArray) -> int:
    """Lists that are empty or hold nothing but nulls."""
    rows = pc.list_parent_indices(lists).filter(lists.flatten().is_valid())
    return len(lists) - len(pc.unique(rows))


def separator(counted: Sequence[tuple[str, int]]) -> str | None:
    """What splits most of a column's texts into several tokens that recur, or that are ids; None for plain text.

    Of ``^`` and ``|``, which text seldom has, one value in five is enough.

    Args:
        counted: Different texts, and how often each occurs.
    """
    for sign, share in (("^", 0.2), ("|", 0.2), (";", 0.5), (",", 0.5), (" ", 0.5)):
        if _splits(counted, sign, share, str.isdigit if sign in " ," else _is_id):
            return sign
    return None


def _splits(counted: Sequence[tuple[str, int]], sign: str, share: float, is_id: Callable[[str], bool]) -> bool:
    parts = [([part.strip() for part in text.split(sign) if part.strip()], n) for text, n in counted]
    several = sum(n for tokens, n in parts if len(tokens) > 1)
    if not several or several < share * sum(n for _, n in parts):
        return False
    tokens = {token for found, _ in parts for token in found}
    return len(tokens) <= len(parts) / 2 or all(map(is_id, tokens))


def _is_id(token: str) -> bool:
    return not any(letter.isspace() for letter in token)


def is_list(kind: Any) -> bool:
    """Whether an Arrow type holds several values a row."""
    checks = (
        pa.types.is_list,
        pa.types.is_large_list,
        pa.types.is_fixed_size_list,
        pa.types.is_list_view,
        pa.types.is_large_list_view,
    )
    return any(check(kind) for check in checks)
