"""Murmur3 by column gives the bits of murmur3 by value."""

from __future__ import annotations

import mmh3
import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from recsys.data.hashing import hash64, hash64_of, hash_row, hash_rows, murmur3

TEXTS = st.lists(st.text(max_size=90), max_size=20)
SEEDS = st.integers(0, 2**32 - 1)


@given(TEXTS, st.binary(max_size=9), SEEDS, st.integers(0, 3))
def test_a_column_is_hashed_as_its_values_are(texts: list[str], prefix: bytes, seed: int, skip: int) -> None:
    array = pa.array(texts, pa.large_string()).slice(skip)
    expected = [mmh3.hash(prefix + text.encode(), seed, signed=False) for text in texts[skip:]]
    assert murmur3(array, prefix, seed).tolist() == expected


@given(TEXTS, st.integers(1, 31), SEEDS)
def test_rows_leave_row_0_and_one_value_gives_the_same_row(texts: list[str], bits: int, seed: int) -> None:
    rows = hash_rows(pa.array(texts, pa.large_string()), "f", bits, seed).tolist()
    assert rows == [hash_row(text, "f", bits, seed) for text in texts]
    assert all(1 <= row < max(1 << bits, 2) for row in rows)
    assert rows == [1 + mmh3.hash(f"f|{text}", seed, signed=False) % ((1 << bits) - 1) for text in texts]


@given(TEXTS, SEEDS)
def test_64_bits_of_one_text_are_those_of_a_column(texts: list[str], seed: int) -> None:
    assert [hash64_of(text, seed) for text in texts] == hash64(pa.array(texts, pa.large_string()), seed).tolist()


def test_a_missing_value_has_a_row_too() -> None:
    assert hash_row(None, "f", 8, 42) == 1 + mmh3.hash("f", 42, signed=False) % 255


def test_two_words_that_agree_under_one_murmur3_differ_in_64_bits() -> None:
    texts = pa.array([f"{i:08x}" for i in range(200_000)], pa.large_string())
    assert np.unique(hash64(texts, 0)).size == len(texts)
