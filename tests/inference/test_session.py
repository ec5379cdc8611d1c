"""A session gives the trained model's scores, from any kind of rows, to any number of threads, and then no more."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import recsys
from recsys.data.batch import Batch, JaggedIds
from recsys.dataflow.executor import TableExecutor
from recsys.dataflow.plan import DataFlowPlan, Piece, PlannedLookup, PlannedTable, Schedule
from recsys.errors import CheckpointError, ConfigError, DataError, MissingExtraError, RecsysError
from recsys.inference import choice
from recsys.inference.backends import load as load_engine
from recsys.inference.buffers import Buffers
from recsys.inference.parts import from_checkpoint
from recsys.inference.scorer import Scorer
from recsys.inference.session import InferenceSession
from recsys.models.checkpoint import Checkpoint, load
from recsys.threads import torch_threads
from tests import toy

COLUMNS = ["user", "item", "history", "tags", "age"]


def eager(folder: Path, **options: object) -> InferenceSession:
    return recsys.session(folder, **{"backend": "eager", **options})  # type: ignore[arg-type]


def buffers_of(session: InferenceSession) -> Buffers:
    scorer = session._open()
    assert isinstance(scorer, Scorer)
    return scorer._buffers


@pytest.fixture
def session(run: Path) -> InferenceSession:
    return eager(run)


def batch_of(checkpoint: Checkpoint, n: int, seed: int = 7) -> Batch:
    return checkpoint.encoder.encode(toy.rows(n, seed), labels=False)


@pytest.mark.parametrize("model", ["run", "din", "two"])
@pytest.mark.parametrize("n", [0, 1, 5, 600])
def test_scores_are_the_models(request: pytest.FixtureRequest, model: str, n: int) -> None:
    folder = request.getfixturevalue(model)
    checkpoint, table = load(folder), toy.rows(n, 3)
    expected = checkpoint.predict(table)
    with eager(folder, max_batch=64) as session:
        found = session.predict(table.select(COLUMNS))
        assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(session.predict(checkpoint.encoder.encode(table, labels=False)), found)


def test_all_kinds_of_rows_give_the_same(session: InferenceSession, tmp_path: Path) -> None:
    table = toy.rows(40, 5).select(COLUMNS)
    expected = session.predict(table)
    pq.write_table(toy.rows(40, 5), tmp_path / "rows.parquet")
    assert np.array_equal(session.predict(tmp_path / "rows.parquet"), expected)  # labels and others are not read
    assert np.array_equal(session.predict(table.to_pandas()), expected)
    dicts = table.to_pylist()
    np.testing.assert_allclose(session.predict(dicts), expected, atol=1e-6)
    np.testing.assert_allclose(session.predict(dicts[0]), expected[:1], atol=1e-6)
    assert session.predict([]).shape == (0,)


def test_an_absent_column_is_missing_in_every_row_and_counted(run: Path) -> None:
    table = toy.rows(30).select(COLUMNS)
    nothing = table.set_column(4, "age", pa.nulls(30)).set_column(0, "user", pa.nulls(30))
    with eager(run) as session:
        expected = session.predict(nothing)
        assert (session.counts.missing["age"], session.counts.missing["user"]) == (30, 30)
        assert np.array_equal(session.predict(table.drop_columns(["age", "user"])), expected)
        assert (session.counts.missing["age"], session.counts.rows) == (60, 60)
        without = [{key: row[key] for key in ("item", "history", "tags")} for row in table.to_pylist()]
        np.testing.assert_allclose(session.predict(without), expected, atol=1e-6)
        assert session.counts.missing["age"] == 90


def test_a_column_of_no_feature_is_refused_with_the_nearest(session: InferenceSession) -> None:
    table = toy.rows(3).select(COLUMNS).rename_columns(["user", "itme", "history", "tags", "age"])
    with pytest.raises(DataError, match=r"column `itme` is no feature's: did you mean `item`\?"):
        session.predict(table)
    with pytest.raises(DataError, match=r"unknown column `itme`: did you mean `item`\?"):
        session.predict({"itme": 3})
    with pytest.raises(DataError, match="expected columns user, item"):
        session.predict(pa.table({"label": [1]}))
    assert session.predict(toy.rows(3).drop_columns(["rating"])).shape == (3,)  # label and user are the schema's


def test_a_larger_batch_is_split_among_threads(run: Path, trained: Checkpoint) -> None:
    batch = batch_of(trained, 200)
    expected = trained.predict_batch(batch)[:, 0]
    for threads, most in ((1, 7), (3, 512), (2, 9)):
        with eager(run, threads=threads, max_batch=most) as session:
            np.testing.assert_allclose(session.predict(batch), expected, atol=1e-6)


@pytest.mark.parametrize(("threads", "n"), [(1, 100), (1, 300), (2, 100), (2, 300)])
def test_whoever_scores_has_one_thread_of_torch(
    run: Path, trained: Checkpoint, monkeypatch: pytest.MonkeyPatch, threads: int, n: int
) -> None:
    """Else every piece of a batch waits for threads that a busy machine does not run: 10 s in place of 0.2."""
    seen: set[tuple[int, str]] = set()

    def counted(step: Any) -> Any:
        def call(*args: Any) -> Any:
            seen.add((torch.get_num_threads(), threading.current_thread().name.partition("_")[0]))
            return step(*args)

        return call

    monkeypatch.setattr(TableExecutor, "lookup", counted(TableExecutor.lookup))
    monkeypatch.setattr(Batch, "slice", counted(Batch.slice))
    with torch_threads(2), eager(run, threads=threads, max_batch=200) as session:
        batch = batch_of(trained, n)
        session.predict(batch)
        assert seen == {(1, "recsys-session" if threads > 1 and n > 128 else threading.current_thread().name)}
        assert torch.get_num_threads() == 2
        seen.clear()
        session.rank({}, [{"item": "i1"}] * n, 1)
        assert {name for _, name in seen} == {"MainThread"} | ({"recsys-session"} if threads > 1 and n > 128 else set())
        assert {count for count, _ in seen} == {1}


def test_out_is_filled_and_must_fit(session: InferenceSession, trained: Checkpoint) -> None:
    batch = batch_of(trained, 20)
    out = np.full(20, np.nan, dtype=np.float32)
    assert session.predict(batch, out=out) is out
    assert np.array_equal(out, session.predict(batch))
    for wrong in (np.empty(19, np.float32), np.empty(20), np.empty((20, 1), np.float32)):
        with pytest.raises(DataError, match=r"expected `out` as float32 \(20,\)"):
            session.predict(batch, out=wrong)
    out.flags.writeable = False
    with pytest.raises(DataError, match="got a read-only one"):
        session.predict(batch, out=out)
    with pytest.raises(ConfigError, match="`out` takes the scores of an encoded batch"):
        session.predict(toy.rows(20).select(COLUMNS), out=out)


def test_a_batch_of_another_schema_is_refused(session: InferenceSession, trained: Checkpoint) -> None:
    batch = batch_of(trained, 2)
    renamed = JaggedIds(("u", *batch.ids.features[1:]), batch.ids.values, batch.ids.offsets)
    with pytest.raises(DataError, match="expected a batch of 1 numbers and features user, item, history, tags"):
        session.predict(Batch(batch.dense, renamed))
    with pytest.raises(DataError, match="encode with the session's encoder"):
        session.predict(Batch(torch.zeros(2, 3), batch.ids))


def test_scores_that_are_no_numbers_are_an_error(session: InferenceSession, trained: Checkpoint) -> None:
    batch = batch_of(trained, 3)
    batch.dense[1] = torch.nan
    with pytest.raises(DataError, match="1 of 3 scores are not finite"):
        session.predict(batch)


def test_threads_share_a_session(session: InferenceSession, trained: Checkpoint) -> None:
    batches = [batch_of(trained, n, seed=n) for n in (1, 3, 17, 80) for _ in range(5)]
    expected = [trained.predict_batch(batch)[:, 0] for batch in batches]
    gate = threading.Barrier(4)

    def work(_: int) -> list[np.ndarray]:
        gate.wait()
        return [session.predict(batch) for _ in range(5) for batch in batches]

    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(work, range(4)):
            for scores, one in zip(found, expected * 5, strict=True):
                np.testing.assert_allclose(scores, one, atol=1e-6)


def test_after_warming_up_nothing_but_the_result_is_kept(session: InferenceSession, trained: Checkpoint) -> None:
    session.warm_up()
    batch, out = batch_of(trained, 8), np.empty(8, np.float32)

    def traced(calls: int) -> int:
        for _ in range(calls):
            session.predict(batch, out=out)
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        before = traced(100)
        assert traced(400) - before < 1000
    finally:
        tracemalloc.stop()
    bound = buffers_of(session).bound(8)
    assert buffers_of(session).bound(8) is bound
    assert bound.x.data_ptr() == buffers_of(session).bound(3).x.data_ptr()  # one buffer serves all sizes


def test_the_calls_of_few_sizes_are_kept(session: InferenceSession) -> None:
    first = buffers_of(session).bound(1)
    for size in range(2, 70):
        buffers_of(session).bound(size)
    assert len(buffers_of(session)._bound) <= 64
    assert buffers_of(session).bound(1) is not first


def test_a_closed_session_says_so(run: Path, trained: Checkpoint) -> None:
    session = eager(run)
    session.close()
    session.close()
    for call in (
        lambda: session.predict({}),
        lambda: session.rank({}, [], 1),
        lambda: session.encode(pa.table({"item": ["i1"]})),
        lambda: session.encode_rows([{}]),
        lambda: session.unknown_ids,
        session.warm_up,
        session.profile,
    ):
        with pytest.raises(ConfigError, match="this session is closed"):
            call()


def test_profile_tells_where_time_goes(run: Path) -> None:
    with eager(run, max_batch=64) as session:
        found = session.profile(seconds=0.01)
    assert [one.batch for one in found] == [1, 8, 64]
    for one in found:
        assert one.backend == "eager"
        assert one.network_us > 0
        assert one.lookup_us > 0
        assert one.us == pytest.approx(one.lookup_us + one.network_us + one.glue_us)
        assert one.rows_per_second == pytest.approx(one.batch / one.us * 1e6)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"max_batch": 0}, "expected max_batch of 1 to 1,048,576, a whole number, got 0"),
        ({"max_batch": 10**13}, "expected max_batch of 1 to 1,048,576, a whole number, got 10000000000000"),
        ({"max_batch": True}, "expected max_batch of 1 to"),
        ({"max_batch": 8.0}, "expected max_batch of 1 to"),
        ({"threads": 0}, "expected threads of 1 to 1,024, a whole number, got 0"),
        ({"threads": "2"}, "expected threads of 1 to"),
        ({"threads": 10**6}, "expected threads of 1 to"),
        (
            {"backend": "tensorrt"},
            "expected backend as one of auto, eager, aoti, onnx, inductor, fused, got 'tensorrt'",
        ),
        ({"backend": None}, "expected backend as one of"),
        ({"precision": "fp16"}, "expected precision as one of auto, fp32, tf32, bf16, int8, got 'fp16'"),
        ({"storage": "disk"}, "expected storage as one of huge, map, got 'disk'"),
        ({"storage": "map"}, "export it first"),
        ({"plan": "nowhere.json"}, "no such file"),
    ],
)
def test_arguments_that_cannot_be(run: Path, options: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        eager(run, **options)


def test_what_is_no_model_is_named(tmp_path: Path, run: Path) -> None:
    with pytest.raises(CheckpointError, match="no such run folder"):
        recsys.session(tmp_path / "nothing")
    with pytest.raises(MissingExtraError, match="eager has no int8"):
        eager(run, precision="int8")


def plan_for(checkpoint: Checkpoint, dtype: str = "fp32", cores: int = 1) -> DataFlowPlan:
    spec = checkpoint.model.tables.spec
    return DataFlowPlan(
        workload="toy",
        platform="none",
        cores=cores,
        tables=tuple(PlannedTable(name=t.name, rows=t.rows, dim=t.dim, dtype=dtype) for t in spec.tables),
        lookups=tuple(PlannedLookup(name=n.name, table=n.table) for n in spec.pooled),
        schedules=(
            Schedule(batch=64, pieces=tuple(Piece(lookup=n.name) for n in spec.pooled), predicted_us=1.0, bound_us=1.0),
        ),
    )


def test_a_plan_says_how_rows_are_stored(run: Path, trained: Checkpoint, tmp_path: Path) -> None:
    batch = batch_of(trained, 50)
    expected = trained.predict_batch(batch)[:, 0]
    plan_for(trained, "int8").write(tmp_path / "plan.json")
    with eager(run) as plain, eager(run, plan=tmp_path / "plan.json") as small:
        assert small.table_bytes < plain.table_bytes
        off = np.abs(small.predict(batch) - expected).max()
        assert 0 < off < 0.02


def test_a_plan_for_another_model_is_refused(run: Path, din: Path) -> None:
    with pytest.raises(ConfigError, match="differ in look-up"):
        eager(din, plan=plan_for(load(run)))


def test_offsets_of_32_bits_are_as_good(din: Path) -> None:
    checkpoint = load(din)
    batch = batch_of(checkpoint, 30)
    assert batch.ids.offsets is not None
    narrow = JaggedIds(batch.ids.features, batch.ids.values.int(), batch.ids.offsets.int())
    with eager(din) as session:
        assert np.array_equal(session.predict(Batch(batch.dense, narrow)), session.predict(batch))


def test_a_tuple_of_dicts_and_the_schemas_time_are_taken(session: InferenceSession) -> None:
    rows = toy.rows(3).select(COLUMNS).to_pylist()
    assert np.array_equal(session.predict(tuple(rows)), session.predict(rows))


def test_a_frame_may_be_passed_by_its_columns(session: InferenceSession) -> None:
    frame = toy.rows(10).drop_columns(["rating"]).to_pandas()
    frame["note"] = "x"
    with pytest.raises(DataError, match=r"column `note` is no feature's.*pass rows\[session.columns\]"):
        session.predict(frame)
    assert session.predict(frame[session.columns]).shape == (10,)
    assert isinstance(pd.Series(session.predict(frame[session.columns])), pd.Series)


def test_an_export_needs_neither_the_models_code_nor_torchrec(export: Path) -> None:
    code = (
        "import recsys, sys\n"
        f"session = recsys.session({str(export)!r}, backend='eager')\n"
        "print(session.predict({'user': 3, 'item': 'i3'})[0])\n"
        "print([m for m in sys.modules if m.startswith(('recsys.models', 'recsys.training', 'torchrec', 'fbgemm'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    score, loaded = done.stdout.splitlines()
    assert 0 < float(score) < 1
    assert loaded == "[]"


def test_a_call_that_is_at_work_ends_when_the_session_is_closed(run: Path, trained: Checkpoint) -> None:
    session, batch = eager(run), batch_of(trained, 300)
    expected = session.predict(batch)
    started, found = threading.Event(), []

    def work() -> None:
        while True:
            try:
                found.append(session.predict(batch))
            except ConfigError:
                return
            started.set()

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    started.wait(20)
    session.close()
    for thread in threads:
        thread.join(20)
        assert not thread.is_alive()
    assert found
    assert all(np.array_equal(scores, expected) for scores in found)


def test_numbers_of_numpy_are_whole_numbers_too(run: Path) -> None:
    with eager(run, max_batch=np.int32(8), threads=np.uint8(2)) as session:
        assert session.max_batch == 8
        assert session.rank({"user": 3}, [{"item": "i1"}, {"item": "i2"}], np.int64(1)).positions.shape == (1,)  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="expected k of 1 or more, a whole number, got True"):
            session.rank({}, [{}], True)


def test_ids_out_of_range_read_row_0_and_are_counted(session: InferenceSession, trained: Checkpoint) -> None:
    batch = batch_of(trained, 4)
    assert session.unknown_ids == 0
    values = batch.ids.values.clone()
    values[:2] = torch.tensor([1 << 40, -1])
    first = values.clone()
    first[:2] = 0
    ids = JaggedIds(batch.ids.features, values, batch.ids.offsets)
    found = session.predict(Batch(batch.dense, ids))
    assert session.unknown_ids == 2
    assert np.array_equal(found, session.predict(Batch(batch.dense, JaggedIds(ids.features, first, ids.offsets))))
    session.predict({"user": "never seen"})
    assert session.unknown_ids == 2


def test_what_has_no_columns_is_refused_in_one_sentence(session: InferenceSession) -> None:
    with pytest.raises(DataError, match=r"anything else with columns that exports Arrow, got Series"):
        session.predict(pd.Series([1, 2]))
    with pytest.raises(DataError, match=r"with columns that exports Arrow, got Int64Array"):
        session.predict(pa.array([1, 2]))
    with pytest.raises(DataError, match="expected an Arrow table, got DataFrame: `predict` takes other rows"):
        session.encode(pd.DataFrame({"item": ["i1"]}))


def test_encode_refuses_what_predict_refuses(session: InferenceSession) -> None:
    with pytest.raises(DataError, match="column `zzz` is no feature's"):
        session.encode(pa.table({"zzz": [1]}))
    with pytest.raises(DataError, match="expected columns user, item"):
        session.encode(pa.table({"label": [1]}))
    assert len(session.encode(pa.table({"item": ["i1"]}))) == 1


def test_a_precision_that_cannot_run_here_keeps_no_export_from_opening(
    trained: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It passed the gate on another machine."""
    parts = replace(from_checkpoint(trained), precisions=("fp32", "int8"))
    monkeypatch.setattr(choice, "absent", lambda backend, kind: None if backend == "eager" else "left out here")
    monkeypatch.setattr(choice, "_SECONDS", 0.0)
    with InferenceSession(parts, max_batch=1) as session:
        assert session.precision == "fp32"
    with pytest.raises(RecsysError, match="no back end can run a network as int8 here: left out here"):
        InferenceSession(parts, precision="int8", max_batch=1)


def test_a_back_end_that_was_asked_for_must_give_the_networks_scores(
    run: Path, trained: Checkpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = from_checkpoint(load(run)).program  # it has the model's own weights, which others use
    with torch.no_grad():
        for name, weight in other.state_dict.items():
            if name.endswith("bias"):
                weight += 3
    monkeypatch.setattr(choice, "load", lambda backend, kind, _: load_engine("eager", kind, other))
    with pytest.raises(ConfigError, match="eager as fp32 gives other scores than eager torch"):
        eager(run)
