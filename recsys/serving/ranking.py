"""POST /rank: the best of many candidates for one user.

    {"user": {"age": 31, "history": ["i7", "i2"]}, "candidates": [{"item": "i3"}, {"item": "i9"}], "k": 1}
    {"positions": [1], "scores": [0.73]}

Both are objects of columns, as `recsys.serving.columns` says. The schema's `side` says where one belongs: `user` to the
user, `item` to the candidates, `context` to either; what a candidate says of the context holds for it alone. `k` is 10
where it is left out, and as many as there are candidates where it is more. A model of several tasks needs `task`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from recsys.serving.body import check_keys
from recsys.serving.columns import Column, check, check_names
from recsys.serving.limits import Limits
from recsys.serving.refusals import Refused, closest, shown

__all__ = ["Asked", "ask"]

Row = dict[str, Any]
_K = 10


@dataclass(frozen=True)
class Asked:
    """A ranking that can be computed; `task` is None where there is but one."""

    user: Row
    candidates: list[Row]
    k: int
    task: str | None


def ask(found: Row, columns: Mapping[str, Column], tasks: Sequence[str], limits: Limits) -> Asked:
    """What a request asks for.

    Raises:
        Refused: 422 or 413; see `recsys.serving.refusals`.
    """
    check_keys(found, ("user", "candidates"), ("k", "task"), "the request")
    user, candidates, k = found["user"], found["candidates"], found.get("k", _K)
    if not isinstance(user, dict):
        raise Refused(422, f"`user`: expected an object of features, got {shown(user)}")
    if not isinstance(candidates, list) or not set(map(type, candidates)) <= {dict}:
        raise Refused(422, "`candidates`: expected a list of objects of features")
    if type(k) is not int or k < 1:
        raise Refused(422, f"`k`: expected an integer of 1 or more, got {shown(str(k) if type(k) is int else k)}")
    if len(candidates) > limits.max_rows:
        raise Refused(413, f"{len(candidates):,} candidates are more than {limits.max_rows:,}: send fewer at a time")
    _check_rows(user, candidates, columns, limits)
    return Asked(user, candidates, min(k, len(candidates)), _task(found.get("task"), tasks))


def _check_rows(user: Row, candidates: list[Row], columns: Mapping[str, Column], limits: Limits) -> None:
    names: set[str] = set().union(*candidates)
    check_names((*user, *sorted(names)), columns)
    _check_sides(user, names, columns)
    values = 0
    for name, value in user.items():
        check(columns[name], [value])
        size = _size([value]) if columns[name].listed else 1
        values += size * (1 if columns[name].sides == {"user"} else len(candidates))
    for name in names:
        of_all = [row[name] for row in candidates if name in row]
        check(columns[name], of_all)
        values += _size(of_all) if columns[name].listed else len(of_all)
    if values > limits.max_values:
        raise Refused(413, f"{values:,} values of user and candidates are more than {limits.max_values:,}: send fewer")


def _check_sides(user: Iterable[str], candidates: Iterable[str], columns: Mapping[str, Column]) -> None:
    for name in user:
        if columns[name].sides == {"item"}:
            raise Refused(422, f"feature `{name}` is the item's: send it with each candidate")
    for name in candidates:
        if columns[name].sides == {"user"}:
            raise Refused(422, f"feature `{name}` is the user's: send it in `user`, once")


def _size(values: Any) -> int:
    return sum(len(value) if type(value) in (list, str) else 1 for value in values)


def _task(task: Any, tasks: Sequence[str]) -> str | None:
    if task is None and len(tasks) == 1:
        return None
    if task is None:
        raise Refused(422, f"missing key `task`: this model has {', '.join(tasks)}")
    if not isinstance(task, str) or task not in tasks:
        hint = closest(task, tasks) if isinstance(task, str) else f"known: {', '.join(tasks)}"
        raise Refused(422, f"`{shown(task)}` is no task of this model: {hint}")
    return None if len(tasks) == 1 else task
