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
        return -(2**63) <= value < 2**63
    return value is None


def kind(value: Any) -> str:
    return "number" if type(value) in (int, float) else type(value).__name__


def one(name: str, value: Any) -> bool:
    if isinstance(value, list):
        same = len({kind(item) for item in value if item is not None}) <= 1
        return name in ("list", "text") and same and all(scalar(item, False) for item in value)
    return (
        scalar(value, name in ("number", "hour"))
        and (name != "list" or value is None)
        and (name != "text" or value is None or isinstance(value, str))
    )


@given(st.sampled_from(sorted(COLUMNS)), VALUES)
def test_a_value_is_taken_where_the_obvious_check_takes_it(name: str, value: Any) -> None:
    if one(name, value):
        check(COLUMNS[name], [value, None])
    else:
        with pytest.raises(Refused, match=f"feature `{name}`"):
            check(COLUMNS[name], [None, value])


@given(st.sampled_from(sorted(COLUMNS)), st.lists(VALUES, max_size=4))
def test_values_of_one_type_that_are_taken_alone_are_taken_together(name: str, values: list[Any]) -> None:
    flat = [item for value in values if isinstance(value, list) for item in value]
    same = all(len({kind(value) for value in of if value is not None}) <= 1 for of in (values, flat))
    if same and all(one(name, value) for value in values):
        check(COLUMNS[name], values)
    else:
        with pytest.raises(Refused):
            check(COLUMNS[name], values)
