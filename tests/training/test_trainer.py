"""Training: what it optimises, when it stops, and that a kill costs nothing."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pyarrow as pa
import pytest
import torch

from recsys.config import override
from recsys.data.encoder import Encoder, Task
from recsys.data.stream import Resident, encode_all
from recsys.errors import CheckpointError, ConfigError, DataError, SchemaError
from recsys.models.checkpoint import Checkpoint, load
from recsys.models.registry import build, config_class
from recsys.training.recipe import TrainingConfig
from recsys.training.run import against, evaluate_on, train
from recsys.training.steps import task_loss
from recsys.training.trainer import Trainer, predict
from tests import toy

FLAT = toy.SCHEMA.model_copy(
    update={"features": tuple(f for f in toy.SCHEMA.features if f.name in ("user", "item", "age"))}
)


def weights(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    return dict(checkpoint.model.state_dict())


def assert_same(one: Checkpoint, two: Checkpoint) -> None:
    assert weights(one).keys() == weights(two).keys()
    for name, value in weights(one).items():
        assert torch.equal(value, weights(two)[name]), name


def trainer(config: TrainingConfig, valid: pa.Table | None = None) -> Trainer:
    encoder = Encoder.fit(toy.SCHEMA, [toy.rows(600)])
    torch.manual_seed(0)
    model = build(config_class("dcn2")(embedding_dim=4), encoder.inputs)  # type: ignore[arg-type]
    train_rows, valid_rows = (
        Resident(encode_all(encoder, rows)) for rows in (toy.rows(600), valid or toy.rows(200, 1))
    )
    return Trainer(model, train_rows, valid_rows, config)


def test_task_loss_is_the_weighted_sum_of_mean_losses() -> None:
    logits = torch.tensor([[0.0, 2.0], [math.log(3), 4.0]])
    labels = torch.tensor([[1.0, 1.0], [0.0, 4.0]])
    tasks = (Task("a"), Task("b", "regression", weight=0.5, shift=2.0, scale=0.5))
    binary = (math.log(2) - math.log(0.25)) / 2
    squares = ((2.0 - (1.0 - 2.0) / 0.5) ** 2 + (4.0 - (4.0 - 2.0) / 0.5) ** 2) / 2
    assert task_loss(logits, labels, tasks).item() == pytest.approx(binary + 0.5 * squares, rel=1e-6)


def test_it_learns_the_interaction() -> None:
    fitted = trainer(TrainingConfig(batch_size=64, epochs=15, learning_rate=0.01, patience=15))
    progress = fitted.fit(show=False)
    assert progress.history[-1]["loss"] < progress.history[0]["loss"]
    assert progress.best > 0.8


def test_only_rows_that_were_read_move() -> None:
    one = trainer(TrainingConfig(batch_size=600, epochs=1))
    before = one.model.tables.table("item")[0].clone()
    assert isinstance(one.train_data, Resident)
    batch = one.train_data.batch
    used = torch.unique(torch.cat([batch.ids.feature(1)[0], batch.ids.feature(2)[0]]))
    one.fit(show=False)
    moved = (one.model.tables.table("item")[0] != before).any(dim=1).nonzero().squeeze(1)
    assert set(moved.tolist()) == set(used.tolist())
    assert 0 not in moved


@pytest.mark.parametrize("optimizer", ["adam", "adagrad"])
def test_both_table_optimizers_learn(optimizer: str) -> None:
    config = TrainingConfig.parse(
        {"batch_size": 64, "epochs": 3, "table_optimizer": optimizer, "table_learning_rate": 0.05}, "here"
    )
    history = trainer(config).fit(show=False).history
    assert history[-1]["loss"] < history[0]["loss"]


def test_patience_stops_and_the_best_weights_come_back() -> None:
    one = trainer(TrainingConfig(batch_size=64, epochs=60, learning_rate=0.05, patience=2))
    progress = one.fit(show=False)
    assert progress.epoch == progress.best_epoch + 3 < 60
    assert isinstance(one.valid_data, Resident)
    labels = one.valid_data.batch.labels
    assert labels is not None
    from recsys.training.metrics import auc

    assert float(auc(predict(one.model, one.valid_data.batch)[:, 0], labels[:, 0])) == progress.best


def test_l2_keeps_the_rows_smaller() -> None:
    norms = []
    for l2 in (0.0, 1.0):
        one = trainer(TrainingConfig(batch_size=64, epochs=5, learning_rate=0.01, table_l2=l2))
        one.fit(show=False)
        norms.append(float(one.model.tables.table("item")[0].detach().norm()))
    assert norms[1] < 0.7 * norms[0]


def test_a_loss_that_explodes_is_said() -> None:
    with pytest.raises(ConfigError, match=r"the loss became .* lower the learning rate"):
        trainer(TrainingConfig(batch_size=64, epochs=30, learning_rate=1e18)).fit(show=False)


def test_one_class_in_the_validation_rows_is_said() -> None:
    rows = toy.rows(50, 1)
    ones = rows.set_column(0, "label", pa.array([1] * 50))
    with pytest.raises(DataError, match="one class only"):
        trainer(TrainingConfig(epochs=1), ones).fit(show=False)
    trainer(TrainingConfig(epochs=1, monitor="log_loss"), ones).fit(show=False)


def test_the_same_seed_gives_the_same_bits_and_leaves_the_global_state(tmp_path: Path) -> None:
    recipe = toy.recipe(tmp_path)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one, two = train(recipe, show=False), train(recipe, show=False)
    assert_same(one, two)
    assert torch.equal(torch.rand(3), expected)
    other = train(toy.recipe(tmp_path / "b", seed=1), show=False)
    assert not torch.equal(weights(one)["mlp.0.weight"], weights(other)["mlp.0.weight"])


class Killed(Exception):
    """Stands for a kill at a chosen moment."""


@pytest.mark.parametrize("model", ["dcn2", "din", "lr"])
@pytest.mark.parametrize("optimizer", ["adam", "adagrad"])
@pytest.mark.parametrize("shuffle_rows", [None, 300])
def test_a_resumed_training_ends_with_the_same_bits(
    tmp_path: Path, model: str, optimizer: str, shuffle_rows: int | None
) -> None:
    recipe = toy.recipe(tmp_path, model, save_seconds=0, table_optimizer=optimizer, shuffle_rows=shuffle_rows)
    straight = train(recipe, tmp_path / "straight", show=False)
    for stop_at in (1, 2):

        def stop(progress: object, stop_at: int = stop_at) -> None:
            if progress.epoch == stop_at:  # type: ignore[attr-defined]
                raise Killed

        with pytest.raises(Killed):
            train(recipe, tmp_path / "resumed", show=False, report=stop)
    resumed = train(recipe, tmp_path / "resumed", show=False)
    assert_same(straight, resumed)
    assert straight.metrics == resumed.metrics
    assert not (tmp_path / "resumed" / "training").exists()
    logs = [
        [{k: v for k, v in json.loads(line).items() if k not in ("seconds", "samples_per_second")} for line in text]
        for text in ((tmp_path / run / "log.jsonl").read_text().splitlines() for run in ("straight", "resumed"))
    ]
    assert logs[0] == logs[1]
    assert [record["epoch"] for record in logs[0]] == [1, 2, 3]


@pytest.mark.parametrize("shuffle_rows", [None, 300])
def test_a_kill_in_the_middle_of_an_epoch_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shuffle_rows: int | None
) -> None:
    recipe = toy.recipe(tmp_path, save_seconds=0, shuffle_rows=shuffle_rows)
    straight = train(recipe, show=False)
    step, calls = Trainer._step, iter(range(1000))

    def dying(self: Trainer, batch: object) -> float:
        if next(calls) == 17:
            raise Killed
        return step(self, batch)  # type: ignore[arg-type]

    monkeypatch.setattr(Trainer, "_step", dying)
    with pytest.raises(Killed):
        train(recipe, tmp_path / "run", show=False)
    assert (tmp_path / "run" / "training" / "state.safetensors").is_file()
    with pytest.raises(CheckpointError, match="has not finished"):
        load(tmp_path / "run")
    assert_same(straight, train(recipe, tmp_path / "run", show=False))
    assert next(calls) == 17 + 1 + 36 - 17  # only the steps that were not done are done


def test_a_process_that_is_killed_resumes_to_the_same_bits(tmp_path: Path) -> None:
    recipe = toy.recipe(tmp_path, save_seconds=0, epochs=30, patience=30)
    straight = train(recipe, show=False)
    script = textwrap.dedent(f"""
        from pathlib import Path
        from recsys.training.recipe import Recipe
        from recsys.training.run import train
        train(Recipe.load(Path({str(tmp_path / "recipe.toml")!r})), Path({str(tmp_path / "run")!r}), show=False)
    """)
    (tmp_path / "recipe.toml").write_text(recipe.toml())
    child = subprocess.Popen([sys.executable, "-c", script], env={**os.environ, "PYTHONPATH": os.getcwd()})
    state = tmp_path / "run" / "training" / "state.safetensors"
    while not state.exists() and child.poll() is None:
        time.sleep(0.005)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert state.exists()
    assert_same(straight, train(recipe, tmp_path / "run", show=False))


def test_another_recipe_does_not_resume_a_training(tmp_path: Path) -> None:
    def stop(progress: object) -> None:
        raise Killed

    recipe = toy.recipe(tmp_path, save_seconds=0)
    with pytest.raises(Killed):
        train(recipe, tmp_path / "run", show=False, report=stop)
    assert (tmp_path / "run" / "training" / "state.safetensors").exists()
    other = toy.recipe(tmp_path, seed=3, save_seconds=0)
    with pytest.raises(CheckpointError, match="unfinished training with another recipe"):
        train(other, tmp_path / "run", show=False)
    train(other, tmp_path / "run", show=False, overwrite=True)
    with pytest.raises(CheckpointError, match="holds a finished run"):
        train(other, tmp_path / "run", show=False)


def test_a_training_that_fails_keeps_the_finished_run(tmp_path: Path) -> None:
    recipe = toy.recipe(tmp_path)
    train(recipe, tmp_path / "run", show=False)
    before = weights(load(tmp_path / "run"))
    for changes in ({"data.train": tmp_path / "none.parquet"}, {"training.learning_rate": 1e18}):
        with pytest.raises((DataError, ConfigError)):
            train(override(recipe, changes), tmp_path / "run", show=False, overwrite=True)
        assert all(torch.equal(value, before[name]) for name, value in weights(load(tmp_path / "run")).items())


def test_how_long_to_train_may_change_after_a_kill(tmp_path: Path) -> None:
    def stop(progress: object) -> None:
        raise Killed

    recipe = toy.recipe(tmp_path, save_seconds=0)
    with pytest.raises(Killed):
        train(recipe, tmp_path / "run", show=False, report=stop)
    longer = override(recipe, {"training.epochs": 4, "training.save_seconds": 60})
    assert_same(train(longer, show=False), train(longer, tmp_path / "run", show=False))


def test_a_training_that_was_done_but_not_saved_may_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def dying(*args: object, **rest: object) -> None:
        raise Killed

    recipe = toy.recipe(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("recsys.training.run.save", dying)
        with pytest.raises(Killed):
            train(recipe, tmp_path / "run", show=False)
    log = (tmp_path / "run" / "log.jsonl").read_text()
    assert log.count("\n") == 3
    with pytest.raises(Killed):
        train(override(recipe, {"training.epochs": 5}), tmp_path / "run", show=False, report=dying)
    assert (tmp_path / "run" / "log.jsonl").read_text().startswith(log)
    longer = override(recipe, {"training.epochs": 5})
    assert_same(train(longer, show=False), train(longer, tmp_path / "run", show=False))


def test_a_folder_that_cannot_be_written_is_said_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(Trainer, "fit", lambda *_: pytest.fail("it trained"))
    with pytest.raises(DataError, match="cannot be made"):
        train(toy.recipe(tmp_path), tmp_path / "file" / "run", show=False)


def test_what_was_replaced_is_recorded(tmp_path: Path) -> None:
    checkpoint = train(toy.recipe(tmp_path, epochs=1), show=False)
    (told,) = [line for line in checkpoint.training["replaced"]["train"] if line.startswith("age")]
    assert "missing" in told


def test_a_damaged_state_is_said(tmp_path: Path) -> None:
    state = tmp_path / "run" / "training" / "state.safetensors"
    state.parent.mkdir(parents=True)
    state.write_bytes(b"\x00" * 100)
    with pytest.raises(CheckpointError, match="the training state is damaged"):
        train(toy.recipe(tmp_path), tmp_path / "run", show=False)


def test_two_tasks_train_and_are_measured_apart(tmp_path: Path) -> None:
    checkpoint = train(toy.recipe(tmp_path, schema=toy.TWO_TASKS, epochs=20, patience=20), show=False)
    metrics = evaluate_on(checkpoint, toy.rows(300, 5))
    assert metrics.keys() == {"label", "rating"}
    assert metrics["label"]["auc"].value > 0.7
    assert metrics["rating"]["rmse"].value < 1.9
    assert checkpoint.predict(toy.rows(4, 6)).shape == (4, 2)


def test_against_itself_is_zero_and_other_labels_are_refused(tmp_path: Path) -> None:
    one = train(toy.recipe(tmp_path / "a"), show=False)
    metrics, same = against(one, one, toy.rows(300, 5))
    assert metrics == evaluate_on(one, toy.rows(300, 5))
    assert {(m.value, m.low, m.high) for m in same.values()} == {(0.0, 0.0, 0.0)}
    two = train(toy.recipe(tmp_path / "b", "lr", epochs=1), show=False)
    assert against(one, two, toy.rows(300, 5))[1]["auc"].value == pytest.approx(
        evaluate_on(one, toy.rows(300, 5))["auc"].value - evaluate_on(two, toy.rows(300, 5))["auc"].value
    )
    other = train(toy.recipe(tmp_path / "c", schema=toy.TWO_TASKS, epochs=1), show=False)
    with pytest.raises(Exception, match="different labels"):
        against(one, other, toy.rows(300, 5))


def test_empty_training_data_is_said(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    recipe = toy.recipe(tmp_path)
    pq.write_table(toy.rows(0), recipe.data.valid[0])
    with pytest.raises(DataError, match="no rows"):
        train(recipe, show=False)


def test_two_trainings_into_one_folder_are_refused(tmp_path: Path) -> None:
    def second(progress: object) -> None:
        with pytest.raises(DataError, match=r"another process .* is writing there"):
            train(recipe, tmp_path / "run", show=False)
        with pytest.raises(DataError, match=r"another process .* is writing there"):
            train(recipe, tmp_path / "run", show=False, overwrite=True)

    recipe = toy.recipe(tmp_path, epochs=1)
    train(recipe, tmp_path / "run", show=False, report=second)
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


def test_text_files_and_folders_train_as_parquet_does(tmp_path: Path) -> None:
    import pyarrow.csv as pacsv

    recipe = toy.recipe(tmp_path, schema=FLAT)
    folder = tmp_path / "folder"
    folder.mkdir()
    table = toy.rows(1500).select(["label", "user", "item", "age"])
    pacsv.write_csv(table.slice(0, 700), folder / "1.csv")
    pacsv.write_csv(table.slice(700), folder / "2.tsv", pacsv.WriteOptions(delimiter="\t"))
    one, two = train(recipe, show=False), train(override(recipe, {"data.train": [folder]}), show=False)
    assert_same(one, two)


def test_a_model_that_the_schema_cannot_feed_is_said_before_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = toy.recipe(tmp_path, "din", schema=FLAT)
    monkeypatch.setattr("recsys.training.run.prepare", None)
    with pytest.raises(SchemaError, match="sequence"):
        train(recipe, tmp_path / "run", show=False)
    assert not (tmp_path / "run").exists()
