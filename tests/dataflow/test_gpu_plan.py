"""A plan for GPUs comes back from its files as it was, and is refused when it cannot be or was damaged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from recsys.dataflow.gpu_plan import GpuLookup, GpuPlan, GpuTable, is_gpu_plan
from recsys.errors import ConfigError
from recsys.layers.tables import Table

ROWS = 1000
HOT = torch.arange(ROWS) % 3 == 0


def made(**changed: Any) -> GpuPlan:
    tables = (
        GpuTable(name="a", rows=ROWS, dim=4, place="split", hot_rows=int(HOT.sum())),
        GpuTable(name="b", rows=10, dim=4, place="device", hot_rows=10),
        GpuTable(name="c", rows=10, dim=4, dtype="fp16", place="host"),
        GpuTable(name="d", rows=64, dim=4, place="shared", hot_rows=20),
    )
    lookups = tuple(GpuLookup(name=table.name, table=table.name, ids=2.0) for table in tables)
    values: dict[str, Any] = {"workload": "w", "gpu": "G", "memory": 10_000, "tables": tables, "lookups": lookups}
    return GpuPlan(**(values | changed)).with_hot({"a": HOT, "d": (torch.arange(64) < 12) | (torch.arange(64) >= 56)})


def test_it_comes_back_from_its_files(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    plan = made()
    plan.write(path)
    found = GpuPlan.read(path)
    assert is_gpu_plan(path)
    hot = found.hot_rows("a")
    assert isinstance(hot, torch.Tensor)
    assert torch.equal(hot, HOT)
    assert found.tables == plan.tables
    assert (found.tables[3].place, found.tables[3].hot) == ("shared", ((0, 12), (56, 64)))  # few ranges stand in it
    assert found.hot_rows("d")[:12].all()  # type: ignore[index]
    assert (found.hot_rows("b"), found.hot_rows("c")) == (True, False)
    assert sorted(one.name for one in tmp_path.iterdir()) == sorted(["plan.json", found.hot.file])  # type: ignore[union-attr]


def test_a_plan_written_over_another_takes_its_hot_rows_away(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    made().write(path)
    first = {one.name for one in tmp_path.iterdir()}
    fresh = made().model_copy()
    assert fresh == made()
    other = fresh.with_hot({"a": HOT.roll(1)})
    assert other != made()
    other.write(path)
    assert {one.name for one in tmp_path.iterdir()} != first
    assert len(list(tmp_path.iterdir())) == 2
    assert GpuPlan.read(path) == other.model_copy(update={"hot": GpuPlan.read(path).hot})


def test_bytes_are_those_of_rows_and_remaps() -> None:
    assert made().used() == [16 * 334 + 8 * 32 + 160 + 20 * 16 + 16]


@pytest.mark.parametrize("damage", ["cut", "flipped", "gone", "other rows", "no file named", "another folder"])
def test_damaged_hot_rows_are_refused(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "plan.json"
    made().write(path)
    values = json.loads(path.read_text())
    hot = tmp_path / values["hot"]["file"]
    content = bytearray(hot.read_bytes())
    if damage == "cut":
        hot.write_bytes(content[:-1])
    elif damage == "flipped":
        content[-1] ^= 1
        hot.write_bytes(content)
    elif damage == "gone":
        hot.unlink()
    elif damage == "other rows":
        values["tables"][0]["hot_rows"] -= 1
    elif damage == "no file named":
        del values["hot"]
    else:
        values["hot"]["file"] = f"../{tmp_path.name}/{hot.name}"
    path.write_text(json.dumps(values))
    with pytest.raises(ConfigError):
        GpuPlan.read(path)


@pytest.mark.parametrize("name", ["a\0b", "a\ud800b", "a" * 300, "\x1b[31mred"])
def test_names_that_no_file_has_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "plan.json"
    made().write(path)
    values = json.loads(path.read_text())
    values["hot"]["file"] = name
    path.write_text(json.dumps(values))
    with pytest.raises(ConfigError, match="hot rows cannot be read") as told:
        GpuPlan.read(path)
    assert str(told.value).isprintable()


def test_any_byte_of_the_hot_rows_counts(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    made().write(path)
    hot = tmp_path / json.loads(path.read_text())["hot"]["file"]
    content = hot.read_bytes()
    for at in range(0, len(content), 13):
        hot.write_bytes(content[:at] + bytes([content[at] ^ 64]) + content[at + 1 :])
        with pytest.raises(ConfigError, match="checksum"):
            GpuPlan.read(path)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("hot_rows", 0, "are not `split`"),
        ("hot_rows", 1000, "are not `split`"),
        ("hot", [[5, 2]], "ranges"),
        ("hot", [[0, 5], [4, 9]], "ranges"),
        ("hot", [[0, 5]], "do not hold 334 rows"),
        ("hot", [[0, 2000]], "ranges"),
        ("place", "nowhere", "nowhere"),
        ("place", "cpu", "are not `cpu`"),
        ("gpu", 1, "on GPU 1 of 1"),
        ("rows", 0, "greater than or equal to 1"),
        ("hots", 0, "did you mean `hot`"),
    ],
)
def test_tables_that_cannot_be_are_refused(tmp_path: Path, key: str, value: Any, message: str) -> None:
    path = tmp_path / "plan.json"
    made().write(path)
    values = json.loads(path.read_text())
    values["tables"][0][key] = value
    path.write_text(json.dumps(values))
    with pytest.raises(ConfigError, match=message):
        GpuPlan.read(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a readable JSON"),
        ("[]", "expected a plan for a GPU"),
        ('{"cores": 3}', "expected a plan for a GPU"),
        ('{"kind": "gpu"}', "missing key"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "plan.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        GpuPlan.read(path)
    with pytest.raises(ConfigError, match="no such file"):
        GpuPlan.read(tmp_path / "other.json")


def test_more_than_the_memory_or_twice_the_same_is_refused() -> None:
    with pytest.raises(ValueError, match="`memory` allows 100"):
        made(memory=100)
    table = GpuTable(name="a", rows=1, dim=4, place="host")
    with pytest.raises(ValueError, match="two of kind table"):
        made(tables=(table, table))
    with pytest.raises(ValueError, match="none of the plan's tables"):
        made(tables=(table,))


def test_it_is_checked_against_tables() -> None:
    plan = made()
    right = [Table(table.name, table.rows, table.dim) for table in plan.tables]
    plan.check(reversed(right))
    for tables, message in (
        (right[1:], "its table `a` is not here"),
        ([*right, Table("e", 1, 1)], "it has no table `e`"),
        ([Table("a", 999, 4), *right[1:]], "`rows` of table `a` is 1000 in the plan and 999 here"),
        ([Table("a", 1000, 5), *right[1:]], "`dim` of table `a` is 4"),
    ):
        with pytest.raises(ConfigError, match=message):
            plan.check(tables)


def test_hot_rows_must_be_as_many_as_planned() -> None:
    with pytest.raises(ConfigError, match="expected 334 hot rows of 1000, got 333"):
        made().with_hot({"a": HOT.clone().index_fill_(0, torch.tensor([0]), 0)})
    bare = GpuPlan.model_validate(made().model_dump())
    with pytest.raises(ConfigError, match="lacks the hot rows of table `a`"):
        bare.with_hot({})


def test_a_shared_table_has_hot_rows_and_others() -> None:
    for hot in (0, 64):
        with pytest.raises(ValueError, match="are not `shared`"):
            GpuTable(name="d", rows=64, dim=4, place="shared", hot_rows=hot)
    table = GpuTable(name="d", rows=64, dim=4, place="shared", hot_rows=20)
    assert table.mixed
    assert table.bytes == 20 * 16 + 16
