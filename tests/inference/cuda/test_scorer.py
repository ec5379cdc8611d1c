"""A session on a GPU gives what one on the processor gives, whatever the sizes of batches and whoever calls."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import recsys
from recsys.data.batch import Batch, JaggedIds
from recsys.data.schema import Categorical, Label, Numeric, Schema
from recsys.errors import ConfigError, DataError
from recsys.inference import profile
from recsys.inference.cuda.workspace import Workspace
from recsys.inference.parts import from_checkpoint
from recsys.inference.session import InferenceSession
from recsys.models.checkpoint import Checkpoint, load
from recsys.training.run import train
from tests import toy

COLUMNS = ["user", "item", "history", "tags", "age"]
USER = {"user": 3, "age": 24.0, "history": ["i1", "i5", "i5"]}
ITEMS: list[dict[str, Any]] = [{"item": f"i{i}", "tags": [f"t{t}" for t in range(i % 3)]} for i in range(20)]


def on_gpu(folder: Path, **options: Any) -> InferenceSession:
    return recsys.session(folder, **{"backend": "eager", "max_batch": 8, "device": "cuda", **options})


def batch_of(checkpoint: Checkpoint, n: int, seed: int = 7) -> Batch:
    return checkpoint.encoder.encode(toy.rows(n, seed), labels=False)


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """A model of single ids alone, whose batches have no offsets."""
    features = (Numeric(name="age"), Categorical(name="user"), Categorical(name="item"))
    schema = Schema(labels=(Label(name="label"),), features=features)
    return train(toy.recipe(tmp_path_factory.mktemp("single") / "toy", "dcn2", schema, epochs=1), show=False)


def test_scores_are_the_models(folder: Path) -> None:
    checkpoint, table = load(folder), toy.rows(20, 3)
    expected = checkpoint.predict(table)
    with on_gpu(folder) as session:
        for n in (0, 1, 5, 8, 9, 20):
            found = session.predict(table.slice(0, n).select(COLUMNS))
            assert (found.dtype, found.shape) == (expected.dtype, expected[:n].shape)
            np.testing.assert_allclose(found, expected[:n], rtol=1e-5, atol=2e-6)
        assert session.unknown_ids == 0


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("weighted", [False, True])
def test_batches_of_single_ids(single: Checkpoint, dtype: torch.dtype, weighted: bool) -> None:
    parts = from_checkpoint(single)
    cpu = InferenceSession(parts, backend="eager")
    with InferenceSession(parts, backend="eager", max_batch=16, device="cuda") as session:
        for n in (16, 3, 1, 9, 40):  # a small batch finds what a larger one has left
            made = single.encoder.encode(toy.rows(n, n), labels=False)
            weights = torch.rand(made.ids.values.shape) if weighted else None
            batch = Batch(made.dense, JaggedIds(made.ids.features, made.ids.values.to(dtype), None, weights))
            np.testing.assert_allclose(session.predict(batch), cpu.predict(batch), rtol=1e-5, atol=2e-6)
        assert session.unknown_ids == 0


@pytest.mark.parametrize("model", ["run", "din"])
def test_bags_of_any_length_with_and_without_weights(request: pytest.FixtureRequest, model: str) -> None:
    checkpoint = load(request.getfixturevalue(model))
    parts, rng = from_checkpoint(checkpoint), np.random.default_rng(0)
    cpu = InferenceSession(parts, backend="eager")
    with InferenceSession(parts, backend="eager", max_batch=8, device="cuda") as session:
        for n, most, dtype in ((8, 3, torch.int64), (5, 40, torch.int32), (1, 200, torch.int64), (8, 0, torch.int32)):
            lengths = rng.integers(0, most + 1, (2, n))  # those of a history and of tags
            bags = [np.ones(n, int), np.ones(n, int), *lengths]
            offsets = torch.from_numpy(np.concatenate([[0], np.concatenate(bags).cumsum()]))
            values = torch.from_numpy(rng.integers(0, 4, int(offsets[-1]))).to(dtype)
            for weights in (None, torch.rand(len(values))):
                ids = JaggedIds(session.spec.features, values, offsets.to(dtype), weights)
                batch = Batch(torch.randn(n, 1), ids)
                np.testing.assert_allclose(session.predict(batch), cpu.predict(batch), rtol=1e-5, atol=2e-6)


def test_unknown_ids_are_counted_once_and_padding_is_none(single: Checkpoint) -> None:
    parts = from_checkpoint(single)
    cpu = InferenceSession(parts, backend="eager")
    with InferenceSession(parts, backend="eager", max_batch=16, device="cuda") as session:
        for n, dtype, bad in ((16, torch.int64, 1 << 40), (16, torch.int32, -1), (9, torch.int64, -(1 << 40))):
            batch = single.encoder.encode(toy.rows(n, n), labels=False)
            values = batch.ids.values.to(dtype).clone()
            values[::3] = bad
            given = Batch(batch.dense, JaggedIds(batch.ids.features, values))
            np.testing.assert_allclose(session.predict(given), cpu.predict(given), rtol=1e-5, atol=2e-6)
            assert session.unknown_ids == cpu.unknown_ids
            session.predict(Batch(batch.dense[:3], batch.ids.slice(0, 3)))
            assert session.unknown_ids == cpu.unknown_ids


def test_unknown_ids_of_bags_and_sequences_are_counted(folder: Path) -> None:
    checkpoint = load(folder)
    batch = batch_of(checkpoint, 12)
    values = batch.ids.values.clone()
    values[5::7] = 10_000_000
    given = Batch(batch.dense, JaggedIds(batch.ids.features, values, batch.ids.offsets))
    cpu = recsys.session(folder, backend="eager")
    with on_gpu(folder) as session:
        np.testing.assert_allclose(session.predict(given), cpu.predict(given), rtol=1e-5, atol=2e-6)
        assert session.unknown_ids == cpu.unknown_ids > 0


def test_candidates_are_ranked_as_on_the_processor(folder: Path) -> None:
    task = "rating" if folder.parent.name.startswith("two") else None
    cpu = recsys.session(folder, backend="eager")
    with on_gpu(folder) as session:
        for user, items in ((USER, ITEMS), ({}, ITEMS[:1]), (USER, [])):
            ours, theirs = (one.rank(user, items, 7, task=task) for one in (session, cpu))
            np.testing.assert_allclose(ours.scores, theirs.scores, rtol=1e-5, atol=2e-6)
            assert ours.positions.tolist() == theirs.positions.tolist()
            assert session.counts == cpu.counts
        with pytest.raises(DataError, match="column `age` is the user's"):
            session.rank(USER, [{"item": "i1", "age": 3.0}], 1, task=task)


def test_threads_share_a_session(run: Path, trained: Checkpoint) -> None:
    batches = [batch_of(trained, n, seed=n) for n in (1, 3, 17)]
    expected = [trained.predict_batch(batch)[:, 0] for batch in batches]
    gate = threading.Barrier(4)
    with on_gpu(run) as session, ThreadPoolExecutor(4) as pool:

        def work(_: int) -> list[np.ndarray]:
            gate.wait()
            return [session.predict(batch) for _ in range(2) for batch in batches]

        for found in pool.map(work, range(4)):
            for scores, one in zip(found, expected * 2, strict=True):
                np.testing.assert_allclose(scores, one, atol=2e-6)


def test_out_is_filled_and_must_fit(run: Path, trained: Checkpoint) -> None:
    batch = batch_of(trained, 20)
    with on_gpu(run) as session:
        out = np.full(20, np.nan, dtype=np.float32)
        assert session.predict(batch, out=out) is out
        assert np.array_equal(out, session.predict(batch))
        with pytest.raises(DataError, match=r"expected `out` as float32 \(20,\)"):
            session.predict(batch, out=np.empty(19, np.float32))


def test_what_does_not_fit_is_refused_and_the_session_goes_on(run: Path, trained: Checkpoint) -> None:
    batch = batch_of(trained, 3)
    ids = batch.ids
    assert ids.offsets is not None
    nan = Batch(torch.full((3, 1), torch.nan), ids)
    apart = Batch(batch.dense[:2], ids)
    past = Batch(batch.dense, JaggedIds(ids.features, ids.values[:-1], ids.offsets))
    few = Batch(batch.dense, JaggedIds(ids.features, ids.values, ids.offsets, torch.ones(2)))
    with on_gpu(run, max_batch=2) as session:
        expected = session.predict(batch)
        for bad, told in (
            (nan, "scores are not finite"),
            (apart, "numbers of 2 rows and ids of 3"),
            (past, "offsets must ascend"),
            (few, "a weight for each"),
        ):
            for _ in range(3):  # more often than there are workspaces
                with pytest.raises(DataError, match=told):
                    session.predict(bad)
        assert np.array_equal(session.predict(batch), expected)
    with pytest.raises(ConfigError, match="this session is closed"):
        session.predict(batch)


def test_steps_are_timed_and_memory_is_told(folder: Path) -> None:
    with on_gpu(folder) as session:
        batch = batch_of(load(folder), 20)
        lookup, network = session.step_times(batch)
        assert lookup > 0
        assert network > -1e6
        assert session.table_bytes == recsys.session(folder, backend="eager").table_bytes


def test_a_session_is_warmed_up_and_profiled(single: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profile, "_LEAST", 1)
    with InferenceSession(from_checkpoint(single), backend="eager", max_batch=8, device="cuda") as session:
        session.warm_up()
        assert [row.batch for row in session.profile(seconds=0.0)] == [1, 8]


def test_an_export_is_read_where_it_lies(export: Path, trained: Checkpoint) -> None:
    batch = batch_of(trained, 20)
    with on_gpu(export, storage="map") as session:
        np.testing.assert_allclose(session.predict(batch), trained.predict_batch(batch)[:, 0], atol=2e-6)


def test_room_for_ids_grows_when_it_must(run: Path, trained: Checkpoint) -> None:
    session = on_gpu(run)
    workspace = session._open()._free.get()  # type: ignore[union-attr]
    assert isinstance(workspace, Workspace)
    small = workspace.bound(batch_of(trained, 8))
    assert workspace.bound(batch_of(trained, 7)) is small
    wide = JaggedIds(
        session.spec.features, torch.zeros(1000, dtype=torch.int64), torch.tensor([0, 1, 2, 3, 1000]), None
    )
    one = workspace.bound(Batch(torch.zeros(1, 1), wide))
    assert one.packed.room >= 1000
    assert workspace.bound(Batch(torch.zeros(1, 1), wide)) is one
