"""Histories: sorted as they say, no event lost without a count, and no matter in which order the rows came."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.data.catalogue import Catalogue
from recsys.data.histories import Histories, Interactions, from_events
from recsys.errors import DataError

Event = tuple[int, int, int]
events = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 5), st.integers(0, 3)), max_size=40)


def table(made: list[Event]) -> pa.Table:
    columns = zip(("user", "item", "time"), zip(*made, strict=True) if made else ([], [], []), strict=True)
    return pa.table({name: pa.array(column, pa.int64()) for name, column in columns})


def histories(*lists: list[int], times: list[int] | None = None) -> Histories:
    """Users 0, 1, … with these items."""
    offsets = np.cumsum([0, *map(len, lists)])
    items = np.array([item for one in lists for item in one], dtype=np.int32)
    users = pa.array([str(user) for user in range(len(lists))], pa.large_string())
    return Histories(users, offsets, items, None if times is None else np.array(times))


def lists(made: Histories) -> list[list[int]]:
    return [made.items[start:stop].tolist() for start, stop in zip(made.offsets, made.offsets[1:], strict=False)]


def named(made: Interactions) -> dict[str, list[str]]:
    """User -> names of their items."""
    names = made.catalogue.names.to_pylist()
    found = [[names[item - 1] for item in one] for one in lists(made.histories)]
    return dict(zip(made.histories.users.to_pylist(), found, strict=True))


@given(events)
def test_without_times_the_rows_own_order_counts(made: list[Event]) -> None:
    found = from_events(table(made), "user", "item")
    users = sorted({user for user, _, _ in made})
    assert named(found) == {str(user): [str(item) for other, item, _ in made if other == user] for user in users}
    assert found.histories.users.to_pylist() == [str(user) for user in users]
    assert found.catalogue.names.to_pylist() == [str(item) for item in sorted({item for _, item, _ in made})]
    assert found.histories.times is None


@given(events, st.integers(0, 3))
def test_times_order_a_users_events_and_ties_are_shuffled(made: list[Event], seed: int) -> None:
    found = from_events(table(made), "user", "item", "time", seed=seed)
    times = found.histories.times
    assert times is not None
    at = 0
    for user, items in named(found).items():
        mine = sorted((time, item) for other, item, time in made if str(other) == user)
        clock = times[at : at + len(items)].tolist()
        assert clock == [time for time, _ in mine]
        assert sorted(zip(clock, map(int, items), strict=True)) == mine
        at += len(items)
    assert at == len(made)


@given(events, st.randoms(use_true_random=False), st.integers(0, 3))
def test_the_order_of_rows_does_not_matter(made: list[Event], chance: object, seed: int) -> None:
    other = sorted(made, key=lambda _: chance.random())  # type: ignore[attr-defined]
    one, two = (from_events(table(rows), "user", "item", "time", seed=seed) for rows in (made, other))
    assert named(one) == named(two)
    assert one.histories.users == two.histories.users
    assert one.catalogue.fingerprint() == two.catalogue.fingerprint()


def test_the_order_of_ties_is_random_and_pinned() -> None:
    """Each event's key is its place in RandomState(seed).permutation(8); a change here changes all histories."""
    made = [(1, item, 0) for item in range(8)]
    found = {seed: named(from_events(table(made), "user", "item", "time", seed=seed))["1"] for seed in (0, 1)}
    assert found == {0: list("52147603"), 1: list("42165730")}


def test_users_and_items_are_canonical_text(tmp_path: Path) -> None:
    frame = pd.DataFrame({"who": ["10", "9", "9.0", " b"], "what": [5.0, 5.5, None, 5.0]})
    found = from_events(frame, "who", "what")
    assert named(found) == {"9": ["5.5"], "10": ["5"], "b": ["5"]}
    frame.to_csv(tmp_path / "events.csv", index=False)
    assert named(from_events(tmp_path / "events.csv", "who", "what")) == named(found)


def test_what_is_missing_is_left_out_and_counted() -> None:
    made = pa.table({
        "user": ["a", None, "a", "NA", "b", "c"],
        "item": ["x", "x", "y", None, None, "z"],
        "time": [1, 1, None, 2, 2, 3],
    })  # fmt: skip
    found = from_events(made, "user", "item", "time")
    assert named(found) == {"a": ["x"], "c": ["z"]}  # b did nothing else, and y was only done at no time
    assert found.missing == {"user": 2, "item": 1, "time": 1}
    assert (found.rows, found.unknown) == (6, 0)
    assert found.catalogue.names.to_pylist() == ["x", "z"]


@given(events, st.lists(st.integers(0, 7), unique=True))
def test_every_event_is_kept_or_counted(made: list[Event], known: list[int]) -> None:
    catalogue = Catalogue(pa.array([str(item) for item in known], pa.large_string()))
    found = from_events(table(made), "user", "item", "time", catalogue)
    assert found.catalogue is catalogue
    assert found.unknown == sum(item not in known for _, item, _ in made)
    assert len(found.histories.items) + found.unknown + sum(found.missing.values()) == found.rows == len(made)
    assert (found.histories.lengths() > 0).all()
    for user, items in named(found).items():
        assert sorted(items) == sorted(str(item) for other, item, _ in made if str(other) == user and item in known)


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ([3, 1, 2], [1, 2, 3]),
        ([3.0, 1.0, 2.0], [1, 2, 3]),
        (["3", "1", " 2"], [1, 2, 3]),
        (["1700000000000000001", "1700000000000000000", "3"], [3, 1700000000000000000, 1700000000000000001]),
        (["1970-01-02", "1970-01-01", "1970-01-01T00:00:01"], [0, 1_000_000, 86_400_000_000]),
        ([datetime(1970, 1, day, tzinfo=UTC) for day in (3, 1, 2)], [0, 86_400_000_000, 172_800_000_000]),
        (pa.array([3, 1, 2], pa.timestamp("ns")), [0, 0, 0]),
        (pa.array([3, 1, 2], pa.timestamp("s")), [1_000_000, 2_000_000, 3_000_000]),
        (pa.array(["3", "1", "2"]).dictionary_encode(), [1, 2, 3]),
    ],
)
def test_times_are_whole_numbers_or_instants(times: object, expected: list[int]) -> None:
    made = from_events(pa.table({"u": [1, 1, 1], "i": [3, 1, 2], "t": times}), "u", "i", "t").histories
    assert made.times is not None
    assert made.times.tolist() == expected
    assert made.times.dtype == np.int64


