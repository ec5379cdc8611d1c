"""A run folder loads whole and unaltered, or not at all."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import recsys
from recsys import files
from recsys.data.encoder import Counts
from recsys.errors import CheckpointError, DataError, RecsysError
from recsys.models.checkpoint import Checkpoint, is_checkpoint, load, save
from recsys.training.run import train
from tests import toy


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return train(toy.recipe(tmp_path_factory.mktemp("toy"), epochs=1), show=False)


@pytest.fixture
def run(trained: Checkpoint, tmp_path: Path) -> Path:
    save(trained, tmp_path / "run")
    return tmp_path / "run"


def test_a_loaded_checkpoint_predicts_the_same_bits(trained: Checkpoint, run: Path) -> None:
    rows = toy.rows(100, 9)
    loaded = recsys.load(run)
    assert isinstance(loaded, Checkpoint)
    assert np.array_equal(loaded.predict(rows), trained.predict(rows))
    assert recsys.load(str(run)).metrics == trained.metrics


def test_predict_takes_files_tables_and_frames_and_any_batch_size(trained: Checkpoint, tmp_path: Path) -> None:
    paths = toy.files(tmp_path)
    table = toy.rows(375, 2)
    expected = trained.predict(table)
    assert np.array_equal(trained.predict(paths["test"]), expected)
    assert np.array_equal(trained.predict(table.to_pandas()), expected)
    assert np.allclose(trained.predict(table, batch_size=7), expected, atol=1e-6)
    assert trained.predict(table.slice(0, 0)).shape == (0,)


def test_predict_counts_what_it_did_not_know(trained: Checkpoint) -> None:
    table = toy.rows(10).set_column(3, "item", [["never seen"] * 10])
    counts = Counts()
    scores = trained.predict(table, counts=counts)
    assert counts.unknown["item"] == 10
    assert np.isfinite(scores).all()


def test_the_folder_holds_what_is_promised(run: Path) -> None:
    assert sorted(path.name for path in run.iterdir()) == [
        "README.md",
        "config.json",
        "metrics.json",
        "model.safetensors",
        "schema.json",
    ]
    card = (run / "README.md").read_text()
    assert "`dcn2` ranker" in card
    assert "| auc |" in card


def test_weights_are_one_array_a_table_and_open_without_recsys(run: Path) -> None:
    from safetensors.torch import load_file

    arrays = load_file(run / "model.safetensors")
    assert {"tables.user.weight", "tables.item.weight", "tables.item.collision"} <= arrays.keys()
    assert arrays["tables.user.weight"].shape == (32, 4)


def test_large_models_are_sharded(trained: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recsys.models.weights.SHARD_BYTES", 500)
    save(trained, tmp_path / "run")
    shards = sorted(path.name for path in (tmp_path / "run").glob("*.safetensors"))
    assert len(shards) > 2
    assert shards[0] == f"model-00001-of-{len(shards):05}.safetensors"
    again = load(tmp_path / "run").model.state_dict()
    assert all(torch.equal(again[name], value) for name, value in trained.model.state_dict().items())
    monkeypatch.undo()
    save(trained, tmp_path / "run", overwrite=True)
    assert [path.name for path in (tmp_path / "run").glob("*.safetensors")] == ["model.safetensors"]


def test_nothing_is_overwritten_unasked(trained: Checkpoint, run: Path) -> None:
    with pytest.raises(CheckpointError, match="holds a checkpoint"):
        save(trained, run)


@pytest.mark.parametrize("name", ["config.json", "schema.json", "metrics.json", "model.safetensors"])
def test_a_missing_file_is_named(run: Path, name: str) -> None:
    (run / name).unlink()
    with pytest.raises(CheckpointError, match="no config.json" if name == "config.json" else f"{name} is missing"):
        load(run)


@pytest.mark.parametrize("name", ["schema.json", "metrics.json", "model.safetensors"])
@pytest.mark.parametrize("damage", ["flip", "cut", "grow"])
def test_an_altered_file_is_named(run: Path, name: str, damage: str) -> None:
    data = bytearray((run / name).read_bytes())
    if damage == "flip":
        data[-3] ^= 1
    (run / name).write_bytes(data[:-1] if damage == "cut" else data + b" " if damage == "grow" else data)
    with pytest.raises(CheckpointError, match=rf"{name}: .*altered"):
        load(run)


def alter(run: Path, change: Callable[[dict[str, Any]], None]) -> None:
    config = json.loads((run / "config.json").read_text())
    change(config)
    rest = json.dumps({k: v for k, v in config.items() if k != "sha256"}, sort_keys=True)
    config["sha256"] = hashlib.sha256(rest.encode()).hexdigest()
    (run / "config.json").write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda c: c.update(format=99, recsys="9.0"), "format 99, made by recsys 9.0"),
        (lambda c: c.pop("files"), "not the seal of a recsys checkpoint"),
        (lambda c: c["model"].update(name="gpt"), "not the seal of a recsys checkpoint.*gpt"),
        (lambda c: c["model"].update(embedding_dim=8), "weights do not fit the model.*expected shape"),
        (lambda c: c["files"].update({"../evil": {"bytes": 1, "sha256": ""}}), "lies outside the folder"),
        (lambda c: c["files"].pop("model.safetensors"), "weights do not fit"),
        (lambda c: c["files"].pop("schema.json"), "does not vouch for `schema.json`"),
        (lambda c: c["files"].update({"schema.json": 3}), "not the seal of a recsys checkpoint"),
    ],
)
def test_a_config_that_cannot_be_is_named(run: Path, change: Callable[[dict[str, Any]], None], told: str) -> None:
    alter(run, change)
    with pytest.raises(CheckpointError, match=told):
        load(run)


def test_a_config_that_was_edited_is_not_loaded(run: Path) -> None:
    text = (run / "config.json").read_text()
    (run / "config.json").write_text(
        text.replace('"similarity_activation": "identity"', '"similarity_activation": "relu"')
    )
    with pytest.raises(CheckpointError, match="differ from their checksum: altered"):
        load(run)


def test_a_folded_model_is_saved_as_it_is(run: Path, tmp_path: Path) -> None:
    rows = toy.rows(20, 3)
    checkpoint = load(run)
    expected = checkpoint.predict(rows)
    checkpoint.model.tables.fold()
    save(checkpoint, tmp_path / "folded")
    assert np.allclose(load(tmp_path / "folded").predict(rows), expected, atol=1e-6)


def test_leftovers_of_a_killed_save_are_swept(trained: Checkpoint, run: Path) -> None:
    (run / ".model.safetensors.12345678.partial").write_bytes(b"half")
    save(trained, run, overwrite=True)
    assert not list(run.glob(".*"))


def test_scores_that_are_not_finite_are_refused(run: Path) -> None:
    checkpoint = load(run)
    with torch.no_grad():
        checkpoint.model.tables.table("user")[0].fill_(torch.inf)
    with pytest.raises(DataError, match="20 of 20 scores are not finite"):
        checkpoint.predict(toy.rows(20, 3))


def test_what_is_no_run_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such run folder"):
        load(tmp_path / "nothing")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="not the seal of a recsys checkpoint"):
        load(tmp_path)


class Killed(Exception):
    """Stands for a kill at a chosen moment."""


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_save_killed_before_any_write_leaves_nothing_that_loads_wrongly(
    trained: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overwrite: bool
) -> None:
    """Kill the save at its first, second, … file: the folder never loads, until the save that ran through."""
    run = tmp_path / "run"
    real = files.replacing
    for deadline in range(10):
        shutil.rmtree(run, ignore_errors=True)
        if overwrite:
            save(trained, run)
        calls = iter(range(100))

        def dying(path: Path, calls: Any = calls, deadline: int = deadline) -> Any:
            if next(calls) == deadline:
                raise Killed
            return real(path)

        monkeypatch.setattr("recsys.models.weights.replacing", dying)
        monkeypatch.setattr("recsys.files.replacing", dying)
        try:
            save(trained, run, overwrite=True)
        except Killed:
            assert not is_checkpoint(run)
            with pytest.raises(CheckpointError):
                load(run)
        else:
            assert deadline == 5  # weights, schema, metrics, card, config
            assert load(run).metrics == trained.metrics
            return
        finally:
            monkeypatch.undo()
    pytest.fail("the save never ran through")


def test_a_disk_that_refuses_is_one_clear_error(trained: Checkpoint, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RecsysError, match="file"):
        save(trained, tmp_path / "file" / "run")


def test_a_full_disk_keeps_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "a.json"
    files.write_json(target, {"old": 1})

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(DataError, match=r"a\.json: cannot be written: No space left on device"):
        files.write_json(target, {"new": 2})
    assert files.read_json(target) == {"old": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_folded_weights_predict_the_same(run: Path) -> None:
    rows = toy.rows(50, 3)
    checkpoint = load(run)
    before = checkpoint.predict(rows)
    checkpoint.model.tables.fold()
    assert np.allclose(checkpoint.predict(rows), before, atol=1e-6)
