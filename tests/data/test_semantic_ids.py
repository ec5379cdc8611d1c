"""Semantic ids: checked, counted, told apart, kept, and read as others publish them."""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from recsys.data.semantic_ids import MOST_LEVELS, SemanticIds, read_published
from recsys.errors import DataError
from tests.helpers import changed

SIZES = (2, 3, 2)


def ids_of(rows: list[Any], sizes: tuple[int, ...] = SIZES) -> SemanticIds:
    return SemanticIds(np.array(rows, dtype=np.int32), sizes)


@st.composite
def some_ids(draw: st.DrawFn) -> SemanticIds:
    """Few codes, so that many items share a tuple."""
    sizes = tuple(draw(st.lists(st.integers(1, 3), min_size=1, max_size=3)))
    row = st.tuples(*(st.integers(0, size - 1) for size in sizes))
    return ids_of(draw(st.lists(row, min_size=1, max_size=30)), sizes)


def groups_slowly(ids: SemanticIds) -> list[list[int]]:
    """Items of each tuple that several share, by a dict."""
    found: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for item, row in enumerate(ids.codes.tolist(), start=1):
        found[tuple(row)].append(item)
    return [items for items in found.values() if len(items) > 1]


def test_ids_know_their_shape_and_cannot_be_changed() -> None:
    given_codes = np.array([[0, 2, 1], [1, 0, 0]], dtype=np.int32)
    ids = SemanticIds(given_codes, SIZES)
    assert (len(ids), ids.levels) == (2, 3)
    with pytest.raises(ValueError, match="read-only"):
        ids.codes[0, 0] = 1
    given_codes[0, 0] = 1  # the caller's array is as it was


@pytest.mark.parametrize(
    ("codes", "sizes", "told"),
    [
        (np.zeros((2, 3), np.int64), SIZES, "expected codes [items, levels] of int32, got [2, 3] of int64"),
        (np.zeros(3, np.int32), SIZES, "expected codes [items, levels] of int32, got [3] of int32"),
        (np.zeros((0, 3), np.int32), SIZES, "expected items with 1 to 64 codes each, got [0, 3]"),
        (np.zeros((2, 0), np.int32), (), "expected items with 1 to 64 codes each, got [2, 0]"),
        (np.zeros((2, 65), np.int32), (1,) * 65, "expected items with 1 to 64 codes each, got [2, 65]"),
        (np.zeros((2, 3), np.int32), (2, 3), "for each of 3 levels, got (2, 3)"),
        (np.zeros((2, 3), np.int32), (2, 3, 0), "for each of 3 levels, got (2, 3, 0)"),
        (np.zeros((2, 3), np.int32), (2, 3, 2.0), "for each of 3 levels, got (2, 3, 2.0)"),
        (np.array([[0, 3, 0], [0, 4, 0]], np.int32), SIZES, "level 1: 2 of 2 codes are outside 0 … 2"),
        (np.array([[0, 0, 0], [0, 0, -1]], np.int32), SIZES, "level 2: 1 of 2 codes are outside 0 … 1"),
    ],
)
def test_what_are_no_ids_is_said(codes: Any, sizes: Any, told: str) -> None:
    with pytest.raises(DataError, match=re.escape(told)):
        SemanticIds(codes, sizes)


def test_items_that_share_a_tuple_are_named_and_numbered() -> None:
    ids = ids_of([(1, 0, 0), (0, 2, 1), (1, 0, 0), (0, 2, 1), (0, 2, 0), (1, 0, 0)])
    assert [group.tolist() for group in ids.collisions()] == [[1, 3, 6], [2, 4]]
    told_apart = ids.distinct()
    assert told_apart.sizes == (2, 3, 2, 3)
    assert told_apart.codes.tolist() == [
        [1, 0, 0, 0],
        [0, 2, 1, 0],
        [1, 0, 0, 1],
        [0, 2, 1, 1],
        [0, 2, 0, 0],
        [1, 0, 0, 2],
    ]


def test_ids_without_collisions_get_a_level_of_one_code() -> None:
    told_apart = ids_of([(1, 0, 0), (0, 2, 1)]).distinct()
    assert told_apart.sizes == (2, 3, 2, 1)
    assert told_apart.codes[:, 3].tolist() == [0, 0]


