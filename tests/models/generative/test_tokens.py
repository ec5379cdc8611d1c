from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.errors import ConfigError, DataError
from recsys.models.generative.tokens import BOS, SPECIALS, Prompts, Vocabulary

CODES = np.array([[0, 2], [1, 0], [1, 1]], dtype=np.int32)
PAIRS = Vocabulary((2, 3))


def ragged(*histories: list[int]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    flat = np.array([item for history in histories for item in history], dtype=np.int32)
    return flat, np.cumsum([0, *map(len, histories)])


def listed(prompts: Prompts) -> list[list[int]]:
    return [prompts.tokens[start:stop].tolist() for start, stop in pairwise(prompts.offsets)]


def plain(codes: np.ndarray[Any, Any], histories: list[list[int]], context: int) -> list[list[int]]:
    """`Vocabulary.prompts`, said slowly."""
    vocabulary = Vocabulary((4,) * codes.shape[1])
    prompts = []
    for history in histories:
        known = [item for item in history if 1 <= item <= len(codes)]
        known = known[max(0, len(known) - (context - 1) // codes.shape[1]) :]
        tokens = [vocabulary.token(level, int(code)) for item in known for level, code in enumerate(codes[item - 1])]
        prompts.append([BOS, *tokens])
    return prompts


def test_tokens_by_hand() -> None:
    # 0 and 1 are special, level 0 has 2 and 3, level 1 has 4, 5 and 6
    assert len(PAIRS) == 7
    assert PAIRS.first == (2, 4)
    assert [PAIRS.token(0, 1), PAIRS.token(1, 0)] == [3, 4]
    assert [PAIRS.code(token) for token in range(SPECIALS, 7)] == [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)]
    assert PAIRS.tokens(CODES).tolist() == [[2, 6], [3, 4], [3, 5]]


def test_prompts_by_hand() -> None:
    items, offsets = ragged([1, 3], [], [9, 2, 0, 1, 2, 3])
    prompts = PAIRS.prompts(CODES, items, offsets, context=6)
    # The last history has two numbers that no item has; of the four left the newest two fit behind BOS.
    assert listed(prompts) == [[0, 2, 6, 3, 5], [0], [0, 3, 4, 3, 5]]
    assert (prompts.cut, prompts.unknown) == (2, 2)


def test_no_histories_are_no_prompts() -> None:
    prompts = PAIRS.prompts(CODES, *ragged(), context=6)
    assert (prompts.tokens.tolist(), prompts.offsets.tolist()) == ([], [0])


@given(st.data())
def test_prompts_are_what_the_slow_way_gives(data: st.DataObject) -> None:
    levels = data.draw(st.integers(1, 4))
    drawn = data.draw(st.lists(st.lists(st.integers(0, 3), min_size=levels, max_size=levels), min_size=1, max_size=6))
    codes = np.array(drawn, dtype=np.int32)
    histories = data.draw(st.lists(st.lists(st.integers(-1, 8), max_size=9), max_size=4))
    context = data.draw(st.integers(levels + 1, 20))
    prompts = Vocabulary((4,) * levels).prompts(codes, *ragged(*histories), context)
    assert listed(prompts) == plain(codes, histories, context)
    known = [sum(1 <= item <= len(codes) for item in history) for history in histories]
    assert prompts.unknown == sum(map(len, histories)) - sum(known)
    assert prompts.cut == sum(known) - sum((len(prompt) - 1) // levels for prompt in listed(prompts))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (np.array([[0, 3]]), r"item 1 has codes \[0, 3\], but levels have \(2, 3\) codes"),
        (np.array([[0, -1]]), r"item 1 has codes \[0, -1\]"),
        (np.array([[0, 0, 0]]), r"expected integer codes \[items, 2\], got int64 \[1, 3\]"),
        (np.array([[0.0, 1.0]]), r"got float64 \[1, 2\]"),
    ],
)
def test_codes_that_are_none(wrong: np.ndarray[Any, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        PAIRS.tokens(wrong)


@pytest.mark.parametrize("offsets", [[0, 1], [1, 2], [0, 2, 1, 2], []])
def test_offsets_that_do_not_hold_the_items(offsets: list[int]) -> None:
    with pytest.raises(DataError, match="expected offsets that ascend from 0 to the 2 items"):
        PAIRS.prompts(CODES, np.array([1, 2]), np.array(offsets, dtype=np.int64), context=6)


def test_what_else_cannot_be() -> None:
    with pytest.raises(ConfigError, match="expected a context of more than 2 tokens, got 2"):
        PAIRS.prompts(CODES, *ragged([1]), context=2)
    with pytest.raises(ConfigError, match="at least one level"):
        Vocabulary(())
    with pytest.raises(DataError, match="got code 2 of level 0"):
        PAIRS.token(0, 2)
    with pytest.raises(DataError, match="expected a token from 2 to 6, got 1"):
        PAIRS.code(1)
    with pytest.raises(DataError, match="expected integer items"):
        PAIRS.prompts(CODES, np.array([1.0]), np.array([0, 1]), context=6)
