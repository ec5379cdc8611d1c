"""`recsys tune` as a user types it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from recsys.cli import app, tune
from recsys.training.tuned import Tuned
from tests import toy
from tests.cli.test_train_eval_score import failure, last_json, own


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return toy.files(tmp_path_factory.mktemp("toy"), n=600)


@pytest.fixture
def recipe(files: dict[str, Path], tmp_path: Path) -> Path:
    """A recipe of the user's own, with its search."""
    path = tmp_path / "mine.toml"
    path.write_text(
        '[model]\nname = "dcn2"\nembedding_dim = 4\nhidden = [8]\n[data]\n'
        + "".join(f"{key} = {str(files[name])!r}\n" for key, name in (("schema_file", "schema"), ("train", "train")))
        + f"valid = {str(files['valid'])!r}\n[training]\nepochs = 1\n[search]\n"
        '"training.learning_rate" = { low = 1e-4, high = 1e-2, log = true }\n'
        '"model.hidden" = { choices = [[], [8]] }\n'
    )
    return path


def test_tune_then_train_what_it_found(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "tuned"
    assert app.main(["tune", str(recipe), "--trials", "3", "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "trial   1/3  AUC 0." in said
    assert "best of 3 trials, 0 of them pruned" in said
    assert "search space: the recipe's own" in said
    assert "hidden: [] | [8]" in said
    assert app.main(["tune", str(recipe), "--trials", "3", "--out", str(out), "--json"]) == 0
    found = last_json(capsys)
    assert [trial["number"] for trial in found["trials"]] == [1, 2, 3]
    assert (found["metric"], found["default_space"]) == ("auc", False)
    assert app.main(["train", str(out / "best.toml"), "--out", str(tmp_path / "run"), "--json"]) == 0
    assert last_json(capsys)["metrics"]["valid"]["auc"]["value"] == pytest.approx(found["value"], abs=1e-6)


def test_a_model_with_own_files_has_the_default_space(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "tuned"
    assert app.main(["tune", "lr", *own(files), "--trials", "1", "--out", str(out), "--json"]) == 0
    said = capsys.readouterr().out
    assert "the default one, for the recipe has no [search]" in said
    found = json.loads(said.splitlines()[-1])
    assert found["default_space"] is True
    assert found["space"].keys() == {f"training.{name}" for name in ("learning_rate", "table_l2", "weight_decay")}


def test_an_interrupt_says_that_the_search_goes_on(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*args: object, **options: object) -> Tuned:
        raise KeyboardInterrupt

    monkeypatch.setattr(tune, "tune", interrupted)
    assert app.main(["tune", str(recipe), "--out", str(tmp_path / "out")]) == 130
    assert "the same command goes on where it was" in capsys.readouterr().err


def test_what_the_user_did_wrong_is_one_line(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    wrong = tmp_path / "wrong.toml"
    wrong.write_text(recipe.read_text().replace("training.learning_rate", "training.learnin_rate"))
    told = [
        (("tune",), "RECIPE|MODEL"),
        (("tune", "dcn3", "--out", out), "did you mean `dcn2`?"),
        (("tune", wrong, "--out", out), "unknown key `training.learnin_rate`: did you mean `training.learning_rate`?"),
        (("tune", recipe, "--out", out, "--trials", 0), "at least one trial, got 0"),
        (("tune", recipe, "--out", recipe), "cannot be made"),
        (("tune", "dcn2", "--out", out, "--train", recipe, "--valid", recipe), "add --schema FILE"),
    ]
    for argv, words in told:
        assert words in failure(capsys, *argv)
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert 'pip install "recsys[tune]"' in failure(capsys, "tune", recipe, "--out", out)
    assert not out.exists()
