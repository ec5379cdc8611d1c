"""The protocol by name: every batch gives the same, only the past is shown, and what cannot be compared is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from recsys.data.questions import Questions
from recsys.errors import ConfigError, DataError
from recsys.training.answer_sets import top_items
from recsys.training.baselines import Popularity, RepeatLast
from recsys.training.protocol import Protocol, measure, measure_lists
from recsys.training.ranks import rank_metrics
from tests.data.test_histories import histories

HISTORY = histories([1, 2, 3, 1], [4, 2, 2, 2], [3, 4], [5, 5, 5, 1, 4], times=[*range(4), *range(4), 0, 1, *range(5)])
ITEMS = 5


class Shown:
    """Scores items by their numbers, and keeps what it was shown."""

    def __init__(self) -> None:
        self.histories: list[list[int]] = []

    def __call__(self, items: Tensor, offsets: Tensor) -> Tensor:
        self.histories += [part.tolist() for part in items.tensor_split(offsets[1:-1])]
        return torch.arange(ITEMS + 1.0).repeat(len(offsets) - 1, 1)


def test_what_is_asked_of_a_model_by_hand() -> None:
    model, protocol = Shown(), Protocol(history=2, batch=2, ks=(1, 3))
    held = protocol.hold(HISTORY)
    found = measure(model, held.test, protocol, show=False)
    assert model.histories == [[2, 3], [2, 2], [5, 1]]
    assert found.ranks.tolist() == [5, 4, 2]
    assert found.users.tolist() == [0, 1, 3]
    assert found.metrics == rank_metrics(torch.tensor([5, 4, 2]), (1, 3))
    assert found.values["hr@3"].tolist() == [0, 0, 1]
    json.dumps(found.to_json(), allow_nan=False)
    assert found.to_json()["questions"] == 3


def test_what_was_seen_is_left_out_but_never_the_answer() -> None:
    protocol = Protocol(seen="left out", history=1)
    held = protocol.hold(HISTORY)
    assert measure(Shown(), held.test, protocol, show=False).ranks.tolist() == [3, 3, 1]  # 1 and 2 were seen before


@given(st.integers(1, 9), st.sampled_from(["kept", "left out"]), st.sampled_from(["leave-one-out", "global-time"]))
def test_figures_do_not_depend_on_the_batch(batch: int, seen: str, split: str) -> None:
    one, other = (
        Protocol.parse({"batch": size, "seen": seen, "split": split, "ks": [1, 2]}, "test") for size in (batch, 256)
    )
    held = one.hold(HISTORY)
    model = RepeatLast.of(held.train, ITEMS)
    found = measure(model, held.test, one, show=False)
    assert found.ranks.tolist() == measure(model, held.test, other, show=False).ranks.tolist()


@pytest.mark.parametrize("seen", ["kept", "left out"])
def test_lists_of_all_items_measure_as_scores_do(seen: str) -> None:
    protocol = Protocol.parse({"seen": seen, "ks": [1, 2, 5]}, "test")
    held = protocol.hold(HISTORY)

    def recommend(items: Tensor, offsets: Tensor, k: int) -> Tensor:
        return top_items(Shown()(items, offsets), k)

    by_lists, by_scores = measure_lists(recommend, held.test, protocol, False), measure(Shown(), held.test, protocol)
    assert by_lists.ranks.tolist() == by_scores.ranks.tolist()


def test_lists_too_short_for_the_metrics_are_refused() -> None:
    protocol = Protocol(ks=(1, 3))
    with pytest.raises(DataError, match="metrics at 3 need lists of 3 items or more, got 2"):
        measure_lists(
            lambda items, offsets, k: torch.ones(len(offsets) - 1, 2, dtype=torch.int64),
            protocol.hold(HISTORY).test,
            protocol,
        )


def test_no_questions_have_no_measure() -> None:
    nothing = Questions(HISTORY, np.zeros(0, dtype=np.int64))
    with pytest.raises(DataError, match="expected questions to ask, got none"):
        measure(Shown(), nothing, Protocol())


def test_a_split_is_chosen_by_name() -> None:
    assert Protocol().hold(HISTORY).test.events.tolist() == [3, 7, 14]
    assert Protocol(split="global-time").hold(HISTORY).test.events.tolist() == [14]
    with pytest.raises(ConfigError, match="these histories have none"):
        Protocol(split="global-time").hold(histories([1, 2, 3]))


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"ks": []}, "ks: expected numbers of recommendations to count, each 1 or more"),
        ({"ks": [5, 0]}, "ks: expected numbers of recommendations to count"),
        ({"batch": 0}, "batch: input should be greater than or equal to 1"),
        ({"split": "random"}, "split: input should be 'leave-one-out' or 'global-time'"),
        ({"negatives": 100}, "unknown key `negatives`"),
    ],
)
def test_a_protocol_that_cannot_be_is_refused(values: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        Protocol.parse(values, "protocol")


def test_gradients_are_not_kept() -> None:
    weight = torch.ones(ITEMS + 1, requires_grad=True)
    found = measure(
        lambda items, offsets: weight.repeat(len(offsets) - 1, 1), Protocol().hold(HISTORY).test, Protocol()
    )
    assert not found.ranks.requires_grad
    assert found.ranks.tolist() == [ITEMS] * 3


def test_two_measurements_are_compared_in_pairs() -> None:
    held = Protocol().hold(HISTORY)
    one, other = (
        measure(kind.of(held.train, ITEMS), held.test, Protocol(), False) for kind in (RepeatLast, Popularity)
    )
    gains = one.over(other, replicates=50)
    assert gains["mrr@5"].value == pytest.approx(one.metrics["mrr@5"] - other.metrics["mrr@5"])
    assert gains["mrr@5"].low <= gains["mrr@5"].value <= gains["mrr@5"].high
    assert one.over(one, replicates=20)["mrr@5"].to_json() == {"value": 0, "low": 0, "high": 0}
    assert one.intervals(replicates=20)["mrr@5"].value == pytest.approx(one.metrics["mrr@5"])
    with pytest.raises(DataError, match="measurements of the same questions"):
        one.over(measure(Shown(), held.valid, Protocol(), False))
