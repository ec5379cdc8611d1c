"""Recall and NDCG of several answers: against the obvious loop and by hand; top items against a sort."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score

from recsys.errors import ConfigError, DataError
from recsys.training.answer_sets import set_metrics, set_values, top_items
from recsys.training.ranks import rank_metrics, ranks
from tests.training.test_ranks import ragged, rankings

lists = st.permutations(range(1, 7)).map(lambda items: items[:4])
asked = st.lists(st.tuples(lists, st.lists(st.integers(1, 9), min_size=1, max_size=6)), min_size=1, max_size=5)


def worth(items: list[int], answers: set[int], k: int) -> tuple[float, float]:
    """The definitions, one place at a time."""
    gain = sum(1 / math.log2(1 + place) for place, item in enumerate(items[:k], start=1) if item in answers)
    ideal = sum(1 / math.log2(1 + place) for place in range(1, min(len(answers), k) + 1))
    return len(answers & {*items[:k]}) / len(answers), gain / ideal


@given(asked, st.integers(1, 4))
def test_values_equal_the_obvious_loop(made: list[tuple[list[int], list[int]]], k: int) -> None:
    found = set_values(torch.tensor([items for items, _ in made]), ragged(*(answers for _, answers in made)), [k])
    expected = [worth(list(items), set(answers), k) for items, answers in made]
    assert found[f"recall@{k}"].tolist() == pytest.approx([recall for recall, _ in expected])
    assert found[f"ndcg@{k}"].tolist() == pytest.approx([ndcg for _, ndcg in expected])


def test_values_as_worked_out_by_hand() -> None:
    found = set_values(torch.tensor([[4, 7, 5, 0], [1, 2, 0, 0]]), ragged([5, 4, 9], [3]), (1, 3))
    assert found["recall@1"].tolist() == pytest.approx([1 / 3, 0])
    assert found["ndcg@1"].tolist() == [1, 0]
    assert found["recall@3"].tolist() == pytest.approx([2 / 3, 0])
    assert found["ndcg@3"].tolist() == pytest.approx([1.5 / (1 + 1 / math.log2(3) + 0.5), 0])
    assert set_metrics(torch.tensor([[4, 7, 5]]), ragged([5, 4, 9]), [3])["recall@3"] == pytest.approx(2 / 3)


@given(rankings(), st.integers(1, 6))
def test_top_items_are_the_head_of_a_sort(made: tuple[torch.Tensor, ...], k: int) -> None:
    scores, _, seen = made
    found = top_items(scores, k, seen)  # type: ignore[arg-type]
    for row, items in enumerate(found.tolist()):
        left_out = {0, *seen[0][seen[1][row] : seen[1][row + 1]].tolist()}
        kept = [item for item in range(1, 7) if item not in left_out and scores[row, item] > -math.inf]
        best = sorted((float(scores[row, item]) for item in kept), reverse=True)[:k]
        assert [float(scores[row, item]) for item in items if item] == best
        assert len({*items} - {0}) == len(best)
        assert {*items} - {0} <= {*kept}


@given(rankings())
def test_one_answer_is_worth_what_its_rank_is(made: tuple[torch.Tensor, ...]) -> None:
    scores, answers, _ = made
    if not len(answers):
        return
    scores = scores.clamp(-9, 9) + torch.arange(7) / 100  # no ties
    one = set_metrics(top_items(scores, 6), ragged(*([answer] for answer in answers.tolist())), (1, 2, 6))
    other = rank_metrics(ranks(scores, answers), (1, 2, 6))
    assert one == pytest.approx({name: other[name] for name in one})


@given(rankings(), st.data())
def test_ndcg_is_scikit_learns(made: tuple[torch.Tensor, ...], data: st.DataObject) -> None:
    scores = made[0].clamp(-9, 9) + torch.arange(7) / 100  # no ties, which it averages
    answers = [data.draw(st.lists(st.integers(1, 6), min_size=1, unique=True)) for _ in scores]
    if not answers:
        return
    relevant = [[float(item in one) for item in range(1, 7)] for one in answers]
    found = set_metrics(top_items(scores, 6), ragged(*answers), (1, 3, 6))
    for k in (1, 3, 6):
        assert found[f"ndcg@{k}"] == pytest.approx(ndcg_score(relevant, scores[:, 1:].numpy(), k=k))


def test_what_cannot_be_measured_is_refused() -> None:
    items = torch.tensor([[1, 2]])
    with pytest.raises(ConfigError, match="metrics at 3 need lists of as many items, got 2"):
        set_values(items, ragged([1]), [3])
    with pytest.raises(DataError, match="1 of 1 questions have no answer"):
        set_values(items, ragged([]), [1])
    with pytest.raises(DataError, match="got one twice"):
        set_values(torch.tensor([[1, 1]]), ragged([1]), [1])
    with pytest.raises(DataError, match="expected 2 offsets"):
        set_values(items, ragged([1], [2]), [1])
    with pytest.raises(DataError, match="expected lists of questions to measure, got none"):
        set_values(torch.zeros(0, 2, dtype=torch.int64), ragged(), [1])
    with pytest.raises(ConfigError, match="expected lists of 1 to 2 items, got 3"):
        top_items(torch.zeros(1, 3), 3)
    with pytest.raises(DataError, match="1 of 2 scores are NaN"):
        top_items(torch.tensor([[0, math.nan, 1.0]]), 1)
