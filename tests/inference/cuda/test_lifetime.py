"""What a session on a GPU leaves behind: after it is closed, after an error, and after somebody has timed it."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import recsys
from recsys.data.batch import Batch, JaggedIds
from recsys.errors import DataError
from recsys.inference.backends import Run
from recsys.inference.cuda.bound import Bound
from recsys.inference.cuda.lane import Lane
from recsys.inference.session import InferenceSession
from recsys.models.checkpoint import load
from tests.inference.cuda.test_plans import on_gpu as planned_on_gpu
from tests.inference.cuda.test_plans import planned, with_unknown
from tests.inference.cuda.test_scorer import batch_of, on_gpu


@pytest.fixture
def uncollected() -> Iterator[None]:
    """Only what nobody refers to goes; nothing waits for the collector of cycles."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def tables_of(session: InferenceSession) -> list[weakref.ref[torch.Tensor]]:
    free = session._open()._free  # type: ignore[union-attr]
    workspace = free.get()
    free.put(workspace)
    rows = workspace._model.executor.rows.values()
    return [weakref.ref(place) for one in rows for place in (one.device, one.host) if place is not None]


@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize("staged", [False, True])
def test_a_closed_session_gives_its_tables_back_at_once(
    folder: Path, device: torch.device, staged: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def captured(lane: Lane, work: Run) -> Run:
        lane.run(work)
        return lambda: None  # a graph does not refer to what was captured

    batch = batch_of(load(folder), 20)
    plan = planned(recsys.session(folder, backend="eager").spec, device, "split", "cpu")
    monkeypatch.setattr(Lane, "captured", captured)
    session = planned_on_gpu(folder, plan) if staged else on_gpu(folder)
    session.predict(batch)
    session.step_times(batch)
    tables = tables_of(session)
    assert any(one() is not None for one in tables)
    session.close()
    assert [one() for one in tables] == [None] * len(tables)


def test_what_is_timed_is_not_counted(folder: Path, device: torch.device) -> None:
    batch = batch_of(load(folder), 20)
    plan = planned(recsys.session(folder, backend="eager").spec, device, "split", "cpu")
    for session in (on_gpu(folder), planned_on_gpu(folder, plan)):
        session.step_times(with_unknown(batch))
        for _ in range(4):
            session.predict(batch)
        assert session.unknown_ids == 0


def test_unknown_ids_of_a_batch_that_fails_are_its_own(folder: Path) -> None:
    batch = with_unknown(batch_of(load(folder), 20))
    bad = Batch(torch.full_like(batch.dense, torch.nan), batch.ids)
    good = Batch(batch.dense, JaggedIds(batch.ids.features, batch.ids.values * 0, batch.ids.offsets))
    for n in (5, 20):
        cpu = recsys.session(folder, backend="eager", max_batch=8)
        with on_gpu(folder) as session:
            for one in (session, cpu):
                with pytest.raises(DataError, match="not finite"):
                    one.predict(bad.slice(0, n))
            after = session.unknown_ids
            assert after >= cpu.unknown_ids > 0  # the GPU has begun with a piece more
            for _ in range(4):
                session.predict(good)
            assert session.unknown_ids == after


def test_after_ctrl_c_the_gpu_is_waited_for(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(_: Bound) -> int:
        raise KeyboardInterrupt

    waited: list[Lane] = []
    batch = batch_of(load(run), 20)
    with on_gpu(run) as session:
        monkeypatch.setattr(Lane, "wait", lambda lane: waited.append(lane))
        monkeypatch.setattr(Bound, "finish", interrupted)
        for n, lanes in ((5, 1), (20, 2)):
            waited.clear()
            with pytest.raises(KeyboardInterrupt):
                session.predict(batch.slice(0, n))
            assert len(set(map(id, waited))) == lanes
