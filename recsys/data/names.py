"""Number the texts of a column: each text once, in an order that does not depend on the order of the rows."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from recsys.data.values import Ints, dictionary

__all__ = ["Names", "ordered"]


class Names:
    """The texts of a column that comes in parts, and who of its values has which.

    Memory: 8 bytes a value, and each text once for every part that holds it.

    Args:
        column: Its name, for messages.
    """

    def __init__(self, column: str) -> None:
        self.column = column
        self._texts: list[pa.LargeStringArray] = []
        self._codes: list[Ints] = []
        self._known = 0

    def __len__(self) -> int:
        return sum(map(len, self._codes))

    def add(self, array: pa.Array) -> None:
        """Take the next part of the column.

        Raises:
            DataError: When values cannot be read as text.
        """
        texts, codes = dictionary(array, self.column)
        self._codes.append(np.where(codes < 0, -1, codes + self._known))
        self._texts.append(texts)
        self._known += len(texts)

    def present(self) -> npt.NDArray[np.bool_]:
        """Which of the n values so far are there, [n]."""
        return self._joined() >= 0

    def at(self, places: Ints) -> Names:
        """The values at places [m] as a column of their own."""
        taken = Names(self.column)
        taken._texts, taken._codes, taken._known = self._texts, [self._joined()[places]], self._known
        return taken

    def settle(self, keep: Ints) -> tuple[pa.LargeStringArray, Ints]:
        """The distinct texts of the values to keep, as `ordered` has them, and for each such value its text's position.

        Args:
            keep: [m] positions of values, none of which is missing.
        """
        codes = self._joined()[keep]
        there = np.zeros(self._known, dtype=bool)
        there[codes] = True
        used = np.flatnonzero(there)
        texts = pa.concat_arrays([pa.array([], pa.large_string()), *self._texts]).take(pa.array(used))
        distinct = pc.dictionary_encode(texts)
        order = ordered(distinct.dictionary)
        position = np.empty(len(order), dtype=np.int64)
        position[order] = np.arange(len(order))
        places = np.empty(self._known, dtype=np.int64)
        places[used] = position[distinct.indices.to_numpy(zero_copy_only=False)]
        return distinct.dictionary.take(pa.array(order)), places[codes]

    def _joined(self) -> Ints:
        return np.concatenate([np.zeros(0, np.int64), *self._codes])


def ordered(texts: pa.LargeStringArray) -> Ints:
    """The order of texts [n]: whole numbers by their value, then all others by their bytes.

    So items that a data set numbers 1 … I keep their numbers.
    """
    is_number = pc.match_substring_regex(texts, r"^-?\d{1,18}$")
    number = pc.cast(pc.if_else(is_number, texts, pa.scalar("0", texts.type)), pa.int64())
    by_bytes = pc.sort_indices(texts).to_numpy().astype(np.int64)
    flag, value = (column.to_numpy(zero_copy_only=False)[by_bytes] for column in (is_number, number))
    return np.asarray(by_bytes[np.lexsort((value, ~flag))])
