"""Numbered texts: each once, in an order that rows do not touch, whatever the parts they came in."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from recsys.data.names import Names, ordered
from tests.helpers import tidy

values = st.one_of(
    st.none(), st.text(max_size=5), st.integers(-20, 20).map(str), st.sampled_from(["5.0", "007", "-0", "b", "Z"])
)
parts = st.lists(st.lists(values, max_size=8), max_size=5)


def key(text: str) -> tuple[bool, int, bytes]:
    number = text.removeprefix("-").isdigit() and text.isascii() and len(text.removeprefix("-")) <= 18
    return not number, int(text) if number else 0, text.encode()


@given(parts)
def test_settling_is_sorting_the_distinct_texts(made: list[list[str | None]]) -> None:
    names = Names("user")
    for part in made:
        names.add(pa.array(part, pa.string()))
    found = [tidy(value) for part in made for value in part]
    assert len(names) == len(found)
    assert names.present().tolist() == [text is not None for text in found]
    keep = np.flatnonzero(names.present())[::2]
    texts, codes = names.settle(keep)
    kept = [found[at] for at in keep]
    assert texts.to_pylist() == sorted({text for text in kept if text is not None}, key=key)
    assert texts.take(pa.array(codes)).to_pylist() == kept


def test_whole_numbers_come_first_by_value() -> None:
    made = ["b", "10", "9", "-3", "a", "1.5", "007", "7", "12345678901234567890", "é"]
    expected = ["-3", "007", "7", "9", "10", "1.5", "12345678901234567890", "a", "b", "é"]
    assert [made[at] for at in ordered(pa.array(made, pa.large_string()))] == expected


def test_columns_of_other_types_have_the_same_texts() -> None:
    names = Names("item")
    names.add(pa.array([5, None, 3]))
    names.add(pa.array([5.0, float("nan")]))
    names.add(pa.array(["5", " 3 "]).dictionary_encode())
    texts, codes = names.settle(np.flatnonzero(names.present()))
    assert texts.to_pylist() == ["3", "5"]
    assert codes.tolist() == [1, 0, 1, 1, 0]


def test_values_can_be_taken_again_and_again() -> None:
    names = Names("user")
    names.add(pa.array(["x", "y"]))
    again = names.at(np.array([1, 1, 0]))
    assert len(again) == 3
    texts, codes = again.settle(np.arange(3))
    assert texts.take(pa.array(codes)).to_pylist() == ["y", "y", "x"]


def test_nothing_is_nothing() -> None:
    texts, codes = Names("user").settle(np.zeros(0, dtype=np.int64))
    assert (len(texts), codes.tolist()) == (0, [])
