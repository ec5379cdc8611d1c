"""`recsys progressive` as a user types it: a pass, and a run folder that scores."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import recsys
from recsys.cli import app
from recsys.data.protocol import hashed
from recsys.training.progressive_run import run_progressive
from tests import toy
from tests.cli.test_train_eval_score import failure, last_json, own

SMALL = ["--bits", "8", "--window", "100", "--model.embedding-dim", "4", "--model.hidden", "8",
         "--training.batch-size", "64"]  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return toy.files(tmp_path_factory.mktemp("toy"), n=400)


@pytest.fixture(scope="module")
def run(files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "pass"
    assert app.main(["progressive", "dcn2", *own(files), *SMALL, "--out", str(out)]) == 0
    return out


def test_what_is_printed_is_what_is_written(
    run: Path, files: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    again = ["progressive", "dcn2", *own(files), *SMALL, "--out", str(run), "--overwrite", "--json"]
    assert app.main(again) == 0
    said = capsys.readouterr().out
    assert "500 rows, 5 windows of 100" in said  # 400 to train on, then 100 to validate on
    told = json.loads(said.splitlines()[-1])
    for name in ("mean AUC of the windows", "median", "least", "greatest", "log loss", "rows/s"):
        assert name in said
    with (run / "windows.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["auc"]) for row in rows] == told["windows"]
    assert {row["rows"] for row in rows} == {"100"}
    assert told["progressive"]["mean"] == pytest.approx(np.mean(told["windows"]))
    assert (run / "windows.png").read_bytes().startswith(b"\x89PNG")
    metrics = json.loads((run / "metrics.json").read_text())
    assert {name: metric["value"] for name, metric in metrics["progressive"].items()} == told["progressive"]
    assert "| mean | 0." in (run / "README.md").read_text()


def test_the_folder_is_a_checkpoint_that_scores(
    run: Path, files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = recsys.load(run)
    assert isinstance(checkpoint, recsys.Checkpoint)
    assert checkpoint.encoder.schema == hashed(toy.SCHEMA, 8)
    assert checkpoint.training["protocol"] == {"name": "progressive", "bits": 8, "hashes": 1, "window": 100}
    out = tmp_path / "scores.parquet"
    assert app.main(["score", str(run), str(files["test"]), str(out)]) == 0
    scores = pq.read_table(out)["score"].to_numpy()
    assert scores == pytest.approx(checkpoint.predict(files["test"]))
    assert np.ptp(scores) > 0
    assert app.main(["eval", str(run), "--data", str(files["test"]), "--replicates", "20", "--json"]) == 0
    capsys.readouterr()


def test_rows_come_in_the_order_of_their_time(tmp_path: Path) -> None:
    """Whatever the files' order, it is the pass over the sorted rows."""
    schema = toy.SCHEMA.model_copy(update={"time": "when"})
    recipe = toy.recipe(tmp_path, schema=schema)
    table = toy.rows(300).append_column("when", pa.array(range(300)))
    order = np.random.default_rng(0).permutation(300)
    pq.write_table(table.take(order[:200]), recipe.data.train[0])
    pq.write_table(table.take(order[200:]), recipe.data.valid[0])
    shuffled, found = run_progressive(recipe, 6, 50, show=False)
    pq.write_table(table.slice(0, 200), recipe.data.train[0])
    pq.write_table(table.slice(200), recipe.data.valid[0])
    in_order, expected = run_progressive(recipe, 6, 50, show=False)
    assert found.aucs == expected.aucs
    assert shuffled.fingerprint() == in_order.fingerprint()


def test_of_a_source_all_rows_count(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["progressive", "lr", "--source", "adult", "--bits", "6", "--window", "9000", "--out", str(tmp_path / "a")]
    assert app.main([*argv, "--training.batch-size", "2500", "--json"]) == 0
    told = last_json(capsys)
    assert len(told["windows"]) == 5


def test_what_the_user_did_wrong_is_one_line(
    run: Path, files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = ["--out", tmp_path / "out"]
    assert "holds a finished run" in failure(capsys, "progressive", "dcn2", *own(files), "--out", run)
    assert "name a recipe" in failure(capsys, "progressive", "--bits", "3")
    assert "at least one window of 20,000 rows, got 500" in failure(capsys, "progressive", "dcn2", *own(files), *out)
    assert "--bits" in failure(capsys, "progressive", "dcn2", *own(files), *out, "--bits", "many")
    told = failure(capsys, "progressive", "lr", *own(files), *out, "--bits", "40", "--window", "100")
    assert "bits: input should be less than or equal to 31, got 40" in told
    recipe = toy.recipe(tmp_path / "two", schema=toy.TWO_TASKS)
    (tmp_path / "two.toml").write_text(recipe.toml())
    assert "label `rating` is a regression" in failure(capsys, "progressive", tmp_path / "two.toml", *out)


def test_help_shows_the_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        app.main(["progressive", "dcn2", "--help"])
    told = capsys.readouterr().out
    assert all(option in told for option in ("--bits", "--window", "--training.learning-rate", "--source"))
