"""Splits: no row lost or doubled, the future never before the past."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.data.splits import random, user_time
from recsys.errors import ConfigError, DataError

events = st.lists(st.tuples(st.integers(1, 5), st.integers(0, 6)), max_size=60)
parts = st.tuples(st.integers(0, 10), st.integers(0, 10), st.integers(0, 10)).filter(any)


def table(made: list[tuple[int, int]]) -> pa.Table:
    columns = {"user": [user for user, _ in made], "time": [time for _, time in made], "row": list(range(len(made)))}
    return pa.table({name: pa.array(values, pa.int64()) for name, values in columns.items()})


def shares(made: tuple[int, int, int]) -> tuple[float, float, float]:
    return made[0] / sum(made), made[1] / sum(made), made[2] / sum(made)


@given(events, parts, st.integers(0, 9))
def test_user_time_is_a_partition(made: list[tuple[int, int]], part: tuple[int, int, int], seed: int) -> None:
    splits = user_time(table(made), "user", "time", shares(part), seed)
    assert sorted(row for split in splits for row in split["row"].to_pylist()) == list(range(len(made)))
    assert all(split.schema == table(made).schema for split in splits)


@given(events, parts)
def test_no_user_is_asked_about_the_past(made: list[tuple[int, int]], part: tuple[int, int, int]) -> None:
    splits = [split.to_pylist() for split in user_time(table(made), "user", "time", shares(part))]
    for split in splits:
        keys = [(row["user"], row["time"]) for row in split]
        assert keys == sorted(keys)
    for user in {user for user, _ in made}:
        times = [[row["time"] for row in split if row["user"] == user] for split in splits]
        joined = [time for split in times for time in split]
        assert joined == sorted(joined)


@given(events)
def test_each_user_is_cut_at_the_nearest_whole_numbers(made: list[tuple[int, int]]) -> None:
    splits = [split["user"].to_pylist() for split in user_time(table(made), "user", "time")]
    for user in {user for user, _ in made}:
        n = sum(other == user for other, _ in made)
        first, second = (8 * n + 5) // 10, (9 * n + 5) // 10
        assert [split.count(user) for split in splits] == [first, second - first, n - second]


@given(events, parts, st.integers(0, 9))
def test_random_is_a_partition_in_order(made: list[tuple[int, int]], part: tuple[int, int, int], seed: int) -> None:
    splits = [split["row"].to_pylist() for split in random(table(made), shares(part), seed)]
    assert sorted(row for split in splits for row in split) == list(range(len(made)))
    assert all(split == sorted(split) for split in splits)
    assert all(abs(len(split) - share * len(made)) <= 1 for split, share in zip(splits, shares(part), strict=True))


def test_equal_seeds_agree_and_others_do_not() -> None:
    data = table([(1, 0)] * 50)
    one, same, other = ((user_time(data, "user", "time", seed=seed), random(data, seed=seed)) for seed in (3, 3, 4))
    assert one == same
    for split, changed in zip(one, other, strict=True):
        assert not split[2].equals(changed[2])


def test_the_random_order_is_pinned() -> None:
    """A change here changes the rows of every prepared source."""
    data = table([(1, 0)] * 10)
    assert [split["row"].to_pylist() for split in random(data)] == [[1, 2, 3, 4, 6, 7, 8, 9], [0], [5]]


def test_users_and_times_may_be_text() -> None:
    data = pa.table({"user": ["b", "a", "b"], "time": ["2020-02", "2020-01", "2020-01"], "row": [0, 1, 2]})
    assert [split["row"].to_pylist() for split in user_time(data, "user", "time", (0.5, 0.5, 0))] == [[1, 2], [0], []]


@pytest.mark.parametrize("fractions", [(0.8, 0.1, 0.2), (1.2, -0.1, -0.1), (float("nan"), 0.5, 0.5), (0.5, 0.5)])
def test_fractions_that_are_no_partition(fractions: tuple[float, float, float]) -> None:
    with pytest.raises(ConfigError, match="three fractions from 0 to 1 that sum to 1"):
        random(table([(1, 1)]), fractions)


def test_columns_that_cannot_order_rows() -> None:
    with pytest.raises(DataError, match="missing column `when`; the data has: user, time, row"):
        user_time(table([(1, 1)]), "user", "when")
    with pytest.raises(DataError, match="column `time`: 1 values are missing"):
        user_time(pa.table({"user": [1, 1], "time": [1, None]}), "user", "time")
