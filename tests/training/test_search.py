"""The search space of a recipe: what is taken, what is refused before anything runs, and the default one."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.config import override
from recsys.errors import ConfigError
from recsys.training.recipe import Recipe, find_recipe
from recsys.training.search import Choices, Range, default_space, search_space

DATA = {"source": "adult"}
EVERY = """
[model]
name = "dcn2"
dropout = 0.1
hidden = []

[data]
source = "adult"

[search]
"training.learning_rate" = { low = 1e-4, high = 1e-2, log = true }
"training.table_l2" = { choices = [0, 0.001, 0.01] }
"model.dropout" = { low = 0.0, high = 0.5 }
"model.hidden" = { choices = [[], [150, 150]] }
"model.embedding_dim" = { low = 4, high = 32, log = true }
"""


def recipe(search: dict[str, Any], **training: Any) -> Recipe:
    return Recipe.parse({"model": {"name": "dcn2"}, "data": DATA, "training": training, "search": search}, "r.toml")


def test_a_space_is_read_from_toml_and_survives_writing(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text(EVERY)
    read = Recipe.load(path)
    assert read.search is not None
    assert read.search["training.learning_rate"] == Range(low=1e-4, high=1e-2, log=True)
    assert read.search["model.hidden"] == Choices(choices=([], [150, 150]))
    path.write_text(read.toml())
    assert Recipe.load(path) == read


@given(
    st.floats(0.0, 0.4),
    st.floats(0.5, 0.99),
    st.lists(st.lists(st.integers(1, 512), min_size=1, max_size=3), min_size=1, unique_by=tuple),
)
def test_any_space_that_is_taken_is_written_and_read_again(low: float, high: float, hidden: list[list[int]]) -> None:
    read = Recipe.parse(
        {
            "model": {"name": "dcn2", "dropout": 0.45, "hidden": []},
            "data": DATA,
            "search": {"model.dropout": {"low": low, "high": high}, "model.hidden": {"choices": [[], *hidden]}},
        },
        "r.toml",
    )
    again = Recipe.parse(tomllib.loads(read.toml()), "r.toml")
    assert again == read
    assert search_space(again) == search_space(read)


def test_choices_are_as_the_recipe_holds_them() -> None:
    (part,) = search_space(recipe({"training.table_l2": {"choices": [0, 1]}})).values()
    assert isinstance(part, Choices)
    assert [str(value) for value in part.choices] == ["0.0", "1.0"]


@pytest.mark.parametrize(
    ("key", "part", "words"),
    [
        ("training.lerning_rate", {"low": 1, "high": 2}, "did you mean `training.learning_rate`?"),
        ("learning_rate", {"low": 1, "high": 2}, "did you mean `training.learning_rate`?"),
        ("model.hiden", {"choices": [[], [3]]}, "did you mean `model.hidden`?"),
        ("data.source", {"choices": ["adult", "x"]}, "unknown key `data.source`"),
        ("training.epochs", {"low": 1, "high": 2}, "is the same in all trials"),
        ("model.name", {"choices": ["lr", "dcn2"]}, "is the same in all trials"),
        ("model.dropout", {"low": 0.0, "high": 1.5}, "search: model.dropout: input should be less than 1"),
        ("training.table_l2", {"choices": [0, -1]}, "greater than or equal to 0"),
        ("training.table_l2", {"choices": [0]}, "at least 2"),
        ("training.table_l2", {"choices": [0, 0.0]}, "name a value twice"),
        ("training.table_optimizer", {"choices": ["adam", "sgd"]}, "'adam' or 'adagrad'"),
        ("training.table_optimizer", {"low": 0, "high": 1}, "takes no range"),
        ("model.hidden", {"low": 1, "high": 2}, "takes no range"),
        ("model.similarities", {"low": 0, "high": 1}, "takes no range"),
        ("model.embedding_dim", {"low": 4, "high": 8.5}, "takes whole numbers"),
        ("model.embedding_dim", {"low": 17, "high": 32}, "recipe's own value, 16, which is not within"),
        ("training.table_l2", {"choices": [0.1, 0.2]}, "recipe's own value, 0.0, which is not within"),
        ("training.table_learning_rate", {"low": 0.1, "high": 0.2}, "own value, null, which is not within"),
        ("model.dropout", {"low": 0.5, "high": 0.0}, "expected `low` below `high`"),
        ("model.dropout", {"low": 0.0, "high": 0.5, "log": True}, "begins above 0"),
        ("model.dropout", {"low": 0.0}, "missing key `high`"),
        ("model.dropout", {"low": 0.0, "hihg": 0.5}, "unknown key `hihg`: did you mean `high`?"),
        ("model.dropout", {"choices": 3}, "choices"),
        ("model.dropout", [0.0, 0.5], "write it as"),
        ("training", {"learning_rate": {"low": 1e-4, "high": 1e-2}}, "write it as"),
    ],
)
def test_what_a_recipe_does_not_take_is_refused_when_it_is_read(key: str, part: Any, words: str) -> None:
    with pytest.raises(ConfigError) as told:
        recipe({key: part})
    assert words in str(told.value)
    assert str(told.value).startswith("r.toml: search")


def test_a_space_that_is_no_table_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"r\.toml: search"):
        Recipe.parse({"model": {"name": "lr"}, "data": DATA, "search": 3}, "r.toml")


def test_the_default_space_holds_the_recipes_own_values() -> None:
    odd = override(
        find_recipe("dcnv2"), {"training.learning_rate": 0.3, "training.table_l2": 0.5, "model.dropout": 0.7}
    )
    space = default_space(odd)
    assert space["training.learning_rate"] == Range(low=1e-4, high=0.3, log=True)
    assert space["training.table_l2"] == Choices(choices=(0.0, 0.001, 0.01, 0.1, 0.5))
    assert space["model.dropout"] == Range(low=0.0, high=0.7)
    assert override(odd, {"search": {key: part.model_dump() for key, part in space.items()}}).search == space


@pytest.mark.parametrize(("name", "has"), [("lr", False), ("dcn2", False), ("dcnv2", True), ("din", True)])
def test_dropout_is_searched_where_there_are_hidden_units(name: str, has: bool) -> None:
    assert ("model.dropout" in default_space(find_recipe(name))) is has
