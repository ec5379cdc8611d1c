"""Files in, Parquet out: every row once and in order, whatever kills the job on the way."""

from __future__ import annotations

import gzip
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from recsys.data import parquet
from recsys.errors import ConfigError, DataError
from recsys.files import locked
from recsys.models.checkpoint import Checkpoint, save
from recsys.scoring import local
from recsys.scoring.local import score
from recsys.training.run import train
from tests import toy
from tests.scoring.kills import Killed, killed_at, unfinished


def test_every_row_once_and_in_order(trained: Checkpoint, source: Path, tmp_path: Path) -> None:
    target = tmp_path / "deep" / "out.parquet"
    scored = score(trained, source, target, ["row", "user"], batch_size=128, show=False)
    out = pq.read_table(target)
    assert out.column_names == ["row", "user", "score"]
    assert out["row"].to_pylist() == list(range(1000))
    assert np.allclose(out["score"].to_numpy(), trained.predict(source), atol=1e-6)
    assert (scored.rows, scored.columns) == (1000, ("row", "user", "score"))
    assert [path.name for path in target.parent.iterdir()] == ["out.parquet"]


def test_two_tasks_have_two_columns(tmp_path: Path, source: Path) -> None:
    both = train(toy.recipe(tmp_path / "toy", schema=toy.TWO_TASKS, epochs=1), show=False)
    score(both, source, tmp_path / "out.parquet", show=False)
    assert pq.read_table(tmp_path / "out.parquet").column_names == ["score_label", "score_rating"]


def test_no_rows_give_no_rows(trained: Checkpoint, tmp_path: Path) -> None:
    pq.write_table(toy.rows(0), tmp_path / "in.parquet")
    assert score(trained, tmp_path / "in.parquet", tmp_path / "out.parquet", show=False).rows == 0
    assert pq.read_table(tmp_path / "out.parquet").num_rows == 0