@given(some_ids())
def test_collisions_and_the_collision_token_are_those_of_a_dict(ids: SemanticIds) -> None:
    groups = groups_slowly(ids)
    assert [group.tolist() for group in ids.collisions()] == groups
    told_apart = ids.distinct()
    assert not told_apart.collisions()
    assert (told_apart.codes[:, :-1] == ids.codes).all()
    token = dict.fromkeys(range(1, len(ids) + 1), 0)
    token |= {item: place for group in groups for place, item in enumerate(group)}
    assert told_apart.codes[:, -1].tolist() == list(token.values())
    assert told_apart.sizes[-1] == max(map(len, groups), default=1)


def test_more_collisions_than_a_limit_are_refused() -> None:
    ids = ids_of([(1, 0, 0), (1, 0, 0), (1, 0, 0)])
    assert ids.distinct(limit=3).sizes == (2, 3, 2, 3)
    with pytest.raises(DataError, match="3 items share a tuple; expected 2 at most: use more levels"):
        ids.distinct(limit=2)
    with pytest.raises(DataError, match="1 to 64 codes each"):
        ids_of([[0] * MOST_LEVELS], (1,) * MOST_LEVELS).distinct()


def test_usage_counts_codes_and_how_evenly_they_are_spread() -> None:
    even, uneven, one = ids_of([(0, 0, 1), (1, 0, 1), (0, 0, 1), (1, 2, 1)]).usage()
    assert (even.size, even.used, even.perplexity) == pytest.approx((2, 2, 2))
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert (uneven.size, uneven.used, uneven.perplexity) == pytest.approx((3, 2, math.exp(entropy)))
    assert (one.size, one.used, one.perplexity) == pytest.approx((2, 1, 1))


@settings(max_examples=40)
@given(some_ids())
def test_ids_that_are_written_are_read(tmp_path_factory: pytest.TempPathFactory, ids: SemanticIds) -> None:
    path = tmp_path_factory.mktemp("ids") / "new" / "ids.safetensors"
    ids.save(path)
    ids.save(path)  # again
    read = SemanticIds.load(path)
    assert (read.codes == ids.codes).all()
    assert read.sizes == ids.sizes
    assert [child.name for child in path.parent.iterdir()] == ["ids.safetensors"]
    assert path.stat().st_mode & 0o044 == 0o044


