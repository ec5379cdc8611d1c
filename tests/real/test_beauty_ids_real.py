"""The published semantic ids of Amazon Beauty: read whole, and as they are."""

from __future__ import annotations

from pathlib import Path

import pytest

from recsys.data.semantic_ids import SemanticIds, read_published
from recsys.errors import DataError

FILE = Path(__file__).parents[3] / "shared" / "data" / "beauty" / "Beauty_semantic_ids.json"
ITEMS = 12_101


@pytest.fixture(scope="module")
def ids() -> SemanticIds:
    if not FILE.is_file():
        pytest.skip(f"needs {FILE}")
    return read_published(FILE, ITEMS)


def test_every_item_has_four_codes_of_256(ids: SemanticIds) -> None:
    assert (len(ids), ids.sizes) == (ITEMS, (256, 256, 256, 256))
    assert ids.codes[0].tolist() == [183, 70, 232, 6]


def test_few_items_share_a_tuple(ids: SemanticIds) -> None:
    groups = ids.collisions()
    assert (len(groups), sum(map(len, groups))) == (11, 24)
    assert ids.distinct().sizes == (256, 256, 256, 256, 3)
    shorter = SemanticIds(ids.codes[:, :3], ids.sizes[:3]).collisions()
    assert sum(map(len, shorter)) == 674


def test_the_first_level_uses_the_fewest_codes(ids: SemanticIds) -> None:
    assert [use.used for use in ids.usage()] == [197, 256, 256, 256]
    assert [round(use.perplexity, 1) for use in ids.usage()] == [82.7, 248.6, 247.6, 246.6]


def test_another_number_of_items_is_noticed(ids: SemanticIds) -> None:
    with pytest.raises(DataError, match='item "12101" is missing'):
        read_published(FILE, ITEMS + 1)
    with pytest.raises(DataError, match="got '12100' too"):
        read_published(FILE, ITEMS - 1)
