"""A search: the best is what it says, the same every time, and nothing is lost by a kill."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from recsys.config import override
from recsys.data.schema import Label
from recsys.errors import CheckpointError, ConfigError, DataError, MissingExtraError
from recsys.files import locked
from recsys.training import tuning
from recsys.training.prepare import Prepared, prepare
from recsys.training.recipe import Recipe
from recsys.training.run import train
from recsys.training.trainer import Progress, Trainer
from recsys.training.tuned import Trial, Tuned
from recsys.training.tuning import JOURNAL, tune
from tests import toy

SPACE = {
    "training.learning_rate": {"low": 1e-4, "high": 0.1, "log": True},
    "model.hidden": {"choices": [[], [8]]},
    "model.embedding_dim": {"low": 2, "high": 6},
}


class Killed(BaseException):
    """Ends a search as a kill does: nobody says goodbye to the journal."""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return searching(toy.recipe(tmp_path_factory.mktemp("toy"), epochs=2))


@pytest.fixture(scope="module")
def six(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    return tune(recipe, 6, tmp_path_factory.mktemp("six") / "tuned", show=False)


def searching(recipe: Recipe, space: dict[str, Any] = SPACE) -> Recipe:
    changed: Recipe = override(recipe, {"search": space})
    return changed


def timeless(trials: tuple[Trial, ...]) -> list[Trial]:
    return [replace(trial, seconds=0.0) for trial in trials]


def dying(monkeypatch: pytest.MonkeyPatch, fits: int, error: type[BaseException]) -> None:
    """The `fits`-th training from now on dies after its first epoch."""
    begun: list[None] = []

    class Mortal(Trainer):
        def fit(self, show: bool = True) -> Progress:
            begun.append(None)
            inner = self.report

            def report(progress: Progress) -> None:
                assert inner is not None
                inner(progress)
                if len(begun) == fits:
                    raise error

            self.report = report
            return super().fit(show)

    monkeypatch.setattr(tuning, "Trainer", Mortal)


def states(out: Path) -> list[str]:
    """What became of each trial that was begun, by Optuna's own reading of the journal."""
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    storage = JournalStorage(JournalFileBackend(str(out / JOURNAL)))
    (study,) = storage.get_all_studies()
    return [trial.state.name for trial in storage.get_all_trials(study._study_id)]


def test_the_first_trial_is_the_recipe_and_scores_as_training_does(recipe: Recipe, six: Tuned) -> None:
    first = six.trials[0]
    assert first.parameters == {"training.learning_rate": 0.01, "model.hidden": [8], "model.embedding_dim": 4}
    trained = train(recipe, show=False).metrics["valid"]["auc"]["value"]
    assert first.value == pytest.approx(trained, abs=1e-6)
    assert six.metric == "auc"
    assert six.value == max(trial.value for trial in six.trials if trial.value is not None)


def test_the_best_recipe_loads_from_its_folder_and_trains_to_the_same_value(six: Tuned) -> None:
    text = (six.out / "best.toml").read_text()
    assert f"# AUC on the validation rows: {six.value:.6g}" in text
    best = Recipe.load(six.out / "best.toml")
    assert best == six.recipe
    assert best.search is not None
    assert train(best, show=False).metrics["valid"]["auc"]["value"] == pytest.approx(six.value, abs=1e-6)


