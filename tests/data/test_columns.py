"""Labels of two values that are no 0 and 1."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.data.columns import bucket_of, bucketed, label
from recsys.data.encoder import Encoder
from recsys.data.schema import Bucketed, Categorical, Label, LogSquare, Schema
from recsys.data.values import canonical
from recsys.errors import ConfigError, DataError


def read(values: Any, positive: str, kind: pa.DataType | None = None) -> list[float]:
    task = Label(name="y", positive=positive)
    found: list[float] = label(pa.table({"y": pa.array(values, kind)}), task).tolist()
    return found


@pytest.mark.parametrize(
    ("values", "positive", "kind"),
    [
        (["<=50K", ">50K", " >50K "], ">50K", None),
        (["<=50K", ">50K", ">50K"], " >50K", pa.dictionary(pa.int8(), pa.string())),
        (["False", "True", "TRUE"], "true", None),
        ([False, True, True], "True", None),
        ([-1, 1, 1], "1", None),
        ([1.0, 2.0, 2.0], "2", None),
        (["1", "2", "2.0"], "2.0", None),
    ],
)
def test_one_value_counts_as_1_and_every_other_as_0(values: Any, positive: str, kind: pa.DataType | None) -> None:
    assert read(values, positive, kind) == [0, 1, 1]


def test_a_missing_value_is_no_0() -> None:
    with pytest.raises(DataError, match="1 of 2 rows have no finite value"):
        read(["yes", None], "yes")


def test_a_dictionary_may_hold_values_that_no_row_has() -> None:
    array = pa.DictionaryArray.from_arrays(pa.array([0, 1]), pa.array(["no", "yes", "never"]))
    assert read(array, "yes") == [0, 1]
    assert read(pa.array([], pa.string()), "yes") == []


def test_a_regression_has_no_positive_value() -> None:
    with pytest.raises(ConfigError, match="a regression has none"):
        Label.parse({"name": "y", "kind": "regression", "positive": "yes"}, "schema")


def test_numbers_of_two_values_are_told_about_positive() -> None:
    with pytest.raises(DataError, match="set `positive`"):
        label(pa.table({"y": [1, 2]}), Label(name="y"))


def test_a_positive_value_that_no_row_has_is_refused() -> None:
    made = Schema(labels=(Label(name="y", positive="yess"),), features=(Categorical(name="c"),))
    with pytest.raises(DataError, match="label `y`: no row has the value `yess`"):
        Encoder.fit(made, [pa.table({"y": ["yes", "no"], "c": ["a", "b"]})])


NUMBERS = st.one_of(
    st.floats(),
    st.integers(-3, 40).map(float),
    st.tuples(st.integers(1, 400), st.sampled_from([-np.inf, 0, np.inf])).map(
        lambda drawn: float(np.nextafter(np.exp(np.sqrt(drawn[0])), drawn[1]))  # where a bucket of log-square begins
    ),
)


@given(st.lists(NUMBERS, max_size=20), st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=5))
def test_one_number_falls_into_the_bucket_that_a_column_gives_it(found: list[float], edges: list[float]) -> None:
    edges = sorted({*edges, *found[:2]} - {math.inf, -math.inf}) if not any(map(math.isnan, found)) else sorted(edges)
    for feature in (Bucketed(name="b"), Bucketed(name="b", buckets=LogSquare())):
        expected = canonical(bucketed(np.array(found, dtype=np.float64), feature, np.array(edges)), "b").to_pylist()
        assert [bucket_of(number, feature, edges) for number in found] == expected