@pytest.mark.parametrize(
    ("times", "told"),
    [
        ([0.5, 1.0], "column `t`: expected whole numbers of 64 bits, or instants, got 1 others such as 0.5"),
        ([1e30, 1.0], r"got 1 others such as 1e\+30"),
        ([float("inf"), 1.0], "column `t`: 1 rows have no time"),
        (["noon", "1"], "column `t`: expected numbers or times"),
    ],
)
def test_times_that_order_nothing_are_refused(times: list[object], told: str) -> None:
    with pytest.raises(DataError, match=told):
        from_events(pa.table({"u": [1, 1], "i": [1, 2], "t": times}), "u", "i", "t")


def test_files_are_read_in_parts_whose_types_may_differ(tmp_path: Path) -> None:
    pq.write_table(pa.table({"u": [1, 2], "i": ["a", "b"], "t": pa.array([4, 5], pa.int32())}), tmp_path / "1.parquet")
    pq.write_table(pa.table({"u": ["1"], "i": ["c"], "t": pa.array([3], pa.int64())}), tmp_path / "2.parquet")
    found = from_events(tmp_path, "u", "i", "t")
    assert named(found) == {"1": ["c", "a"], "2": ["b"]}


def test_absent_columns_are_named() -> None:
    with pytest.raises(DataError, match="missing columns `who`, `when`; it has: user, item, time"):
        from_events(table([(1, 1, 1)]), "who", "item", "when")


@pytest.mark.parametrize("rows", [table([]), pd.DataFrame({"user": [], "item": [], "time": []})])
def test_no_rows_are_no_histories(rows: object) -> None:
    found = from_events(rows, "user", "item", "time")
    assert (len(found.histories), len(found.catalogue), found.rows) == (0, 0, 0)
    assert found.histories.collapsed().at_least(1).popularity(0).tolist() == [0]
    assert found.histories.lengths().tolist() == []


items = st.lists(st.lists(st.integers(1, 3), max_size=8), max_size=6)


@given(items)
def test_a_run_counts_once(made: list[list[int]]) -> None:
    expected = [[item for i, item in enumerate(one) if i == 0 or item != one[i - 1]] for one in made]
    assert lists(histories(*made).collapsed()) == expected


def test_a_run_keeps_its_first_time() -> None:
    made = histories([1, 1, 2], [2, 2, 1], times=[1, 2, 3, 4, 5, 6]).collapsed()
    assert lists(made) == [[1, 2], [2, 1]]
    assert made.times is not None
    assert made.times.tolist() == [1, 3, 4, 6]


@given(items, st.integers(0, 5))
def test_users_with_too_few_events_go(made: list[list[int]], n: int) -> None:
    found = histories(*made, times=list(range(sum(map(len, made))))).at_least(n)
    assert lists(found) == [one for one in made if len(one) >= n]
    assert found.users.to_pylist() == [str(user) for user, one in enumerate(made) if len(one) >= n]
    assert found.times is not None
    assert len(found.times) == len(found.items)


@given(items, st.data())
def test_events_are_kept_by_a_mask(made: list[list[int]], data: st.DataObject) -> None:
    keep = [[data.draw(st.booleans()) for _ in one] for one in made]
    found = histories(*made).kept(np.array([flag for one in keep for flag in one], dtype=bool))
    assert lists(found) == [[i for i, flag in zip(*both, strict=True) if flag] for both in zip(made, keep, strict=True)]


def test_what_histories_say_of_themselves() -> None:
    made = histories([3, 1, 3], [], [2])
    assert len(made) == 3
    assert made.lengths().tolist() == [3, 0, 1]
    assert made.owners().tolist() == [0, 0, 0, 2]
    assert made.popularity(4).tolist() == [0, 1, 1, 2, 0]
    assert made.of("0").tolist() == made.of(0).tolist() == [3, 1, 3]
    assert made.of(1.0).tolist() == []
    with pytest.raises(DataError, match="no such user as `7` among 3"):
        made.of(7)
    with pytest.raises(DataError, match="item 3 occurs, but the catalogue ends with 2"):
        made.popularity(2)


@pytest.mark.parametrize(
    ("offsets", "made", "times", "told"),
    [
        ([0, 2, 1], [1], None, "offsets must ascend from 0 to 1 events, one more than the 2 users"),
        ([0, 1], [1], None, "one more than the 2 users"),
        ([1, 1, 1], [1], None, "offsets must ascend"),
        ([0, 0, 2], [1], None, "offsets must ascend"),
        ([0, 0, 1], [0], None, "items are numbered from 1, got 0"),
        ([0, 0, 1], [1], [1, 2], "expected a time for each of 1 events, got 2"),
    ],
)
def test_parts_that_do_not_fit_are_refused(
    offsets: list[int], made: list[int], times: list[int] | None, told: str
) -> None:
    clock = None if times is None else np.array(times)
    with pytest.raises(DataError, match=told):
        Histories(pa.array(["a", "b"], pa.large_string()), np.array(offsets), np.array(made, dtype=np.int32), clock)
