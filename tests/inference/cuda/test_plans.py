"""Sessions on a GPU that follow a plan: wherever rows lie and whoever looks them up, scores are the CPU session's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

import recsys
from recsys.cli import app
from recsys.data.batch import Batch, JaggedIds
from recsys.dataflow.gpu import gpu_name
from recsys.dataflow.gpu_plan import GpuLookup, GpuPlan, GpuTable, Where
from recsys.dataflow.workload import Dtype
from recsys.errors import ConfigError
from recsys.inference.convert import convert
from recsys.inference.cuda import choice, engines
from recsys.inference.cuda.bound import Bound
from recsys.inference.cuda.device import find_gpu
from recsys.inference.cuda.staged import StagedBound
from recsys.inference.parts import from_checkpoint
from recsys.inference.session import InferenceSession
from recsys.layers.tables import TableSpec
from recsys.models.checkpoint import Checkpoint, load
from tests import toy
from tests.dataflow.gpu_made import gpu
from tests.inference.cuda.test_scorer import ITEMS, USER, batch_of, single

__all__ = ["single"]

PLACES: tuple[Where, ...] = ("cpu", "split", "device", "host")


def planned(spec: TableSpec, device: torch.device, *places: Where, dtype: Dtype = "fp32", **changed: Any) -> GpuPlan:
    """Tables at these places in turn; of split ones every third row is hot."""
    turns = [places[k % len(places)] for k in range(len(spec.tables))]
    hot = {t.name: torch.arange(t.rows) % 3 == 0 for t, at in zip(spec.tables, turns, strict=True) if at == "split"}
    near = {
        t.name: hot[t.name].sum() if t.name in hot else t.rows * (at == "device")
        for t, at in zip(spec.tables, turns, strict=True)
    }
    tables = tuple(
        GpuTable(name=t.name, rows=t.rows, dim=t.dim, dtype=dtype, place=at, hot_rows=int(near[t.name]))
        for t, at in zip(spec.tables, turns, strict=True)
    )
    lookups = tuple(GpuLookup(name=n.name, table=n.table, ids=2.0) for n in spec.pooled)
    values: dict[str, Any] = {"workload": "toy", "gpu": gpu_name(device), "memory": 1 << 30}
    return GpuPlan(**(values | {"tables": tables, "lookups": lookups} | changed)).with_hot(hot)


def on_gpu(folder: Path, plan: GpuPlan | Path, **options: Any) -> InferenceSession:
    return recsys.session(folder, plan, **{"backend": "eager", "max_batch": 8, "device": "cuda", **options})


def with_unknown(batch: Batch) -> Batch:
    values = batch.ids.values.clone()
    values[5::7] = 10_000_000
    return Batch(batch.dense, JaggedIds(batch.ids.features, values, batch.ids.offsets))


@pytest.mark.parametrize("places", [PLACES, ("cpu",)])
def test_scores_are_the_cpus_wherever_rows_lie(folder: Path, places: tuple[Where, ...], device: torch.device) -> None:
    """The rows of a sequence are the GPU's to read, also where the CPU pools others of their table."""
    checkpoint = load(folder)
    cpu = recsys.session(folder, backend="eager")
    with on_gpu(folder, planned(cpu.spec, device, *places)) as session:
        for n in (8, 5, 0, 1, 20):  # a small batch finds what a larger one has left; the last one runs in pieces
            batch = with_unknown(batch_of(checkpoint, n))
            np.testing.assert_allclose(session.predict(batch), cpu.predict(batch), rtol=1e-5, atol=2e-6)
            assert session.unknown_ids == cpu.unknown_ids
        assert session.table_bytes == cpu.table_bytes
        lookup, _ = session.step_times(batch_of(checkpoint, 20))
        assert lookup > 0


