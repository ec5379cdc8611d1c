"""Configuration: frozen pydantic models, TOML files and dotted overrides.

A subclass of `Config` is the only place of a default; the docstring under a field is its help on the command line.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self, get_args

import tomli_w
from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from recsys.errors import ConfigError

__all__ = ["Config", "Files", "compact_toml", "nearest", "override", "read_toml", "write_toml"]


def _several(value: Any) -> Any:
    return (value,) if isinstance(value, (str, Path)) else value


Files = Annotated[tuple[Path, ...], BeforeValidator(_several)]
"""One path or several."""


class Config(BaseModel):
    """Base of all configuration: immutable, typed, and with no room for a misspelt key."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True, allow_inf_nan=False)

    @classmethod
    def parse(cls, values: Mapping[str, Any], where: str) -> Self:
        """Check `values` and build the configuration.

        Args:
            values: Keys and values, as a TOML file gives them.
            where: What they come from; error messages begin with it.

        Raises:
            ConfigError: With every problem on one line; an unknown key names the nearest valid one.
        """
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            raise ConfigError(f"{where}: {explain(cls, error)}") from None

    def toml(self) -> str:
        """The configuration as TOML; what is None is left out."""
        return tomli_w.dumps(self.model_dump(mode="json", exclude_none=True))


def nearest(name: str, known: list[str]) -> str:
    """A hint such as ``did you mean `rows`?``, or the list of what there is."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean `{close[0]}`?" if close else f"known: {', '.join(sorted(known)) or 'none'}"


def explain(cls: type[BaseModel], error: ValidationError) -> str:
    """All problems of a failed validation in one line."""
    return "; ".join(_problem(cls, dict(item)) for item in error.errors())


def _problem(cls: type[BaseModel], item: dict[str, Any]) -> str:
    path, fields = _walk(cls, item["loc"])
    dotted = ".".join(path)
    if item["type"] == "extra_forbidden":
        return f"unknown key `{dotted}`: {nearest(path[-1], fields)}"
    if item["type"] == "missing":
        return f"missing key `{dotted}`"
    if item["type"] == "union_tag_not_found":
        return f"missing key `{'.'.join([*path, _discriminator(item)])}`"
    if item["type"] == "union_tag_invalid":
        known = re.findall(r"'([^']*)'", item["ctx"]["expected_tags"])
        tag, key = item["ctx"]["tag"], ".".join([*path, _discriminator(item)])
        return f"unknown value `{tag}` of `{key}`: {nearest(tag, known)}"
    if item["type"] == "value_error":
        message = item["msg"].removeprefix("Value error, ")
        return f"{dotted}: {message}" if dotted else message
    return f"{dotted}: {item['msg'][0].lower()}{item['msg'][1:]}, got {item['input']!r}"


def _discriminator(item: Mapping[str, Any]) -> str:
    """The key that chooses a class of a union; pydantic quotes it."""
    return str(item["ctx"]["discriminator"]).strip("'")


def _walk(cls: type[BaseModel], location: tuple[str | int, ...]) -> tuple[list[str], list[str]]:
    """The keys that a user wrote on the way to a problem, and the fields that stand where the last one does.

    pydantic's location also holds the tags of unions (`model`, `dcn2`, `hidden`); these choose a class and are no keys.
    """
    path: list[str] = []
    models = [cls]
    for at, part in enumerate(location):
        inner = [
            m for model in models if part in model.model_fields for m in _models_in(model.model_fields[part].annotation)
        ]
        tagged = [model for model in models if part in _tags(model)]
        if inner or isinstance(part, int) or at == len(location) - 1 or not tagged:
            path.append(str(part))
            models = inner if inner and at < len(location) - 1 else models
        else:
            models = tagged
    return path, sorted({name for model in models for name in model.model_fields})


def _tags(model: type[BaseModel]) -> set[Any]:
    return {value for field in model.model_fields.values() for value in get_args(field.annotation)}


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in get_args(annotation) for model in _models_in(inner)]


def override(config: Config, changes: Mapping[str, Any], where: str = "override") -> Any:
    """A copy of `config` with dotted keys changed, as in ``override(recipe, {"training.epochs": 3})``.

    Raises:
        ConfigError: For an unknown key or a value that does not fit.
    """
    values = config.model_dump()
    for dotted, value in changes.items():
        *parents, last = dotted.split(".")
        node = values
        for parent in parents:
            if node.get(parent) is None:  # absent, or an optional table that is not there yet
                node[parent] = {}
            node = node[parent]
            if not isinstance(node, dict):
                raise ConfigError(f"{where}: `{dotted}`: `{parent}` holds a value, not a table")
        node[last] = value
    return type(config).parse(values, where)


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        ConfigError: When it is absent, not UTF-8 or not TOML; the message has the line.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{path}: not a readable TOML file: {error}") from None


def compact_toml(values: Mapping[str, Any], lists: Sequence[str]) -> str:
    """Values as TOML with a line for each, and one for each item of `lists`, which come last.

    A generic writer spends a line on every number.
    """
    lines = [f"{key} = {_inline(value)}\n" for key, value in values.items() if key not in lists]
    for key in lists:
        lines += ["\n", f"{key} = [\n", *(f"  {_inline(item)},\n" for item in values[key]), "]\n"]
    return "".join(lines)


def _inline(value: Any) -> str:
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{key} = {_inline(inner)}' for key, inner in value.items())} }}"
    if isinstance(value, list):
        return f"[{', '.join(map(_inline, value))}]"
    return tomli_w.dumps({"_": value}).removeprefix("_ = ").rstrip("\n")


def write_toml(path: Path, config: Config) -> None:
    """Write a configuration as TOML."""
    path.write_text(config.toml(), encoding="utf-8")
