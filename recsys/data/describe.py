"""Infer a schema from rows: which column is the label, what each other one holds, and what had better be left out.

It is a first draft to be edited: names and values tell much of what columns mean, and not all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from recsys.config import nearest
from recsys.data import column_names as names
from recsys.data import drafts, leaks
from recsys.data.formats import FORMATS
from recsys.data.observe import Column
from recsys.data.profile import BRACKETS, Profile, profile
from recsys.data.readers import Dataset, Rows
from recsys.data.schema import Categorical, Feature, Format, Label, Schema
from recsys.errors import DataError

__all__ = ["Description", "Finding", "describe"]

Role = Literal["feature", "label", "time", "left out"]
Bools = npt.NDArray[np.bool_]

_LEAKS, _STRONG = 0.995, 0.95
_UNIQUE = 0.95
_YES = ("true", "yes", "y", "t", "positive", "click", "clicked")
_DAYS = r"^(19|20)\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])([01]\d|2[0-3])?([0-5]\d){0,2}$"
_SHORT_DAYS = r"^\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])([01]\d|2[0-3])$"


@dataclass(frozen=True)
class Finding:
    """What became of a column.

    Attributes:
        column: What it holds.
        role: What it is used for.
        feature: The feature it is, or would be if it were not left out; None if it can be none.
        note: Why it was left out, or what to look at.
    """

    column: Column
    role: Role
    feature: Feature | None = None
    note: str = ""


@dataclass(frozen=True)
class Description:
    """A schema, and how it came about.

    Attributes:
        schema: Of the columns that were not left out.
        findings: Of every column, in the data's order.
        rows: How many were read.
        cut: Whether there are more.
    """

    schema: Schema
    findings: tuple[Finding, ...]
    rows: int
    cut: bool

    def toml(self, of: str = "the data") -> str:
        """The schema as commented TOML, for `Schema.load`; features that were left out stand in it as comments.

        Args:
            of: What was described, for the first line.
        """
        return drafts.toml(self, of)

    def to_json(self) -> dict[str, Any]:
        """Schema and findings as plain JSON values."""
        return {
            "rows": self.rows,
            "cut": self.cut,
            "schema": self.schema.model_dump(mode="json", exclude_none=True),
            "columns": [drafts.plain(finding) for finding in self.findings],
        }


def describe(
    rows: Rows, label: str | None = None, *, format: Format | None = None, limit: int = 1_000_000, show: bool = False
) -> Description:
    """Infer a schema from the first rows.

    Args:
        rows: See `recsys.data.readers.Rows`.
        label: The label's column; by default the format's, or the only one that is named like a label.
        format: Of text files, where they need one.
        limit: Most rows to read.
        show: A progress bar on standard error.

    Raises:
        DataError: When the rows cannot be read, it is unclear which column is the label, or nothing is left to learn
            from.
    """
    found = profile(Dataset(rows, format), limit, show)
    target = _target(found, label, format)
    task, note = _task(target)
    time, group = _time(found, target), _group(found, target)
    unlabelled = f"; {target.missing:,} rows have none, and training refuses them" if target.missing else ""
    findings = {target.name: Finding(target, "label", None, note + unlabelled)}
    if time is not None:
        findings[time.name] = Finding(time, "time", None, "orders the rows; not a feature")
    taken: set[str] = set()
    for column in found.columns:
        if column.name not in findings:
            findings[column.name] = _finding(column, task, target, group, taken)
    together = _with_shares([findings[column.name] for column in found.columns])
    features = tuple(f.feature for f in together if f.role == "feature" and f.feature is not None)
    if not features:
        raise DataError(f"nothing is left to predict `{target.name}` from: {_why(together)}")
    used = group if group is not None and findings[group].role == "feature" else None
    schema = Schema(
        labels=(task,), features=features, group=used, time=None if time is None else time.name, format=format
    )
    return Description(schema, tuple(together), found.rows, found.cut)


def _why(findings: Sequence[Finding]) -> str:
    told = [f"`{f.column.name}`: {f.note}" for f in findings if f.role != "label"]
    return "; ".join(told[:5]) or "there is no other column"


def _target(found: Profile, label: str | None, format: Format | None) -> Column:
    """The label's column.

    Raises:
        DataError: When it is absent, or cannot be told.
    """
    columns = {column.name: column for column in found.columns}
    label = label if label is not None or format is None else FORMATS[format].label
    if label is not None:
        if label not in columns:
            raise DataError(f"the data has no label column `{label}`: {nearest(label, list(columns))}")
        return columns[label]
    alike = [column for column in found.columns if names.is_label(column.name)]
    if len(alike) == 1:
        return alike[0]
    if len(columns) == 1:
        only = next(iter(columns))[:80]
        raise DataError(f"the data has one column only, `{only}`: expected values between commas, tabs, ; or |")
    two = [name for name, column in columns.items() if column.distinct == 2 and not column.lists]
    choices = [column.name for column in alike] or two or list(columns)
    what = "named like labels" if alike else "of two values" if two else "in the data"
    raise DataError(
        f"cannot tell which column is the label, name it (--label COLUMN); columns {what}: {', '.join(choices[:30])}"
    )


def _task(target: Column) -> tuple[Label, str]:
    """What the label is, and how that was found.

    Raises:
        DataError: When nothing can be learnt from it.
    """
    name = target.name
    if not name:
        raise DataError("the label's column has no name; give it one")
    if target.unreadable or target.lists or target.dates:
        what = target.unreadable or ("lists" if target.lists else "dates")
        raise DataError(f"label `{name}`: expected numbers or two values, got {what}")
    if target.distinct < 2:
        only = f"the value `{target.examples[0]}`" if target.examples else "no value"
        raise DataError(f"label `{name}`: every row has {only}, and nothing can be learnt from that")
    if target.numbers is not None and target.numbers.finite:
        return _number_task(target)
    if target.distinct > 2 or target.few is None:
        told = ", ".join(f"`{text}`" for text in target.examples)
        raise DataError(
            f"label `{name}`: expected numbers or two values, got {target.distinct:,} texts such as {told}; make it 0/1"
        )
    positive = next((text for text in target.few if text.lower() in _YES), target.counted[-1][0])
    return _positive(target, positive)


def _number_task(target: Column) -> tuple[Label, str]:
    assert target.numbers is not None
    low, high, whole = target.numbers.low, target.numbers.high, target.numbers.whole
    if whole and low >= 0 and high <= 1:
        return Label(name=target.name), f"1 in {target.numbers.mean:.2%} of the rows"
    if target.distinct == 2 and target.few is not None:
        return _positive(target, max(target.few, key=_number))
    told = f"numbers from {low:g} to {high:g}"
    if whole and target.distinct <= 10:
        told += "; for a click-like task add a column that is 1 for the high ones and 0 for the rest"
    return Label(name=target.name, kind="regression"), told


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return -np.inf


def _positive(target: Column, positive: str) -> tuple[Label, str]:
    assert target.few is not None
    share = target.few[positive] / sum(target.few.values())
    other = next(text for text in target.few if text != positive)
    return Label(name=target.name, positive=positive), f"`{positive}` is 1 ({share:.2%} of the rows), `{other}` is 0"


def _time(found: Profile, target: Column) -> Column | None:
    """The column that orders the rows in time; one that is named so before another."""
    times = [column for column in found.columns if column is not target and column.name and _is_time(column)]
    return next((column for column in times if names.timely(column.name)), times[0] if times else None)


def _is_time(column: Column) -> bool:
    if column.unreadable or column.lists:
        return False
    if column.dates:
        return True
    if column.numbers is None or not column.numbers.finite or not names.timely(column.name):
        return False
    if {"timestamp", "ts", "stamp"} & set(names.words(column.name)):
        return True
    low, high = column.numbers.low, column.numbers.high
    epoch = any(3e8 * unit <= low <= high <= 5e9 * unit for unit in (1, 1e3, 1e6, 1e9))
    return epoch or (column.numbers.whole and (column.matches(_DAYS) or column.matches(_SHORT_DAYS)))


def _group(found: Profile, target: Column) -> str | None:
    """The user's column; a customer is taken for a person only where there is no other."""
    users = [column.name for column in found.columns if column is not target and _names_users(column)]
    return min(users, key=lambda name: "customer" in names.words(name), default=None)


