"""What a search may change: the `[search]` table of a recipe, checked before anything runs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Self, get_args

from pydantic import BeforeValidator, Field, model_validator

from recsys.config import Config, nearest, override
from recsys.errors import ConfigError

if TYPE_CHECKING:
    from recsys.training.recipe import Recipe

__all__ = ["Choices", "Range", "Space", "check_space", "default_space", "encoded", "search_space", "whole"]

TABLES = ("model", "training")
FIXED = {"model.name"} | {f"training.{name}" for name in ("seed", "epochs", "patience", "monitor", "shuffle_rows")}
"""What all trials have in common, or they could not be compared."""


class Range(Config):
    """Numbers between two ends, both included; whole ones where the recipe's key takes whole numbers."""

    low: float
    """The least."""
    high: float
    """The most."""
    log: bool = False
    """Whether equal ratios are equally far apart, as suits a learning rate."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.low >= self.high:
            raise ValueError(f"expected `low` below `high`, got {self.low:g} and {self.high:g}")
        if self.log and self.low <= 0:
            raise ValueError(f"a logarithmic range begins above 0, got low = {self.low:g}")
        return self


class Choices(Config):
    """Values with no order between them."""

    choices: tuple[Any, ...] = Field(min_length=2)
    """The values, as the recipe would have them."""


def _dimensions(value: Any) -> Any:
    """Tables with `choices` as `Choices`, others as `Range`, so that an error speaks of one of them."""
    if not isinstance(value, Mapping):
        return value
    return {key: _dimension(str(key), inner) for key, inner in value.items()}


def _dimension(key: str, value: Any) -> Any:
    if isinstance(value, (Range, Choices)):
        return value
    if not isinstance(value, Mapping) or (isinstance(value, dict) and any(isinstance(v, dict) for v in value.values())):
        raise ValueError(f'write it as `"model.dropout" = {{ low = 0.0, high = 0.5 }}`, got {key} = {value!r}')
    try:
        return (Choices if "choices" in value else Range).parse(value, f"`{key}`")
    except ConfigError as error:
        raise ValueError(str(error)) from None


Space = Annotated[dict[str, Range | Choices], BeforeValidator(_dimensions)]
"""Dotted key of a recipe -> where its values come from."""


def check_space(recipe: Recipe) -> None:
    """See that the recipe takes every value of its space, and that its own values lie within.

    Raises:
        ValueError: With the key, and for an unknown one the nearest.
    """
    for key, dimension in (recipe.search or {}).items():
        _check_key(recipe, key)
        ends = dimension.choices if isinstance(dimension, Choices) else _ends(recipe, key, dimension)
        taken = [encoded(_with(recipe, key, value), key) for value in ends]
        if isinstance(dimension, Choices) and len(set(taken)) < len(taken):
            raise ValueError(f"search: `{key}`: the choices name a value twice")
        if not _within(recipe, key, dimension, taken):
            raise ValueError(
                f"search: `{key}`: it begins at the recipe's own value, {encoded(recipe, key)}, which is not within; "
                "widen it, or change the recipe"
            )


def _check_key(recipe: Recipe, key: str) -> None:
    known = [f"{table}.{name}" for table in TABLES for name in type(getattr(recipe, table)).model_fields]
    if key in FIXED:
        raise ValueError(f"search: `{key}` is the same in all trials, or they could not be compared")
    if key not in known:
        raise ValueError(f"search: unknown key `{key}`: {nearest(key, [name for name in known if name not in FIXED])}")


def _ends(recipe: Recipe, key: str, dimension: Range) -> tuple[float, float]:
    """Low and high, as the recipe's key takes them."""
    kinds = _kinds(recipe, key)
    if not kinds & {int, float}:
        raise ValueError(f"search: `{key}` takes no range, for it holds no number; give it `choices`")
    if whole(recipe, key):
        if not (dimension.low.is_integer() and dimension.high.is_integer()):
            raise ValueError(f"search: `{key}` takes whole numbers, got {dimension.low:g} and {dimension.high:g}")
        return int(dimension.low), int(dimension.high)
    return dimension.low, dimension.high


def _within(recipe: Recipe, key: str, dimension: Range | Choices, taken: list[str]) -> bool:
    own = _value(recipe, key)
    if isinstance(dimension, Choices):
        return encoded(recipe, key) in taken
    return own is not None and dimension.low <= own <= dimension.high


def whole(recipe: Recipe, key: str) -> bool:
    """Whether a key of the recipe takes whole numbers only."""
    return float not in _kinds(recipe, key)


def _kinds(recipe: Recipe, key: str) -> set[Any]:
    table, _, name = key.partition(".")
    annotation = type(getattr(recipe, table)).model_fields[name].annotation
    return {annotation, *get_args(annotation)} if type(None) in get_args(annotation) else {annotation}


def encoded(recipe: Recipe, key: str) -> str:
    """A value of the recipe as JSON: what stands for a choice, for a list is none to Optuna."""
    return json.dumps(_value(recipe, key))


def _value(recipe: Recipe, key: str) -> Any:
    table, _, name = key.partition(".")
    return getattr(recipe, table).model_dump(mode="json")[name]


def _with(recipe: Recipe, key: str, value: Any) -> Recipe:
    try:
        changed: Recipe = override(recipe.model_copy(update={"search": None}), {key: value}, "search")
    except ConfigError as error:
        raise ValueError(str(error)) from None
    return changed


def search_space(recipe: Recipe) -> dict[str, Range | Choices]:
    """What is searched, every choice as the recipe holds it: 1.0 for 1 where a key takes numbers with a point."""
    if not recipe.search:
        return default_space(recipe)
    return {
        key: Choices(choices=tuple(json.loads(encoded(_with(recipe, key, value), key)) for value in part.choices))
        if isinstance(part, Choices)
        else part
        for key, part in recipe.search.items()
    }


def default_space(recipe: Recipe) -> dict[str, Range | Choices]:
    """What is searched where the recipe does not say: rates and regularisation, widened to hold the recipe's own."""
    training, model = recipe.training, recipe.model
    space: dict[str, Range | Choices] = {
        "training.learning_rate": _around(training.learning_rate, 1e-4, 1e-2, log=True),
        "training.table_l2": _among(training.table_l2, 0.0, 0.001, 0.01, 0.1),
        "training.weight_decay": _among(training.weight_decay, 0.0, 0.01, 0.1, 1.0),
    }
    if getattr(model, "hidden", ()):  # dropout drops hidden units; without any it changes nothing
        space["model.dropout"] = _around(model.dropout, 0.0, 0.5)
    return space


def _around(own: float, low: float, high: float, log: bool = False) -> Range:
    return Range(low=min(own, low), high=max(own, high), log=log)


def _among(own: float, *choices: float) -> Choices:
    return Choices(choices=tuple(sorted({own, *choices})))
