"""Count the texts of a feature in compact memory, and find the position of any of them fast."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from recsys.data.hashing import hash64, hash64_of
from recsys.data.values import Ints

__all__ = ["Tally", "Vocabulary"]

_PENDING = 1 << 16
"""Texts that may wait to be merged, or as many as are merged already, if that is more."""


class Tally:
    """How often each text was seen; about 30 bytes a distinct text, where a Python dict takes 150."""

    def __init__(self) -> None:
        self._texts: list[pa.LargeStringArray] = []
        self._counts: list[Ints] = []
        self._pending = self._kept = 0

    def add(self, texts: pa.LargeStringArray, codes: Ints) -> None:
        """Count one column: `texts` as `values.dictionary` gives them, `codes` -1 where a value is missing."""
        self._texts.append(texts)
        self._counts.append(np.bincount(codes[codes >= 0], minlength=len(texts)))
        self._pending += len(texts)
        if self._pending > max(_PENDING, self._kept):
            self._merge()

    def most_frequent(self, min_count: int = 1) -> tuple[pa.LargeStringArray, int]:
        """Texts seen at least `min_count` times, and how many values were of rarer ones.

        The most frequent come first, so that hot rows lie together; ties in the order of their text.
        """
        self._merge()
        keep = np.flatnonzero(self._counts[0] >= max(min_count, 1))
        table = pa.table({"text": self._texts[0].take(pa.array(keep)), "n": self._counts[0][keep]})
        rare = int(self._counts[0].sum() - self._counts[0][keep].sum())
        return table.sort_by([("n", "descending"), ("text", "ascending")])["text"].combine_chunks(), rare

    def _merge(self) -> None:
        merged = pc.dictionary_encode(pa.concat_arrays([pa.array([], pa.large_string()), *self._texts]))
        counts = np.zeros(len(merged.dictionary), dtype=np.int64)
        np.add.at(counts, merged.indices.to_numpy(), np.concatenate([np.zeros(0, dtype=np.int64), *self._counts]))
        # Merging again only when as much again has come makes all merging together linear.
        self._texts, self._counts, self._kept, self._pending = [merged.dictionary], [counts], len(counts), 0


class Vocabulary:
    """Texts and their positions; a look-up hashes to 64 bits and then compares the texts themselves.

    Args:
        texts: In the order of their positions, each once.

    Raises:
        ValueError: When a text stands twice.
    """

    def __init__(self, texts: pa.LargeStringArray | Iterable[str]) -> None:
        array = texts if isinstance(texts, pa.Array) else pa.array(list(texts), pa.large_string())
        self.texts = pc.cast(array, pa.large_string())
        self._seed = 0
        self._index = self._indexed()

    def __len__(self) -> int:
        return len(self.texts)

    def to_list(self) -> list[str]:
        """The texts."""
        found: list[str] = self.texts.to_pylist()
        return found

    def positions(self, texts: pa.LargeStringArray) -> Ints:
        """The position of every text [n], -1 where it is not in the vocabulary."""
        if not len(self) or not len(texts):
            return np.full(len(texts), -1, dtype=np.int64)
        found = np.asarray(self._index.get_indexer(pd.Index(hash64(texts, self._seed))), dtype=np.int64)
        same = pc.equal(self.texts.take(pa.array(np.maximum(found, 0))), texts)
        return np.where(same.to_numpy(zero_copy_only=False), found, -1)

    def position(self, text: str) -> int:
        """`positions` of one text, in a few microseconds and without memory of its own; safe in threads."""
        try:
            found = int(self._index.get_loc(hash64_of(text, self._seed)))  # type: ignore[arg-type]
        except KeyError:
            return -1
        return found if self.texts[found].as_py() == text else -1

    def _indexed(self) -> pd.Index[int]:
        """An index of the texts' hashes; should two agree, another seed is tried."""
        for seed in range(8):
            index: pd.Index[int] = pd.Index(hash64(self.texts, seed))
            if index.is_unique:
                self._seed = seed
                return index
        raise ValueError("a text stands twice in the vocabulary")
