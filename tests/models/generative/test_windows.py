from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from recsys.models.generative.windows import windows

histories = st.lists(st.lists(st.integers(1, 99), max_size=7), min_size=1, max_size=6)


def test_the_newest_events_stand_left_aligned() -> None:
    items = np.array([5, 6, 7, 8, 9, 3], dtype=np.int32)
    rows, lengths = windows(items, np.array([0, 4, 5]), np.array([4, 5, 6]), 3)
    assert rows.tolist() == [[6, 7, 8], [9, 0, 0], [3, 0, 0]]
    assert lengths.tolist() == [3, 1, 1]


def test_no_events_at_all_are_one_column_of_padding() -> None:
    rows, lengths = windows(np.array([4, 5]), np.array([1, 2]), np.array([1, 2]), 3)
    assert rows.tolist() == [[0], [0]]
    assert lengths.tolist() == [0, 0]
    rows, lengths = windows(np.array([4, 5]), np.array([], dtype=int), np.array([], dtype=int), 3)
    assert rows.shape == (0, 1)
    assert lengths.shape == (0,)


@given(histories, st.integers(1, 8))
def test_a_row_is_the_end_of_its_history(users: list[list[int]], longest: int) -> None:
    ends = np.cumsum([len(user) for user in users])
    items = np.array([item for user in users for item in user], dtype=np.int32)
    rows, lengths = windows(items, ends - [len(user) for user in users], ends, longest)
    assert rows.shape[1] == max(1, *(min(len(user), longest) for user in users), 1)
    for row, length, user in zip(rows.tolist(), lengths.tolist(), users, strict=True):
        assert row[:length] == user[-longest:]
        assert not any(row[length:])
