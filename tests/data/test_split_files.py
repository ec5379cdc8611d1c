"""Splits of files: every row in exactly one, in order, by chance or by time, all files or none."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.data import split_files as module
from recsys.data.readers import read
from recsys.data.split_files import split_files
from recsys.errors import ConfigError, DataError
from recsys.files import locked

NAMES = ("train", "valid", "test")


def ids(folder: Path, column: str = "id") -> list[list[Any]]:
    return [pq.read_table(folder / f"{name}.parquet")[column].to_pylist() for name in NAMES]


def together(parts: list[list[Any]]) -> list[Any]:
    return sorted(value for part in parts for value in part)


def numbered(n: int, **columns: Any) -> pa.Table:
    return pa.table({"id": np.arange(n), **columns})


def test_rows_go_by_chance_each_to_one_split_in_order(tmp_path: Path) -> None:
    found = split_files(numbered(20_000), tmp_path / "out")
    parts = ids(tmp_path / "out")
    assert together(parts) == list(range(20_000))
    assert all(part == sorted(part) for part in parts)
    assert [len(part) for part in parts] == list(found.rows.values())
    assert [len(part) / 20_000 for part in parts] == pytest.approx([0.8, 0.1, 0.1], abs=0.01)


def test_a_rows_split_depends_on_seed_and_number_alone(tmp_path: Path) -> None:
    for name, n, seed in (("a", 1000, 0), ("b", 700, 0), ("c", 1000, 1)):
        split_files(numbered(n), tmp_path / name, seed=seed)
    a, b, c = (ids(tmp_path / name) for name in "abc")
    assert [[i for i in part if i < 700] for part in a] == b
    assert a != c
    numbered(1000).to_pandas().to_csv(tmp_path / "rows.csv", index=False)
    split_files(tmp_path / "rows.csv", tmp_path / "d")
    assert [list(map(int, part)) for part in ids(tmp_path / "d")] == a


def test_chance_is_fair_and_seeds_are_independent() -> None:
    n = 200_000
    first, second = (module._by_chance(0, n, (0.5, 0.5), seed) for seed in (0, 1))
    assert abs((first == 0).mean() - 0.5) < 0.005
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.01
    assert abs(np.corrcoef(first[1:], first[:-1])[0, 1]) < 0.01


@given(times=st.lists(st.integers(0, 9), min_size=3, max_size=50).filter(lambda t: len(set(t)) >= 3))
def test_by_time_the_past_is_in_train_and_ties_stay_together(
    times: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("time")
    split_files(numbered(len(times), t=times), folder, time="t")
    parts = ids(folder, "t")
    assert together(parts) == sorted(times)
    assert all(parts)
    assert max(parts[0]) < min(parts[1]) <= max(parts[1]) < min(parts[2])


HOURS = [datetime.datetime(2024, 3, 1) + datetime.timedelta(hours=i) for i in range(100)]


@pytest.mark.parametrize(
    "times",
    [
        pa.array(HOURS, pa.timestamp("ns")),
        pa.array(HOURS, pa.timestamp("s", "Europe/Berlin")),
        pa.array([str(hour) for hour in HOURS]),
        pa.array([hour.isoformat() + "Z" for hour in HOURS]),
        pa.array([hour.timestamp() for hour in HOURS]),
        pa.array([str(i) for i in range(100)]),
        pa.array([hour.date() for hour in HOURS]),
    ],
)
def test_times_of_every_kind_are_read(times: pa.Array, tmp_path: Path) -> None:
    shuffled = np.random.default_rng(0).permutation(100)
    found = split_files(pa.table({"id": shuffled, "t": times.take(pa.array(shuffled))}), tmp_path, time="t")
    assert sorted(ids(tmp_path)[0]) == list(range(found.rows["train"]))
    assert found.rows["train"] == pytest.approx(80, abs=16)  # a day has 24 rows


def test_many_times_are_cut_near_the_fractions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_TIMES", 1000)
    n = 300_000
    found = split_files(pa.table({"t": np.random.default_rng(0).permutation(n)}), tmp_path, time="t")
    assert [rows / n for rows in found.rows.values()] == pytest.approx([0.8, 0.1, 0.1], abs=0.01)


def test_columns_keep_their_types_and_text_is_text(tmp_path: Path) -> None:
    rows = pa.table(
        {
            "text": ["a", None, "c"] * 50,
            "code": pa.array(["x", "y", "x"] * 50).dictionary_encode(),
            "list": [[1], [], None] * 50,
            "big": pa.array(["p", "q", "r"] * 50, pa.large_string()),
            "n": pa.array([1, 2, 3] * 50, pa.int8()),
        }
    )
    pq.write_table(rows, tmp_path / "rows.parquet", row_group_size=10)
    split_files(tmp_path / "rows.parquet", tmp_path / "out")
    parts = [pq.read_table(tmp_path / "out" / f"{name}.parquet") for name in NAMES]
    assert [field.name for field in parts[0].schema] == rows.schema.names
    assert parts[0].schema.field("text").type == pa.string()
    assert parts[0].schema.field("big").type == pa.large_string()
    assert pa.types.is_dictionary(parts[0].schema.field("code").type)
    assert parts[0].schema.field("n").type == pa.int8()
    written = sorted(map(str, pa.concat_tables(parts).to_pylist()))
    assert written == sorted(map(str, rows.to_pylist()))


def test_a_text_files_values_stay_as_they_are_written(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("zip,n\n" + "01002,1.50\n,2\n" * 100)
    split_files(tmp_path / "rows.csv", tmp_path / "out")
    found = pd.concat([pq.read_table(tmp_path / "out" / f"{name}.parquet").to_pandas() for name in NAMES])
    assert set(found["zip"]) == {"01002", ""}
    assert set(found["n"]) == {"1.50", "2"}


def test_several_files_are_split_as_one(tmp_path: Path) -> None:
    for name, start in (("a", 0), ("b", 500)):
        pd.DataFrame({"id": range(start, start + 500)}).to_csv(tmp_path / f"{name}.csv", index=False)
    split_files([tmp_path / "a.csv", tmp_path / "b.csv"], tmp_path / "out")
    assert sorted(int(i) for part in ids(tmp_path / "out") for i in part) == list(range(1000))


@pytest.mark.parametrize(
    ("fractions", "names"), [((0.5, 0.5, 0.0), {"train", "valid"}), ((0.7, 0.0, 0.3), {"train", "test"})]
)
@pytest.mark.parametrize("time", [None, "id"])
def test_a_split_of_fraction_0_has_no_file(
    fractions: tuple[float, float, float], names: set[str], time: str | None, tmp_path: Path
) -> None:
    (tmp_path / "test.parquet").write_bytes(b"old")
    (tmp_path / "valid.parquet").write_bytes(b"old")
    found = split_files(numbered(1000), tmp_path, time=time, fractions=fractions, overwrite=True)
    assert set(found.rows) == names
    assert {path.stem for path in tmp_path.iterdir()} == names
    assert sum(read(path).num_rows for path in found.files.values()) == 1000


@pytest.mark.parametrize(
    ("rows", "options", "told"),
    [
        (numbered(2), {}, "none came to"),
        (numbered(0), {}, "no rows"),
        (numbered(9, t=[1, 2] * 4 + [1]), {"time": "t"}, "2 different times; 3 splits need one each"),
        (numbered(3, t=[1, None, 2]), {"time": "t"}, "1 rows have no time"),
        (numbered(3, t=["soon", "later", "now"]), {"time": "t"}, "expected numbers or times such as 2024-05-31"),
        (numbered(3), {"time": "t"}, "missing column `t`"),
    ],
)
def test_what_cannot_be_split_leaves_nothing_behind(
    rows: pa.Table, options: dict[str, Any], told: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=told):
        split_files(rows, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("fractions", [(0.5, 0.5, 0.5), (1.5, -0.5, 0.0)])
def test_fractions_are_a_partition(fractions: tuple[float, float, float], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="sum to 1"):
        split_files(numbered(10), tmp_path, fractions=fractions)


def test_files_in_the_way_stay_until_they_are_given_up(tmp_path: Path) -> None:
    split_files(numbered(1000), tmp_path)
    before = ids(tmp_path)
    with pytest.raises(DataError, match="--overwrite"):
        split_files(numbered(500), tmp_path)
    with pytest.raises(DataError, match="none came to"):
        split_files(numbered(2), tmp_path, overwrite=True)
    assert ids(tmp_path) == before
    split_files(numbered(500), tmp_path, overwrite=True)
    assert together(ids(tmp_path)) == list(range(500))
    assert {path.name for path in tmp_path.iterdir()} == {f"{name}.parquet" for name in NAMES}


def test_what_is_read_is_not_written_to(tmp_path: Path) -> None:
    pq.write_table(numbered(100), tmp_path / "train.parquet")
    for rows in (tmp_path / "train.parquet", tmp_path):
        with pytest.raises(DataError, match="another folder"):
            split_files(rows, tmp_path, overwrite=True)
    with pytest.raises(DataError, match="another folder"):
        split_files(tmp_path, tmp_path / "inside")


def test_files_that_disagree_on_a_type_are_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"c": [1, 2]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"c": ["x", "y"]}), tmp_path / "b.parquet")
    with pytest.raises(DataError, match="disagree on the type"):
        split_files([tmp_path / "a.parquet", tmp_path / "b.parquet"], tmp_path / "out")


def test_what_a_killed_split_left_is_swept_and_two_at_once_are_refused(tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / ".split.dead.partial").mkdir(parents=True)
    with locked(out / ".split.lock"), pytest.raises(DataError, match="is writing there"):
        split_files(pa.table({"a": range(100)}), out)
    split_files(pa.table({"a": range(100)}), out)
    assert sorted(path.name for path in out.iterdir()) == ["test.parquet", "train.parquet", "valid.parquet"]
