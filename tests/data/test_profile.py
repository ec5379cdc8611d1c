"""What columns hold: against pandas, by hand for lists, and in bounded memory."""

from __future__ import annotations

import decimal
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import skew

from recsys.data import profile as profiles
from recsys.data.observe import Column, Distinct
from recsys.data.profile import profile
from recsys.data.readers import Dataset
from recsys.errors import ConfigError, DataError


def column(values: Any, kind: pa.DataType | None = None) -> Column:
    return profile(Dataset(pa.table({"c": pa.array(values, kind)}))).columns[0]


WORDS = st.sampled_from(["a", "b", "A", "c d", "x1", "zz"])


@given(st.lists(st.none() | st.integers(-5, 5) | st.just(10**12), min_size=1, max_size=60))
def test_integers_are_counted_as_pandas_counts_them(values: list[int | None]) -> None:
    found, series = column(values, pa.int64()), pd.Series(values, dtype="Int64")
    assert (found.rows, found.missing, found.distinct) == (len(values), series.isna().sum(), series.nunique())
    if not series.notna().any():
        assert found.numbers is None
        return
    assert found.numbers is not None
    assert found.top == pytest.approx(series.value_counts(normalize=True).iloc[0])
    assert (found.numbers.low, found.numbers.high, found.numbers.whole) == (series.min(), series.max(), True)
    assert found.numbers.mean == pytest.approx(float(series.mean()), rel=1e-9, abs=1e-9)


@given(st.lists(st.none() | st.floats(-1e6, 1e6, width=32), min_size=3, max_size=60))
def test_floats_have_the_skew_that_scipy_gives(values: list[float | None]) -> None:
    found, known = column(values, pa.float64()), np.array([v for v in values if v is not None])
    assert found.missing == len(values) - known.size
    assert found.distinct == len(set(known))
    if known.size and known.std() > 1e-5 * np.abs(known).max():
        assert found.numbers is not None
        assert found.numbers.skew == pytest.approx(skew(known), rel=1e-4, abs=1e-4)


@given(st.lists(st.none() | WORDS, min_size=1, max_size=60))
def test_text_is_counted_as_pandas_counts_it(values: list[str | None]) -> None:
    found, series = column(values, pa.string()), pd.Series(values, dtype="object")
    assert (found.missing, found.distinct) == (series.isna().sum(), series.nunique())
    assert dict(found.counted) == series.value_counts().to_dict()


@given(rows=st.lists(st.lists(WORDS | st.sampled_from(["", "NA", "3", "4.5"]), min_size=2, max_size=2), min_size=1))
def test_a_csv_file_is_counted_as_pandas_counts_it(
    rows: list[list[str]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("csv") / "rows.csv"
    path.write_text("c,d\n" + "".join(",".join(row) + "\n" for row in rows))
    found = profile(Dataset(path)).columns
    frame = pd.read_csv(path, dtype=str)
    assert [c.missing for c in found] == frame.isna().sum().tolist()
    assert [c.distinct for c in found] == frame.nunique().tolist()


def test_text_of_numbers_is_numbers_and_a_word_among_them_is_not() -> None:
    numbers = column(["1", "2.50", "?", None, ""]).numbers
    assert numbers is not None
    assert (numbers.finite, numbers.low, numbers.high, numbers.whole) == (2, 1.0, 2.5, False)
    assert column(["1", "2", "x"]).numbers is None


def test_infinite_numbers_are_no_values_to_average() -> None:
    numbers = column([1.0, math.inf, 3.0]).numbers
    assert numbers is not None
    assert (numbers.finite, numbers.mean, numbers.high) == (2, 2.0, 3.0)


@pytest.mark.parametrize(
    ("values", "kind", "dates"),
    [
        (["2024-05-31", "2024-06-01 10:20:30", "2024-06-01T10:20:30.5Z"], None, True),
        ([1, 2], pa.timestamp("s"), True),
        ([1, 2], pa.date32(), True),
        (["2024-05-31", "soon"], None, False),
        ([20240531], None, False),
    ],
)
def test_dates_are_known_by_type_or_form(values: list[Any], kind: pa.DataType | None, dates: bool) -> None:
    assert column(values, kind).dates is dates


@pytest.mark.parametrize(
    ("values", "sign"),
    [
        (["17^23", "9", "4^17^9"], "^"),
        (["Action|Comedy", "Comedy|Drama", "Drama"], "|"),
        (["a,b", "b,c", "a,c", "a,b,c", "c,b", "b,a"], ","),
        (["12 15 18", "15 12", "18"], " "),
        (["New York", "San Francisco", "Los Angeles"], None),
        (["3,5", "4,25", "3,75"], None),
        (["1,234", "1,234,567"], None),
        (["['a', 'b']", "['b']", "['a', 'b', 'c']"], None),
        (["2024-05-31 10:00:00", "2024-05-31 11:00:00"], None),
        (["430548_1007", "430539_1007"], None),
        (["", ""], None),
    ],
)
def test_separators_are_told_from_punctuation(values: list[str], sign: str | None) -> None:
    assert column(values).separator == sign


def test_separated_text_is_counted_by_its_tokens() -> None:
    found = column(["17^23", "9", "", "9^17", None])
    assert (found.distinct, found.missing, found.lists) == (3, 2, True)
    assert found.counted == [("17", 2), ("9", 2), ("23", 1)]


def test_lists_are_counted_by_their_values() -> None:
    found = column([[1, 2], [], None, [2, 2, None]], pa.list_(pa.int64()))
    assert (found.distinct, found.missing, found.lists, found.numbers) == (2, 2, True, None)
    assert found.counted == [("2", 3), ("1", 1)]


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ([{"a": 1}], "nested values"),
        ([[{"a": 1}]], "nested values"),
        ([[[1]]], "nested values"),
        ([b"\x00"], "binary values"),
        ([[b"\x00"]], "binary values"),
    ],
)
def test_what_no_feature_can_read_is_said(values: list[Any], told: str) -> None:
    unreadable = column(values).unreadable
    assert unreadable is not None
    assert told in unreadable


