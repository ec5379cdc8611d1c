from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recsys.data.semantic_ids import SemanticIds
from recsys.decoding.lists import Permits, each
from recsys.decoding.trie import ItemTrie
from recsys.errors import ConfigError, DataError
from recsys.models.generative.tokens import Vocabulary
from tests.decoding.made import catalogue, catalogues

CODES = np.array([[1, 0], [0, 2], [1, 1], [0, 0]], dtype=np.int32)
"""Tokens of level 0 are 2 and 3, of level 1 4, 5 and 6; the items' order is 4, 2, 1, 3."""
PAIRS = Vocabulary((2, 3))


def walk(trie: ItemTrie, level: int, node: int) -> dict[Any, Any] | int:
    """The subtree of a node as nested dicts: token -> subtree, item at the end."""
    if level == len(trie.levels):
        return int(trie.leaves(torch.tensor(node)))
    children = trie.children(level, torch.tensor([node]))
    there = ~children.absent[0]
    pairs = zip(children.tokens[0][there].tolist(), children.nodes[0][there].tolist(), strict=True)
    return {token: walk(trie, level + 1, child) for token, child in pairs}


def plain(codes: np.ndarray[Any, Any], vocabulary: Vocabulary) -> dict[Any, Any]:
    """The same, built item by item."""
    root: dict[Any, Any] = {}
    for item, tokens in enumerate(vocabulary.tokens(codes).tolist(), start=1):
        node = root
        for token in tokens[:-1]:
            node = node.setdefault(token, {})
        node[tokens[-1]] = item
    return root


def test_a_trie_by_hand() -> None:
    trie = ItemTrie.build(CODES, PAIRS)
    assert walk(trie, 0, 0) == {2: {4: 4, 6: 2}, 3: {4: 1, 5: 3}}
    assert trie.items.tolist() == [4, 2, 1, 3]
    assert trie.places.tolist() == [4, 2, 1, 3, 0]
    assert [len(level.reach) for level in trie.levels] == [2, 2]
    assert [level.bounds.tolist() for level in trie.levels] == [[0, 2, 4, 4], [0, 1, 2, 3, 4, 4]]
    assert len(trie) == 4


def test_the_sink_has_neither_children_nor_items() -> None:
    trie = ItemTrie.build(CODES, PAIRS)
    children = trie.children(1, torch.tensor([[trie.levels[0].sink]]))
    assert children.absent.all()
    assert trie.leaves(torch.tensor([3, 4])).tolist() == [3, 0]


@given(catalogues())
def test_a_trie_holds_every_item_once(drawn: tuple[np.ndarray[Any, Any], tuple[int, ...]]) -> None:
    codes, sizes = drawn
    trie = ItemTrie.build(codes, Vocabulary(sizes))
    assert walk(trie, 0, 0) == plain(codes, Vocabulary(sizes))
    tokens = Vocabulary(sizes).tokens(codes)[trie.items.numpy() - 1].tolist()
    assert tokens == sorted(tokens)


def test_codes_too_many_for_one_number_are_sorted_all_the_same() -> None:
    vocabulary = Vocabulary((2**16,) * 4)
    codes = np.array([[1, 0, 0, 5], [0, 9, 9, 9], [1, 0, 0, 4]], dtype=np.int32)
    assert ItemTrie.build(codes, vocabulary).items.tolist() == [2, 3, 1]


def test_a_million_items() -> None:
    numbers = np.random.default_rng(0).permutation(1_000_000)
    codes = np.stack([numbers // 10_000, numbers // 100 % 100, numbers % 100], axis=1)
    trie = ItemTrie.build(codes, Vocabulary((100, 100, 100)))
    assert trie.items[12_345] == np.flatnonzero(numbers == 12_345)[0] + 1


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        ([[0, 1], [1, 1], [0, 1]], r"2 items share all their codes .* items 1 and 3 with \[0, 1\]; add a level"),
        ([[0, 3]], "item 1 has codes"),
        (np.empty((0, 2), dtype=np.int32), "at least one item, got none"),
    ],
)
def test_catalogues_that_make_no_trie(codes: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        ItemTrie.build(np.asarray(codes), PAIRS)


def test_another_catalogue_is_refused() -> None:
    trie = ItemTrie.build(CODES, PAIRS)
    trie.check(PAIRS, "")
    trie.check(PAIRS, SemanticIds(CODES.astype(np.int32), PAIRS.sizes).fingerprint())
    with pytest.raises(ConfigError, match=r"of another catalogue: it has levels of \(2, 3\) codes, .* \(3, 3\)"):
        trie.check(Vocabulary((3, 3)), "")
    with pytest.raises(ConfigError, match="of another catalogue: it has fingerprint"):
        trie.check(PAIRS, SemanticIds(CODES[::-1].astype(np.int32), PAIRS.sizes).fingerprint())


def permitted(trie: ItemTrie, permits: Permits | None, level: int) -> list[list[bool]]:
    bounds = trie.levels[level].bounds
    assert permits is not None
    nodes = torch.arange(trie.levels[level].sink).expand(len(permits.places), -1)
    return permits.permits(bounds[nodes], bounds[nodes + 1]).tolist()


def test_lists_by_hand() -> None:
    trie = ItemTrie.build(CODES, PAIRS)  # items 4 and 2 below the first node, 1 and 3 below the second
    allow = [None, np.array([2, 1]), np.array([2, 1]), np.array([], dtype=int), None]
    deny = [np.array([4, 2, 9]), None, np.array([0, 1]), None, None]
    permits = Permits.of(trie, allow, deny)
    assert permitted(trie, permits, 0) == [
        [False, True],
        [True, True],
        [True, False],
        [False, False],
        [True, True],
    ]
    assert permitted(trie, permits, 1)[1] == [False, True, True, False]
    assert permits is not None
    assert permits.strange == 2
    assert Permits.of(trie, [None] * 5, [None] * 5) is None


@given(st.data())
def test_a_node_is_entered_if_an_item_below_it_is_left(data: st.DataObject) -> None:
    codes, sizes = data.draw(catalogues())
    trie = ItemTrie.build(codes, Vocabulary(sizes))
    numbers = st.none() | st.lists(st.integers(0, len(codes) + 1), max_size=6)
    lists = data.draw(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=3))
    arrays = [[None if one is None else np.array(one, dtype=np.int64) for one in pair] for pair in lists]
    permits = Permits.of(trie, [pair[0] for pair in arrays], [pair[1] for pair in arrays])
    if all(one is None for pair in arrays for one in pair):
        assert permits is None
        return
    left = [
        {i for i in range(1, len(codes) + 1) if (allow is None or i in allow) and i not in (deny or [])}
        for allow, deny in lists
    ]
    for level in range(len(sizes)):
        ends = trie.levels[level].bounds.tolist()
        below = [set(trie.items[low:high].tolist()) for low, high in pairwise(ends[:-1])]
        assert permitted(trie, permits, level) == [[bool(items & kept) for items in below] for kept in left]


def test_lists_that_are_none() -> None:
    trie = ItemTrie.build(catalogue((3, 3), 4), Vocabulary((3, 3)))
    with pytest.raises(DataError, match=r"expected one deny list \(or None\) for each of 2 requests, got 1"):
        each([None], 2, "deny")
    with pytest.raises(DataError, match="expected a list of whole item numbers, got float64"):
        Permits.of(trie, [np.array([1.0])], [None])
