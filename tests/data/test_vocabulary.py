"""Counting texts, and finding their positions."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.data import vocabulary
from recsys.data.values import dictionary
from recsys.data.vocabulary import Tally, Vocabulary

TEXTS = st.lists(st.text(min_size=1, max_size=4).filter(lambda t: t == t.strip()), max_size=30)


def texts(values: list[str]) -> pa.LargeStringArray:
    return pa.array(values, pa.large_string())


@given(st.lists(TEXTS, max_size=6), st.integers(1, 3), st.integers(1, 40))
def test_a_tally_counts_as_counter_does(parts: list[list[str]], minimum: int, pending: int) -> None:
    tally, counter = Tally(), Counter[str]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vocabulary, "_PENDING", pending)  # so that merging happens at every size
        for part in parts:
            found, codes = dictionary(texts(part), "c")
            tally.add(found, codes)
            counter.update(found[int(code)].as_py() for code in codes if code >= 0)
    expected = sorted((text for text, n in counter.items() if n >= minimum), key=lambda t: (-counter[t], t))
    rare = sum(n for n in counter.values() if n < minimum)
    assert (tally.most_frequent(minimum)[0].to_pylist(), tally.most_frequent(minimum)[1]) == (expected, rare)


@given(st.lists(st.text(max_size=6), unique=True), st.lists(st.text(max_size=6)))
def test_positions_are_those_of_a_list(known: list[str], asked: list[str]) -> None:
    made, expected = Vocabulary(known), [known.index(text) if text in known else -1 for text in asked]
    assert made.positions(texts(asked)).tolist() == expected
    assert [made.position(text) for text in asked] == expected


def test_texts_of_one_hash_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Vocabulary(["a", "b"])
    monkeypatch.setattr(vocabulary, "hash64", lambda array, seed: np.full(len(array), made._index[0], dtype=np.uint64))
    assert made.positions(texts(["a", "x"])).tolist() == [0, -1]
    monkeypatch.setattr(vocabulary, "hash64_of", lambda text, seed: int(made._index[0]))
    assert (made.position("a"), made.position("x")) == (0, -1)


def test_a_text_that_stands_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="twice"):
        Vocabulary(["a", "b", "a"])
