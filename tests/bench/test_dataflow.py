"""What `recsys bench dataflow` makes of its measurements."""

from __future__ import annotations

import pytest

from recsys.bench.dataflow import _errors, _pieces
from recsys.bench.report import errors_line
from recsys.dataflow.plan import Piece, Schedule


def test_pieces_count_as_much_less_as_all_take_less_in_one_go() -> None:
    pieces = tuple(Piece(lookup=name, core=core, predicted_us=1.0) for name, core in (("a", 0), ("b", 1), ("c", 1)))
    schedule = Schedule(batch=4, pieces=pieces, predicted_us=3, bound_us=1)
    times = [[9_000, 1_000, 1_000], *[[2_000, 3_000, 1_000]] * 3]  # ns
    assert [one["us"] for one in _pieces(schedule, times, us=1.5)] == [1.0, 1.5, 0.5]


def test_errors_are_of_what_was_measured_and_none_where_nothing_was() -> None:
    found = [{"predicted_us": p, "us": us} for p, us in ((1.0, 2.0), (3.0, 2.0), (2.0, 2.0))]
    assert _errors("", found) == {"median_error": 0.5, "worst_error": 0.5}
    assert _errors("_plan", []) == {"median_plan_error": None, "worst_plan_error": None}
    assert _errors("", [{"predicted_us": 5.0, "us": 0.0}])["worst_error"] == pytest.approx(4999)


def test_the_line_says_how_many_pieces_count() -> None:
    whole = {"median_plan_error": 0.1, "worst_plan_error": 0.3, "pieces": 10, "pieces_counted": 4}
    line = errors_line({**whole, "median_error": 0.05, "worst_error": 0.2})
    assert line.startswith("plans: predicted within 10% (median), at worst 30%; 4 of 10 pieces")
    assert "all pieces are shorter" in errors_line({**whole, "median_error": None, "worst_error": None})
