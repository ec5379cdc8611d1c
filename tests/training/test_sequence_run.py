"""Train and measure sequence models from recipes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import recsys
from recsys.errors import CheckpointError, ConfigError, DataError
from recsys.training.sequence_recipe import SequenceRecipe, find_any_recipe
from recsys.training.sequence_run import evaluate_recommender, train_recommender


@pytest.fixture
def recipe(tmp_path: Path) -> SequenceRecipe:
    """Sixty users who go round a circle of twelve items from anywhere: what comes next is certain."""
    rng = np.random.default_rng(0)
    lines = []
    for user in range(60):
        start, steps = rng.integers(12), rng.integers(4, 9)
        lines.append(" ".join([f"u{user}", *(str((start + step) % 12 + 1) for step in range(steps))]))
    path = tmp_path / "circle.txt"
    path.write_text("\n".join(lines))
    return SequenceRecipe.parse(
        {
            "model": {"name": "sasrec", "width": 16, "layers": 1, "heads": 1, "context": 8, "dropout": 0.0},
            "data": {"lines": str(path)},
            "protocol": {"ks": [1, 10], "seen": "kept"},
            "training": {"epochs": 15, "batch_size": 16, "learning_rate": 0.01, "monitor": "hr@1"},
        },
        "recipe",
    )


def test_a_model_learns_a_circle_and_beats_who_learns_nothing(recipe: SequenceRecipe, tmp_path: Path) -> None:
    train_recommender(recipe, tmp_path / "run", show=False)
    loaded = recsys.load(tmp_path / "run")
    assert isinstance(loaded, recsys.Recommender)
    measured = evaluate_recommender(loaded, show=False)
    assert measured["sasrec"].metrics["hr@1"] > 0.9
    assert max(measured[name].metrics["hr@1"] for name in ("popularity", "repeat-last")) < 0.3
    assert loaded.recommend([["5", "6", "7"]], k=1).names() == [["8"]]
    assert loaded.metrics["valid"]["questions"] == 60
    assert loaded.training["users"] == 60
    assert not (tmp_path / "run" / "training").exists()
    assert (tmp_path / "run" / "log.jsonl").read_text().count("\n") == loaded.training["epochs"]


def test_test_questions_are_others_than_validation_has(recipe: SequenceRecipe) -> None:
    recommender = train_recommender(recipe.model_copy(update={"training": _epochs(recipe, 1)}), show=False)
    tested, valid = (evaluate_recommender(recommender, split=one, show=False)["sasrec"] for one in ("test", "valid"))
    assert not set(tested.questions.events) & set(valid.questions.events)
    assert valid.metrics["hr@10"] == recommender.metrics["valid"]["metrics"]["hr@10"]["value"]


def test_a_finished_run_is_not_overwritten_unasked(recipe: SequenceRecipe, tmp_path: Path) -> None:
    recipe = recipe.model_copy(update={"training": _epochs(recipe, 1)})
    train_recommender(recipe, tmp_path / "run", show=False)
    with pytest.raises(CheckpointError, match="holds a finished run"):
        train_recommender(recipe, tmp_path / "run", show=False)
    train_recommender(recipe, tmp_path / "run", overwrite=True, show=False)


def test_a_training_that_was_killed_goes_on(recipe: SequenceRecipe, tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    def kill(_: object) -> None:
        raise Killed

    recipe = recipe.model_copy(update={"training": _epochs(recipe, 3)})
    whole = train_recommender(recipe, show=False)
    with pytest.raises(Killed):
        train_recommender(recipe, tmp_path / "run", show=False, report=kill)
    again = train_recommender(recipe, tmp_path / "run", show=False)
    assert all(torch.equal(value, again.model.state_dict()[name]) for name, value in whole.model.state_dict().items())


def _epochs(recipe: SequenceRecipe, epochs: int) -> object:
    return recipe.training.model_copy(update={"epochs": epochs})


def test_what_cannot_be_measured_is_said_before_training(recipe: SequenceRecipe, tmp_path: Path) -> None:
    by_time = recipe.protocol.model_copy(update={"split": "global-time"})
    with pytest.raises(ConfigError, match="needs times"):
        train_recommender(recipe.model_copy(update={"protocol": by_time}), show=False)
    short = tmp_path / "short.txt"
    short.write_text("u 1 2\nv 2\n")
    data = recipe.data.model_copy(update={"lines": short})
    with pytest.raises(
        DataError, match="expected validation questions of leave-one-out, got none: no user of 2 has done enough"
    ):
        train_recommender(recipe.model_copy(update={"data": data}), show=False)


@pytest.mark.parametrize(
    ("name", "kind"), [("sasrec", SequenceRecipe), ("hstu", SequenceRecipe), ("dcn2", recsys.Recipe)]
)
def test_default_recipes_are_found_by_a_models_name(name: str, kind: type) -> None:
    found = find_any_recipe(name)
    assert isinstance(found, kind)
    assert found.model.name == name


def test_paths_of_a_recipe_are_relative_to_its_folder(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('[model]\nname = "hstu"\n[data]\nlines = "data/lines.txt"\n')
    found = find_any_recipe(str(tmp_path / "mine.toml"))
    assert isinstance(found, SequenceRecipe)
    assert found.data.lines == tmp_path / "data" / "lines.txt"
    (tmp_path / "mine.toml").write_text('[model]\nname = "hstu"\n[data]\nline = "x"\n')
    with pytest.raises(ConfigError, match="did you mean `lines`"):
        find_any_recipe(str(tmp_path / "mine.toml"))
