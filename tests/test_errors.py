"""The tree in the docstring is the tree in the code."""

from __future__ import annotations

import inspect
import re

from recsys import errors

LINES = [re.match(r"    ([├└─│ ]*)(\w+Error) {2,}(\S.*)", line) for line in (errors.__doc__ or "").splitlines()]
DRAWN = {line.group(2): line.group(1) for line in LINES if line}
CLASSES = {name: value for name, value in vars(errors).items() if inspect.isclass(value)}


def test_every_error_is_drawn_and_public() -> None:
    assert set(DRAWN) == set(CLASSES) == set(errors.__all__)
    assert errors.__all__ == sorted(errors.__all__)


def test_the_branches_are_the_bases() -> None:
    above = {-1: "Exception"}  # depth -> the last name drawn there
    for name, branch in DRAWN.items():
        depth = len(branch) // 4
        above[depth] = name
        assert [base.__name__ for base in CLASSES[name].__bases__] == [above[depth - 1]]


def test_each_says_what_it_is_for() -> None:
    assert all(value.__doc__ and value.__doc__.endswith(".") for value in CLASSES.values())
