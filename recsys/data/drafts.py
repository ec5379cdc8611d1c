"""From what a column holds to the feature it is taken for; and a description as commented TOML."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import tomli_w

from recsys.data import column_names as names
from recsys.data.observe import Column
from recsys.data.schema import Categorical, Feature, Hashing, MultiValued, Numeric, Sequence, Side, Vocabulary

if TYPE_CHECKING:
    from recsys.data.describe import Description, Finding

__all__ = ["feature", "fractions", "plain", "sharing", "toml"]

_MANY_CODES = 500
_FEW = 20
"""Whole numbers of at most this many values are taken for categories, if their name does not say otherwise."""
_RARE, _MANY = 1000, 100_000
_HEAVY = 2.0
"""Skewness from which a number is taken by its logarithm."""


def feature(column: Column, group: str | None, taken: set[str]) -> Feature:
    """The feature that a column is taken for.

    Args:
        column: Readable and with a name.
        group: The column of users, if there is one.
        taken: Names of other features.
    """
    name = _name(column.name, taken)
    whose = _side(column.name, group)
    about: dict[str, Any] = {"name": name, "side": whose} | ({"column": column.name} if name != column.name else {})
    if column.lists:
        in_order = names.ordered(column.name) or _repeats(column)
        about |= {"separator": column.separator, "side": "user" if in_order and whose == "context" else whose}
        kind = Sequence if in_order else MultiValued
        return kind(**about, **_encoding(column))
    if _is_category(column):
        return Categorical(**about, **_encoding(column))
    numbers = column.numbers
    # A few negative numbers, as -1 for "unknown", do the logarithm no harm: it keeps signs.
    heavy = numbers is not None and numbers.skew > _HEAVY and numbers.low >= -0.01 * abs(numbers.high)
    return Numeric(**about, transform="log" if heavy else "standard")


def _name(column: str, taken: set[str]) -> str:
    """The column's name, without the colon that a feature's may not have."""
    base = column.replace(":", "_")
    name, n = base, 2
    while name in taken:
        name, n = f"{base}_{n}", n + 1
    return name


def _side(column: str, group: str | None) -> Side:
    """A customer beside another user is a client of the shop's, such as an advertiser."""
    people = set(names.words(column))
    if (
        group is not None
        and column != group
        and "customer" in people
        and not names.is_user(column.replace("customer", ""))
    ):
        return "context"
    return names.side(column)


def _is_category(column: Column) -> bool:
    numbers = column.numbers
    if numbers is None or pa.types.is_boolean(column.type):
        return True
    if not numbers.whole or not numbers.finite:
        return False
    if column.text and any(re.match(r"-?0\d", text) for text, _ in column.counted):
        return True  # leading zeros: digits that are no number
    said = names.meaning(column.name)
    if said is not None:
        return said == "code" or column.distinct <= 2
    # Integers with missing values are floats in pandas; whole floats without any were floats before.
    counted = not pa.types.is_floating(column.type) or column.missing > 0
    return counted and (column.distinct <= _FEW or _counts_up(column))


def _counts_up(column: Column) -> bool:
    """Whether numbers are like ids that count from 0 or 1: many, with hardly a gap. Amounts thin out at the top."""
    assert column.numbers is not None
    low, high = column.numbers.low, column.numbers.high
    return low in (0, 1) and column.distinct > _MANY_CODES and column.distinct >= 0.95 * (high - low + 1)


def _repeats(column: Column) -> bool:
    """Whether one list in ten holds a value twice."""
    lists = [
        [value for value in found if value is not None] for found in column.sample.slice(0, 2000).to_pylist() if found
    ]
    return bool(lists) and sum(len(set(found)) < len(found) for found in lists) * 10 > len(lists)


def fractions(column: Column) -> bool:
    """Whether most values in a list column are numbers with a fraction."""
    texts = column.counted[:1000]
    return sum(bool(re.fullmatch(r"-?\d*\.\d+(e[+-]?\d+)?", text)) for text, _ in texts) * 2 > len(texts)


def _encoding(column: Column) -> dict[str, Any]:
    if column.distinct > _MANY:
        bits = math.ceil(math.log2(2 * column.distinct))
        return {"encoding": Hashing(bits=min(max(bits, 16), 22))}
    return {"encoding": Vocabulary(min_count=2)} if column.distinct > _RARE else {}


