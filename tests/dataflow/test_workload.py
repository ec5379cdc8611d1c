"""Workloads: what a file may say, what it may not, and that the published ones say what their sources do."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.dataflow import workload
from recsys.dataflow.workload import Ids, Workload, WorkloadLookup, WorkloadTable, published, refuse_too_big
from recsys.errors import ConfigError
from recsys.shelves import shelf
from tests.dataflow.made import ids_like

NAMES = st.text(min_size=1, max_size=8)  # quotes, dots, line ends and emoji are names too


def one(rows: int = 10, dim: int = 4, **ids: Any) -> Workload:
    return Workload(
        name="one",
        tables=(WorkloadTable(name="t", rows=rows, dim=dim),),
        lookups=(WorkloadLookup(name="f", table="t", ids=Ids(**ids)),),
    )


@st.composite
def workloads(draw: st.DrawFn) -> Workload:
    tables = tuple(
        WorkloadTable(
            name=name,
            rows=draw(st.integers(1, 10**8)),
            dim=draw(st.integers(1, 512)),
            dtype=draw(st.sampled_from(["fp32", "fp16", "int8"])),
        )
        for name in draw(st.lists(NAMES, min_size=1, max_size=3, unique=True))
    )
    lookups = tuple(
        WorkloadLookup(
            name=name,
            table=draw(st.sampled_from(tables)).name,
            pooling=draw(st.sampled_from(["sum", "mean", "none"])),
            weighted=draw(st.booleans()),
            ids=draw(ids_like()),
        )
        for name in draw(st.lists(NAMES, max_size=3, unique=True))
    )
    return Workload(
        name=draw(NAMES),
        about=draw(st.text(max_size=30)),
        tables=tables,
        lookups=lookups,
        batch_sizes=tuple(draw(st.lists(st.integers(1, 10**6), min_size=1, max_size=3))),
        latency_us=draw(st.none() | st.floats(1e-3, 1e9)),
    )


@given(workloads())
def test_what_is_written_is_read_back(made: Workload) -> None:
    assert Workload.parse(tomllib.loads(made.toml()), "toml") == made


def test_a_file_has_a_line_for_each_table_and_each_look_up(tmp_path: Path) -> None:
    made = one(bags=((1, 0.5), (3, 0.5)), distribution="uniform", source="")
    path = tmp_path / "one.toml"
    path.write_text(made.toml())
    assert Workload.read(path) == made
    assert path.read_text().splitlines() == [
        'name = "one"',
        "",
        "tables = [",
        '  { name = "t", rows = 10, dim = 4 },',
        "]",
        "",
        "lookups = [",
        '  { name = "f", table = "t", ids = { bags = [[1, 0.5], [3, 0.5]], distribution = "uniform", source = "" } },',
        "]",
    ]


FILE = 'name = "w"\ntables = [{ name = "t", rows = 5, dim = 2 }]\nlookups = [{ name = "f", table = "t" }]\n'


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("rows", "row", "unknown key `tables.0.row`: did you mean `rows`?"),
        ('name = "w"\n', "", "missing key `name`"),
        ("rows = 5", "rows = 0", "tables.0.rows: input should be greater than or equal to 1, got 0"),
        ("rows = 5", "rows = nan", "tables.0.rows"),
        ("rows = 5", 'rows = "many"', "tables.0.rows"),
        ('table = "t"', 'table = "tt"', "look-up `f` reads `tt`: did you mean `t`?"),
        ("dim = 2 }", 'dim = 2 }, { name = "t", rows = 1, dim = 1 }', "two of kind table are named `t`"),
        ('table = "t"', 'table = "t", pooling = "max"', "lookups.0.pooling"),
        ('"w"', '"w"\nbatch_sizes = [8, 0]', "`batch_sizes` must hold sizes of 1 or more, got [8, 0]"),
        ('"w"', '"w"\nbatch_sizes = []', "`batch_sizes` must hold sizes of 1 or more, got []"),
        ('"w"', '"w"\nlatency_us = 0', "latency_us"),
        ('"w"', '"w"\nlatency_us = inf', "latency_us"),
        ('"w"', "= w", "not a readable TOML file"),
    ],
)
def test_a_file_that_cannot_be_is_refused_in_a_sentence(old: str, new: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "w.toml"
    path.write_text(FILE.replace(old, new, 1))
    with pytest.raises(ConfigError) as refused:
        Workload.read(path)
    assert str(path) in str(refused.value)
    assert told in str(refused.value)


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"bags": ()}, "the shares of `bags` must sum to 1, got 0"),
        ({"bags": ((1, 0.5),)}, "the shares of `bags` must sum to 1, got 0.5"),
        ({"bags": ((2, 0.5), (1, 0.5))}, "`bags` must ascend"),
        ({"bags": ((1, 0.5), (1, 0.5))}, "`bags` must ascend"),
        ({"bags": ((-1, 1.0),)}, "n >= 0"),
        ({"bags": ((1, 2.0), (2, -1.0))}, "0 <= share <= 1"),
        ({"bags": ((1, float("nan")),)}, "finite"),
        ({"bags": ((1.5, 1.0),)}, "integer"),
        ({"exponent": 0}, "exponent"),
        ({"exponent": float("inf")}, "exponent"),
        ({"distribution": "measured"}, "`hot`, the hot-row curve, belongs to distribution `measured`"),
        ({"hot": ((1, 1.0),)}, "`hot`, the hot-row curve, belongs to distribution `measured`"),
        ({"distribution": "measured", "hot": ((0, 1.0),)}, "n >= 1"),
        ({"distribution": "measured", "hot": ((1, 0.5),)}, "end with 1"),
        ({"distribution": "measured", "hot": ((1, 0.0), (2, 1.0))}, "above 0"),
        ({"distribution": "measured", "hot": ((1, 0.5), (2, 0.4), (3, 1.0))}, "not descend"),
        ({"unique": ((64, 0.5), (1, 1.0))}, "`unique` must ascend"),
        ({"unique": ((0, 0.5),)}, "n >= 1"),
        ({"distribution": "normal"}, "distribution"),
        ({"skew": 1}, "unknown key `skew`"),
    ],
)
def test_ids_that_cannot_be_are_refused(values: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as refused:
        Ids.parse(values, "ids")
    assert told in str(refused.value)


def test_mean_counts_empty_bags() -> None:
    assert Ids(bags=((0, 0.5), (4, 0.25), (8, 0.25))).mean == 3


def test_bytes_are_those_of_stored_rows() -> None:
    tables = (
        WorkloadTable(name="a", rows=10, dim=4),
        WorkloadTable(name="b", rows=10, dim=4, dtype="fp16"),
        WorkloadTable(name="c", rows=10, dim=4, dtype="int8"),
    )
    assert Workload(name="w", tables=tables, lookups=()).bytes == 10 * (16 + 8 + 12)


def test_cap_cuts_large_tables_only_and_says_so() -> None:
    tables = (WorkloadTable(name="a", rows=10, dim=4), WorkloadTable(name="b", rows=1000, dim=4))
    made = Workload(name="w", about="Two.", tables=tables, lookups=())
    cut = made.cap(100)
    assert [table.rows for table in cut.tables] == [10, 100]
    assert (cut.name, cut.about) == ("w-cap100", "Two. Here cut to tables of at most 100 rows.")
    assert made.cap(1000) is made
    with pytest.raises(ConfigError, match="at least 1 of rows, got 0"):
        made.cap(0)


def test_with_dim_changes_every_table_and_says_so() -> None:
    made = one(dim=4)
    wide = made.with_dim(64)
    assert [table.dim for table in wide.tables] == [64]
    assert (wide.name, wide.about) == ("one-dim64", "Here with tables of 64 columns.")
    assert made.with_dim(4) is made
    with pytest.raises(ConfigError, match="at least 1 of columns, got -1"):
        made.with_dim(-1)


def test_tables_that_do_not_fit_are_refused_with_the_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    made = one(rows=10**9, dim=4)
    refuse_too_big(made, 16 * 10**9)
    with pytest.raises(ConfigError) as refused:
        refuse_too_big(made, 16 * 10**9 - 1)
    assert "`one` need 16.0 GB (16,000,000,000 bytes) and 16.0 GB are available" in str(refused.value)
    assert "the largest is `t`, 1,000,000,000 rows of 16 bytes: cap the rows" in str(refused.value)
    monkeypatch.setattr(workload, "available_memory", lambda: 10)
    with pytest.raises(ConfigError, match=r"0\.0 GB are available"):
        refuse_too_big(one())


def test_find_knows_names_and_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Workload.find("frappe").name == "frappe"
    (tmp_path / "mine.toml").write_text(FILE)
    assert Workload.find(tmp_path / "mine.toml").name == "w"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "frappe").write_text(FILE)
    assert Workload.find("frappe").name == "w"  # a file that is there comes first
    for name, told in [
        ("mlperf-dlrm", "did you mean `mlperf-dlrm-v2`?"),
        ("none.toml", "none.toml: no such file"),
        ("folder/frappe", "folder/frappe: no such file"),
        ("", "not a readable TOML file"),
    ]:
        with pytest.raises(ConfigError) as refused:
            Workload.find(name)
        assert told in str(refused.value)


SUMS = {  # tables, rows, dim, ids a sample; added up by hand from the sources
    "avazu-x1": (22, 1_298_621, 16, 22),
    "avazu-x4": (24, 3_750_999, 16, 24),
    "criteo-kaggle": (26, 33_762_577, 16, 26),
    "criteo-terabyte": (26, 177_944_275, 128, 26),
    "criteo-x1": (26, 2_086_329, 16, 26),
    "criteo-x4": (39, 910_747, 16, 39),
    "frappe": (10, 5_399, 16, 10),
    "meta-2021": (856, 856 * 72_015, 64, 856 * 8.344),
    "mlperf-dlrm-v2": (26, 204_184_588, 128, 214),
    "movielens-latest": (3, 90_242, 16, 3),
    "rm1": (8, 8 * 4_000_000, 32, 8 * 80),
    "rm2": (32, 32 * 500_000, 64, 32 * 120),
    "rm3": (10, 10 * 2_000_000, 32, 10 * 20),
    "trace-low": (1, 500_000, 128, 150),
    "trace-medium": (1, 500_000, 128, 150),
    "uniform-200": (200, 200 * 100_000, 32, 200 * 25),
}


def test_every_published_workload_is_checked_here() -> None:
    assert published() == sorted(SUMS)


@pytest.mark.parametrize("name", SUMS)
def test_published_workloads_say_what_their_sources_do(name: str) -> None:
    found = Workload.find(name)
    tables, rows, dim, count = SUMS[name]
    assert found.name == name
    assert len(found.tables) == len(found.lookups) == tables
    assert sum(table.rows for table in found.tables) == rows
    assert {table.dim for table in found.tables} == {dim}
    assert sum(lookup.ids.mean for lookup in found.lookups) == pytest.approx(count)
    assert found.bytes == rows * dim * 4
    assert "github.com/" in found.about or "Made up" in found.about
    assert "Assumed: " in found.about or "Measured: " in found.about or "Made up" in found.about


def test_the_example_of_the_shelf_is_a_workload() -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", (shelf("dataflow") / "README.md").read_text(), re.DOTALL)
    found = Workload.parse(tomllib.loads(example), "README")
    assert found.lookups[1].ids.mean == pytest.approx(3.8)


def test_the_traces_have_the_reuse_that_was_counted_in_them() -> None:
    medium, low = (Workload.find(f"trace-{level}").lookups[0].ids for level in ("medium", "low"))
    assert dict(medium.hot)[1] == pytest.approx(0.0023, abs=5e-5)
    assert dict(medium.unique)[64] < 0.5 < dict(low.unique)[64]
    for found in (medium, low):
        assert list(dict(found.unique)) == [1, 64, 512, 2048]  # too short for a batch of 8192
        assert found.source.startswith("measured on 2,")
