"""`recsys plan --device cuda`, `recsys profile` and `recsys bench dataflow` for a GPU, where there is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recsys.bench import gpu_dataflow, gpu_larger
from recsys.cli import app
from recsys.cli.plan_gpu import read_size
from recsys.dataflow.gpu_plan import GpuPlan
from recsys.dataflow.workload import Workload
from recsys.errors import ConfigError
from recsys.models.checkpoint import load
from tests import toy
from tests.cli.test_train_eval_score import SMALL
from tests.dataflow.gpu_made import gpu, workload

WORDS = ["--device", "cuda"]


@pytest.fixture
def platform(tmp_path: Path) -> Path:
    path = tmp_path / "gpu.toml"
    path.write_text(gpu(cpu=None).toml())
    return path


@pytest.fixture
def made(tmp_path: Path) -> Path:
    path = tmp_path / "made.toml"
    path.write_text(workload([20_000, 300, 300, 5], dim=32, ids=4).toml())
    return path


def run(words: list[object], capsys: pytest.CaptureFixture[str]) -> tuple[str, dict[str, Any]]:
    assert app.main([*map(str, words), "--json"]) == 0
    out = capsys.readouterr().out
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    return out, found


def test_a_workload_is_planned_written_and_drawn(
    tmp_path: Path, platform: Path, made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "plan.json"
    words: list[object] = ["plan", made, *WORDS, "--platform", platform, "--out", out, "--memory", "1MB"]
    told, found = run(words, capsys)
    plan = GpuPlan.read(out)
    assert (plan.workload, plan.memory, plan.gpus) == ("made", 10**6, 1)
    assert plan.used()[0] <= 10**6
    assert found["used"] == plan.used()
    assert len(found["latencies_us"]) == 10
    assert found["latencies_us"] == sorted(found["latencies_us"], reverse=True)
    assert Path(found["picture"]).stat().st_size > 1000
    assert "t1 … t2" in told  # tables that are alike share a line
    assert "hot" not in found["tables"][0]


def test_a_target_dtypes_and_gpus_are_heeded(
    tmp_path: Path, platform: Path, made: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words: list[object] = ["plan", made, *WORDS, "--platform", platform, "--out", tmp_path / "plan.json"]
    told, found = run([*words, "--latency", "1", "--gpus", "2", "--dtypes", "fp16", "--batch", "64"], capsys)
    assert "missed by" in told
    assert "needs longest" in told
    assert {table["dtype"] for table in found["tables"]} == {"fp16"}
    assert {table["gpu"] for table in found["tables"]} == {0, 1}
    assert [one["batch"] for one in found["schedules"]] == [64]
    told, found = run([*words, "--latency", "1000000", "--batch", "64"], capsys)
    assert "met" in told
    assert found["used"] == [0]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return toy.files(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def trained(files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "din"
    own = [word for key in ("schema", "train", "valid") for word in (f"--{key}", str(files[key]))]
    assert app.main(["train", "din", *own, "--out", str(out), *SMALL]) == 0
    return out


def test_hot_rows_of_a_model_are_counted_in_its_rows(
    tmp_path: Path, platform: Path, trained: Path, files: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    tables = load(trained).model.tables
    size = sum(table.rows * table.dim * 4 for table in tables.tables.values())
    out = tmp_path / "plan.json"
    words: list[object] = ["plan", trained, *WORDS, "--platform", platform, "--out", out, "--memory", size // 2]
    _, assumed = run(words, capsys)
    assert "no row is known as hot" in assumed["ids"]
    _, found = run([*words, "--data", files["test"]], capsys)
    assert found["ids"].startswith("counted in ")
    plan = GpuPlan.read(out)
    plan.check(tables.tables.values())
    split = [table for table in plan.tables if table.place == "split"]
    assert split
    batch = load(trained).encoder.encode(toy_rows(files["test"]), labels=False)
    for table in split:
        hits = np.zeros(table.rows, dtype=np.int64)
        for lookup in tables.lookups:
            if lookup.table == table.name and lookup.pooling != "none":
                ids = batch.ids.feature(tables.position[lookup.feature])[0].numpy()
                hits += np.bincount(np.where((ids >= 0) & (ids < table.rows), ids, 0), minlength=table.rows)
        hot = plan.hot_rows(table.name)
        assert isinstance(hot, torch.Tensor)
        assert hits[hot.numpy()].min() >= hits[~hot.numpy()].max()


def toy_rows(path: Path) -> Any:
    from pyarrow.parquet import read_table

    return read_table(path)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--cores", "2"], "--cores is of a CPU's plan"),
        (["--memory", "forty"], "--memory forty: expected bytes such as 40GB"),
        (["--memory", "90GB"], "has 79.7 GB for tables"),
        (["--gpus", "0"], "at least one GPU"),
        (["--batch", "0"], "batches of at least 1"),
        (["--latency", "0"], "a latency above 0"),
        (["--data", "x.parquet"], "and `criteo-kaggle` is none"),
        (["--picture", "plan.xyz"], "`xyz` is no format of pictures"),
        (["--platform", "absent.toml"], "no such file"),
    ],
)
def test_what_cannot_be_planned_is_one_sentence(
    words: list[str], message: str, tmp_path: Path, platform: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = [] if "--platform" in words else ["--platform", str(platform)]
    out = tmp_path / "plan.json"
    assert app.main(["plan", "criteo-kaggle", *WORDS, *own, "--out", str(out), *words]) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["plan", "criteo-kaggle", "--memory", "1GB"], "--memory is of a GPU's plan: add --device cuda"),
        (["plan", "criteo-kaggle", "--gpus", "2"], "--gpus is of a GPU's plan"),
        (["profile", *WORDS, "--seconds", "3"], "--seconds is of a CPU's profile"),
        (["bench", "dataflow", "--larger"], "--larger, --picture and --dtype are of a GPU"),
        (["bench", "dataflow", *WORDS, "--cores", "2"], "--cores is of the CPU's benchmark"),
    ],
)
def test_options_of_the_other_device_are_refused(
    words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.main(words) == 2
    assert message in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
@pytest.mark.parametrize("words", [["profile", *WORDS], ["bench", "dataflow", *WORDS]])
def test_without_a_gpu_nothing_is_measured(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(words) == 2
    assert "no GPU is here" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "size"), [("40GB", 40 * 10**9), ("1.5 GiB", 3 << 29), ("7", 7), ("12 kb", 12_000), ("8b", 8)]
)
def test_sizes_are_read_with_their_units(text: str, size: int) -> None:
    assert read_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "1 G B", "4 pounds"])
def test_other_sizes_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="expected bytes such as"):
        read_size(text)


def test_a_profile_is_written_and_shown(
    device: torch.device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("recsys.dataflow.gpu.cuda_device", lambda: device)
    monkeypatch.setattr("recsys.dataflow.gpu_profile.measure", lambda *_, **__: gpu(seconds=1.5))
    _, found = run(["profile", *WORDS, "--out", tmp_path / "gpu.toml"], capsys)
    assert (tmp_path / "gpu.toml").stat().st_size > 500
    assert found["seconds"] > 0


def test_predicted_stands_beside_measured(
    device: torch.device,
    platform: Path,
    made: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr("recsys.dataflow.gpu.cuda_device", lambda: device)
    monkeypatch.setattr(gpu_dataflow, "ROTATED", 1)
    words: list[object] = ["bench", "dataflow", made, *WORDS, "--platform", platform, "--batch", 1, 3, "--cap", 200]
    results = made.parent / "RESULTS.md"
    told, found = run([*words, "--results", results], capsys)
    assert "bench: gpu-dataflow" in results.read_text()
    assert [(row["ids"], row["batch"]) for row in found["rows"]] == [
        (ids, batch) for ids in ("zipf", "uniform", "equal") for batch in (1, 3)
    ]
    assert found["median_error"] >= 0
    assert "median " in told


def test_a_model_larger_than_the_gpu_is_measured_by_its_memory(
    device: torch.device,
    tmp_path: Path,
    platform: Path,
    made: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    size = Workload.find(made).bytes
    monkeypatch.setattr("recsys.dataflow.gpu.cuda_device", lambda: device)
    monkeypatch.setattr(gpu_larger, "room", lambda memory: size // 2)
    monkeypatch.setattr(
        "recsys.bench.gpu_larger.measure",
        lambda *given, measure=gpu_larger.measure, **more: measure(
            *given, budgets=(0.3, 1.0), calls=2, counted_ids=50_000, **more
        ),
    )
    picture = tmp_path / "picture.png"
    words: list[object] = ["bench", "dataflow", made, *WORDS, "--platform", platform, "--larger", "--batch", 3]
    results = tmp_path / "RESULTS.md"
    told, found = run([*words, "--picture", picture, "--results", results], capsys)
    assert told.index("budget 30%, ") < told.index("budget 100%, ")  # as they were measured
    drawn = next((tmp_path / "results").glob("gpu-larger-*.png"))
    written = results.read_text()
    assert f"](results/{drawn.name})" in written
    assert f"{made} --device cuda --batch 3" in written
    assert [row["budget"] for row in found["rows"]] == [0.3, 1.0]
    assert all(row["used_bytes"] <= row["bytes"] for row in found["rows"])
    small, large = (row["host_share"] for row in found["rows"])
    assert 1 > small > large > 0
    assert all(row["bound_us"] <= row["read_bound_us"] for row in found["rows"])
    assert all(row["best_host_share"] <= row["host_share"] * 1.2 for row in found["rows"])
    assert found["absent"]
    assert picture.stat().st_size > 1000
