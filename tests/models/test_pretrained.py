"""The trained models that come along: they load by name, and score as their card says."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

import recsys
from recsys.errors import CheckpointError
from recsys.models.checkpoint import Checkpoint, save
from recsys.shelves import shelf
from recsys.training.run import evaluate_on

FOLDER = shelf("models") / "pretrained"
NAMES = sorted(folder.name for folder in FOLDER.iterdir() if folder.is_dir())


@pytest.fixture(scope="module")
def wikipedia() -> Checkpoint:
    found = recsys.load("wikipedia-dcn2")
    assert isinstance(found, Checkpoint)
    return found


def test_every_model_is_small_and_on_the_card() -> None:
    card = (FOLDER / "README.md").read_text()
    assert NAMES
    for name in NAMES:
        assert f"`{name}`" in card
        assert sum(file.stat().st_size for file in (FOLDER / name).iterdir()) < 5_000_000


@pytest.mark.parametrize(("split", "key"), [("valid", "auc"), ("valid", "log_loss"), ("valid", "user_auc")])
def test_it_reaches_what_its_metrics_say(wikipedia: Checkpoint, split: str, key: str) -> None:
    found = evaluate_on(wikipedia, recsys.resolve(f"wikipedia:{split}"), replicates=0)[key].value
    assert found == pytest.approx(wikipedia.metrics[split][key]["value"], abs=1e-5)


def test_it_was_made_by_the_command_on_the_card(wikipedia: Checkpoint) -> None:
    recipe = wikipedia.training["recipe"]
    command = "recsys train dcn2 --source wikipedia --out models/pretrained/wikipedia-dcn2"
    options = "--training.learning-rate 0.003 --training.epochs 40"
    assert f"`{command} {options}`" in (FOLDER / "README.md").read_text()
    assert (recipe["data"]["source"], recipe["model"]["name"]) == ("wikipedia", "dcn2")
    assert (recipe["training"]["learning_rate"], recipe["training"]["epochs"]) == (0.003, 40)


def test_a_folder_of_that_name_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "wikipedia-dcn2").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        recsys.load("wikipedia-dcn2")


def test_a_name_that_there_is_not_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match=r"^wikipedia-dcn3: no such run folder"):
        recsys.load("wikipedia-dcn3")


def test_whoever_may_read_the_card_may_read_the_weights(wikipedia: Checkpoint, tmp_path: Path) -> None:
    save(wikipedia, tmp_path / "run")
    modes = {stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "run").iterdir()}
    assert len(modes) == 1
