"""The column of time: whatever it is written as, the order is the same."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.data.times import times
from recsys.errors import DataError

INSTANTS = st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1))
EPOCH = datetime(1970, 1, 1)


def found(values: Any) -> list[float]:
    return list(times(pa.table({"t": values}), "t"))


@given(st.lists(INSTANTS, min_size=1, max_size=8))
def test_instants_are_microseconds_however_they_are_written(instants: list[datetime]) -> None:
    expected = [(instant - EPOCH) / timedelta(microseconds=1) for instant in instants]
    assert found(pa.array(instants, pa.timestamp("us"))) == expected
    aware = [instant.replace(tzinfo=UTC) for instant in instants]
    assert found(pa.array(aware, pa.timestamp("us", "Europe/Berlin"))) == expected
    assert found([instant.isoformat() for instant in instants]) == expected
    assert found([instant.isoformat(sep=" ") + "+00:00" for instant in instants]) == expected
    assert found(pa.array([instant.isoformat() for instant in instants]).dictionary_encode()) == expected


@pytest.mark.parametrize("kind", [pa.int8(), pa.uint16(), pa.int64(), pa.float32(), pa.float64(), pa.string()])
def test_numbers_are_as_they_are(kind: pa.DataType) -> None:
    assert found(pa.array([3, 1, 2, 2], pa.int64()).cast(kind)) == [3, 1, 2, 2]


def test_days_and_other_units() -> None:
    day = 86_400_000_000.0
    assert found(pa.array([date(1970, 1, 3), date(1969, 12, 31)])) == [2 * day, -day]
    for unit in ("s", "ms", "ns"):
        assert found(pa.array([datetime(1970, 1, 2)], pa.timestamp(unit))) == [day]
    assert found(["1970-01-02", "1970-01-03"]) == [day, 2 * day]
    assert found(["1970-01-02T01:00:00+01:00"]) == [day]


def test_chunks_are_one_column() -> None:
    assert found(pa.chunked_array([[1, 2], [3]])) == [1, 2, 3]
    coded = pa.chunked_array([pa.array(["2000-01-02", "2000-01-01"]).dictionary_encode() for _ in range(2)])
    values = found(coded)
    assert values[:2] == values[2:]
    assert np.argsort(values[:2]).tolist() == [1, 0]


@pytest.mark.parametrize(
    "values", [[1, None], [1.0, float("nan")], [float("inf"), 1.0], ["2024-01-01", None], [datetime(2024, 1, 1), None],
               ["2024-01-01", ""]]
)  # fmt: skip
def test_a_row_without_a_time_has_no_place(values: list[Any]) -> None:
    with pytest.raises(DataError, match="column `t`: 1 rows have no time"):
        found(values)


@pytest.mark.parametrize("text", ["yesterday", "31.05.2024", "2024-13-01"])
def test_what_is_no_time_is_one_clear_line(text: str) -> None:
    with pytest.raises(DataError, match="column `t`: expected numbers or times such as 2024-05-31 12:00:00") as told:
        found(["2024-01-01", text])
    assert "\n" not in str(told.value)
