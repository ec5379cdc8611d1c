"""What an estimate says is what a session then takes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from recsys.dataflow.workload import Workload
from recsys.errors import CheckpointError, ConfigError
from recsys.inference import estimate as module
from recsys.inference.estimate import estimate
from recsys.inference.export import read_seal
from recsys.models.checkpoint import Checkpoint, load
from recsys.models.checkpoint import save as save_checkpoint
from tests import toy
from tests.inference.test_session import eager, plan_for


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process is not measured, which takes seconds."""
    monkeypatch.setattr(module, "_process", lambda: 1000)


def test_a_run_is_counted_without_reading_a_weight(run: Path, trained: Checkpoint, bare: None) -> None:
    found = estimate(str(run))
    with eager(run) as session:
        assert sum(found.tables.values()) == session.table_bytes
    weights = sum(p.nbytes for name, p in trained.model.named_parameters() if not name.startswith("tables."))
    assert found.network == 3 * weights
    assert found.buffers[64] == 64 * (trained.model.layout.width + 1) * 4
    assert found.steady == 1000 + sum(found.tables.values()) + found.network + max(found.buffers.values())
    assert found.peak >= found.steady
    assert found.to_json()["tables_bytes"] == sum(found.tables.values())


def test_a_plan_says_how_tables_are_stored(run: Path, trained: Checkpoint, bare: None) -> None:
    plain, small = estimate(str(run)), estimate(str(run), plan_for(trained, "fp16"))
    assert sum(small.tables.values()) * 2 == sum(plain.tables.values())


def test_an_export_is_as_its_seal_says(export: Path, bare: None) -> None:
    found = estimate(str(export))
    assert found.tables == {table.name: table.bytes for table in read_seal(export).tables}
    assert found.peak == found.steady


def test_a_workload_has_tables_alone(bare: None) -> None:
    found = estimate("criteo-kaggle")
    assert sum(found.tables.values()) == Workload.find("criteo-kaggle").bytes
    assert found.network == 0


def test_what_is_none_of_these_is_named(tmp_path: Path, bare: None) -> None:
    with pytest.raises(ConfigError, match="no such workload"):
        estimate("criteo-kagle")
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        estimate(str(tmp_path))


def test_a_model_beyond_memory_can_be_estimated(run: Path, bare: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recsys.models.base.os.sysconf", lambda name: 1)
    with pytest.raises(ConfigError, match="the tables need"):
        load(run)
    assert estimate(str(run)).tables


@pytest.mark.slow
def test_an_estimate_is_within_a_twentieth_of_what_is_measured(tmp_path: Path) -> None:
    """A model with 400 MB of tables, from its run."""
    from recsys.data.schema import Categorical, Hashing, Label, Schema
    from recsys.training.run import train

    features = tuple(Categorical(name=name, encoding=Hashing(bits=20)) for name in ("user", "item"))
    recipe = toy.recipe(tmp_path / "toy", schema=Schema(labels=(Label(name="label"),), features=features), epochs=1)
    recipe = recipe.model_copy(
        update={"model": recipe.model.model_copy(update={"embedding_dim": 48, "collision_weights": False})}
    )
    save_checkpoint(train(recipe, show=False), tmp_path / "run")
    code = (
        "import recsys\nfrom recsys.machine import resident_memory\n"
        f"session = recsys.session({str(tmp_path / 'run')!r}, precision='fp32')\nsession.warm_up()\n"
        "print(resident_memory(), resident_memory(True))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    steady, peak = map(int, done.stdout.split())
    found = estimate(str(tmp_path / "run"))
    assert found.steady == pytest.approx(steady, rel=0.05)
    assert found.peak == pytest.approx(peak, rel=0.05)
