from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.decoding.engine import Engine, Recommended
from recsys.decoding.reference import Answer, beam_search, every_item
from recsys.decoding.trie import ItemTrie
from recsys.errors import ConfigError, DataError
from recsys.models.generative.decoder import Decoder, DecoderConfig
from recsys.models.generative.tokens import Vocabulary
from tests.decoding.made import Codes, catalogue, catalogues, decoder, prompts, ragged

SIZES = (4, 5, 3)
CODES = catalogue(SIZES, 30)
HISTORIES = [[1, 2, 3], [], [30, 30, 4, 17, 9, 2, 28], [5], [7, 99, 0, 8]]


def engine(model: Decoder, codes: Codes = CODES, **options: Any) -> Engine:
    return Engine(model, ItemTrie.build(codes, model.vocabulary), **options)


def compare(found: Recommended, row: int, expected: Answer) -> None:
    k = found.items.shape[1]
    expected = expected[:k]
    assert found.items[row].tolist() == [item for item, _ in expected] + [0] * (k - len(expected))
    scores = [score for _, score in expected] + [-np.inf] * (k - len(expected))
    np.testing.assert_allclose(found.scores[row], scores, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_as_many_beams_as_items_find_what_brute_force_finds(kv_heads: int) -> None:
    model = decoder(SIZES, kv_heads)
    found = engine(model, beams=30).recommend(ragged(HISTORIES), k=30)
    for row, prompt in enumerate(prompts(model, CODES, HISTORIES)):
        compare(found, row, every_item(model, CODES, prompt))


@pytest.mark.parametrize("beams", [1, 3, 8])
def test_few_beams_find_what_a_search_without_a_cache_finds(beams: int) -> None:
    model = decoder(SIZES)
    found = engine(model, beams=beams).recommend(ragged(HISTORIES), k=beams)
    for row, prompt in enumerate(prompts(model, CODES, HISTORIES)):
        compare(found, row, beam_search(model, CODES, prompt, beams))


@settings(max_examples=30)
@given(catalogues(), st.data())
def test_any_catalogue_is_searched_as_without_a_cache(
    drawn: tuple[Codes, tuple[int, ...]], data: st.DataObject
) -> None:
    codes, sizes = drawn
    model = decoder(sizes, seed=data.draw(st.integers(0, 3)))
    histories = data.draw(st.lists(st.lists(st.integers(0, len(codes)), max_size=4), min_size=1, max_size=3))
    beams = data.draw(st.integers(1, 6))
    found = engine(model, codes, beams=beams).recommend(ragged(histories), k=beams)
    for row, prompt in enumerate(prompts(model, codes, histories)):
        compare(found, row, beam_search(model, codes, prompt, beams))


def test_a_batch_is_its_requests_one_by_one() -> None:
    one = engine(decoder(SIZES), beams=6)
    histories = HISTORIES * 8  # more than are decoded together
    together = one.recommend(ragged(histories), k=6)
    alone = [one.recommend(ragged([history]), k=6) for history in histories]
    assert together.items.tolist() == [found.items[0].tolist() for found in alone]
    np.testing.assert_allclose(together.scores, np.concatenate([found.scores for found in alone]), rtol=1e-5, atol=1e-5)


def test_lists_leave_the_best_of_what_is_left() -> None:
    model = decoder(SIZES)
    allow = [None, np.array([3, 4, 5]), np.array([8, 9, 10, 11]), np.array([], dtype=int), None]
    deny = [np.arange(1, 28), None, np.array([9, 99]), None, None]
    found = engine(model, beams=30).recommend(ragged(HISTORIES), 5, allow, deny)
    left = [{28, 29, 30}, {3, 4, 5}, {8, 10, 11}, set[int](), set(range(1, 31))]
    for row, prompt in enumerate(prompts(model, CODES, HISTORIES)):
        compare(found, row, [one for one in every_item(model, CODES, prompt) if one[0] in left[row]])
    assert found.counts == {"cut": 0, "unknown": 2, "strange": 1, "missing": 2 + 2 + 2 + 5}


def test_a_single_allowed_item_is_found_by_a_single_beam() -> None:
    one = engine(decoder(SIZES), beams=1)
    for item in range(1, 31):
        assert one.recommend(ragged([[1]]), 1, allow=[np.array([item])]).items.tolist() == [[item]]


def test_a_long_history_counts_with_its_newest_items() -> None:
    one = engine(decoder(SIZES, context=10), beams=4)
    found = one.recommend(ragged([list(range(1, 11))]), k=4)
    short = one.recommend(ragged([[8, 9, 10]]), k=4)
    assert found.items.tolist() == short.items.tolist()
    assert (found.counts["cut"], short.counts["cut"]) == (7, 0)


def test_no_requests_have_no_answers() -> None:
    found = engine(decoder(SIZES)).recommend(ragged([]), k=3)
    assert found.items.shape == found.scores.shape == (0, 3)


def test_equal_items_come_in_the_order_of_their_tokens() -> None:
    model = decoder(SIZES)
    with torch.no_grad():
        model.embedding.weight.zero_()  # and the head: every token is as likely
    found = engine(model, beams=7).recommend(ragged([[], [1]]), k=7)
    expected = sorted(range(30), key=lambda row: CODES[row].tolist())[:7]
    assert found.items.tolist() == [[row + 1 for row in expected]] * 2


def test_bfloat16_scores_are_near() -> None:
    model = decoder(SIZES)
    exact = {k: dict(every_item(model, CODES, p)) for k, p in enumerate(prompts(model, CODES, HISTORIES))}
    found = engine(model, beams=30, dtype=torch.bfloat16).recommend(ragged(HISTORIES), k=30)
    for row, items in enumerate(found.items.tolist()):
        assert sorted(items) == list(range(1, 31))
        np.testing.assert_allclose(found.scores[row], [exact[row][item] for item in items], atol=0.5)
    assert model.embedding.weight.dtype == torch.float32


def test_what_an_engine_refuses() -> None:
    model = decoder(SIZES)
    trie = ItemTrie.build(CODES, model.vocabulary)
    with pytest.raises(ConfigError, match="expected at least one beam, got 0"):
        Engine(model, trie, beams=0)
    with pytest.raises(ConfigError, match="expected k from 1 to the 4 beams of this engine, got 5"):
        Engine(model, trie, beams=4).recommend(ragged([[]]), k=5)
    with pytest.raises(DataError, match="expected offsets that ascend"):
        Engine(model, trie).recommend((np.array([1, 2]), np.array([0, 1])), k=1)
    other = Decoder(DecoderConfig(), Vocabulary(SIZES), ids="0" * 64)
    with pytest.raises(ConfigError, match="the trie is of another catalogue"):
        Engine(other, trie)