def test_what_is_no_parquet_file_is_never_replaced(trained: Checkpoint, source: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(DataError, match="no Parquet file of scores"):
        score(trained, source, tmp_path / "thesis.txt", show=False)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


def test_only_scores_are_replaced_unasked(trained: Checkpoint, source: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.parquet"
    pq.write_table(pa.table({"score": [1.0]}), target)
    before = target.read_bytes()
    with pytest.raises(DataError, match=r"not marked as written by a scoring job .*; name another file, or say over"):
        score(trained, source, target, show=False)
    assert target.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.parquet", "out.parquet"]
    assert score(trained, source, target, show=False, overwrite=True).rows == 1000
    assert score(trained, source, target, ["row"], show=False).rows == 1000  # what a job wrote
    (tmp_path / "empty.parquet").touch()
    assert score(trained, source, tmp_path / "empty.parquet", show=False).rows == 1000


def test_of_a_folder_too(trained: Checkpoint, source: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "out").mkdir()
    source.rename(tmp_path / "data" / "a.parquet")
    pq.write_table(pa.table({"score": [1.0]}), tmp_path / "out" / "a.parquet")
    with pytest.raises(DataError, match=r"out/a\.parquet: is there already and is not marked"):
        score(trained, tmp_path / "data", tmp_path / "out", show=False)
    for overwrite in (True, False):
        assert score(trained, tmp_path / "data", tmp_path / "out", show=False, overwrite=overwrite).rows == 1000


@pytest.mark.parametrize("size", [0, -1])
def test_no_rows_at_a_time_are_refused_before_anything_is_made(
    trained: Checkpoint, source: Path, tmp_path: Path, size: int
) -> None:
    with pytest.raises(ConfigError, match="a batch_size of 1 or more rows, got"):
        score(trained, source, tmp_path / "out" / "out.parquet", batch_size=size, show=False)
    assert [path.name for path in tmp_path.iterdir()] == ["in.parquet"]


def test_names_that_are_too_long_are_one_sentence(trained: Checkpoint, source: Path, tmp_path: Path) -> None:
    long = tmp_path / ("a" * 250 + ".parquet")
    with pytest.raises(DataError, match=r"a\.parquet: cannot be read or written: File name too long"):
        score(trained, source, long, show=False)
    with pytest.raises(DataError, match="cannot be read or written: File name too long"):
        score(trained, long, tmp_path / "out.parquet", show=False)
    with pytest.raises(DataError, match="File name too long"):  # of what lies beside it
        score(trained, source, tmp_path / ("a" * 245 + ".parquet"), show=False)
    assert [path.name for path in tmp_path.iterdir()] == ["in.parquet"]


def test_what_was_replaced_is_counted(trained: Checkpoint, tmp_path: Path) -> None:
    table = toy.rows(10).set_column(3, "item", [["never seen"] * 10])
    pq.write_table(table, tmp_path / "in.parquet")
    scored = score(trained, tmp_path / "in.parquet", tmp_path / "out.parquet", show=False)
    assert scored.counts.unknown["item"] == 10


@pytest.mark.parametrize("old", [True, False])
def test_a_kill_at_any_change_of_the_disk_loses_and_repeats_no_row(
    trained: Checkpoint, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: bool
) -> None:
    monkeypatch.setattr(local, "PART_ROWS", 300)
    straight = tmp_path / "straight.parquet"
    score(trained, source, straight, ["row"], batch_size=100, show=False)
    whole, target, kills = straight.read_bytes(), tmp_path / "out.parquet", 0
    score(trained, source, target, show=False)
    before = target.read_bytes()
    target.unlink()
    for step in range(1000):
        with pytest.MonkeyPatch.context() as patch:
            if old:
                target.write_bytes(before)
            done = killed_at(step, patch)
            try:
                score(trained, source, target, ["row"], batch_size=100, show=False)
                break
            except Killed:
                kills += 1
        assert not target.exists() or target.read_bytes() in (before, whole)
        patched = score(trained, source, target, ["row"], batch_size=100, show=False)
        assert patched.rows == 1000
        assert target.read_bytes() == whole
        assert sorted(path.name for path in tmp_path.iterdir()) == ["in.parquet", "out.parquet", "straight.parquet"]
        target.unlink()
    assert kills == len(done) > 15


def test_a_job_goes_on_behind_its_last_part(
    trained: Checkpoint, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "PART_ROWS", 300)
    monkeypatch.setattr(local, "read_cores", lambda: [None])  # of several threads, any may be first
    real = local._with_scores
    for dies_at in (5, 9):
        calls = iter(range(100))

        def dying(*args: Any, calls: Any = calls, dies_at: int = dies_at) -> pa.Table:
            if next(calls) == dies_at:
                raise Killed
            return real(*args)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(local, "_with_scores", dying)
            with pytest.raises(Killed):
                score(trained, source, tmp_path / "out.parquet", ["row"], batch_size=70, show=False)
    scored = score(trained, source, tmp_path / "out.parquet", ["row"], batch_size=70, show=False)
    assert (scored.rows, scored.resumed) == (1000, 600)  # two parts; batches end where row groups do
    assert scored.counts.rows == 1000
    assert pq.read_table(tmp_path / "out.parquet")["row"].to_pylist() == list(range(1000))


def test_another_job_does_not_go_on_with_it(trained: Checkpoint, source: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.parquet"
    unfinished(trained, source, target, ["row"])
    other = train(toy.recipe(tmp_path / "toy", epochs=1, seed=5), show=False)
    for checkpoint, keep, changed in ((trained, [], "keep"), (other, ["row"], "run")):
        with pytest.raises(DataError, match=rf"unfinished work of another job \({changed} changed\)"):
            score(checkpoint, source, target, keep, show=False)
    os.utime(source, (1, 1))
    with pytest.raises(DataError, match="input changed"):
        score(trained, source, target, ["row"], show=False)
    scored = score(other, source, target, show=False, overwrite=True)
    assert (scored.rows, scored.resumed) == (1000, 0)


def test_a_job_that_failed_before_its_first_part_is_in_nobodys_way(
    trained: Checkpoint, source: Path, tmp_path: Path
) -> None:
    target = tmp_path / "out.parquet"
    broken = tmp_path / "broken.parquet"
    pq.write_table(toy.rows(10).set_column(6, "age", [["old"] * 10]), broken)
    with pytest.raises(DataError):
        score(trained, broken, target, show=False)
    assert score(trained, source, target, ["row"], show=False).rows == 1000


def test_what_a_kill_left_half_written_is_swept(trained: Checkpoint, source: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.parquet"
    unfinished(trained, source, target, ["row"])
    left = tmp_path / ".out.parquet.job" / ".joined.parquet.00000000.partial"
    left.write_bytes(b"half")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local, "_with_scores", _die)
        with pytest.raises(Killed):
            score(trained, source, target, ["row"], batch_size=100, show=False)
    assert not left.exists()


def _die(*args: Any) -> pa.Table:
    raise Killed


def test_paths_may_be_text(trained: Checkpoint, source: Path, tmp_path: Path) -> None:
    assert score(trained, str(source), str(tmp_path / "out.parquet"), show=False).rows == 1000


@pytest.mark.parametrize("name", ["in.csv", "in.csv.gz"])
def test_a_text_file_goes_on_behind_its_last_part(
    flat: Checkpoint, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(local, "PART_ROWS", 300)
    text, target, straight = tmp_path / name, tmp_path / "out.parquet", tmp_path / "straight.parquet"
    pacsv.write_csv(pq.read_table(source).select(["row", "user", "item", "age"]), tmp_path / "in.csv")
    if name.endswith(".gz"):
        text.write_bytes(gzip.compress((tmp_path / "in.csv").read_bytes()))
    score(flat, text, straight, ["row"], batch_size=70, show=False)
    unfinished(flat, text, target, ["row"], batch_size=70)
    assert score(flat, text, target, ["row"], batch_size=70, show=False).resumed == 350
    assert target.read_bytes() == straight.read_bytes()


def test_an_altered_part_or_journal_is_said(trained: Checkpoint, source: Path, tmp_path: Path) -> None:
    target, job = tmp_path / "out.parquet", tmp_path / ".out.parquet.job"
    unfinished(trained, source, target, ["row"])
    (job / "00000-00000.parquet").write_bytes(b"PAR1")
    with pytest.raises(DataError, match="a part of this job was altered"):
        score(trained, source, target, ["row"], batch_size=100, show=False)
    (job / "journal.jsonl").write_text("{\n")
    with pytest.raises(DataError, match=r"journal\.jsonl: was altered"):
        score(trained, source, target, ["row"], show=False)


def test_two_jobs_with_one_output_are_refused(trained: Checkpoint, source: Path, tmp_path: Path) -> None:
    with (
        locked(tmp_path / ".out.parquet.lock"),
        pytest.raises(DataError, match=r"another process .* is writing there"),
    ):
        score(trained, source, tmp_path / "out.parquet", show=False)


def test_an_input_that_changes_stops_the_job_and_keeps_what_was_there(
    trained: Checkpoint, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet, "_LEAST", 1)
    target = tmp_path / "out.parquet"
    score(trained, source, target, show=False)
    before = target.read_bytes()
    real = local._with_scores

    def changing(*args: Any) -> pa.Table:
        os.utime(source, (1, 1))
        return real(*args)

    monkeypatch.setattr(local, "_with_scores", changing)
    with pytest.raises(DataError, match="was changed while it was being read"):
        score(trained, source, target, batch_size=100, show=False)
    assert target.read_bytes() == before


def test_a_process_that_is_killed_goes_on(trained: Checkpoint, tmp_path: Path) -> None:
    save(trained, tmp_path / "run")
    table = toy.rows(60_000, 4)
    pq.write_table(table.append_column("row", [list(range(60_000))]), tmp_path / "in.parquet")
    script = """
        from pathlib import Path
        import recsys
        from recsys.scoring import local
        local.PART_ROWS = 3_000
        recsys.score(recsys.load("run"), Path("in.parquet"), Path("out.parquet"), ["row"], batch_size=500, show=False)
    """
    command = [sys.executable, "-c", textwrap.dedent(script)]
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    child = subprocess.Popen(command, cwd=tmp_path, env=env)
    while not (tmp_path / ".out.parquet.job" / "00000-00002.parquet").exists() and child.poll() is None:
        time.sleep(0.002)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert not (tmp_path / "out.parquet").exists()
    subprocess.run(command, cwd=tmp_path, env=env, check=True)
    out = pq.read_table(tmp_path / "out.parquet")
    assert out["row"].to_pylist() == list(range(60_000))
    score(trained, tmp_path / "in.parquet", tmp_path / "straight.parquet", ["row"], batch_size=500, show=False)
    assert out["score"].equals(pq.read_table(tmp_path / "straight.parquet")["score"])


def test_a_device_is_refused_and_a_link_is_followed(trained: Checkpoint, source: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="got a folder or a device"):
        score(trained, source, tmp_path / "pipe", show=False)
    assert (tmp_path / "pipe").is_fifo()
    (tmp_path / "link").symlink_to(tmp_path / "real.parquet")
    score(trained, source, tmp_path / "link", show=False)
    assert (tmp_path / "link").is_symlink()
    assert pq.read_table(tmp_path / "real.parquet").num_rows == 1000


def test_bad_input_is_named(trained: Checkpoint, source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    for arguments, told in (
        ((source, out, ["nothing"]), "no column `nothing` to keep"),
        ((source, out, ["row", "row"]), "column `row` twice"),
        ((source, source, []), "is the input itself"),
        ((source, tmp_path, []), "expected the name of a file to write, got a folder"),
        ((tmp_path / "none.parquet", out, []), "no such file"),
    ):
        with pytest.raises(DataError, match=told):
            score(trained, *arguments, show=False)
    assert not out.exists()


def test_a_missing_feature_is_named_and_nothing_is_written(trained: Checkpoint, source: Path, tmp_path: Path) -> None:
    less = tmp_path / "less.parquet"
    pq.write_table(pq.read_table(source).drop_columns(["item"]), less)
    with pytest.raises(DataError, match=r"less\.parquet: missing column `item`"):
        score(trained, less, tmp_path / "out.parquet", show=False)
    assert not (tmp_path / "out.parquet").exists()
