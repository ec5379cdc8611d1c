"""Columns are checked as a whole; the slow, obvious check of one value at a time says the same."""

from __future__ import annotations

import contextlib
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.data.schema import Categorical, Label, MultiValued, Numeric, Schema, Sequence
from recsys.serving.columns import check, columns_of
from recsys.serving.refusals import Refused

SCHEMA = Schema(
    labels=(Label(name="y"),),
    features=(
        Numeric(name="number"),
        Categorical(name="category"),
        Sequence(name="list"),
        MultiValued(name="text", separator="|"),
        Numeric(name="hour"),
        Categorical(name="hour of day", column="hour"),
    ),
)
COLUMNS = columns_of(SCHEMA)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**65), 2**65),
    st.floats(),
    st.text(st.characters(exclude_categories=[])),
)
VALUES = st.one_of(SCALARS, st.lists(SCALARS, max_size=3), st.dictionaries(st.text(), SCALARS, max_size=1))


def scalar(value: Any, numbers: bool) -> bool:
    """Whether one value may stand where one does."""
    if isinstance(value, str):
        with contextlib.suppress(UnicodeEncodeError):
            return value.encode() is not None and not numbers
        return False
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, int):
        return -(2**63) <= value < 2**64
    return value is None


def one(name: str, value: Any) -> bool:
    if isinstance(value, list):
        return name in ("list", "text") and all(scalar(item, False) for item in value)
    if name in ("list", "text") and value is not None:
        return name == "text" and isinstance(value, str) and scalar(value, False)
    return scalar(value, name in ("number", "hour"))


@given(st.sampled_from(sorted(COLUMNS)), VALUES)
def test_a_value_is_taken_where_the_obvious_check_takes_it(name: str, value: Any) -> None:
    if one(name, value):
        check(COLUMNS[name], [value, None])
    else:
        with pytest.raises(Refused, match=f"feature `{name}`"):
            check(COLUMNS[name], [None, value])


@given(st.sampled_from(sorted(COLUMNS)), st.lists(VALUES, max_size=4))
def test_values_that_are_taken_alone_are_taken_together(name: str, values: list[Any]) -> None:
    if all(one(name, value) for value in values):
        check(COLUMNS[name], values)
    else:
        with pytest.raises(Refused):
            check(COLUMNS[name], values)


def test_a_column_is_of_the_sides_of_all_that_read_it() -> None:
    features = (Numeric(name="a", side="user"), Categorical(name="b", column="a", side="item"))
    found = columns_of(Schema(labels=(Label(name="y"),), features=features))
    assert {name: column.sides for name, column in found.items()} == {"a": {"user", "item"}}
