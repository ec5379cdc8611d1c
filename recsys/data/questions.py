"""What comes next? Questions asked at events of histories, and the splits that hold such events out.

The answer is the item of the event, and a model is given what its user did before.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from recsys.data.histories import Histories
from recsys.data.splits import TENTHS, Fractions, cuts, nearest
from recsys.data.values import Ints
from recsys.errors import ConfigError, DataError

__all__ = ["Held", "Questions", "Ragged", "global_time", "leave_one_out"]

Ragged = tuple[Tensor, Tensor]
"""Lists of different lengths, int64: values [T] and offsets [n + 1]; list i is values[offsets[i] : offsets[i + 1]]."""


@dataclass(frozen=True, eq=False)
class Questions:
    """Q events of histories, each a question.

    Attributes:
        histories: All that users did, the answers and what came after them among it.
        events: [Q] int64, positions in ``histories.items``: the item there is the answer.

    Raises:
        DataError: When an event is not one of the histories'.
    """

    histories: Histories
    events: Ints

    def __post_init__(self) -> None:
        n = len(self.histories.items)
        if len(self.events) and not (self.events.min() >= 0 and self.events.max() < n):
            raise DataError(f"expected events from 0 to {n - 1}, got {self.events.min()} to {self.events.max()}")

    def __len__(self) -> int:
        return len(self.events)

    def owners(self) -> Ints:
        """The position of the user of each question, [Q]."""
        return np.searchsorted(self.histories.offsets, self.events, side="right") - 1

    def same(self, other: Questions) -> bool:
        """Whether both ask about the same events of the same histories."""
        mine, theirs = self.histories, other.histories
        return np.array_equal(self.events, other.events) and (
            mine is theirs
            or (
                mine.users.equals(theirs.users)
                and np.array_equal(mine.offsets, theirs.offsets)
                and np.array_equal(mine.items, theirs.items)
            )
        )

    def answers(self, rows: Ints) -> Tensor:
        """The items that came next, [n] int64.

        Args:
            rows: [n] positions among the questions.
        """
        return torch.from_numpy(self.histories.items[self.events[rows]].astype(np.int64))

    def histories_of(self, rows: Ints, most: int) -> Ragged:
        """The last `most` items before each event, oldest first; fewer where a user did less.

        Args:
            rows: [n] positions among the questions.
            most: Of a history.

        Raises:
            ConfigError: When `most` is below 1.
        """
        if most < 1:
            raise ConfigError(f"expected a history of at least 1 item, got {most}")
        places, offsets = self._before(rows, most)
        items = self.histories.items[places].astype(np.int64)
        return torch.from_numpy(items), torch.from_numpy(offsets)

    def seen(self, rows: Ints) -> Ragged:
        """All distinct items before each event, ascending.

        Args:
            rows: [n] positions among the questions.
        """
        places, offsets = self._before(rows, None)
        items = self.histories.items[places].astype(np.int64)
        base = int(items.max(initial=0)) + 1
        keys = np.unique(np.repeat(np.arange(len(rows)), np.diff(offsets)) * base + items)
        ends = np.searchsorted(keys, np.arange(len(rows) + 1) * base)
        return torch.from_numpy(keys % base), torch.from_numpy(ends.astype(np.int64))

    def _before(self, rows: Ints, most: int | None) -> tuple[Ints, Ints]:
        """Positions of the events before each question, all of them one after the other [T], and offsets [n + 1]."""
        events = self.events[rows]
        bounds = self.histories.offsets
        lengths = events - bounds[np.searchsorted(bounds, events, side="right") - 1]
        lengths = lengths if most is None else np.minimum(lengths, most)
        offsets = np.append(0, np.cumsum(lengths)).astype(np.int64)
        return np.arange(offsets[-1]) + np.repeat(events - lengths - offsets[:-1], lengths), offsets


@dataclass(frozen=True, eq=False)
class Held:
    """A split: what to train on, and what is held out as questions.

    All three have the same users in the same order, so that a user's position means the same in each.

    Attributes:
        train: May hold users with nothing to train on.
        valid: Say when to stop, and which settings are best.
        test: Are asked once.
        short: What there was no question to ask about: users with less than three events (`leave_one_out`), or later
            events before which their user did nothing (`global_time`).
    """

    train: Histories
    valid: Questions
    test: Questions
    short: int = 0


def leave_one_out(histories: Histories) -> Held:
    """Each user's last event is a test question, the one before it a validation question, and the rest trains.

    The history of a test question has the validation answer at its end. Users with less than three events train with
    all they have and are asked nothing. What other users did later than a question is trained on, so that a model may
    know what is about to become popular; `global_time` does not allow that (Meng et al. 2020, "Exploring Data Splitting
    Strategies for the Evaluation of Recommendation Models", arXiv 2007.13237).
    """
    lengths = histories.lengths()
    long = lengths >= 3
    last = histories.offsets[1:][long] - 1
    train = np.ones(len(histories.items), dtype=bool)
    train[last] = train[last - 1] = False
    valid, test = Questions(histories, last - 1), Questions(histories, last)
    return Held(histories.kept(train), valid, test, int((~long).sum()))


def global_time(histories: Histories, fractions: Fractions = TENTHS) -> Held:
    """Cut all events at two moments, the same for all users: what comes after one is asked of a model from before it.

    Of n events the first n·train in time train, rounded to the nearest, the next n·valid are for validation. Events of
    one time stay on one side: on the earlier, if the first of them is there. Each event of the later parts is a
    question if its user did something before; the history of a question is all that, whatever part it is in.

    Args:
        histories: With times.
        fractions: Train, valid and test.

    Raises:
        ConfigError: When the histories have no times, or the fractions are no partition.
    """
    first_cut, second_cut, _ = (int(nearest(np.asarray(len(histories.items) * high))) for _, high in cuts(fractions))
    if histories.times is None:
        raise ConfigError("a split by global time needs times, and these histories have none; use leave-one-out")
    part = _after(histories.times, first_cut) + _after(histories.times, second_cut)
    first = np.zeros(len(part), dtype=bool)
    first[histories.offsets[:-1][histories.lengths() > 0]] = True
    valid, test = (Questions(histories, np.flatnonzero((part == p) & ~first)) for p in (1, 2))
    return Held(histories.kept(part == 0), valid, test, int(((part > 0) & first).sum()))


def _after(times: Ints, n: int) -> Ints:
    """1 for each event that is later than the n-th in time, 0 for the others."""
    return np.ones_like(times) if n == 0 else (times > np.partition(times, n - 1)[n - 1]).astype(np.int64)
