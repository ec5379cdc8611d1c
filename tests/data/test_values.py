"""One text for each value, whatever its type."""

from __future__ import annotations

import datetime
import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.data.values import NO_VALUE, canonical, dictionary, number_of, numbers, text_of, whole
from recsys.errors import DataError
from tests.helpers import tidy


@pytest.mark.parametrize(
    "array",
    [
        pa.array([5, 0, None], pa.int32()),
        pa.array([5, 0, None], pa.uint64()),
        pa.array([5.0, 0.0, None], pa.float32()),
        pa.array([5.0, -0.0, math.nan], pa.float64()),
        pa.array(["5", "0", None]),
        pa.array(["5", "0", ""], pa.large_string()),
        pa.array([b"5", b"0", None]),
        pa.array(["5", "0", None]).dictionary_encode(),
    ],
)
def test_one_number_has_one_text_in_every_type(array: pa.Array) -> None:
    texts, codes = dictionary(array, "c")
    assert [None if code < 0 else texts[code].as_py() for code in codes] == ["5", "0", None]


def test_floats_with_a_fraction_and_huge_ones_keep_theirs() -> None:
    assert canonical(pa.array([1.5, math.inf, 1e300, 1e16]), "c").to_pylist() == ["1.5", "inf", "1e+300", str(10**16)]


def test_width_scale_and_unit_of_a_type_do_not_show() -> None:
    for kind in (pa.float16(), pa.float32(), pa.float64(), pa.decimal128(9, 4)):
        assert canonical(pa.array([0.5, 5, 120]).cast(kind), "c").to_pylist() == ["0.5", "5", "120"]
    assert canonical(pa.array([0.1], pa.float32()), "c").to_pylist() == canonical(pa.array([0.1]), "c").to_pylist()
    moment = datetime.datetime(2020, 1, 2, 3, 4, 5)
    texts = {canonical(pa.array([moment], pa.timestamp(unit)), "c")[0].as_py() for unit in ("s", "ms", "us", "ns")}
    assert len(texts) == 1


def test_booleans_dates_and_decimals_have_a_text() -> None:
    assert canonical(pa.array([True, False, None]), "c").to_pylist() == ["true", "false", None]
    assert canonical(pa.array([datetime.date(2020, 1, 2)]), "c").to_pylist() == ["2020-01-02"]


def test_nested_values_are_refused() -> None:
    with pytest.raises(DataError, match="column `c`: expected one value a row, got list"):
        dictionary(pa.array([[1], [2]]), "c")


def test_bytes_that_are_no_utf8_are_refused() -> None:
    with pytest.raises(DataError, match="cannot be read as text"):
        dictionary(pa.array([b"\xff\xfe"]), "c")
    broken = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.array([0, 2], pa.int32()).buffers()[1], pa.py_buffer(b"\xff\xfe")]
    )
    with pytest.raises(DataError, match="is it UTF-8"):
        dictionary(broken, "c")


def test_a_column_of_nulls_is_all_missing() -> None:
    texts, codes = dictionary(pa.nulls(3), "c")
    assert list(codes) == [-1, -1, -1]
    assert len(texts) == 0


VALUES = st.one_of(
    st.text(max_size=5), st.from_regex(r"\A *-?[0-9]{1,3}(\.[05]{1,3})?\Z"), st.sampled_from(["TRUE", "tRUE"])
)


@given(st.lists(st.one_of(st.none(), VALUES)))
def test_dictionary_gives_every_row_its_text(values: list[str | None]) -> None:
    texts, codes = dictionary(pa.array(values, pa.string()), "c")
    assert [None if code < 0 else texts[code].as_py() for code in codes] == [tidy(v) for v in values]


def test_numbers_from_text_booleans_and_nulls() -> None:
    assert numbers(pa.array(["1.5", " 2", None, ""]), "c")[:2].tolist() == [1.5, 2.0]
    assert np.isnan(numbers(pa.array(["1", None, ""]), "c")[1:]).all()
    assert numbers(pa.array([True, False]), "c").tolist() == [1.0, 0.0]
    assert numbers(pa.array([2**63], pa.uint64()), "c").tolist() == [float(2**63)]


def test_text_that_is_no_number_is_named() -> None:
    with pytest.raises(DataError, match=r"column `age`: expected numbers.*twelve"):
        numbers(pa.array(["1", "twelve"]), "age")


def test_chunks_and_extension_types_become_one_array() -> None:
    assert whole(pa.chunked_array([[1, 2], [3]])).to_pylist() == [1, 2, 3]
    assert whole(pa.chunked_array([], pa.int64())).to_pylist() == []


@pytest.mark.parametrize("kind", [pa.timestamp("s"), pa.timestamp("ns"), pa.time64("us")])
def test_an_instant_has_the_text_that_files_give_it(kind: pa.DataType) -> None:
    array = pa.array([datetime.datetime(2024, 1, 2, 3, 4, 5)]).cast(kind)
    assert canonical(array, "c").to_pylist() in (["2024-01-02 03:04:05"], ["03:04:05"])
    half = pa.array([datetime.datetime(2024, 1, 2, 3, 4, 5, 500_000)])
    assert canonical(half, "c").to_pylist() == ["2024-01-02 03:04:05.500000"]


def test_true_and_false_in_text_are_numbers_too() -> None:
    assert numbers(pa.array(["True", "false", "TRUE", "0"]), "c").tolist() == [1.0, 0.0, 1.0, 0.0]


ONE = st.one_of(
    VALUES,
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    st.integers(-(10**19), 10**19).map(float),
    st.floats(1e-7, 1e-3),
    st.floats(1e9, 1e12),
    st.sampled_from(
        [*NO_VALUE, "?", "-0", "-0.0", "-00", "5.0\n", "\u00a05.00\u2029", "٣.0", "TRUE ", "fALSE", "1e5", "1_0"]
    ),
)


@given(ONE)
def test_one_value_has_the_text_that_a_column_gives_it(value: Any) -> None:
    text = text_of(value, "c")
    assert text == canonical(pa.array([value]), "c")[0].as_py()
    assert text_of(text, "c") == text


@given(st.one_of(ONE, st.floats().map(str), st.integers().map(str), st.decimals(allow_nan=False).map(str)))
def test_one_value_has_the_number_that_a_column_gives_it(value: Any) -> None:
    try:
        expected = numbers(pa.array([value]), "c")
    except DataError:
        with pytest.raises(DataError, match="column `c`: expected numbers, got string"):
            number_of(value, "c")
    else:
        np.testing.assert_array_equal([number_of(value, "c")], expected)


def test_integers_of_unsigned_64_bits_have_a_text_and_longer_ones_none() -> None:
    assert text_of(2**64 - 1, "c") == canonical(pa.array([2**64 - 1], pa.uint64()), "c")[0].as_py()
    assert number_of(2**64 - 1, "c") == 2.0**64
    for read in (text_of, number_of):
        for value in (2**64, -(2**63) - 1):
            with pytest.raises(DataError, match=r"column `c`: an integer of 6[45] bits"):
                read(value, "c")


def test_half_a_surrogate_pair_is_refused() -> None:
    for read in (text_of, number_of):
        with pytest.raises(DataError, match="column `c`: its text cannot be read, is it Unicode"):
            read("\ud800", "c")
