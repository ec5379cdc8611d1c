"""`recsys export`, `verify` and `estimate`: what they print, write and refuse."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from recsys.cli import app
from recsys.inference import convert as converting
from recsys.inference import estimate as estimating
from recsys.inference.backends import Backend, Precision
from recsys.models.checkpoint import save
from recsys.training.run import train
from tests import toy
from tests.inference.conftest import cache  # noqa: F401


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cli")
    save(train(toy.recipe(folder / "toy", epochs=1), show=False), folder / "run")
    return folder / "run"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    pq.write_table(toy.rows(300, 5), tmp_path / "test.parquet")
    return tmp_path / "test.parquet"


@pytest.fixture
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is built, which takes seconds: eager torch runs float32 and bfloat16."""

    def absent(backend: Backend, precision: Precision) -> str | None:
        return None if backend == "eager" and precision != "int8" else "left out here"

    monkeypatch.setattr(converting, "absent", absent)


def called(words: list[object], capsys: pytest.CaptureFixture[str], code: int = 0) -> dict[str, Any]:
    assert app.main([*map(str, words), "--json"]) == code
    found: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return found


def test_export_and_verify(
    run: Path, data: Path, tmp_path: Path, eager: None, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    loose = ["--tolerance.auc", 0.1, "--tolerance.normalised-entropy", 0.1]
    found = called(["export", run, out, "--data", data, *loose], capsys)
    assert found["precisions"] == ["fp32", "bf16"]
    assert found["gate"]["fp32"]["rows"] == 300
    assert set(found["tables"].values()) == {"fp32"}
    found = called(["verify", run, out, "--data", data, "--backend", "eager", "--precision", "fp32", *loose], capsys)
    assert found["passed"] is True
    assert found["tasks"]["label"]["largest"] < 1e-5


def test_a_model_that_does_not_pass_exits_with_3(
    run: Path, data: Path, tmp_path: Path, eager: None, capsys: pytest.CaptureFixture[str]
) -> None:
    strict = ["--data", data, "--backend", "eager", "--precision", "bf16", "--tolerance.rank-correlation", 1]
    found = called(["verify", run, run, *strict], capsys, code=3)
    assert found["passed"] is False
    assert "rank correlation" in found["tasks"]["label"]["reasons"][0]
    words = ["export", run, tmp_path / "out", "--data", data, "--tolerance.rank-correlation", 1, "--plan"]
    called(["plan", run, "--platform", "xeon-avx512-2", "--cores", 1, "--out", tmp_path / "plan.json"], capsys)
    plan = json.loads((tmp_path / "plan.json").read_text())
    plan["tables"] = [table | {"dtype": "int8"} for table in plan["tables"]]
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    assert app.main([*map(str, words), str(tmp_path / "plan.json")]) == 3
    assert "does not pass the quality gate: label: rank correlation" in capsys.readouterr().err
    assert not (tmp_path / "out" / "export.json").exists()


def test_estimate_prints_what_a_session_takes(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(estimating, "_process", lambda: 10**8)
    found = called(["estimate", run], capsys)
    assert found["peak"] >= found["steady"] > 10**8
    assert app.main(["estimate", str(run)]) == 0
    assert "at the most, while it loads" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["export", "nowhere", "out"], "no such run folder"),
        (["export", "RUN", "RUN"], "holds a trained model"),
        (["export", "RUN", "OUT", "--plan", "none.json"], "no such file"),
        (["export", "RUN", "OUT", "--tolerance.auc", "-1"], "greater than or equal to 0"),
        (["verify", "RUN", "RUN", "--data", "none.parquet"], "none.parquet"),
        (["verify", "RUN", "RUN", "--data", "DATA", "--backend", "eager", "--precision", "int8"], "eager has no int8"),
        (["estimate", "nothing"], "no such workload"),
    ],
)
def test_what_cannot_be_is_one_line(
    run: Path, data: Path, tmp_path: Path, words: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    meant = {"RUN": str(run), "OUT": str(tmp_path / "out"), "DATA": str(data)}
    assert app.main([meant.get(word, word) for word in words]) == 2
    said = capsys.readouterr().err.strip()
    assert told in said
    assert len(said.splitlines()) == 1