def test_the_cpu_looks_up_single_ids_and_weighted_ones(single: Checkpoint, device: torch.device) -> None:
    parts = from_checkpoint(single)
    cpu = InferenceSession(parts, backend="eager")
    plan = planned(parts.spec, device, "cpu", "device")
    with InferenceSession(parts, plan, backend="eager", max_batch=16, device="cuda") as session:
        for n in (16, 3, 40):
            made = single.encoder.encode(toy.rows(n, n), labels=False)
            for weights in (None, torch.rand(made.ids.values.shape)):
                batch = Batch(made.dense, JaggedIds(made.ids.features, made.ids.values.int(), None, weights))
                np.testing.assert_allclose(session.predict(batch), cpu.predict(batch), rtol=1e-5, atol=2e-6)
        assert session.unknown_ids == 0


def test_one_graph_is_launched_where_the_cpu_looks_nothing_up(run: Path, device: torch.device) -> None:
    spec, batch = load(run).model.tables.spec, batch_of(load(run), 3)
    for place, form in (("host", Bound), ("cpu", StagedBound)):
        workspace = on_gpu(run, planned(spec, device, place))._open()._free.get()  # type: ignore[union-attr, arg-type]
        assert type(workspace.bound(batch)) is form


def test_candidates_are_ranked_by_a_plan(run: Path, device: torch.device) -> None:
    cpu = recsys.session(run, backend="eager")
    with on_gpu(run, planned(cpu.spec, device, *PLACES)) as session:
        ours, theirs = (one.rank(USER, ITEMS, 7) for one in (session, cpu))
        np.testing.assert_allclose(ours.scores, theirs.scores, rtol=1e-5, atol=2e-6)


