"""Studies end to end on toy data: tuning, seeds, the journal, and what they refuse."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import tomli_w

import recsys
from recsys.errors import ConfigError, DataError
from recsys.training.study import runs as carried
from recsys.training.study.config import Study, find_study
from recsys.training.study.crossed import crossed_interval
from recsys.training.study.measure import Run, Task, measure
from recsys.training.study.runs import Journal
from recsys.training.study.study import SettingResult, study
from tests import toy
from tests.training.study import small

TASKS = 2 * 2 + 2 * 2
"""Arms × points, and arms × seeds."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return small.toy_files(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def first(files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[SettingResult]]:
    out = tmp_path_factory.mktemp("study") / "out"
    return out, study(small.of(files), out, workers=0, show=False)


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[Task]:
    """Every run that is really done from here on."""
    seen: list[Task] = []

    def counted(task: Task) -> Run:
        seen.append(task)
        return measure(task)

    monkeypatch.setattr(carried, "measure", counted)
    return seen


def told(results: Sequence[SettingResult]) -> list[dict[str, Any]]:
    """What they say, without how long it took."""
    found = [result.to_json() for result in results]
    for setting in found:
        for arm in setting["arms"]:
            arm.pop("rows_per_second")
    return found


def copied(out: Path, to: Path, lines: slice) -> Path:
    to.mkdir()
    kept = (out / "runs.jsonl").read_text().splitlines(keepends=True)[lines]
    (to / "runs.jsonl").write_text("".join(kept))
    return to


def test_each_arm_is_tuned_and_then_run_with_each_seed(first: tuple[Path, list[SettingResult]]) -> None:
    out, results = first
    (result,) = results
    journal = Journal(out / "runs.jsonl")
    assert len(journal.runs) == TASKS
    assert [arm.arm for arm in result.arms] == ["base", "deep"]
    for arm in result.arms:
        assert arm.windows().shape == (2, 4)
        assert all(run.rows == 400 and run.rows_per_second > 0 for run in arm.runs)
        assert arm.point["training.learning_rate"] in (0.01, 0.05)
        assert set(arm.runs[0].gradients) >= {"tables"}
    base, deep = result.arms
    assert base.difference is None
    assert deep.difference == crossed_interval(deep.windows() - base.windows())
    assert deep.difference.value == pytest.approx(deep.mean - base.mean)
    json.dumps(result.to_json(), allow_nan=False)
    assert not list(out.glob(".*"))


def test_the_point_is_the_best_by_the_tuning_seed(files: dict[str, Path], first: tuple[Path, Any]) -> None:
    config = small.of(files)
    (setting,) = config.settings()
    for arm, found in zip(config.arm, first[1][0].arms, strict=True):
        plans = [config.plan(arm, point, config.tuning_seed) for point in config.grid(arm)]
        values = [measure(Task(setting, config.protocol, plan)).value for plan in plans]
        assert found.point == config.grid(arm)[int(np.argmax(values))]


