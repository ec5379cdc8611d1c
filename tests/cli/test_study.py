"""`recsys study` as a user types it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import tomli_w

from recsys.cli import app
from recsys.training.study.study import SettingResult
from tests.cli.test_train_eval_score import failure, last_json
from tests.training.study import small


@pytest.fixture
def file(tmp_path: Path) -> Path:
    values = small.values(small.toy_files(tmp_path / "toy"), gradients=True)
    path = tmp_path / "mine.toml"
    data = [{k: str(v) if isinstance(v, Path) else v for k, v in one.items()} for one in values["data"]]
    path.write_text(tomli_w.dumps(values | {"data": [one | {"train": list(map(str, one["train"]))} for one in data]}))
    return path


def test_a_study_and_its_files(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, results = tmp_path / "out", tmp_path / "RESULTS.md"
    argv = ["study", str(file), "--out", str(out), "--workers", "0", "--results", str(results)]
    assert app.main(argv) == 0
    said = capsys.readouterr().out
    assert "toy, 2^6 rows" in said
    assert "minus base (95 % interval)" in said
    assert "learning_rate 0.0" in said
    assert "gradients of the first batch" in said
    assert "e-0" in said
    assert "<!-- study: mine -->" in results.read_text()
    assert (tmp_path / "results" / "mine-differences.png").is_file()
    assert {"study.md", "study.json", "runs.csv", "runs.jsonl"} <= {path.name for path in out.iterdir()}
    assert app.main([*argv, "--json"]) == 0
    told = last_json(capsys)
    assert told["study"] == "A small one"
    (setting,) = told["settings"]
    assert [arm["arm"] for arm in setting["arms"]] == ["base", "deep"]
    assert setting["arms"][0]["difference"] is None
    assert setting["arms"][1]["difference"].keys() == {"value", "low", "high"}


def test_an_interrupt_says_that_the_study_goes_on(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given: list[object] = []

    def interrupted(*args: object, workers: int) -> list[SettingResult]:
        given.append(workers)
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["recsys.cli.study"], "read_machine", lambda: {"cores": 7})
    monkeypatch.setattr(sys.modules["recsys.cli.study"], "study", interrupted)
    assert app.main(["study", str(file), "--out", str(tmp_path / "out")]) == 130
    assert capsys.readouterr().err == "recsys study: interrupted; the same command goes on where it was\n"
    assert given == [7]


def test_what_the_user_did_wrong_is_one_line(file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert "did you mean `dcn2`?" in failure(capsys, "study", "dcn3", "--out", out)
    assert "no such file" in failure(capsys, "study", tmp_path / "absent.toml", "--out", out)
    file.write_text(file.read_text().replace('baseline = "base"', 'baseline = "bass"'))
    assert "did you mean `base`?" in failure(capsys, "study", file, "--out", out)
    assert "--workers" in failure(capsys, "study", file, "--out", out, "--workers", "many")
    assert not out.exists()
