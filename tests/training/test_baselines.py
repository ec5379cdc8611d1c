"""Baselines: what they score, worked out by hand."""

from __future__ import annotations

import pytest
import torch

from recsys.errors import DataError
from recsys.training.baselines import Popularity, RepeatLast
from tests.data.test_histories import histories
from tests.training.test_ranks import ragged

TRAIN = histories([1, 3, 3], [3, 2], [2])


def test_popularity_scores_counts_for_everyone() -> None:
    model = Popularity.of(TRAIN, 4)
    assert model(*ragged([4], [], [1, 2])).tolist() == [[0, 1, 2, 3, 0]] * 3
    assert model(*ragged()).shape == (0, 5)


def test_repeat_last_puts_the_last_item_before_what_is_popular() -> None:
    model = RepeatLast.of(TRAIN, 4)
    scores = model(*ragged([3, 4], [], [1, 2, 1]))
    assert scores.tolist() == [[0, 1, 2, 3, 4], [0, 1, 2, 3, 0], [0, 4, 2, 3, 0]]
    assert model.counts.tolist() == [0, 1, 2, 3, 0]
    assert model(*ragged()).shape == (0, 5)


def test_scores_are_exact_whole_numbers() -> None:
    large = Popularity(torch.tensor([0, 1 << 40, (1 << 40) + 1]))
    scores = large(*ragged([1]))
    assert scores[0, 1] < scores[0, 2]


def test_items_of_another_catalogue_are_refused() -> None:
    with pytest.raises(DataError, match="item 3 occurs, but the catalogue ends with 2"):
        Popularity.of(TRAIN, 2)
