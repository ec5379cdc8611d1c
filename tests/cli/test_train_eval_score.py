"""The three commands as a user types them: files in, files out, one line for what is wrong."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from recsys.cli import app
from tests import toy

SMALL = ["--model.embedding-dim", "4", "--model.hidden", "8", "--training.batch-size", "128", "--training.epochs", "2"]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return toy.files(tmp_path_factory.mktemp("toy"))


def own(files: dict[str, Path]) -> list[str]:
    return [word for key in ("schema", "train", "valid") for word in (f"--{key}", str(files[key]))]


@pytest.fixture(scope="module")
def run(files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "dcn2"
    assert app.main(["train", "dcn2", *own(files), "--out", str(out), *SMALL]) == 0
    return out


def last_json(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return values


def failure(capsys: pytest.CaptureFixture[str], *argv: object) -> str:
    capsys.readouterr()
    assert app.main([str(word) for word in argv]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert told.startswith(f"recsys {argv[0]}: ")
    return told


def test_train_eval_score_on_own_files(
    run: Path, files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.main(["eval", str(run), "--data", str(files["test"]), "--replicates", "50", "--json"]) == 0
    evaluated = last_json(capsys)
    assert evaluated["rows"] == 375
    auc = evaluated["metrics"]["auc"]
    assert auc["low"] < auc["value"] < auc["high"]
    out = tmp_path / "scores.parquet"
    assert app.main(["score", str(run), str(files["test"]), str(out), "--keep", "user", "item", "--json"]) == 0
    scored = last_json(capsys)
    assert (scored["rows"], scored["columns"]) == (375, ["user", "item", "score"])
    assert pq.read_table(out).num_rows == 375


def test_the_recorded_metrics_are_those_that_eval_finds(
    run: Path, files: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.main(["eval", str(run), "--data", str(files["valid"]), "--json"]) == 0
    assert last_json(capsys)["metrics"] == json.loads((run / "metrics.json").read_text())["valid"]


def test_against_prints_the_paired_difference(
    run: Path, files: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["eval", str(run), "--data", str(files["test"]), "--against", str(run), "--replicates", "20", "--json"]
    assert app.main(command) == 0
    assert last_json(capsys)["difference"]["auc"] == {"value": 0.0, "low": 0.0, "high": 0.0}


def test_overrides_reach_the_recipe(run: Path) -> None:
    config = json.loads((run / "config.json").read_text())
    assert config["model"]["embedding_dim"] == 4
    assert config["model"]["hidden"] == [8]
    assert config["training"]["recipe"]["training"]["batch_size"] == 128
    assert "source" not in config["training"]["recipe"]["data"]


def test_a_recipe_file_with_paths_beside_it_trains_a_two_task_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    toy.files(tmp_path, schema=toy.TWO_TASKS)
    recipe = tmp_path / "mine.toml"
    recipe.write_text(
        '[model]\nname = "lr"\n[data]\nschema_file = "schema.toml"\ntrain = "train.parquet"\nvalid = "valid.parquet"\n'
        "[training]\nepochs = 1\n"
    )
    assert app.main(["train", str(recipe), "--out", str(tmp_path / "run"), "--json"]) == 0
    assert last_json(capsys)["metrics"]["valid"].keys() == {"label", "rating"}


def test_scripts_are_doors_to_the_same_commands(run: Path, files: dict[str, Path], tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    out = tmp_path / "out.parquet"
    done = subprocess.run(
        [sys.executable, root / "scripts" / "score.py", run, files["test"], out, "--json"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(done.stdout.splitlines()[-1])["rows"] == 375
    for name in ("train", "evaluate"):
        helped = subprocess.run(
            [sys.executable, root / "scripts" / f"{name}.py", "--help"], capture_output=True, text=True
        )
        assert helped.returncode == 0
        assert "usage: recsys" in helped.stdout


def test_what_the_user_did_wrong_is_one_line(
    run: Path, files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    recipe = tmp_path / "r.toml"
    recipe.write_text('[model]\nname = "dcn2"\nhiden = [3]\n[data]\nsource = "adult"\n')
    told = [
        (("train",), "name a recipe"),
        (("train", "dcn3", "--out", out), "did you mean `dcn2`?"),
        (("train", tmp_path / "none.toml", "--out", out), "no such file"),
        (("train", recipe, "--out", out), "unknown key `model.hiden`: did you mean `hidden`?"),
        (("train", "dcn2", "--out", out, "--model.embeding-dim", 3), "--model.embedding-dim"),
        (("train", "dcn2", "--out", out, "--training.epochs", 0), "greater than or equal to 1"),
        (("train", "dcn2", "--out", out, "--source", "netflix"), "no such data source as `netflix`"),
        (("train", "dcn2", "--out", out, "--train", files["train"], "--valid", files["valid"]), "add --schema FILE"),
        (("train", "dcn2", "--out", out, "--train", files["train"], "--schema", files["schema"]), "valid"),
        (("train", "dcn2", "--out", run, *own(files), *SMALL), "holds a finished run"),
        (("eval", tmp_path, "--data", files["test"]), "no config.json"),
        (("eval", run, "--data", tmp_path / "none.parquet"), "no such file"),
        (("eval", run, "--data", "adult:tset"), "did you mean `test`?"),
        (("eval", run), "--data"),
        (("score", run, files["test"], out, "--keep", "nothing"), "no column `nothing` to keep"),
        (("score", run, files["test"]), "Missing"),
    ]
    for argv, words in told:
        assert words in failure(capsys, *argv)
    assert not out.exists()


def test_help_shows_the_recipes_values(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        app.main(["train", "lr", "--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    assert "--training.learning-rate" in shown
    assert "(default: 0.01)" in shown