def test_relative_paths_hold_from_anywhere(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy.files(tmp_path / "here" / "data", n=300)
    monkeypatch.chdir(tmp_path / "here")
    data = {"schema_file": "data/schema.toml", "train": "data/train.parquet", "valid": "data/valid.parquet"}
    tune(override(recipe, {"data": data, "training.epochs": 1}), 1, Path("out"), show=False)
    monkeypatch.chdir(tmp_path)
    best = Recipe.load(Path("here/out/best.toml"))
    assert best.data.schema_file == tmp_path / "here" / "data" / "schema.toml"
    assert best.data.train == (tmp_path / "here" / "data" / "train.parquet",)


def test_every_trial_is_in_the_table_and_there_is_a_picture(six: Tuned) -> None:
    with (six.out / "trials.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["trial"] for row in rows] == [str(number) for number in range(1, 7)]
    assert [float(row["auc"]) for row in rows] == [trial.value for trial in six.trials]
    assert [json.loads(row["model.hidden"]) for row in rows] == [t.parameters["model.hidden"] for t in six.trials]
    assert (six.out / "tuning.png").read_bytes().startswith(b"\x89PNG")
    assert json.loads(json.dumps(six.to_json(), allow_nan=False))["trials"][5]["number"] == 6


def test_values_come_from_the_space(six: Tuned) -> None:
    for trial in six.trials:
        assert 1e-4 <= trial.parameters["training.learning_rate"] <= 0.1
        assert trial.parameters["model.hidden"] in ([], [8])
        assert type(trial.parameters["model.embedding_dim"]) is int
        assert 2 <= trial.parameters["model.embedding_dim"] <= 6
    assert len({trial.parameters["training.learning_rate"] for trial in six.trials}) == 6


def test_two_searches_with_one_seed_are_the_same(recipe: Recipe, six: Tuned, tmp_path: Path) -> None:
    assert timeless(tune(recipe, 6, tmp_path, show=False).trials) == timeless(six.trials)
    other = override(recipe, {"training.seed": 1})
    assert tune(other, 2, tmp_path / "other", show=False).trials[1].parameters != six.trials[1].parameters


def test_the_rows_are_encoded_once_and_not_at_all_when_nothing_is_left(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[None] = []

    def counted(*args: Any) -> Prepared:
        calls.append(None)
        return prepare(*args)

    monkeypatch.setattr(tuning, "prepare", counted)
    told: list[Tuned] = []
    tune(recipe, 3, tmp_path, show=False, report=told.append)
    assert len(calls) == 1
    assert [len(tuned.trials) for tuned in told] == [1, 2, 3]
    again = tune(recipe, 3, tmp_path, show=False, report=told.append)
    assert (len(calls), len(told)) == (1, 3)
    assert again == told[-1]
    assert len(tune(recipe, 4, tmp_path, show=False).trials) == 4


def test_a_killed_search_goes_on_and_ends_as_if_nothing_had_happened(
    recipe: Recipe, six: Tuned, tmp_path: Path
) -> None:
    """A real kill in the midst of the third trial, half a line in the journal, and the lock of Optuna left behind."""
    path, out = tmp_path / "recipe.toml", tmp_path / "out"
    path.write_text(recipe.toml())
    code = f"""
import os, signal
from pathlib import Path
from recsys.training import tuning
from recsys.training.prepare import Prepared, prepare
from recsys.training.recipe import Recipe

class Mortal(tuning.Trainer):
    begun = 0
    def fit(self, show=True):
        Mortal.begun += 1
        inner = self.report
        def report(progress):
            inner(progress)
            if Mortal.begun == 3:
                os.kill(os.getpid(), signal.SIGKILL)
        self.report = report
        return super().fit(show)

tuning.Trainer = Mortal
tuning.tune(Recipe.load(Path({str(path)!r})), 6, Path({str(out)!r}), show=False)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == -9, done.stderr
    assert states(out) == ["COMPLETE", "COMPLETE", "RUNNING"]
    assert Recipe.load(out / "best.toml").search == recipe.search
    with (out / JOURNAL).open("ab") as file:
        file.write(b'{"op_code":7,"wor')
    os.symlink(out / JOURNAL, out / f"{JOURNAL}.lock")
    tuned = tune(recipe, 6, out, show=False)
    assert states(out) == ["COMPLETE", "COMPLETE", "FAIL", *["COMPLETE"] * 4]
    assert timeless(tuned.trials) == timeless(six.trials)
    assert sorted(path.name for path in out.iterdir()) == ["best.toml", JOURNAL, "trials.csv", "tuning.png"]


def test_an_interrupt_is_never_held_against_the_parameters(
    recipe: Recipe, six: Tuned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for fits in (2, 1, 1, 1):  # the second trial, again and again
        with monkeypatch.context() as patch:
            dying(patch, fits, KeyboardInterrupt)
            with pytest.raises(KeyboardInterrupt):
                tune(recipe, 6, tmp_path, show=False)
    assert states(tmp_path) == ["COMPLETE", "FAIL", "FAIL", "FAIL", "RUNNING"]
    assert timeless(tune(recipe, 6, tmp_path, show=False).trials) == timeless(six.trials)


def test_parameters_that_kill_twice_are_given_up(
    recipe: Recipe, six: Tuned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for fits in (2, 1):  # the second trial, and the same again
        with monkeypatch.context() as patch:
            dying(patch, fits, Killed)
            with pytest.raises(Killed):
                tune(recipe, 3, tmp_path, show=False)
    tuned = tune(recipe, 3, tmp_path, show=False)
    assert states(tmp_path) == ["COMPLETE", "FAIL", "FAIL", "COMPLETE", "COMPLETE"]
    assert len(tuned.trials) == 3
    assert six.trials[1].parameters not in [trial.parameters for trial in tuned.trials]


def test_the_recipe_itself_is_tried_until_it_is_finished(
    recipe: Recipe, six: Tuned, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(3):
        with monkeypatch.context() as patch:
            dying(patch, 1, Killed)
            with pytest.raises(Killed):
                tune(recipe, 1, tmp_path, show=False)
    assert timeless(tune(recipe, 1, tmp_path, show=False).trials) == timeless(six.trials[:1])


def test_hopeless_trials_are_pruned(recipe: Recipe, tmp_path: Path) -> None:
    rates = {"training.learning_rate": {"choices": [0.01, 0.02, 0.03, 1e-7]}}
    long = searching(override(recipe, {"training.epochs": 6}), rates)
    tuned = tune(long, 12, tmp_path, show=False)
    pruned = [trial for trial in tuned.trials if trial.state == "pruned"]
    assert any(trial.parameters["training.learning_rate"] == 1e-7 for trial in pruned)
    assert all(trial.epochs < 6 and trial.why == "worse than the median" for trial in pruned)
    assert all(trial.number > tuning.STARTUP for trial in pruned)
    assert tuned.best.state == "finished"
    assert "pruned" in (tmp_path / "trials.csv").read_text()


def test_a_training_that_breaks_down_is_pruned_and_says_why(recipe: Recipe, tmp_path: Path) -> None:
    rates = {"training.learning_rate": {"choices": [0.01, 1e30]}}
    tuned = tune(searching(recipe, rates), 4, tmp_path, show=False)
    broken = [trial for trial in tuned.trials if trial.parameters["training.learning_rate"] > 1]
    assert broken
    assert all(trial.state == "pruned" and trial.why for trial in broken)
    assert tuned.best.parameters["training.learning_rate"] == 0.01


def test_a_recipe_that_cannot_be_trained_is_an_error(recipe: Recipe, tmp_path: Path) -> None:
    hopeless = searching(override(recipe, {"training.learning_rate": 1e30, "search": None}), {})
    for _ in range(3):
        with pytest.raises(ConfigError, match="lower the learning rate"):
            tune(hopeless, 2, tmp_path, show=False)


@pytest.mark.parametrize(("monitor", "metric"), [("log_loss", "log_loss"), ("auc", "rmse")])
def test_what_is_better_when_lower_is_minimised(tmp_path: Path, monitor: str, metric: str) -> None:
    kind = toy.SCHEMA if metric == "log_loss" else toy.SCHEMA.model_copy(
        update={"labels": (Label(name="rating", kind="regression"),)}
    )  # fmt: skip
    recipe = searching(toy.recipe(tmp_path, schema=kind, epochs=2, monitor=monitor))
    tuned = tune(recipe, 3, tmp_path / "out", show=False)
    values = [trial.value for trial in tuned.trials if trial.value is not None]
    assert tuned.metric == metric
    assert tuned.value == min(values) > 0
    assert [trial.value for trial in tuned.ranked] == sorted(values)


def test_importances_are_told_of_enough_trials(recipe: Recipe, six: Tuned, tmp_path: Path) -> None:
    assert six.importances == {}
    short = override(recipe, {"training.epochs": 1})
    told = tune(short, 10, tmp_path, show=False).importances
    assert told.keys() == SPACE.keys()
    assert sum(told.values()) == pytest.approx(1.0)


def test_a_folder_with_another_search_is_refused(recipe: Recipe, tmp_path: Path) -> None:
    tune(recipe, 1, tmp_path, show=False)
    others = [
        override(recipe, {"training.patience": 7}),
        override(recipe, {"model.dropout": 0.3}),
        searching(recipe, {"training.learning_rate": {"low": 1e-3, "high": 0.1}}),
        override(recipe, {"data.train": recipe.data.valid}),
    ]
    for other in others:
        with pytest.raises(ConfigError, match="another recipe, search space, schema or data"):
            tune(other, 2, tmp_path, show=False)
    (tmp_path / "note.txt").write_text("mine")
    assert tune(others[0], 1, tmp_path, overwrite=True, show=False).recipe.training.patience == 7
    assert (tmp_path / "note.txt").read_text() == "mine"


def test_a_damaged_journal_and_a_full_disk_are_told(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import optuna

    tune(recipe, 1, tmp_path, show=False)
    whole = (tmp_path / JOURNAL).read_bytes()
    for damage in (b"{}\n" + whole, whole[:30] + b"\n" + whole, b"[1]\n" + whole):
        (tmp_path / JOURNAL).write_bytes(damage)
        with pytest.raises(CheckpointError, match="is damaged"):
            tune(recipe, 1, tmp_path, show=False)
    assert len(tune(recipe, 1, tmp_path, overwrite=True, show=False).trials) == 1

    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(optuna.storages.journal.JournalFileBackend, "append_logs", full)
    with pytest.raises(DataError, match="cannot be written: No space left on device"):
        tune(recipe, 2, tmp_path, show=False)


def test_what_the_user_did_wrong(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="at least one trial, got 0"):
        tune(recipe, 0, tmp_path)
    (tmp_path / "config.json").touch()
    with pytest.raises(CheckpointError, match="holds a trained model"):
        tune(recipe, 1, tmp_path)
    with locked(tmp_path / "out" / ".lock"), pytest.raises(DataError, match="another process"):
        tune(recipe, 1, tmp_path / "out")
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingExtraError, match=r'pip install "recsys\[tune\]"'):
        tune(recipe, 1, tmp_path / "out")


def test_optuna_is_quiet_and_left_as_it_was(recipe: Recipe, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    import optuna

    before = optuna.logging.get_verbosity()
    tune(recipe, 2, tmp_path, show=False)
    assert optuna.logging.get_verbosity() == before
    assert capfd.readouterr() == ("", "")


def test_training_does_not_look_at_the_search(recipe: Recipe, tmp_path: Path) -> None:
    checkpoint = train(recipe, tmp_path / "run", show=False)
    assert "search" not in checkpoint.training["recipe"]
