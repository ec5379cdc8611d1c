"""Text formats that are known by name: the columns of files that name none, and columns that are made of others."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from recsys.data.schema import Format
from recsys.errors import DataError

__all__ = ["DERIVED", "FORMATS", "Named"]

DERIVED = pa.int8()
"""Type of the columns that are made of others."""

Derive = Callable[[pa.Array], pa.Array]


@dataclass(frozen=True)
class Named:
    """What a name says of a text file.

    Attributes:
        about: In one line.
        label: The label's column.
        delimiter: Between values.
        columns: Names of the columns, in order; empty: the first line names them.
        derived: Column made of another: its name, the other's name, and how.
    """

    about: str
    label: str
    delimiter: str
    columns: tuple[str, ...] = ()
    derived: Mapping[str, tuple[str, Derive]] = field(default_factory=dict)


def _hour_of_day(hours: pa.Array) -> pa.Array:
    """``14102100`` (year, month, day, hour) to the hour."""
    return pc.cast(pc.utf8_slice_codeunits(_avazu_hours(hours), 6, 8), DERIVED)


def _weekday(hours: pa.Array) -> pa.Array:
    """``14102100`` to the day of the week, Monday 0."""
    days = pc.strptime(pc.utf8_slice_codeunits(_avazu_hours(hours), 0, 6), "%y%m%d", "s")
    return pc.cast(pc.day_of_week(days), DERIVED)


def _avazu_hours(hours: pa.Array) -> pa.Array:
    text = pc.cast(hours, pa.string())
    text = pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)
    fits = pc.match_substring_regex(text, r"^\d{6}([01]\d|2[0-3])$")
    if not pc.all(pc.fill_null(fits, True)).as_py():
        wrong = text.filter(pc.invert(pc.fill_null(fits, True)))[0].as_py()
        raise DataError(f"column `hour`: expected a time as Avazu writes it, such as 14102100, got `{wrong}`")
    return text


def _by_distinct(derive: Derive) -> Derive:
    """Derive from the distinct values, which are few."""

    def derived(array: pa.Array) -> pa.Array:
        coded = array if pa.types.is_dictionary(array.type) else array.dictionary_encode()
        return derive(coded.dictionary).take(coded.indices)

    return derived


FORMATS: Mapping[Format, Named] = {
    "criteo": Named(
        "Criteo's display advertising challenge: tab-separated, no header; label, I1 … I13, C1 … C26",
        label="label",
        delimiter="\t",
        columns=("label", *(f"I{i}" for i in range(1, 14)), *(f"C{i}" for i in range(1, 27))),
    ),
    "avazu": Named(
        "Avazu's click-through contest: CSV with a header; hour_of_day and weekday are made of `hour`",
        label="click",
        delimiter=",",
        derived={
            "hour_of_day": ("hour", _by_distinct(_hour_of_day)),
            "weekday": ("hour", _by_distinct(_weekday)),
        },
    ),
}
