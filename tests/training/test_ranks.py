"""Ranks against the obvious loop, metrics against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from recsys.data.questions import Ragged
from recsys.errors import ConfigError, DataError
from recsys.training.ranks import list_ranks, rank_metrics, rank_values, ranks, ranks_reference


def ragged(*lists: list[int]) -> Ragged:
    offsets = torch.tensor([0, *map(len, lists)]).cumsum(0)
    return torch.tensor([item for one in lists for item in one], dtype=torch.int64), offsets


@st.composite
def rankings(draw: st.DrawFn, items: int = 6) -> tuple[Tensor, Tensor, Ragged]:
    """Scores with many ties and infinities, answers, and seen items, of which some stand twice."""
    n = draw(st.integers(0, 5))
    score = st.one_of(st.integers(-2, 2).map(float), st.sampled_from([math.inf, -math.inf, 0.25]))
    scores = draw(st.lists(st.lists(score, min_size=items + 1, max_size=items + 1), min_size=n, max_size=n))
    answers = draw(st.lists(st.integers(1, items), min_size=n, max_size=n))
    seen = draw(st.lists(st.lists(st.integers(0, items), max_size=8), min_size=n, max_size=n))
    return torch.tensor(scores).reshape(n, items + 1), torch.tensor(answers, dtype=torch.int64), ragged(*seen)


@given(rankings())
def test_ranks_equal_the_obvious_loop(made: tuple[Tensor, Tensor, Ragged]) -> None:
    scores, answers, seen = made
    assert ranks(scores, answers).tolist() == ranks_reference(scores, answers).tolist()
    assert ranks(scores, answers, seen).tolist() == ranks_reference(scores, answers, seen).tolist()
    assert ranks(scores.to(torch.bfloat16), answers, seen).tolist() == ranks(scores, answers, seen).tolist()


@given(rankings())
def test_column_zero_and_what_is_seen_never_count(made: tuple[Tensor, Tensor, Ragged]) -> None:
    scores, answers, seen = made
    changed = scores.clone()
    changed[:, 0] = math.nan
    for row, answer in enumerate(answers.tolist()):
        items = [item for item in seen[0][seen[1][row] : seen[1][row + 1]].tolist() if item != answer]
        changed[row, items] = math.inf
    changed[:, 0] = math.nan
    assert ranks(changed, answers, seen).tolist() == ranks(scores, answers, seen).tolist()


def test_ranks_as_worked_out_by_hand() -> None:
    scores = torch.tensor([[9.0, 0.1, 0.9, 0.5, 0.7], [9.0, 0.3, 0.3, 0.3, 0.3], [9.0, 4.0, 3.0, 2.0, 1.0]])
    answers = torch.tensor([3, 1, 1])
    assert ranks(scores, answers).tolist() == [3, 4, 1]  # scores that are all alike rank an answer last
    assert ranks(scores, answers, ragged([2], [1, 2], [1, 1])).tolist() == [2, 3, 1]


def test_whole_numbers_are_scores_too() -> None:
    assert ranks(torch.tensor([[0, 5, 7, 5]]), torch.tensor([1])).tolist() == [3]


@pytest.mark.parametrize(
    ("scores", "answers", "seen", "told"),
    [
        ([[0.0, 1.0, math.nan]], [1], None, "1 of 2 scores are NaN"),
        ([[0.0, 1.0, 2.0]], [0], None, "expected answers from 1, got 0"),
        ([[0.0, 1.0, 2.0]], [3], None, "answer 3 has no score: there are 2 items"),
        ([[0.0, 1.0, 2.0]], [1, 2], None, r"expected scores \[B, I \+ 1\], answers \[B\]; got \[1, 3\], \[2\]"),
        ([[0.0, 1.0, 2.0]], [1.0], None, "expected answers as integers, got torch.float32"),
        ([[0.0, 1.0, 2.0]], [1], ragged([3]), "items run from 0 to 2, got 3 to 3"),
        ([[0.0, 1.0, 2.0]], [1], ragged([-1]), "items run from 0 to 2, got -1 to -1"),
        ([[0.0, 1.0, 2.0]], [1], ragged([1], [2]), "expected 2 offsets"),
        ([[0.0, 1.0, 2.0]], [1], (torch.tensor([1]), torch.tensor([0, 2])), "ascend from 0 to the 1 items of 1 lists"),
    ],
)
def test_what_has_no_rank_is_refused(
    scores: list[list[float]], answers: list[float], seen: Ragged | None, told: str
) -> None:
    with pytest.raises(DataError, match=told):
        ranks(torch.tensor(scores), torch.tensor(answers), seen)


def test_a_nan_is_found_wherever_it_is() -> None:
    for place in range(1, 80):
        scores = torch.zeros(2, 80)
        scores[place % 2, place] = math.nan
        with pytest.raises(DataError, match="1 of 158 scores are NaN"):
            ranks(scores, torch.tensor([1, 2]))


@st.composite
def recommended(draw: st.DrawFn) -> tuple[list[list[int]], list[int], list[list[int]]]:
    n, k = draw(st.integers(0, 4)), draw(st.integers(0, 6))
    lists = draw(st.lists(st.lists(st.integers(0, 5), min_size=k, max_size=k), min_size=n, max_size=n))
    answers = draw(st.lists(st.integers(1, 6), min_size=n, max_size=n))
    return lists, answers, draw(st.lists(st.lists(st.integers(0, 9), max_size=4), min_size=n, max_size=n))


def place(items: list[int], answer: int, seen: list[int]) -> int:
    """The definition of a list's rank."""
    kept = [item for item in items if item == answer or item not in seen]
    return kept.index(answer) + 1 if answer in kept else 0