def sharing(column: Column, lists: Feature, others: Mapping[str, Column]) -> Feature:
    """The feature with the table of the one whose values it holds most clearly, or as it is.

    At least half of its values must be of that feature. Small whole numbers are so by chance, and genres are numbers
    of users; so the two must have a good part in common, unless the lists are in order and the other is an item.

    Args:
        column: Of lists.
        lists: The feature it is taken for.
        others: Columns of plain categorical features, by the feature's name.
    """
    mine = {text for text, _ in column.counted}
    best, most = None, 0.0
    for name, other in others.items():
        theirs = {text for text, _ in other.counted}
        common = len(mine & theirs)
        alike = common / len(mine | theirs) if mine else 0.0
        least = 0.02 if isinstance(lists, Sequence) and names.side(other.name) == "item" else 0.3
        if common >= 0.5 * len(mine) and alike >= least and alike > most:
            best, most = name, alike
    if best is None:
        return lists
    assert isinstance(lists, (MultiValued, Sequence))
    kept = lists.model_dump(exclude_unset=True, exclude={"encoding"})
    return type(lists)(**kept, shares=best)


def plain(finding: Finding) -> dict[str, Any]:
    """What became of a column, as plain JSON values."""
    column, found = finding.column, finding.feature
    return {
        "column": column.name,
        "type": str(column.type),
        "role": finding.role,
        "kind": None if found is None else found.kind,
        "side": None if found is None else found.side,
        "distinct": column.distinct,
        "exact": column.exact,
        "missing": round(column.missing_share, 6),
        "top": round(column.top, 6),
        "examples": column.examples,
        "note": finding.note,
    }


def toml(found: Description, of: str) -> str:
    """A description as commented TOML."""
    schema = found.schema
    rows = f"the first {found.rows:,} rows" if found.cut else f"{found.rows:,} rows"
    lines = [
        f"# What the columns of {_tidy(of)} mean, guessed from {rows}. Check it: names and values do not tell all.",
        "# A block that is commented out was left out, for the reason above it; take away the # to take it in.",
        "",
        *(f"{key} = {_value(value)}" for key in ("format", "group", "time") if (value := getattr(schema, key))),
        "",
    ]
    for finding in found.findings:
        if finding.role == "label":
            label = schema.labels[0].model_dump(mode="json", exclude_none=True, exclude_defaults=True)
            lines += [*_block("labels", {"name": schema.labels[0].name, **label}), f"# {_tidy(finding.note)}", ""]
    for finding in found.findings:
        if finding.role in ("feature", "left out"):
            lines += [*_lines(finding), ""]
    return "\n".join(lines)


def _lines(finding: Finding) -> list[str]:
    told = _tidy(finding.note)
    if finding.role == "left out":
        head = [f"# `{_tidy(finding.column.name)}` is left out: {told}"]
        return head + [f"#{line}" for line in _about(finding)]
    return _about(finding) + ([f"# {told}"] if told else [])


def _about(finding: Finding) -> list[str]:
    found, column = finding.feature, finding.column
    if found is None:
        return []
    rest = found.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
    if isinstance(found, (Categorical, MultiValued, Sequence)) and "encoding" in rest:
        rest["encoding"] = {"kind": found.encoding.kind, **rest["encoding"]}
    first = {"name": found.name} | ({"column": found.column} if found.column else {})
    span = column.numbers if isinstance(found, Numeric) else None
    told = f"# from {span.low:g} to {span.high:g}; {_counts(column)}" if span else f"# {_counts(column)}"
    return [*_block("features", {**first, "kind": found.kind, "side": found.side, **rest}), told]


def _counts(column: Column) -> str:
    about = "" if column.exact else "about "
    told = [f"{about}{column.distinct:,} value{'s' * (column.distinct != 1)}"]
    told += [f"{column.missing_share:.1%} missing"] if column.missing else []
    told += ["such as " + ", ".join(_tidy(text)[:40] for text in column.examples)] if column.examples else []
    return "; ".join(told)


def _block(name: str, values: Mapping[str, Any]) -> list[str]:
    return [f"[[{name}]]", *(f"{key} = {_value(value)}" for key, value in values.items())]


def _value(value: Any) -> str:
    """A value on one line; a dict as an inline table."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_value(inner)}" for key, inner in value.items()) + " }"
    return tomli_w.dumps({"v": value}).removeprefix("v = ").removesuffix("\n")


def _tidy(text: str) -> str:
    """Fit for a comment, which ends with its line and has no control characters."""
    return "".join(letter if letter.isprintable() else " " for letter in text)