def _names_users(column: Column) -> bool:
    whole = column.numbers is None or column.numbers.whole
    plain = not (column.unreadable or column.lists or column.dates)
    return names.is_user(column.name) and plain and whole and column.distinct > 1


def _finding(column: Column, task: Label, target: Column, group: str | None, taken: set[str]) -> Finding:
    why_not = _impossible(column)
    if why_not:
        return Finding(column, "left out", None, why_not)
    feature = drafts.feature(column, group, taken)
    taken.add(feature.name)
    why = _suspicious(column, feature, group)
    if why:
        return Finding(column, "left out", feature, why)
    told = _predicts(column, feature, task, target)
    if told is not None and told > _LEAKS:
        why = f"alone it predicts the label (AUC {told:.4f}): is it known before?"
        return Finding(column, "left out", feature, why)
    if told is not None and told > _STRONG:
        return Finding(column, "feature", feature, f"check it: alone it has AUC {told:.4f}; is it known before?")
    return Finding(column, "feature", feature, "names the user" if column.name == group else "")


def _impossible(column: Column) -> str:
    """Why a column can be no feature at all, or nothing."""
    if not column.name:
        return "it has no name"
    return column.unreadable or ""


def _suspicious(column: Column, feature: Feature, group: str | None) -> str:
    """Why a column that could be a feature had better be none, or nothing."""
    if not column.distinct or (column.numbers is not None and not column.numbers.finite):
        return "all values are missing"
    if column.distinct == 1 and not column.missing and not column.lists:
        return f"constant: always `{column.examples[0]}`"
    if column.dates:
        return "a date: no value of it comes again"
    if names.is_label(column.name) or "label" in names.words(column.name):
        return "named like a label: is it known before?"
    if column.lists and drafts.fractions(column):
        return "lists of numbers with fractions, such as an embedding: no kind of feature reads them"
    if column.matches(BRACKETS) and column.distinct > 1:
        return "lists as a program prints them: write `a|b`, or Parquet lists"
    present = column.rows - column.missing
    exempt = column.name == group or (group is not None and names.is_item(column.name))
    ids = column.numbers is None or (column.numbers.whole and names.meaning(column.name) != "amount")
    if column.rows > 100 and ids and not exempt and not column.lists and column.distinct > _UNIQUE * present:
        return f"like an id of the row: {column.distinct:,} values in {present:,} rows"
    return ""