@pytest.mark.parametrize(
    "values", [[True, None, False], [decimal.Decimal("1.50")], [None, None], pd.Series(["a", None], dtype="category")]
)
def test_other_types_are_read(values: Any) -> None:
    found = column(values)
    assert found.unreadable is None
    assert found.missing == sum(v is None or v != v for v in values)


def test_distinct_is_exact_up_to_its_limit_and_near_beyond_it() -> None:
    small, large = Distinct(5000), Distinct(5000)
    for start in range(0, 40_000, 1000):
        texts = pa.array([str(i) for i in range(start, start + 1000)], pa.large_string())
        large.add(texts)
        if start < 5000:
            small.add(texts)
            small.add(texts)
    assert small.count() == (5000, True)
    estimate, exact = large.count()
    assert not exact
    assert estimate == pytest.approx(40_000, rel=0.1)


@pytest.mark.parametrize(("limit", "rows", "cut"), [(1, 1, True), (9, 9, True), (10, 10, False), (99, 10, False)])
def test_only_the_first_rows_are_read(limit: int, rows: int, cut: bool, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("a,b\n" + "1,x|y\n" * 10)
    for data in (Dataset(path), Dataset(pa.table({"a": list(range(10)), "b": ["x|y"] * 10}))):
        found = profile(data, limit)
        assert (found.rows, found.cut, found.columns[0].rows) == (rows, cut, rows)


def test_the_sample_is_bounded_fair_and_in_random_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiles, "SAMPLE", 500)
    n = 200_000
    found = profile(Dataset(pa.table({"c": np.arange(n), "d": np.arange(n)}))).columns
    sample = found[0].floats()
    assert sample.size == 500
    assert sample.tolist() == found[1].floats().tolist()
    assert len(set(sample)) == 500
    assert sample.mean() == pytest.approx(n / 2, rel=0.1)
    assert abs(np.corrcoef(sample, np.arange(500))[0, 1]) < 0.15
    assert found[0].distinct == n


def test_what_cannot_be_profiled_is_said() -> None:
    with pytest.raises(ConfigError, match="at least 1 row"):
        profile(Dataset(pa.table({"a": [1]})), 0)
    with pytest.raises(DataError, match="no rows"):
        profile(Dataset(pa.table({"a": pa.array([], pa.int64())})))
    with pytest.raises(DataError, match="no columns"):
        profile(Dataset(pa.table({})))
    with pytest.raises(DataError, match="stands twice"):
        profile(Dataset(pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"])))