@settings(max_examples=40)
@given(st.data())
def test_an_altered_file_is_noticed(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = tmp_path_factory.mktemp("ids") / "ids"
    ids = ids_of([(1, 0, 0), (0, 2, 1)])
    ids.save(path)
    content = bytearray(path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content = content[:place]
    else:
        content[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)
    with contextlib.suppress(DataError):
        assert SemanticIds.load(path).fingerprint() == ids.fingerprint()  # a byte that says nothing


def test_another_file_is_no_file_of_ids(tmp_path: Path) -> None:
    path = tmp_path / "other"
    with pytest.raises(DataError, match="not a file of semantic ids, or damaged"):
        SemanticIds.load(path)
    codes = np.zeros((2, 1), np.int32)
    save_file({"codes": codes}, path)
    with pytest.raises(DataError, match="expected a file of semantic ids, got another safetensors file"):
        SemanticIds.load(path)
    meta = {"format": "recsys semantic ids 1", "fingerprint": ""}
    for sizes in ("", "3", "[", "[0]", '["a"]', "[" * 100_000):
        save_file({"codes": codes}, path, metadata=meta | {"sizes": sizes})
        with pytest.raises(DataError, match="not a file of semantic ids"):
            SemanticIds.load(path)
    save_file({"codes": codes}, path, metadata=meta | {"sizes": "[3]"})
    with pytest.raises(DataError, match="altered after it was written"):
        SemanticIds.load(path)


def test_ids_are_not_written_over_a_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="got a folder or a device"):
        ids_of([(0, 0, 0)]).save(tmp_path)


def test_fingerprints_are_of_sizes_and_codes() -> None:
    ids = ids_of([(1, 0, 0), (0, 2, 1)])
    assert ids.fingerprint() == ids_of([(1, 0, 0), (0, 2, 1)]).fingerprint()
    others = [ids_of([(1, 0, 0), (0, 2, 0)]), ids_of([(1, 0, 0), (0, 2, 1)], (2, 3, 3)), ids_of([(0, 2, 1), (1, 0, 0)])]
    assert ids.fingerprint() not in {other.fingerprint() for other in others}


def published(folder: Path, value: Any) -> Path:
    path = folder / "ids.json"
    path.write_bytes(value if isinstance(value, bytes) else json.dumps(value).encode())
    return path


def test_published_ids_are_read(tmp_path: Path) -> None:
    path = published(tmp_path, {"1": ["<a_0>", "<b_70>"], "0": ["<a_183>", "<b_7>"]})
    ids = read_published(path, 2)
    assert ids.codes.tolist() == [[183, 7], [0, 70]]
    assert ids.sizes == (184, 71)


@settings(max_examples=40)
@given(st.integers(1, 26).flatmap(lambda n: st.lists(st.tuples(*[st.integers(0, 99_999_999)] * n), min_size=1)))
def test_whatever_is_published_is_read(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, ...]]) -> None:
    entries = {str(i): [f"<{chr(97 + level)}_{code}>" for level, code in enumerate(row)] for i, row in enumerate(rows)}
    ids = read_published(published(tmp_path_factory.mktemp("ids"), entries), len(rows))
    assert ids.codes.tolist() == [list(row) for row in rows]
    assert ids.sizes == tuple(max(column) + 1 for column in zip(*rows, strict=True))


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ({"0": ["<a_1>"]}, 'item "1" is missing'),
        ({"0": ["<a_1>"], "1": ["<a_1>"], "2": ["<a_1>"]}, 'expected the items "0" … "1", got \'2\' too'),
        ({"0": ["<a_1>"], "1": ["<a_1>"], "01": ["<a_1>"]}, "got '01' too"),
        ({"0": ["<a_1>"], "1": ["<a_1>", "<b_1>"]}, "item 1 has 2 codes, item 0 has 1; expected as many"),
        ({"0": ["<a_1>"], "1": []}, 'item "1": expected a list of 1 to 26 tokens, got []'),
        ({"0": ["<a_1>"], "1": "<a_1>"}, 'item "1": expected a list of 1 to 26 tokens, got <a_1>'),
        ({"0": ["<a_1>"], "1": None}, 'item "1" is missing'),
        ({"0": [f"<{chr(97 + n)}_1>" for n in range(27)], "1": []}, 'item "0": expected a list of 1 to 26 tokens'),
        *[
            ({"0": ["<a_1>", token], "1": ["<a_1>", "<b_1>"]}, 'item "0": expected a token such as <b_70>, got ')
            for token in (
                "<a_1>",
                "<b_-1>",
                "<b_01>",
                "<b_1> ",
                "<b_1>\n",
                "b_1",
                "<b_100000000>",
                "<b_١>",
                "",
                1,
                None,
            )
        ],
        (["<a_1>"], "expected an object such as"),
        (b"{", "not a readable JSON file"),
        (b"\xff\xfe", "not a readable JSON file"),
        (b'{"0": ["<a_1>"], "0": ["<a_2>"]}', "the key '0' stands twice"),
        (b"[" * 3000, "not a readable JSON file"),
        (b" " * 3073, "larger than the ids of 2 items can be"),
    ],
)
def test_what_is_not_published_ids_is_said(tmp_path: Path, value: Any, told: str) -> None:
    with pytest.raises(DataError, match=re.escape(told)):
        read_published(published(tmp_path, value), 2)


def test_no_file_and_no_items(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a readable JSON file"):
        read_published(tmp_path / "absent", 1)
    with pytest.raises(DataError, match="expected a catalogue of one item or more, got 0"):
        read_published(tmp_path / "absent", 0)


@settings(max_examples=40)
@given(st.data())
def test_a_changed_file_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    value = {"0": ["<a_1>", "<b_2>"], "1": ["<a_1>", "<b_0>"]}
    replacements: list[Any] = [None, 3, [], {}, "<a_1>", "<b_9>", "<b_x>", ["<a_1>"], ["<a_0>", "<b_1>"], True]
    path = published(tmp_path_factory.mktemp("ids"), changed(value, data, st.sampled_from(replacements)))
    with contextlib.suppress(DataError):
        assert read_published(path, 2).codes.shape == (2, 2)
