"""A plan is read whole or refused, and does every look-up exactly once."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.dataflow.plan import DataFlowPlan, Piece, PlannedLookup, PlannedTable, Schedule
from recsys.errors import ConfigError, DataError

ROWS = 12


def planned(*pieces: Piece, cores: int = 4, **changes: Any) -> DataFlowPlan:
    """A plan of one look-up, `a`, of a table of 12 rows."""
    values: dict[str, Any] = {
        "workload": "w",
        "platform": "p",
        "cores": cores,
        "tables": (PlannedTable(name="t", rows=ROWS, dim=8),),
        "lookups": (PlannedLookup(name="a", table="t"),),
        "schedules": (Schedule(batch=64, pieces=pieces, predicted_us=1.5, bound_us=1.25),),
    }
    return DataFlowPlan.parse(values | changes, "plan")


def counts(plan: DataFlowPlan, schedule: Schedule, batch: int) -> dict[str, npt.NDArray[np.int64]]:
    """Look-up -> [rows, batch]: by how many pieces each bag is looked up in each row.

    Of rows that are treated alike, because no piece begins or ends among them, only some are counted.
    """
    rows = {table.name: table.rows for table in plan.tables}
    found = {}
    for lookup in plan.lookups:
        size = rows[lookup.table]
        pieces = [(piece, piece.rows or (0, size)) for piece in schedule.pieces if piece.lookup == lookup.name]
        ends = np.unique([(end - 1, end) for _, bounds in pieces for end in bounds])
        at = ends[(ends >= 0) & (ends < size)]
        found[lookup.name] = np.zeros((len(at), batch), dtype=np.int64)
        for piece, (first, stop) in pieces:
            bags = piece.bags(batch)
            found[lookup.name][(at >= first) & (at < stop), bags.start : bags.stop] += 1
    return found


def cuts(size: int) -> st.SearchStrategy[list[int]]:
    """0, some numbers between, and `size`."""
    return st.sets(st.integers(1, size - 1), max_size=4).map(lambda inner: [0, *sorted(inner), size])


@st.composite
def tilings(draw: st.DrawFn) -> list[Piece]:
    """Shares of the batch, each with its rows cut in some way."""
    denominator = draw(st.integers(2, 97))
    marks = [n / denominator for n in draw(cuts(denominator))]
    return [
        Piece(lookup="a", core=draw(st.integers(0, 3)), rows=None if rows == (0, ROWS) else rows, share=(a, b))
        for a, b in pairwise(marks)
        for rows in list(pairwise(draw(cuts(ROWS))))
    ]


@given(tilings(), st.integers(0, 300), st.randoms(use_true_random=False))
def test_pieces_that_cover_a_look_up_do_each_row_and_bag_once(pieces: list[Piece], batch: int, order: Any) -> None:
    order.shuffle(pieces)
    plan = planned(*pieces)
    assert (counts(plan, plan.schedules[0], batch)["a"] == 1).all()


@given(tilings(), st.data())
def test_a_gap_or_an_overlap_is_refused(pieces: list[Piece], data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(pieces) - 1))
    one = pieces[at]
    low, high = one.share
    first, stop = one.rows or (0, ROWS)
    broken = {
        "left out": [],
        "doubled": [one, one],
        "fewer bags": [one.model_copy(update={"share": (low, (low + high) / 2)})],
        "fewer rows": [one.model_copy(update={"rows": (first, stop - 1)})] if stop - first > 1 else [],
        "more rows": [one.model_copy(update={"rows": (max(first - 1, 0), min(stop + 1, ROWS))})]
        if (first, stop) != (0, ROWS)
        else [],
    }
    how = data.draw(st.sampled_from(sorted(broken)))
    with pytest.raises(ConfigError, match=r"look-up `a`: its (rows|bags) from \S+ to \S+ are looked up (twice|by no)"):
        planned(*pieces[:at], *broken[how], *pieces[at + 1 :])


def test_pieces_of_the_same_bags_must_have_the_same_share() -> None:
    top, bottom = Piece(lookup="a", core=0, rows=(0, 6)), Piece(lookup="a", core=1, rows=(6, ROWS))
    halves = [bottom.model_copy(update={"share": share}) for share in ((0.0, 0.5), (0.5, 1.0))]
    with pytest.raises(ConfigError, match=r"pieces of the same bags must have the same `share`"):
        planned(top, *halves)
    planned(top, bottom)


class Wrong(NamedTuple):
    changes: dict[str, Any]
    message: str


WHOLE = {"lookup": "a", "core": 0}
WRONG = [
    Wrong({"pieces": [WHOLE | {"core": 4}]}, "a piece of `a` is on core 4 of 4"),
    Wrong({"pieces": [WHOLE | {"core": -1}]}, "schedules.0.pieces.0.core: input should be greater"),
    Wrong({"pieces": [WHOLE, WHOLE | {"lookup": "b"}]}, "a piece is of look-up `b`, which the plan does not have"),
    Wrong({"pieces": [WHOLE | {"core": 10**30}]}, "schedules.0.pieces.0.core: input should be less"),
    Wrong({"pieces": [WHOLE | {"rows": [0, 13]}]}, "a piece of `a` ends at row 13 of 12"),
    Wrong({"pieces": [WHOLE | {"rows": [3, 3]}]}, "`rows` must be"),
    Wrong({"pieces": [WHOLE | {"share": [0.5, 0.5]}]}, "`share` must be"),
    Wrong({"pieces": [WHOLE | {"share": [0, 1.5]}]}, "`share` must be"),
    Wrong({"pieces": [WHOLE | {"stratagy": "gather"}]}, "did you mean `strategy`"),
    Wrong({"pieces": []}, "its bags from 0 to 1 are looked up by no piece"),
    Wrong({"batches": [64, 64]}, "must ascend by batch"),
    Wrong({"batches": [64, 8]}, "must ascend by batch"),
    Wrong({"batches": []}, "schedules: "),
    Wrong({"tables": [{"name": "t", "rows": 12, "dim": 8}] * 2}, "two of kind table are named `t`"),
    Wrong({"lookups": [{"name": "a", "table": "t"}] * 2}, "two of kind look-up are named `a`"),
    Wrong({"lookups": [{"name": "a", "table": "u"}]}, "look-up `a` reads `u`, which is none of the plan's tables"),
    Wrong({"version": 2}, "version: input should be 1"),
]


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: str(wrong.changes)[:60])
def test_a_plan_that_cannot_be_is_refused_with_one_sentence(wrong: Wrong) -> None:
    changes = dict(wrong.changes)
    schedule = {"pieces": changes.pop("pieces", [WHOLE]), "predicted_us": 1, "bound_us": 1}
    batches = changes.pop("batches", [64])
    with pytest.raises(ConfigError, match=wrong.message) as error:
        planned(schedules=[{"batch": batch, **schedule} for batch in batches], **changes)
    assert "\n" not in str(error.value)


def test_the_largest_schedule_serves_larger_batches() -> None:
    piece = Piece(lookup="a", core=0)
    schedules = [Schedule(batch=b, pieces=(piece,), predicted_us=1, bound_us=1) for b in (1, 64, 512)]
    plan = planned(schedules=tuple(schedules))
    assert [plan.schedule(batch).batch for batch in (0, 1, 2, 64, 65, 512, 513, 10**6)] == [
        1, 1, 64, 64, 512, 512, 512, 512,
    ]  # fmt: skip


def test_loads_are_the_sums_of_each_core() -> None:
    shares = ((0.0, 0.25), (0.25, 0.5), (0.5, 0.75), (0.75, 1.0))
    cores = (2, 0, 2, 0)
    pieces = [Piece(lookup="a", core=c, share=s, predicted_us=1.5) for c, s in zip(cores, shares, strict=True)]
    assert planned(*pieces).schedules[0].loads() == {0: 3.0, 2: 3.0}


def table(name: str = "t", rows: int = ROWS, dim: int = 8) -> PlannedTable:
    return PlannedTable(name=name, rows=rows, dim=dim)


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ([table(rows=13)], "`rows` of table `t` is 12 in the plan and 13 here"),
        ([table(dim=4)], "`dim` of table `t` is 8 in the plan and 4 here"),
        ([table("u")], "it has no table `u`"),
        ([table(), table("u")], "it has no table `u`"),
        ([], "its table `t` is not here"),
    ],
)
def test_a_plan_for_other_tables_names_the_first_difference(tables: list[PlannedTable], message: str) -> None:
    with pytest.raises(ConfigError, match=f"the plan for `w` was made for other tables: {message}; make a new plan"):
        planned(Piece(lookup="a", core=0)).check(tables)


def test_a_plan_fits_its_tables_in_any_order() -> None:
    plan = planned(Piece(lookup="a", core=0), tables=(table(), table("u", 3, 2)))
    plan.check([table("u", 3, 2), table()])


def written(path: Path) -> DataFlowPlan:
    thirds = [k / 3 for k in range(3)] + [1.0]
    pieces = [
        Piece(lookup="a", core=k, rows=rows, share=(thirds[k], thirds[k + 1]), strategy="resident", predicted_us=0.1)
        for k in range(3)
        for rows in ((0, 5), (5, ROWS))
    ]
    plan = planned(*pieces, cores=64, latency_us=100.0)
    plan.write(path)
    return plan


def test_what_was_written_is_read(tmp_path: Path) -> None:
    assert written(tmp_path / "plan.json") == DataFlowPlan.read(tmp_path / "plan.json")


def test_a_folder_that_is_not_there_is_no_place_to_write(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be written"):
        written(tmp_path / "no" / "plan.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a readable JSON file"),
        (b"\xff\xfe", "not a readable JSON file"),
        (b"[" * 100_000, "not a readable JSON file"),
        (b'{"version": ' + b"9" * 5000 + b"}", "not a readable JSON file"),
        (b"[]", "expected a plan, which is a JSON object, got a list"),
        (b"null", "expected a plan, which is a JSON object, got a NoneType"),
        (b'{"schema": 1}', "unknown key `schema`"),
        (b'{"schedules": [' + b'{"batch": 0},' * 5000 + b"{}]}", "missing key `workload`"),
    ],
    ids=["empty", "binary", "deep", "huge number", "list", "null", "foreign", "many problems"],
)
def test_what_is_no_plan_is_refused_in_a_few_words(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as error:
        DataFlowPlan.read(path)
    assert str(path) in str(error.value)
    assert len(str(error.value)) < 700


def test_no_file_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        DataFlowPlan.read(tmp_path / "plan.json")
    with pytest.raises(ConfigError, match="not a readable JSON file"):
        DataFlowPlan.read(tmp_path)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1.0"])
@pytest.mark.parametrize("key", ["predicted_us", "bound_us"])
def test_what_is_no_time_is_refused(key: str, number: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    written(path)
    values = json.loads(path.read_text())
    values["schedules"][0][key] = "HERE"
    path.write_text(json.dumps(values).replace('"HERE"', number))
    with pytest.raises(ConfigError, match=f"schedules.0.{key}"):
        DataFlowPlan.read(path)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to every value inside a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, inner in items for place in places(inner, (*path, key)))]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def read_or_refused(path: Path) -> None:
    found, message = None, ""
    try:
        found = DataFlowPlan.read(path)
    except ConfigError as error:
        message = str(error)
    if found is None:
        assert message.startswith(f"{path}: ")
        assert len(message) < 700
        assert message.isprintable()
    else:
        for schedule in found.schedules:
            assert all((one == 1).all() for one in counts(found, schedule, 7).values())


@settings(max_examples=150)
@given(data=st.data())
def test_any_value_in_any_place_is_read_rightly_or_refused(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "plan.json"
    written(path)
    values = json.loads(path.read_text())
    place = data.draw(st.sampled_from([p for p in places(values) if p]))
    node = values
    for key in place[:-1]:
        node = node[key]
    if data.draw(st.booleans()):
        del node[place[-1]]
    else:
        node[place[-1]] = data.draw(JSON)
    path.write_text(json.dumps(values))
    read_or_refused(path)


@settings(max_examples=150)
@given(data=st.data())
def test_any_damaged_byte_is_read_rightly_or_refused(
    data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("fuzz") / "plan.json"
    written(path)
    content = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    content[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    path.write_bytes(bytes(content))
    read_or_refused(path)