def _predicts(column: Column, feature: Feature, task: Label, target: Column) -> float | None:
    """The AUC that the column has alone, on rows of the sample that have a label; of lists None."""
    if column.lists:
        return None
    best = None
    for known, positive in _classes(task, target):
        sample = column.sample.filter(pa.array(known))
        if isinstance(feature, Categorical):
            found = leaks.of_categories(sample, positive)
        else:
            found = leaks.of_numbers(column.floats()[known], positive)
        best = found if best is None or (found is not None and found > best) else best
    return best


def _classes(task: Label, target: Column) -> list[tuple[Bools, Bools]]:
    """Sampled rows that have a label, and which of them count as 1: of numbers, those above or not below the median."""
    if task.positive is not None:
        known = target.sample.is_valid().to_numpy(zero_copy_only=False)
        hits = pc.fill_null(pc.equal(target.sample, task.positive), False).to_numpy(zero_copy_only=False)
        return [(known, hits[known])]
    values = target.floats()
    known = np.isfinite(values)
    values = values[known]
    if task.kind == "binary" or not values.size:
        return [(known, values > 0.5)]
    middle = float(np.median(values))
    return [(known, values > middle), (known, values >= middle)]


def _with_shares(findings: list[Finding]) -> list[Finding]:
    """Lists of what another feature holds share its table, as a history of items does the item's."""
    plain = {f.feature.name: f.column for f in findings if f.role == "feature" and isinstance(f.feature, Categorical)}
    return [
        replace(f, feature=drafts.sharing(f.column, f.feature, plain))
        if f.column.lists and f.feature is not None
        else f
        for f in findings
    ]
