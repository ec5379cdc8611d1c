"""The generated rows: the same every time, and of the shape that is promised."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from recsys.bench.criteo import CATEGORIES, CHUNK, NUMBERS, chunks, write
from recsys.data.formats import FORMATS
from recsys.errors import ConfigError

ROWS = 40_000


@pytest.fixture(scope="module")
def table() -> pa.Table:
    return pa.concat_tables(chunks(ROWS))


def test_the_columns_are_criteos(table: pa.Table) -> None:
    assert tuple(table.column_names) == FORMATS["criteo"].columns
    assert table.num_rows == ROWS
    assert sum(one.values for one in CATEGORIES.values()) == 33_762_577  # published for the Kaggle data


def test_equal_arguments_give_equal_rows_and_a_seed_other_ones(table: pa.Table) -> None:
    assert pa.concat_tables(chunks(ROWS)).equals(table)
    other = next(chunks(100, seed=1))
    assert not any(other[name].equals(table[name].slice(0, 100)) for name in ("label", "I6", "C3"))


def test_fewer_rows_are_the_beginning_of_more() -> None:
    longer = list(chunks(CHUNK + 5))
    assert [part.num_rows for part in longer] == [CHUNK, 5]
    assert next(chunks(1000)).equals(longer[0].slice(0, 1000))
    assert not longer[1].equals(longer[0].slice(0, 5))


@pytest.mark.parametrize("name", CATEGORIES)
def test_a_category_has_8_hex_digits_and_no_more_values_than_published(table: pa.Table, name: str) -> None:
    column, about = table[name], CATEGORIES[name]
    assert pc.all(pc.match_substring_regex(column.drop_null(), "^[0-9a-f]{8}$")).as_py()
    distinct = pc.count_distinct(column).as_py()
    assert distinct == about.values if about.values <= 30 else distinct <= about.values
    assert column.null_count / ROWS == pytest.approx(about.missing, abs=0.01)


def test_ids_are_zipfs_and_distinct_ranks_have_distinct_digits(table: pa.Table) -> None:
    """P(1) and P(2) of C1, worked out: ∫₁² x^-1.05 dx / ∫₁¹⁴⁶¹ x^-1.05 dx, and the same from 2 to 3."""
    counts = np.sort(pc.value_counts(table["C1"]).field("counts").to_numpy())[::-1] / ROWS
    assert counts[:2] == pytest.approx([0.11145, 0.06318], abs=0.006)
    assert pc.count_distinct(table["C9"]).as_py() == 3


def test_two_columns_do_not_share_values(table: pa.Table) -> None:
    assert not set(table["C1"].to_pylist()) & set(table["C2"].to_pylist())


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_is_a_count_with_its_median_mean_and_gaps(table: pa.Table, name: str) -> None:
    column, about = table[name], NUMBERS[name]
    assert column.type == pa.int32()
    assert column.null_count / ROWS == pytest.approx(about.missing, abs=0.01)
    middle = float(pc.quantile(column)[0].as_py())
    assert middle == pytest.approx(about.median, rel=0.05, abs=1)
    assert pc.mean(column).as_py() == pytest.approx(about.mean, rel=0.5)
    assert pc.min(column).as_py() == (-3 if about.negative else 0)


def test_labels_are_0_and_1(table: pa.Table) -> None:
    assert pc.unique(table["label"]).sort().to_pylist() == [0, 1]
    assert pc.mean(table["label"]).as_py() == pytest.approx(0.256, abs=0.01)


def test_a_file_holds_the_rows_in_row_groups_of_a_chunk(tmp_path: Path, table: pa.Table) -> None:
    path = tmp_path / "new" / "rows.parquet"
    write(path, 3000, show=False)
    assert pq.read_table(path).equals(table.slice(0, 3000))
    assert [file.name for file in path.parent.iterdir()] == ["rows.parquet"]
    with pytest.raises(ConfigError, match="at least 1 row, got 0"):
        write(path, 0)