@given(recommended())
def test_list_ranks_are_places(made: tuple[list[list[int]], list[int], list[list[int]]]) -> None:
    lists, answers, seen = made
    k = len(lists[0]) if lists else 0
    tensors = torch.tensor(lists, dtype=torch.int64).reshape(len(lists), k), torch.tensor(answers, dtype=torch.int64)
    expected = [place(one, answer, []) for one, answer in zip(lists, answers, strict=True)]
    assert list_ranks(*tensors).tolist() == expected
    without = [place(*one) for one in zip(lists, answers, seen, strict=True)]
    assert list_ranks(*tensors, ragged(*seen)).tolist() == without


@given(rankings())
def test_a_list_of_all_items_ranks_as_their_scores_do(made: tuple[Tensor, Tensor, Ragged]) -> None:
    scores, answers, seen = made
    scores = scores + torch.arange(scores.shape[1]) / 100  # no ties but of infinities
    scores = scores.clamp(-9, 9) + torch.arange(scores.shape[1]) / 1000
    lists = scores[:, 1:].argsort(dim=1, descending=True) + 1
    assert list_ranks(lists, answers, seen).tolist() == ranks(scores, answers, seen).tolist()


def test_lists_that_fit_no_answers_are_refused() -> None:
    with pytest.raises(DataError, match=r"expected lists \[B, k\] and answers \[B\], got \[1, 2\] and \[2\]"):
        list_ranks(torch.tensor([[1, 2]]), torch.tensor([1, 2]))
    with pytest.raises(DataError, match="expected answers from 1, got 0"):
        list_ranks(torch.tensor([[1, 0]]), torch.tensor([0]))
    with pytest.raises(DataError, match="expected items of the lists from 0, got -1"):
        list_ranks(torch.tensor([[1, -1]]), torch.tensor([1]), ragged([1]))


def test_metrics_as_worked_out_by_hand() -> None:
    found = rank_metrics(torch.tensor([1, 3, 0, 10]), (1, 3, 10))
    assert found["hr@1"] == found["recall@1"] == found["ndcg@1"] == found["mrr@1"] == 0.25
    assert found["hr@3"] == found["recall@3"] == 0.5
    assert found["ndcg@3"] == pytest.approx((1 + 1 / 2) / 4)  # log2(1 + 3) = 2
    assert found["mrr@3"] == pytest.approx((1 + 1 / 3) / 4)
    assert found["hr@10"] == 0.75
    assert found["ndcg@10"] == pytest.approx((1 + 0.5 + math.log(2) / math.log(11)) / 4)
    assert found["mrr@10"] == pytest.approx((1 + 1 / 3 + 1 / 10) / 4)
    assert list(found) == [f"{name}@{k}" for k in (1, 3, 10) for name in ("hr", "recall", "ndcg", "mrr")]


@given(st.lists(st.integers(0, 30), min_size=1, max_size=20), st.integers(1, 25))
def test_metrics_are_means_within_their_bounds(made: list[int], k: int) -> None:
    values, means = rank_values(torch.tensor(made), [k]), rank_metrics(torch.tensor(made), [k])
    for name, value in values.items():
        assert means[name] == pytest.approx(float(value.sum()) / len(made))
        assert ((value >= 0) & (value <= 1)).all()
    assert means[f"hr@{k}"] >= means[f"ndcg@{k}"] >= means[f"mrr@{k}"]
    better = rank_metrics(torch.tensor([max(rank - 1, min(rank, 1)) for rank in made]), [k])
    assert all(better[name] >= means[name] for name in means)


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(DataError, match="expected ranks of questions to measure, got none"):
        rank_metrics(torch.zeros(0, dtype=torch.int64), [10])
    with pytest.raises(DataError, match="expected ranks from 0, got -1"):
        rank_metrics(torch.tensor([-1]), [10])
    for ks in ([], [0], [10, -1]):
        with pytest.raises(ConfigError, match="expected numbers of recommendations to count, each 1 or more"):
            rank_metrics(torch.tensor([1]), ks)
