"""What a client may send for each column of a model's features; checked a whole column at a time.

A column goes by the name that it has in the data (`Feature.source`), whichever and however many features read it.

    feature                 a value in JSON
    numeric, bucketed       a number, a boolean, null
    categorical             text, a number, a boolean, null
    multi-valued, sequence  a list of such values; null; with a separator in the schema, also text such as "a|b"

Null, like a column that is left out, is missing. Integers have up to 64 bits, signed or unsigned; longer ids are text.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import NoneType
from typing import Any

from recsys.data.schema import Bucketed, Feature, MultiValued, Numeric, Schema, Side
from recsys.data.schema import Sequence as History
from recsys.serving.refusals import Refused, closest, shown

__all__ = ["Column", "check", "check_names", "columns_of"]

Kinds = frozenset[type]
_NUMBERS: Kinds = frozenset({int, float, bool, NoneType})
_SCALARS: Kinds = _NUMBERS | {str}
_LISTS: Kinds = frozenset({list, NoneType})
_NAMES = {int: "integers", float: "numbers", bool: "booleans", NoneType: "null", str: "text", list: "lists"}
_LOW, _HIGH = -(2**63), 2**64


@dataclass(frozen=True)
class Column:
    """A column of features.

    Attributes:
        name: As the data has it.
        kinds: Types of Python that its values may have.
        sides: Whose the features are that read it.
    """

    name: str
    kinds: Kinds
    sides: frozenset[Side]

    @property
    def listed(self) -> bool:
        """Whether a row has a list of values."""
        return list in self.kinds

    @property
    def numeric(self) -> bool:
        """Whether it takes numbers only."""
        return str not in self.kinds and not self.listed


def columns_of(schema: Schema) -> dict[str, Column]:
    """The columns of a schema's features by name; of several features that read one, all must be able to."""
    kinds: dict[str, Kinds] = {}
    for feature in schema.features:
        kinds[feature.source] = kinds.get(feature.source, _kinds(feature)) & _kinds(feature)
    return {
        name: Column(name, found, frozenset(feature.side for feature in schema.features if feature.source == name))
        for name, found in kinds.items()
    }


def _kinds(feature: Feature) -> Kinds:
    if isinstance(feature, (Numeric, Bucketed)):
        return _NUMBERS
    if isinstance(feature, (MultiValued, History)):
        return _LISTS if feature.separator is None else _LISTS | {str}
    return _SCALARS


def check_names(names: Iterable[str], known: Mapping[str, Column]) -> None:
    """All of them name columns.

    Raises:
        Refused: 422 with the first that does not, and the nearest that would.
    """
    for name in names:
        if name not in known:
            raise Refused(422, f"`{shown(name)}` is no feature of this model: {closest(name, known)}")


def check(column: Column, values: Sequence[Any]) -> None:
    """The values of one column, a row each, are such as the model can encode.

    Raises:
        Refused: 422 that names the feature.
    """
    kinds = set(map(type, values))
    if not kinds <= column.kinds:
        raise _wrong(column, f"expected {_told(column.kinds)}, got {_told(kinds - column.kinds)}")
    if list in kinds:
        items = [item for value in values if type(value) is list for item in value]
        inner = set(map(type, items))
        if not inner <= _SCALARS:
            raise _wrong(column, f"expected lists of text or numbers, got {_told(inner - _SCALARS)} in one")
        _sound(column, items, inner)
    _sound(column, values, kinds)


def _wrong(column: Column, what: str) -> Refused:
    return Refused(422, f"feature `{column.name}`: {what}")


def _told(kinds: Iterable[type]) -> str:
    return ", ".join(sorted(_NAMES.get(kind, "an object") for kind in kinds))


def _sound(column: Column, values: Sequence[Any], kinds: set[type]) -> None:
    """Numbers are finite and integers of 64 bits; text can be written as UTF-8."""
    if float in kinds and not all(math.isfinite(value) for value in values if type(value) is float):
        raise _wrong(column, "a number is infinite: leave out what is missing, or send null")
    if int in kinds:
        whole = [value for value in values if type(value) is int]
        if min(whole) < _LOW or max(whole) >= _HIGH:
            raise _wrong(column, "an integer has more than 64 bits: send a long id as text")
    if str in kinds:
        try:
            "".join(value for value in values if type(value) is str).encode()
        except UnicodeEncodeError:
            raise _wrong(column, "half of a surrogate pair, \\ud800 to \\udfff, is no text") from None
