"""A folder in, a folder out: each file once, each under its own name, none out of its place."""

from __future__ import annotations

import gzip
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from recsys.data.readers import Dataset
from recsys.errors import DataError
from recsys.models.checkpoint import Checkpoint
from recsys.scoring import local
from recsys.scoring.local import score
from tests.scoring.kills import Killed, killed_at, unfinished


@pytest.fixture
def folder(source: Path, tmp_path: Path) -> Path:
    """The rows in a Parquet file, a CSV file and a packed one; history and tags are read from text."""
    made = tmp_path / "in"
    (made / "day=2").mkdir(parents=True)
    rows = pq.read_table(source).select(["row", "user", "item", "age"])
    pq.write_table(rows.slice(0, 400), made / "a.parquet")
    pacsv.write_csv(rows.slice(400, 300), made / "day=2" / "b.csv")
    pacsv.write_csv(rows.slice(700), tmp_path / "c.csv")
    (made / "day=2" / "c.csv.gz").write_bytes(gzip.compress((tmp_path / "c.csv").read_bytes()))
    (made / "_SUCCESS").touch()
    return made


def test_a_folder_in_is_a_folder_out(flat: Checkpoint, folder: Path, source: Path, tmp_path: Path) -> None:
    scored = score(flat, folder, tmp_path / "out", ["row"], batch_size=128, show=False)
    assert (scored.rows, scored.files) == (1000, 3)
    names = ["a.parquet", "day=2/b.parquet", "day=2/c.parquet"]
    assert sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.parquet")) == names
    parts = [pq.read_table(tmp_path / "out" / name) for name in names]
    assert [int(row) for part in parts for row in part["row"].to_pylist()] == list(range(1000))
    assert [part.schema.field("row").type for part in parts] == [pa.int64(), pa.string(), pa.string()]
    together = np.concatenate([part["score"].to_numpy() for part in parts])
    assert np.allclose(together, flat.predict(source), atol=1e-6)


def test_a_killed_folder_goes_on_with_the_files_that_are_left(
    flat: Checkpoint, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "PART_ROWS", 100)
    target, read = tmp_path / "out", Dataset.read
    score(flat, folder, tmp_path / "straight", ["row"], batch_size=100, show=False)
    with pytest.MonkeyPatch.context() as patch:
        killed_at(45, patch)
        with pytest.raises(Killed):
            score(flat, folder, target, ["row"], batch_size=100, show=False)
    assert [path.name for path in target.iterdir() if path.name[0] != "."] == ["a.parquet"]
    opened: list[str] = []

    def watched(self: Dataset, *args: Any, **kwargs: Any) -> Any:
        opened.append(self.files[0].path.name)
        return read(self, *args, **kwargs)

    monkeypatch.setattr(Dataset, "read", watched)
    assert score(flat, folder, target, ["row"], batch_size=100, show=False).rows == 1000
    assert "a.parquet" not in opened
    for path in (tmp_path / "straight").rglob("*.parquet"):
        assert (target / path.relative_to(tmp_path / "straight")).read_bytes() == path.read_bytes()


def test_files_of_one_name_that_change_places_are_another_input(
    flat: Checkpoint, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "PART_ROWS", 300)
    for day in ("1", "2"):
        (tmp_path / "in" / day).mkdir(parents=True)
        shutil.copy(source, tmp_path / "in" / day / "x.parquet")
        os.utime(tmp_path / "in" / day / "x.parquet", (1, 1))
    unfinished(flat, tmp_path / "in", tmp_path / "out", ["row"])
    (tmp_path / "in" / "1").rename(tmp_path / "in" / "3")
    with pytest.raises(DataError, match="input changed"):
        score(flat, tmp_path / "in", tmp_path / "out", ["row"], show=False)


def test_a_link_in_is_read_and_a_link_out_or_across_is_refused(flat: Checkpoint, source: Path, tmp_path: Path) -> None:
    inputs, outputs = tmp_path / "in", tmp_path / "out"
    inputs.mkdir()
    (inputs / "a.parquet").symlink_to(source)
    assert score(flat, inputs, outputs, show=False).rows == 1000
    assert pq.read_schema(source).names != ["score"] == pq.read_schema(outputs / "a.parquet").names
    shutil.copy(source, outputs / "b.parquet")
    (inputs / "b.parquet").symlink_to(outputs / "b.parquet")  # would be replaced while it is read
    with pytest.raises(DataError, match="a link leads into the other folder"):
        score(flat, inputs, outputs, show=False)
    (inputs / "b.parquet").unlink()
    (outputs / "a.parquet").unlink()
    (outputs / "a.parquet").symlink_to(source)
    with pytest.raises(DataError, match="a link leads into the other folder"):
        score(flat, inputs, outputs, show=False)
    assert pq.read_table(source).num_rows == 1000


def test_folders_that_cannot_be_are_said(flat: Checkpoint, folder: Path, source: Path, tmp_path: Path) -> None:
    for target, told in ((folder / "out", "must not lie in each other"), (tmp_path, "must not lie in each other"),
                         (source, "expected a folder to write to")):  # fmt: skip
        with pytest.raises(DataError, match=told):
            score(flat, folder, target, show=False)
    (folder / "a.csv").write_text("user,item,age\n")
    with pytest.raises(DataError, match=r"a\.csv and .*a\.parquet would both be written to"):
        score(flat, folder, tmp_path / "out", show=False)
