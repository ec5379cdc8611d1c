"""Parquet in, Parquet out: every row once, in order, or nothing at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.errors import DataError
from recsys.models.checkpoint import Checkpoint
from recsys.scoring import local
from recsys.scoring.local import score_file
from recsys.training.run import train
from tests import toy


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return train(toy.recipe(tmp_path_factory.mktemp("toy"), epochs=1), show=False)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.parquet"
    table = toy.rows(1000, 4).drop_columns(["label", "rating"])
    pq.write_table(table.append_column("row", [list(range(1000))]), path, row_group_size=300)
    return path


def test_every_row_once_and_in_order(trained: Checkpoint, source: Path, tmp_path: Path) -> None:
    target = tmp_path / "deep" / "out.parquet"
    scored = score_file(trained, source, target, ["row", "user"], batch_size=128, show=False)
    out = pq.read_table(target)
    assert out.column_names == ["row", "user", "score"]
    assert out["row"].to_pylist() == list(range(1000))
    assert np.allclose(out["score"].to_numpy(), trained.predict(source), atol=1e-6)
    assert (scored.rows, scored.columns) == (1000, ("row", "user", "score"))
    assert [path.name for path in target.parent.iterdir()] == ["out.parquet"]


def test_two_tasks_have_two_columns(tmp_path: Path, source: Path) -> None:
    both = train(toy.recipe(tmp_path / "toy", schema=toy.TWO_TASKS, epochs=1), show=False)
    score_file(both, source, tmp_path / "out.parquet", show=False)
    assert pq.read_table(tmp_path / "out.parquet").column_names == ["score_label", "score_rating"]


def test_no_rows_give_no_rows(trained: Checkpoint, tmp_path: Path) -> None:
    pq.write_table(toy.rows(0), tmp_path / "in.parquet")
    assert score_file(trained, tmp_path / "in.parquet", tmp_path / "out.parquet", show=False).rows == 0
    assert pq.read_table(tmp_path / "out.parquet").num_rows == 0


def test_what_was_replaced_is_counted(trained: Checkpoint, tmp_path: Path) -> None:
    table = toy.rows(10).set_column(3, "item", [["never seen"] * 10])
    pq.write_table(table, tmp_path / "in.parquet")
    scored = score_file(trained, tmp_path / "in.parquet", tmp_path / "out.parquet", show=False)
    assert scored.counts.unknown["item"] == 10


def test_a_job_that_dies_leaves_what_was_there(
    trained: Checkpoint, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out.parquet"
    target.write_bytes(b"old")
    calls = iter(range(10))

    def dying(*args: Any) -> pa.Table:
        if next(calls) == 2:
            raise RuntimeError("killed")
        return real(*args)

    real = local._with_scores
    monkeypatch.setattr(local, "_with_scores", dying)
    with pytest.raises(RuntimeError, match="killed"):
        score_file(trained, source, target, batch_size=100, show=False)
    assert target.read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.parquet", "out.parquet"]


def test_a_device_is_refused_and_a_link_is_followed(trained: Checkpoint, source: Path, tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="got a folder or a device"):
        score_file(trained, source, tmp_path / "pipe", show=False)
    assert (tmp_path / "pipe").is_fifo()
    (tmp_path / "link").symlink_to(tmp_path / "real.parquet")
    score_file(trained, source, tmp_path / "link", show=False)
    assert (tmp_path / "link").is_symlink()
    assert pq.read_table(tmp_path / "real.parquet").num_rows == 1000


def test_bad_input_is_named(trained: Checkpoint, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    for arguments, told in (
        ((source, out, ["nothing"]), "no column `nothing` to keep"),
        ((source, out, ["row", "row"]), "column `row` twice"),
        ((source, source, []), "is the input itself"),
        ((source, tmp_path, []), "expected a file to write, got a folder"),
        ((tmp_path / "none.parquet", out, []), "no such file"),
    ):
        with pytest.raises(DataError, match=told):
            score_file(trained, *arguments, show=False)
    assert not out.exists()


def test_a_missing_feature_is_named_and_nothing_is_written(trained: Checkpoint, source: Path, tmp_path: Path) -> None:
    less = tmp_path / "less.parquet"
    pq.write_table(pq.read_table(source).drop_columns(["item"]), less)
    with pytest.raises(DataError, match=r"less\.parquet: missing column `item`"):
        score_file(trained, less, tmp_path / "out.parquet", show=False)
    assert not (tmp_path / "out.parquet").exists()
