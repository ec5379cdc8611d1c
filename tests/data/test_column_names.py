"""Names and what they tell: words are found, letters inside other words are not."""

from __future__ import annotations

import pytest

from recsys.data import column_names as names


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("userid", ("user", "id")),
        ("userId", ("user", "id")),
        ("USER_ID", ("user", "id")),
        ("user:token", ("user", "token")),
        ("cms_segid", ("cms", "seg", "id")),
        ("itemID", ("item", "id")),
        ("valid", ("valid",)),
        ("message", ("message",)),
        ("candidate", ("candidate",)),
        ("C14", ("c",)),
        ("", ()),
        ("年龄", ()),
        ("a" * 10_000, ("a" * 10_000,)),
    ],
)
def test_names_are_taken_apart(name: str, words: tuple[str, ...]) -> None:
    assert names.words(name) == words


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("user_id", "user"),
        ("age_level", "user"),
        ("new_user_class_level", "user"),
        ("user_category", "user"),
        ("movieId", "item"),
        ("price", "item"),
        ("user_item_clicks", "context"),
        ("message", "context"),
        ("hour", "context"),
    ],
)
def test_sides(name: str, side: str) -> None:
    assert names.side(name) == side


@pytest.mark.parametrize(
    ("name", "meaning"),
    [
        ("adgroup_id", "code"),
        ("age_level", "code"),
        ("age", "amount"),
        ("item_count", "amount"),
        ("count_of_users", "code"),
        ("hours-per-week", "amount"),
        ("valid", None),
        ("paid", None),
    ],
)
def test_the_last_word_that_tells_decides(name: str, meaning: str | None) -> None:
    assert names.meaning(name) == meaning


def test_labels_users_and_items() -> None:
    assert all(map(names.is_label, ["label", "Is_Click", "clk", "label_2", "y"]))
    assert not any(map(names.is_label, ["clicks", "history", "labelled_by", "C1"]))
    assert all(map(names.is_user, ["user", "userid", "uid", "customer_id"]))
    assert not any(map(names.is_user, ["user_age", "item", "id"]))
    assert names.is_item("adgroup_id")
    assert not names.is_item("item_price")
