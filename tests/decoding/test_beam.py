from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recsys.decoding.beam import Beams, advance, best, ranked, start
from recsys.decoding.trie import ItemTrie
from recsys.models.generative.tokens import Vocabulary

PAIRS = Vocabulary((2, 3))
TRIE = ItemTrie.build(np.array([[1, 0], [0, 2], [1, 1], [0, 0]], dtype=np.int32), PAIRS)
"""{2: {4: item 4, 6: item 2}, 3: {4: item 1, 5: item 3}}."""


def logits(**probabilities: float) -> torch.Tensor:
    """[7] of tokens t0 … t6; what is left goes to token 0."""
    p = torch.full((7,), 1e-9)
    for name, value in probabilities.items():
        p[int(name[1:])] = value
    p[0] = 1 - p[1:].sum()
    return p.log()


def test_a_search_by_hand() -> None:
    first = advance(TRIE, 0, start(TRIE, 1), logits(t2=0.5, t3=0.25, t5=0.25).view(1, 1, 7), 2, None)
    assert first.tokens.tolist() == [[2, 3]]
    torch.testing.assert_close(first.beams.scores.exp(), torch.tensor([[0.5, 0.25]]))
    # token 5 follows only 3, and 6 only 2, whatever the model says
    told = torch.stack([logits(t4=0.1, t5=0.8, t6=0.1), logits(t4=0.1, t5=0.6)])
    second = advance(TRIE, 1, first.beams, told.view(1, 2, 7), 2, None)
    # 0.25 · 0.6 = 0.15 beats 0.5 · 0.1, of which there are two: the earlier, item 4, is kept
    assert second.tokens.tolist() == [[4, 5]]
    assert second.parents.tolist() == [[0, 1]]
    items, scores = ranked(TRIE, second.beams, 2)
    assert items.tolist() == [[3, 4]]
    torch.testing.assert_close(scores.exp(), torch.tensor([[0.15, 0.05]]))


def test_a_trie_narrower_than_the_beams_leaves_places_empty() -> None:
    step = advance(TRIE, 0, start(TRIE, 1), torch.zeros(1, 1, 7), 4, None)
    assert step.beams.nodes.tolist() == [[0, 1, 2, 2]]
    assert step.beams.scores.isneginf().tolist() == [[False, False, True, True]]
    last = advance(TRIE, 1, step.beams, torch.zeros(1, 4, 7), 5, None)
    items, scores = ranked(TRIE, last.beams, 5)
    assert items.tolist() == [[4, 2, 1, 3, 0]]  # equal scores: in the order of their tokens
    assert scores[0, 4].isneginf()


def test_dead_beams_stay_dead() -> None:
    dead = Beams(torch.full((1, 2), -torch.inf), torch.full((1, 2), TRIE.levels[0].sink))
    step = advance(TRIE, 1, dead, torch.randn(1, 2, 7), 3, None)
    assert step.beams.nodes.tolist() == [[4, 4, 4]]
    assert ranked(TRIE, step.beams, 3)[0].tolist() == [[0, 0, 0]]


SCORES = st.sampled_from([-torch.inf, -3.5, -1.0, -1.0000001, -1e-45, -0.0, 0.0])


@given(st.lists(st.lists(SCORES, min_size=5, max_size=5), min_size=1, max_size=3), st.integers(1, 5))
def test_best_is_a_stable_sort(rows: list[list[float]], width: int) -> None:
    expected = [sorted(range(5), key=lambda place: -row[place])[:width] for row in rows]
    assert best(torch.tensor(rows), width).tolist() == expected


@pytest.mark.parametrize("width", [1, 100])
def test_best_of_many(width: int) -> None:
    scores = -torch.rand(4, 5000).round(decimals=1)
    expected = scores.sort(dim=1, descending=True, stable=True).indices[:, :width]
    assert torch.equal(best(scores, width), expected)