def test_a_killed_study_goes_on_where_it_was(
    files: dict[str, Path], first: tuple[Path, Any], tmp_path: Path, done: list[Task]
) -> None:
    out = copied(first[0], tmp_path / "half", slice(0, TASKS // 2))
    with (out / "runs.jsonl").open("rb+") as file:
        file.truncate((out / "runs.jsonl").stat().st_size - 20)  # a kill cut the last line
    again = study(small.of(files), out, workers=0, show=False)
    assert len(done) == TASKS // 2 + 1
    assert told(again) == told(first[1])
    done.clear()
    assert told(study(small.of(files), out, workers=0, show=False)) == told(first[1])
    assert not done


@pytest.mark.parametrize("junk", ["", "null", "[]", "3", '"text"', "{}", '{"key": "a"}', '{"windows": 3}', "{"])
def test_lines_that_are_no_runs_are_left_out(junk: str, first: tuple[Path, Any], tmp_path: Path) -> None:
    out = copied(first[0], tmp_path / "junk", slice(None))
    text = (out / "runs.jsonl").read_text()
    (out / "runs.jsonl").write_text(f"{junk}\n{text}{junk}\n")
    assert len(Journal(out / "runs.jsonl").runs) == TASKS


def test_names_change_nothing_and_what_is_new_is_run(
    files: dict[str, Path], first: tuple[Path, Any], tmp_path: Path, done: list[Task]
) -> None:
    out = copied(first[0], tmp_path / "more", slice(None))
    arms = [small.ARMS[0] | {"name": "plain"}, small.ARMS[1]]
    study(small.of(files, arm=arms, baseline="plain"), out, workers=0, show=False)
    assert not done
    study(small.of(files, seeds=[1, 2, 3]), out, workers=0, show=False)
    assert [task.seed for task in done] == [3, 3]


def test_two_arms_of_one_plan_are_run_once(files: dict[str, Path], tmp_path: Path, done: list[Task]) -> None:
    arms = [small.ARMS[0], small.ARMS[0] | {"name": "twin"}]
    (result,) = study(small.of(files, arm=arms, tune={}), tmp_path, workers=0, show=False)
    assert len(done) == 2
    gap = result.arm("twin").difference
    assert gap is not None
    assert (gap.low, gap.value, gap.high) == (0, 0, 0)


def test_changed_files_are_run_again(tmp_path: Path, done: list[Task]) -> None:
    files = small.toy_files(tmp_path / "toy")
    config, out = small.of(files, tune={}), tmp_path / "out"
    before = told(study(config, out, workers=0, show=False))
    done.clear()
    os.utime(files["train"], ns=(1, 1))
    assert told(study(config, out, workers=0, show=False)) == before  # another date, the same rows
    assert len(done) == 4
    pq.write_table(toy.rows(500, seed=9), files["train"])
    after = study(config, out, workers=0, show=False)
    assert {run.rows for arm in after[0].arms for run in arm.runs} == {500}
    assert len(done) == 8
    kept = toy.SCHEMA.model_copy(update={"features": toy.SCHEMA.features[:2]})
    files["schema"].write_text(kept.toml())
    study(config, out, workers=0, show=False)
    assert len(done) == 12


@pytest.mark.slow  # two fresh processes import torch
def test_several_processes_give_the_same_bits(files: dict[str, Path], tmp_path: Path) -> None:
    config = small.of(files, tune={}, seeds=[1])
    one, two = (study(config, tmp_path / str(n), workers=n, show=False) for n in (0, 2))
    assert told(one) == told(two)


def test_a_rate_that_diverges_is_not_chosen(files: dict[str, Path], tmp_path: Path) -> None:
    tune = {"training.learning_rate": [1e30, 0.01]}
    (result,) = study(small.of(files, tune=tune), tmp_path / "a", workers=0, show=False)
    assert {arm.point["training.learning_rate"] for arm in result.arms} == {0.01}
    diverged = [run for run in Journal(tmp_path / "a" / "runs.jsonl").runs.values() if not run.windows]
    assert diverged
    assert all(run.choice == -math.inf and math.isnan(run.value) for run in diverged)
    with pytest.raises(ConfigError, match="arm `deep` diverges at every point of its grid on toy, 2\\^6 rows"):
        study(small.of(files, tune={"training.learning_rate": [1e30, 1e31]}), tmp_path / "b", workers=0, show=False)
    arms = [small.ARMS[0], small.ARMS[1] | {"training": {"learning_rate": 1e30}}]
    with pytest.raises(ConfigError, match="arm `deep` diverged on toy, 2\\^6 rows with one of the seeds"):
        study(small.of(files, tune={}, arm=arms), tmp_path / "c", workers=0, show=False)


def test_holdout_measures_test_rows_and_tunes_on_valid(files: dict[str, Path], tmp_path: Path) -> None:
    (result,) = study(small.holdout(files), tmp_path / "a", workers=0, show=False)
    assert result.setting.name == "toy"
    assert all(arm.windows().shape == (2, 2) and arm.runs[0].rows == 100 for arm in result.arms)
    task = Task(result.setting, "holdout", small.holdout(files).plan(small.holdout(files).arm[1], {}, 1))
    same = dict(files, test=tmp_path / "same.parquet")
    shutil.copy(files["valid"], same["test"])
    measured = measure(Task(small.holdout(same).settings()[0], "holdout", task.plan))
    run = measure(task)
    assert run.choice == measured.choice == pytest.approx(measured.auc)  # of valid, whatever the test rows are
    assert run.auc != run.choice
    hashed = [small.holdout(files).data[0].model_dump() | {"bits": [5]}]
    (other,) = study(small.holdout(files, data=hashed, tune={}), tmp_path / "b", workers=0, show=False)
    assert other.setting.bits == 5


def test_fewer_test_rows_than_a_window_is_no_divergence(files: dict[str, Path], tmp_path: Path) -> None:
    data = [small.holdout(files).data[0].model_dump() | {"window": 101}]
    with pytest.raises(DataError, match="at least one window of 101 rows, got 100 rows"):
        study(small.holdout(files, data=data), tmp_path, workers=0, show=False)


def test_windows_of_one_class_are_left_out(tmp_path: Path) -> None:
    files = small.toy_files(tmp_path / "toy")
    table = toy.rows(400)
    label = table["label"].to_numpy().copy()
    label[:100] = 0
    pq.write_table(table.set_column(0, "label", [label]), files["train"])
    (result,) = study(small.of(files, tune={}), tmp_path / "out", workers=0, show=False)
    for arm in result.arms:
        assert np.isnan(arm.windows()[:, 0]).all()
        assert arm.spread()["min"] > 0
    deep = result.arm("deep")
    assert deep.difference is not None
    assert deep.difference == crossed_interval((deep.windows() - result.arm("base").windows())[:, 1:])
    json.dumps(result.to_json(), allow_nan=False)


def test_made_rows(files: dict[str, Path], tmp_path: Path) -> None:
    made = {"rows": 500, "users": 20, "items": 10, "history": 0, "numbers": 1}
    data = [{"name": "made", "synthetic": made, "bits": [5, 4], "window": 100}]
    results = study(small.of(files, data=data, tune={}), tmp_path / "a", workers=0, show=False)
    assert [(r.setting.name, r.arms[0].runs[0].rows) for r in results] == [
        ("made, 2^5 rows", 500), ("made, 2^4 rows", 500)
    ]  # fmt: skip
    data = [{"name": "made", "synthetic": made, "window": 25}]
    config = small.of(files, protocol="holdout", data=data, tune={}, training={"batch_size": 64, "epochs": 1})
    (held,) = study(config, tmp_path / "b", workers=0, show=False)
    assert held.arms[0].runs[0].rows == 50


def test_another_study_in_the_same_folder_at_the_same_time_is_refused(files: dict[str, Path], tmp_path: Path) -> None:
    from recsys.files import locked

    with locked(tmp_path / ".lock"), pytest.raises(DataError, match="another process"):
        study(small.of(files), tmp_path, workers=0, show=False)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"baseline": "bass"}, "baseline `bass` is no arm: did you mean `base`?"),
        ({"tuning_seed": 2}, "tuning_seed 2 is one of `seeds`"),
        ({"arm": [small.ARMS[0], small.ARMS[1] | {"tune": {"model.dropout": [0.1]}}]}, "base: 2, deep: 1"),
        ({"arm": [small.ARMS[0], small.ARMS[0]]}, "two arms have one name"),
        ({"arm": small.ARMS[:1]}, "arm"),
        ({"seed": [1]}, "unknown key `seed`: did you mean `seeds`?"),
        (
            {"data": [{"name": "a", "source": "adult", "bits": [32]}]},
            "data.0.bits.0: input should be less than or equal",
        ),
        ({"protocol": "hold-out"}, "protocol"),
        ({"data": [{"name": "a", "source": "adult"}]}, "needs `bits` of each data set"),
        ({"data": [{"name": "a"}]}, "name one of `source`, `synthetic` and `train`"),
        ({"data": [{"name": "a", "train": ["a.csv"], "bits": [3]}]}, "need a `schema_file`"),
    ],
)
def test_what_cannot_be_is_refused(files: dict[str, Path], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as error:
        small.of(files, **changes)
    assert message in str(error.value)


def test_an_arm_that_cannot_be_built_is_said_before_any_run(
    files: dict[str, Path], tmp_path: Path, done: list[Task]
) -> None:
    odd = [*small.ARMS, {"name": "odd", "model": {"name": "dcn2", "hidden": [4]}, "hashes": 3}]
    with pytest.raises(ConfigError, match="embedding_dim 2 is no multiple of the 3 hashes"):
        study(small.of(files, arm=odd), tmp_path, workers=0, show=False)
    assert not done
    with pytest.raises(ConfigError, match="expected workers of at least 0, got -1"):
        study(small.of(files), tmp_path, workers=-1, show=False)


def test_own_files_are_known_wherever_the_study_stands(
    files: dict[str, Path], tmp_path: Path, done: list[Task]
) -> None:
    study(small.of(files), tmp_path / "out", workers=0, show=False)
    before = len(done)
    shutil.copytree(files["train"].parent, tmp_path / "moved", copy_function=shutil.copy2)
    moved = {name: tmp_path / "moved" / path.name for name, path in files.items()}
    study(small.of(moved), tmp_path / "out", workers=0, show=False)
    assert len(done) == before > 0


def test_runs_say_what_made_them(first: tuple[Path, list[SettingResult]]) -> None:
    made = {run.made for run in Journal(first[0] / "runs.jsonl").runs.values()}
    assert len(made) == 1
    assert made.pop().startswith(f"recsys {recsys.__version__}")


@pytest.mark.slow  # a fresh process, and two of its own
def test_workers_end_when_the_study_is_killed(files: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_bytes(tomli_w.dumps(json.loads(json.dumps(small.values(files), default=str))).encode())
    command = [sys.executable, "-m", "recsys", "study", str(path), "--out", str(tmp_path / "out"), "--workers", "2"]
    parent = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    children: list[int] = []
    for _ in range(300):
        children = [int(c) for c in Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()]
        if len(children) >= 3:  # two workers, and what tracks their resources
            break
        time.sleep(0.1)
    parent.kill()
    parent.wait()
    assert len(children) >= 3
    for _ in range(300):
        if not any(map(_alive, children)):
            break
        time.sleep(0.1)
    assert not any(map(_alive, children))


def _alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"  # ended, and nobody has asked how


def test_the_tuning_seed_is_free_where_nothing_is_tuned(files: dict[str, Path]) -> None:
    assert small.of(files, tuning_seed=2, tune={}).tuning_seed == 2


def test_a_file_is_checked_arm_by_arm_and_its_paths_are_beside_it(files: dict[str, Path]) -> None:
    path = files["schema"].parent / "mine.toml"
    text = """
title = "Mine"
baseline = "a"
[tune]
"training.learning_rate" = [0.1, 0.2]
[[data]]
name = "toy"
schema_file = "schema.toml"
train = ["train.parquet", "valid.parquet"]
bits = [4]
window = 50
[[arm]]
name = "a"
model = { name = "lr" }
[[arm]]
name = "b"
model = { name = "dcn2", hidden = [4] }
"""
    path.write_text(text)
    found = find_study(str(path))
    assert found.data[0].schema_file == files["schema"]
    assert found.data[0].train == (files["train"], files["valid"])
    path.write_text(text.replace("hidden = [4]", "hiden = [4]"))
    with pytest.raises(ConfigError, match=r"mine\.toml: arm `b`: unknown key `model\.hiden`: did you mean `hidden`"):
        find_study(str(path))
    path.write_text(text.replace("training.learning_rate", "training.learnin_rate"))
    with pytest.raises(ConfigError, match=r"arm `a`: .*learnin_rate"):
        find_study(str(path))


def test_the_shelf_has_studies_and_all_of_them_load() -> None:
    assert isinstance(find_study("dcn2"), Study)
    from recsys.shelves import shelf

    for path in (shelf("models") / "studies").glob("*.toml"):
        assert find_study(path.stem).title
    with pytest.raises(ConfigError, match="did you mean `dcn2`"):
        find_study("dcn3")
