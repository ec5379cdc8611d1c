"""`recsys plan` and `recsys bench dataflow` on small workloads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from recsys.bench.dataflow import rig
from recsys.cli import app
from recsys.dataflow.kernels import cpu
from recsys.dataflow.plan import DataFlowPlan
from recsys.dataflow.platform import read_cores
from recsys.dataflow.workload import Dtype, Ids, Workload, WorkloadLookup, WorkloadTable
from tests.dataflow.test_platform import machine

built = pytest.mark.skipif(cpu.native is None, reason=f"the C++ kernels were not built: {cpu.missing}")


@pytest.fixture
def platform(tmp_path: Path) -> Path:
    path = tmp_path / "platform.toml"
    path.write_text(machine().toml())
    return path


@pytest.fixture
def workload(tmp_path: Path) -> Path:
    tables = [WorkloadTable(name=f"t{k}", rows=10 ** (k + 1), dim=dim) for k, dim in enumerate((1, 16, 16, 40))]
    lookups = [WorkloadLookup(name=table.name, table=table.name) for table in tables]
    lookups[3] = WorkloadLookup(name="t3", table="t3", pooling="mean", ids=Ids(bags=((0, 0.5), (7, 0.5))))
    lookups.append(WorkloadLookup(name="sequence", table="t1", pooling="none", ids=Ids(bags=((5, 1.0),))))
    made = Workload(name="small", tables=tuple(tables), lookups=tuple(lookups), batch_sizes=(1, 300))
    path = tmp_path / "small.toml"
    path.write_text(made.toml())
    return path


def run(words: list[str], capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    assert app.main(words) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return found


def test_a_workload_is_planned_written_and_drawn(
    tmp_path: Path, platform: Path, workload: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "plan.json"
    found = run(["plan", str(workload), "--platform", str(platform), "--out", str(out), "--json"], capsys)
    plan = DataFlowPlan.read(out)
    assert (plan.workload, plan.platform, plan.cores) == ("small", machine().fingerprint, 4)
    assert [one["batch"] for one in found["schedules"]] == [1, 300]
    assert {lookup.name for lookup in plan.lookups} == {"t0", "t1", "t2", "t3"}  # sequences are not pooled
    assert Path(found["picture"]).stat().st_size > 1000


def test_a_trained_model_is_planned_with_ids_assumed(
    tmp_path: Path, platform: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "plan.json"
    words = ["plan", "wikipedia-dcn2", "--platform", str(platform), "--out", str(out), "--batch", "64", "--cores", "2"]
    assert app.main(words) == 0
    assert "are assumed" in capsys.readouterr().out
    assert DataFlowPlan.read(out).cores == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["plan", "criteo-kagle"], "did you mean `criteo-kaggle`"),
        (["plan", "criteo-kaggle", "--cores", "0"], "at least one core"),
        (["plan", "criteo-kaggle", "--batch", "0"], "batches of at least 1"),
        (["plan", "criteo-kaggle", "--platform", "absent.toml"], "no such file"),
        (["plan", "criteo-kaggle", "--picture", "plan.xyz"], "`xyz` is no format of pictures"),
    ],
)
def test_what_cannot_be_planned_is_one_sentence(
    words: list[str], message: str, tmp_path: Path, platform: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if "--platform" not in words:
        words = [*words, "--platform", str(platform)]
    assert app.main([*words, "--out", str(tmp_path / "plan.json")]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not (tmp_path / "plan.json").exists()


def test_a_picture_does_not_replace_the_plan(
    tmp_path: Path, platform: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "plan.png"
    assert app.main(["plan", "criteo-kaggle", "--platform", str(platform), "--out", str(out)]) == 2
    assert "the plan and its picture are both to be" in capsys.readouterr().err
    assert not out.exists()


@built
def test_plans_are_run_and_measured(
    tmp_path: Path, platform: Path, workload: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["bench", "dataflow", str(workload), "--platform", str(platform), "--batch", "20", "--cores", "1"]
    found = run([*words, "--ids", "as it is", "equal", "trace", "--results", str(tmp_path / "R.md")], capsys)
    assert [(row["workload"], row["ids"], row["batch"]) for row in found["rows"]] == [
        ("small", "as it is", 20),
        ("small", "equal", 20),
        ("small", "trace", 20),
    ]
    for row in found["rows"]:
        assert {piece["lookup"] for piece in row["pieces"]} == {"t0", "t1", "t2", "t3"}
        assert row["us"] > 0
    assert 0 <= found["median_plan_error"] <= found["worst_plan_error"]
    assert 0 <= found["pieces_counted"] <= found["pieces"] == 12
    text = (tmp_path / "R.md").read_text()
    assert f"\nrecsys bench dataflow {workload} --batch 20 --ids 'as it is' equal trace --cores 1 " in text
    assert all(f"| small | {row['ids']} | 20 | 1 | {row['predicted_us']:,.1f} |" in text for row in found["rows"])


@built
@pytest.mark.skipif(len(read_cores()) < 2, reason="there is one core")
def test_plans_of_two_cores_are_run_beside_symmetric_ones(
    platform: Path, workload: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["bench", "dataflow", str(workload), "--platform", str(platform), "--batch", "3000", "--cores", "2"]
    row = run([*words, "--ids", "uniform"], capsys)["rows"][0]
    assert row["cores"] == 2
    assert row["symmetric_us"] <= row["one_core_us"]
    assert row["ratio_symmetric"] == pytest.approx(row["symmetric_us"] / row["us"], rel=1e-3)
    assert all(piece["us"] > 0 for piece in row["pieces"])


@built
def test_rows_are_stored_as_the_workload_says() -> None:
    dtypes: tuple[Dtype, ...] = ("fp32", "fp16", "int8")
    tables = tuple(WorkloadTable(name=dtype, rows=20_000, dim=5, dtype=dtype) for dtype in dtypes)
    lookups = tuple(WorkloadLookup(name=name, table=name) for name in dtypes)
    slots, width = rig(Workload(name="w", tables=tables, lookups=lookups))
    assert width == 15
    assert [slot.rows.dtype for slot in slots] == ["fp32", "fp16", "int8"]
    fp32, *others = (slot.rows.read() for slot in slots)
    for rows in others:
        assert 0 < float((rows - fp32).abs().max()) < 0.01


@built
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--cores", "4096"], "as many as the platform and this process have"),
        (["--cores", "0"], "as many as the platform and this process have"),
        (["--cap", "0"], "at least 1 of rows"),
    ],
)
def test_what_cannot_be_run_is_one_sentence(
    options: list[str], message: str, platform: Path, workload: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.main(["bench", "dataflow", str(workload), "--platform", str(platform), *options]) == 2
    assert message in capsys.readouterr().err
