"""Requests that are wrong in every way that hypothesis comes upon."""

from __future__ import annotations

import copy
import json
from typing import Any

from hypothesis import strategies as st

VALID: dict[str, dict[str, Any]] = {
    "/rank": {
        "user": {"user": 3, "age": 23.5, "history": ["i1", "i2"]},
        "candidates": [{"item": "i1", "tags": ["t1"]}, {"item": "i2"}],
        "k": 2,
    },
    "/v2/models/toy/infer": {
        "id": "1",
        "inputs": [
            {"name": "item", "shape": [2], "datatype": "BYTES", "data": ["i1", None]},
            {"name": "age", "shape": [2, 1], "datatype": "FP32", "data": [1.5, 2]},
            {"name": "tags", "shape": [2, 2], "datatype": "BYTES", "data": [["t1", "t2"], ["t3", None]]},
        ],
        "outputs": [{"name": "label"}],
    },
}
WORDS = [
    "",
    "user",
    "item",
    "age",
    "history",
    "tags",
    "k",
    "task",
    "candidates",
    "id",
    "inputs",
    "outputs",
    "name",
    "label",
]
WORDS += ["shape", "datatype", "data"]
HUGE = [10**4299, 10**4300 - 1, -(10**4299)]
"""As many digits as Python reads; more come of any arithmetic."""
NUMBERS = st.one_of(
    st.integers(-3, 3), st.integers(), st.sampled_from([2**31, 2**53 + 1, 2**63, -(2**63), 10**30, *HUGE]), st.floats()
)
TEXT = st.one_of(st.sampled_from(WORDS), st.text(st.characters(exclude_categories=[]), max_size=20))
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, TEXT),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


def places(found: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The ways to all that stands in a value."""
    steps = list(found.items() if isinstance(found, dict) else enumerate(found) if isinstance(found, list) else [])
    return [here, *(place for step, inner in steps for place in places(inner, (*here, step)))]


def at(found: Any, place: tuple[Any, ...]) -> Any:
    """What stands at a place."""
    for step in place:
        found = found[step]
    return found


def changed(request: Any, place: tuple[Any, ...], how: str, value: Any) -> Any:
    """The request with something else at a place, without it, or with it twice."""
    if not place:
        return value
    found = copy.deepcopy(request)
    holder = at(found, place[:-1])
    if how == "drop":
        del holder[place[-1]]
    elif how == "twice" and isinstance(holder, list):
        holder.insert(place[-1], value)
    elif how == "rename" and isinstance(holder, dict):
        holder[value if isinstance(value, str) else "x"] = holder.pop(place[-1])
    else:
        holder[place[-1]] = value
    return found


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, bytes]:
    """A path, and a body that is valid but for one to three changes, any JSON, or any bytes."""
    path = draw(st.sampled_from(sorted(VALID)))
    kind = draw(st.sampled_from(["changed", "changed", "changed", "any", "bytes", "cut"]))
    if kind == "bytes":
        return path, draw(st.binary(max_size=200))
    found = draw(VALUES) if kind == "any" else VALID[path]
    for _ in range(draw(st.integers(1, 3)) if kind == "changed" else 0):
        place = draw(st.sampled_from(places(found)))
        how = draw(st.sampled_from(["drop", "twice", "rename", "put", "put", "put"]))
        number = isinstance(at(found, place), (int, float))
        found = changed(found, place, how, draw(NUMBERS if number else VALUES))
    body = json.dumps(found).encode()
    return path, body[: draw(st.integers(0, len(body)))] if kind == "cut" else body
