"""The census table as rows with a 0/1 label."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.data.adult import rows
from recsys.errors import DataError


def write(folder: Path, **columns: list[object]) -> Path:
    path = folder / "adult.parquet"
    pq.write_table(pa.table(columns), path)
    return path


def test_the_answer_becomes_a_label_and_a_question_mark_a_null(tmp_path: Path) -> None:
    made = rows(write(tmp_path, age=[25, 38], workclass=["?", " Private"], income=["<=50K", " >50K"]))
    assert made.to_pydict() == {"label": [0, 1], "age": [25, 38], "workclass": [None, "Private"]}
    assert made.schema.field("label").type == pa.int8()


def test_other_answers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="2 rows of `income` are neither <=50K nor >50K"):
        rows(write(tmp_path, income=["<=50K", ">50K.", None]))


def test_a_table_without_the_answer(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="missing column `income`; it has: age"):
        rows(write(tmp_path, age=[1]))
