"""One run of a study, and the processes that do several."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any, Self

import pytest
import torch

from recsys.errors import DataError
from recsys.models.registry import build
from recsys.training.study import runs as carried
from recsys.training.study.measure import Run, Task, first_gradients, measure
from recsys.training.study.rows import stream
from recsys.training.study.runs import Journal, carry_out
from tests.training.study import small


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    config = small.of(small.toy_files(tmp_path_factory.mktemp("toy")))
    return Task(config.settings()[0], config.protocol, config.plan(config.arm[1], {}, 1))


def test_first_gradients_change_nothing(task: Task) -> None:
    encoder, rows = stream(task.setting)
    model = build(task.plan.model, encoder.inputs)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    batch = next(rows.in_order(64))
    found = first_gradients(model, batch, task.plan)
    assert found.keys() == {name.split(".")[0] for name, _ in model.named_parameters()}
    assert all(value > 0 for value in found.values())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert first_gradients(model, batch, task.plan) == found


def test_a_run_is_the_same_every_time_and_leaves_torch_as_it_was(task: Task) -> None:
    threads, state = torch.get_num_threads(), torch.random.get_rng_state()
    one, two = measure(task), measure(task)
    assert (one.windows, one.auc, one.gradients) == (two.windows, two.auc, two.gradients)
    assert one.choice == one.value
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_run_goes_through_json() -> None:
    run = Run("k", [0.5, math.nan], 0.5, 0.7, 0.6, 9, {"tables": 1e-9}, 5)
    again = Run.from_json(json.loads(json.dumps(run.to_json(), allow_nan=False)))
    assert math.isnan(again.windows[1])
    assert again.to_json() == run.to_json()
    diverged = Run.from_json(Run("k", [], math.nan, math.nan).to_json())
    assert diverged.choice == -math.inf
    assert math.isnan(diverged.value)


def test_keys_tell_what_decides(task: Task, tmp_path: Path) -> None:
    config = small.of(small.toy_files(tmp_path), data=[task.setting.data.model_dump() | {"name": "other"}])
    (setting,) = config.settings()
    same = Task(setting, task.protocol, task.plan)
    assert same.key() == task.key()
    plan = config.plan(config.arm[1], {}, 2)
    changed = [Task(setting, task.protocol, plan), Task(setting, "holdout", task.plan)]
    changed += [Task(setting, task.protocol, task.plan, hashes=2)]
    assert len({task.key(), *(one.key() for one in changed)}) == 4


def test_a_killed_process_is_one_clear_line(task: Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed:
        def __init__(self, *args: object) -> None: ...

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *args: object) -> None: ...

        def shutdown(self, cancel_futures: bool) -> None: ...

        def submit(self, work: Callable[[Task], Run], task: Task) -> Future[Any]:
            future: Future[Any] = Future()
            if task.hashes == 1:
                future.set_result(work(task))
            else:
                future.set_exception(BrokenProcessPool("terminated abruptly"))
            return future

    monkeypatch.setattr(carried, "ProcessPoolExecutor", Killed)
    monkeypatch.setattr(carried, "as_completed", list)
    journal = Journal(tmp_path / "runs.jsonl")
    tasks = [task, Task(task.setting, task.protocol, task.plan, hashes=2)]
    with pytest.raises(DataError, match="killed, perhaps for want of memory: give fewer workers"):
        carry_out(tasks, journal, 2, show=False, what="runs")
    assert list(Journal(tmp_path / "runs.jsonl").runs) == [task.key()]  # what was done is kept