def test_a_failure_of_the_cpus_look_ups_leaves_the_session_as_it_was(
    run: Path, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> int:
        raise MemoryError

    checkpoint = load(run)
    batch = batch_of(checkpoint, 17)
    with on_gpu(run, planned(checkpoint.model.tables.spec, device, "cpu", "device")) as session:
        expected = session.predict(batch)
        with monkeypatch.context() as patch:
            patch.setattr("recsys.dataflow.gpu_stage.Stage.fill", fail)
            for n in (3, 17, 3, 3):  # more often than there are workspaces
                with pytest.raises(MemoryError):
                    session.predict(batch.slice(0, n))
        assert np.array_equal(session.predict(batch), expected)


@pytest.mark.parametrize("dtype", ["fp16", "int8"])
def test_tables_are_stored_as_the_plan_says(run: Path, tmp_path: Path, dtype: Dtype, device: torch.device) -> None:
    """Of a run they are converted; an export must have been made with the plan, or another one of these dtypes."""
    checkpoint = load(run)
    plan, batch = planned(checkpoint.model.tables.spec, device, *PLACES, dtype=dtype), batch_of(checkpoint, 8)
    plan.write(tmp_path / "plan.json")
    expected = InferenceSession(from_checkpoint(checkpoint, plan), backend="eager").predict(batch)
    assert not np.allclose(expected, checkpoint.predict_batch(batch)[:, 0], rtol=1e-6, atol=0)
    with on_gpu(run, tmp_path / "plan.json") as session:
        np.testing.assert_allclose(session.predict(batch), expected, rtol=1e-5, atol=2e-6)
        assert session.source != recsys.session(run, backend="eager").source
    assert app.main(["export", str(run), str(tmp_path / "e"), "--plan", str(tmp_path / "plan.json")]) == 0
    assert not (tmp_path / "e" / "plan.json").exists()
    with on_gpu(tmp_path / "e", plan, storage="map") as session:
        np.testing.assert_allclose(session.predict(batch), expected, rtol=1e-5, atol=2e-6)


def test_plans_for_something_else_are_refused(
    run: Path, export: Path, tmp_path: Path, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = load(run)
    spec, parts = checkpoint.model.tables.spec, from_checkpoint(checkpoint)
    plan = planned(spec, device, "device")
    with pytest.raises(ConfigError, match="the plan for `toy` is for a GPU"):
        recsys.session(run, plan)
    with pytest.raises(ConfigError, match="the plan for `toy` is for a GPU"):
        InferenceSession(parts, plan)
    with pytest.raises(ConfigError, match=r"has table `.*` as fp16, it is stored as fp32: .*recsys export --plan"):
        on_gpu(export, planned(spec, device, "device", dtype="fp16"))
    with pytest.raises(ConfigError, match="was made for NVIDIA Z1, this is"):
        on_gpu(run, planned(spec, device, "device", gpu="NVIDIA Z1"), backend="auto")  # before anything is compiled
    other = planned(TableSpec(spec.features, spec.tables[:-1], spec.lookups[:-1], spec.dense), device, "device")
    with pytest.raises(ConfigError, match="was made for other tables"):
        convert(run, tmp_path / "e", other, show=False)
    assert not (tmp_path / "e").exists()


def test_a_cpus_plan_is_no_gpus(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "plan.json"
    assert app.main(["plan", str(run), "--platform", "xeon-avx512-2", "--cores", "1", "--out", str(path)]) == 0
    with pytest.raises(ConfigError, match=r"is for a CPU's cores: .* `recsys plan --device cuda`"):
        recsys.session(run, path, device="cuda")
    (tmp_path / "odd.json").write_text("[]")
    with pytest.raises(ConfigError, match="expected a plan"):
        recsys.session(run, tmp_path / "odd.json", device="cuda")


def test_a_plan_is_made_on_the_command_line_and_followed_there(
    run: Path,
    trained: Checkpoint,
    tmp_path: Path,
    device: torch.device,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(choice, "GPU_ENGINES", {"eager": engines.GPU_ENGINES["eager"]})
    monkeypatch.setattr(choice, "_SECONDS", 0.0)
    monkeypatch.setattr("recsys.inference.session.GPU_MAX_BATCH", 16)
    table = toy.rows(40, 5)
    rows, plan, out, platform = (tmp_path / name for name in ("in.parquet", "plan.json", "out.parquet", "gpu.toml"))
    pq.write_table(table, rows)
    platform.write_text(gpu(gpu=gpu_name(device)).toml())

    def call(*words: object) -> dict[str, Any]:
        assert app.main([*map(str, words), "--json"]) == 0
        found: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
        return found

    own = ["--device", "cuda"]
    size = sum(one.rows * one.dim * 4 for one in trained.model.tables.spec.tables)
    call("plan", run, *own, "--data", rows, "--platform", platform, "--memory", size // 2, "--out", plan)
    assert "split" in {one.place for one in GpuPlan.read(plan).tables}
    call("score", run, rows, out, *own, "--plan", plan)
    scores = pq.read_table(out)["score"].to_numpy()
    np.testing.assert_allclose(scores, trained.predict(table), rtol=1e-5, atol=2e-6)
    assert call("verify", run, run, "--data", rows, *own, "--plan", plan, "--backend", "eager")["passed"]
    assert app.main(["score", str(run), str(rows), str(out), "--plan", str(plan)]) == 2
    assert app.main(["estimate", str(run), "--plan", str(plan)]) == 2
    assert capsys.readouterr().err.count("is for a GPU") == 2


def test_a_job_is_refused_before_tables_are_read(
    run: Path, device: torch.device, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recsys.cli.score.open_parts", None)
    monkeypatch.setattr("recsys.inference.session.find_gpu", find_gpu)
    plan = planned(load(run).model.tables.spec, device, "device")
    plan.write(tmp_path / "plan.json")
    pq.write_table(toy.rows(4), tmp_path / "rows.parquet")
    job = ["score", str(run), str(tmp_path / "rows.parquet"), str(tmp_path / "out.parquet")]
    assert app.main([*job, "--device", "cuda:x"]) == 2
    assert app.main([*job, "--plan", str(tmp_path / "plan.json")]) == 2
    told = capsys.readouterr().err
    assert "expected a device" in told
    assert "use it with device cuda" in told
