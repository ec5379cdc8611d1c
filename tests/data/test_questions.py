"""Questions: only what came before is known, splits hold out what they say, and all batches equal the obvious loop."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recsys.data.histories import Histories
from recsys.data.questions import Held, Questions, Ragged, global_time, leave_one_out
from recsys.errors import ConfigError, DataError
from tests.data.test_histories import histories, lists

items = st.lists(st.lists(st.integers(1, 4), max_size=8), max_size=6)
timed = st.lists(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 4)), max_size=8), max_size=6)
fractions = st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9)).filter(any)


def clocked(made: list[list[tuple[int, int]]]) -> Histories:
    ordered = [sorted(one, key=lambda event: event[0]) for one in made]
    times = [time for one in ordered for time, _ in one]
    return histories(*[[item for _, item in one] for one in ordered], times=times)


def unpacked(ragged: Ragged) -> list[list[int]]:
    values, offsets = ragged
    assert values.dtype == offsets.dtype == torch.int64
    assert int(offsets[0]) == 0
    return [part.tolist() for part in values.tensor_split(offsets[1:-1])] if len(offsets) > 1 else []


def before(made: Histories, event: int) -> list[int]:
    """The definition: all that the user of an event did before it."""
    start = max(int(offset) for offset in made.offsets if offset <= event)
    return [int(item) for item in made.items[start:event]]


@given(items, st.integers(1, 9), st.data())
def test_batches_equal_the_obvious_loop(made: list[list[int]], most: int, data: st.DataObject) -> None:
    history = histories(*made)
    n = len(history.items)
    events = np.array(data.draw(st.lists(st.integers(0, n - 1), max_size=9) if n else st.just([])), dtype=np.int64)
    asked = Questions(history, events)
    q = len(asked)
    rows = np.array(data.draw(st.lists(st.integers(0, q - 1), max_size=9) if q else st.just([])), dtype=np.int64)
    expected = [before(history, int(event)) for event in events[rows]]
    assert unpacked(asked.histories_of(rows, most)) == [one[-most:] for one in expected]
    assert unpacked(asked.seen(rows)) == [sorted(set(one)) for one in expected]
    assert asked.answers(rows).tolist() == [int(history.items[event]) for event in events[rows]]
    assert asked.owners().tolist() == [int(history.owners()[event]) for event in events]


def test_a_batch_as_worked_out_by_hand() -> None:
    asked = Questions(histories([5, 6, 5, 7], [], [8, 9]), np.array([3, 5, 0]))
    rows = np.array([2, 0, 1])
    assert unpacked(asked.histories_of(rows, 2)) == [[], [6, 5], [8]]
    assert unpacked(asked.seen(rows)) == [[], [5, 6], [8]]
    assert asked.answers(rows).tolist() == [5, 7, 9]
    assert asked.owners().tolist() == [0, 2, 0]


@given(items)
def test_leave_one_out_holds_the_last_two(made: list[list[int]]) -> None:
    history = histories(*made)
    held = leave_one_out(history)
    assert lists(held.train) == [one[:-2] if len(one) >= 3 else one for one in made]
    long = [one for one in made if len(one) >= 3]
    assert held.short == len(made) - len(long)
    for questions, at in ((held.valid, -2), (held.test, -1)):
        rows = np.arange(len(questions))
        assert questions.answers(rows).tolist() == [one[at] for one in long]
        assert unpacked(questions.histories_of(rows, 9)) == [one[:at] for one in long]
        assert questions.owners().tolist() == [user for user, one in enumerate(made) if len(one) >= 3]
        assert questions.histories is history
    assert held.train.users is history.users


def parts(history: Histories, held: Held) -> tuple[list[int], list[int], list[int]]:
    """Events of each part; those that start a history are in none but train."""
    assert history.times is not None
    trained = [event for event, time in enumerate(history.times) if len(held.train.items) and time <= max(_times(held))]
    return trained, held.valid.events.tolist(), held.test.events.tolist()


def _times(held: Held) -> list[int]:
    assert held.train.times is not None
    return list(held.train.times.tolist())


@given(timed, fractions)
def test_global_time_cuts_once_for_all(made: list[list[tuple[int, int]]], share: tuple[int, int, int]) -> None:
    history = clocked(made)
    total = sum(share)
    held = global_time(history, (share[0] / total, share[1] / total, share[2] / total))
    trained, valid, test = parts(history, held)
    assert history.times is not None
    assert len(trained) == len(held.train.items)
    assert not {*trained} & {*valid}
    assert not {*trained, *valid} & {*test}
    times = [[int(history.times[event]) for event in part] for part in (trained, valid, test)]
    for earlier, later in ((0, 1), (0, 2), (1, 2)):
        assert not times[earlier] or not times[later] or max(times[earlier]) < min(times[later])
    everything = [*trained, *valid, *test]
    firsts = [event for event in range(len(history.items)) if not before(history, event)]
    assert sorted({*range(len(history.items))} - {*everything}) == [event for event in firsts if event not in trained]
    assert held.short == len(history.items) - len(everything)


@given(timed, fractions)
def test_global_time_cuts_where_its_fractions_say(
    made: list[list[tuple[int, int]]], share: tuple[int, int, int]
) -> None:
    history = clocked(made)
    n, total = len(history.items), sum(share)
    held = global_time(history, (share[0] / total, share[1] / total, share[2] / total))
    assert history.times is not None
    clock = sorted(history.times.tolist())
    first = (2 * n * share[0] + total) // (2 * total)
    expected = sum(1 for time in clock if clock.index(time) < first)
    assert len(held.train.items) == expected >= first


def test_global_time_as_worked_out_by_hand() -> None:
    made = histories([1, 2, 3], [4, 5], [6, 7, 1, 2, 3], times=[0, 1, 8, 8, 9, 2, 3, 4, 5, 6])
    held = global_time(
        made, (0.7, 0.2, 0.1)
    )  # 0 to 6 train, both events at 8 are for validation, the one at 9 for testing
    assert lists(held.train) == [[1, 2], [], [6, 7, 1, 2, 3]]
    assert held.train.users is made.users
    assert held.valid.events.tolist() == [2]  # the other event at 8 is its user's first
    assert held.test.events.tolist() == [4]
    assert held.short == 1
    assert unpacked(held.test.histories_of(np.array([0]), 9)) == [[4]]  # of the validation part, and known by then


def test_events_of_one_time_stay_together_on_the_earlier_side() -> None:
    made = histories(*[[1, 2]] * 5, times=[0, 7] * 5)
    held = global_time(made, (0.6, 0.2, 0.2))
    assert (len(held.train.items), len(held.valid), len(held.test)) == (10, 0, 0)


def test_what_cannot_be_split_or_asked_is_refused() -> None:
    with pytest.raises(ConfigError, match="these histories have none; use leave-one-out"):
        global_time(histories([1, 2, 3]))
    with pytest.raises(ConfigError, match="three fractions from 0 to 1 that sum to 1"):
        global_time(histories([1], times=[0]), (0.5, 0.1, 0.1))
    with pytest.raises(DataError, match="expected events from 0 to 2, got -1 to 3"):
        Questions(histories([1, 2, 3]), np.array([3, -1]))
    with pytest.raises(ConfigError, match="expected a history of at least 1 item, got 0"):
        Questions(histories([1]), np.array([0])).histories_of(np.array([0]), 0)


def test_questions_are_the_same_if_events_and_histories_are() -> None:
    made, again, other = histories([1, 2, 3]), histories([1, 2, 3]), histories([1, 2, 4])
    asked = Questions(made, np.array([2]))
    assert asked.same(Questions(made, np.array([2])))
    assert asked.same(Questions(again, np.array([2])))
    assert not asked.same(Questions(other, np.array([2])))
    assert not asked.same(Questions(made, np.array([1])))
