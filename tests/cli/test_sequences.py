"""`recsys train`, `eval` and `score` of models that say what comes next."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import recsys
from recsys.cli import app

OPTIONS = ["--model.width", "8", "--model.layers", "1", "--training.epochs", "2", "--training.batch-size", "8"]


@pytest.fixture
def lines(tmp_path: Path) -> Path:
    path = tmp_path / "lines.txt"
    path.write_text("".join(f"u{user} {' '.join(str((user + k) % 13 + 1) for k in range(6))}\n" for user in range(20)))
    return path


@pytest.fixture
def run(lines: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    assert app.main(["train", "sasrec", "--out", str(folder), "--lines", str(lines), *OPTIONS]) == 0
    return folder


def _json(capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    found: dict[str, object] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return found


def test_training_tells_epochs_and_validation_metrics(
    lines: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert app.main(["train", "hstu", "--out", str(run), "--lines", str(lines), *OPTIONS]) == 0
    told = capsys.readouterr().out
    assert "epoch   1  loss " in told
    assert "valid ndcg@10 0." in told
    assert "20 validation questions, all items ranked" in told
    assert f"saved {run}" in told


def test_eval_shows_who_learnt_nothing_beside_the_model(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert app.main(["eval", str(run), "--against", str(run), "--replicates", "20", "--json"]) == 0
    told = _json(capsys)
    assert (told["questions"], told["split"]) == (20, "test")
    assert set(told["metrics"]) == {"sasrec", "popularity", "repeat-last"}  # type: ignore[call-overload]
    assert {one["value"] for one in told["difference"].values()} == {0.0}  # type: ignore[attr-defined]


def test_score_writes_a_list_for_each_user(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    events = tmp_path / "events.csv"
    events.write_text("user,item\nann,3\nbob,nothing\nann,4\nbob,\ncid,2\n")
    out = tmp_path / "out.parquet"
    capsys.readouterr()
    assert app.main(["score", str(run), str(events), str(out), "--k", "3", "--json"]) == 0
    assert _json(capsys) == {"users": 2, "seconds": pytest.approx(0, abs=60), "out": str(out), "unknown": 1,
                             "missing": {"user": 0, "item": 1}}  # fmt: skip
    table = pq.read_table(out)
    assert table["user"].to_pylist() == ["ann", "cid"]
    recommender = recsys.load(run)
    assert isinstance(recommender, recsys.Recommender)
    expected = recommender.recommend([["3", "4"], ["2"]], k=3, seen="left out")
    assert table["items"].to_pylist() == expected.names()
    assert table["scores"].to_pylist() == [pytest.approx(row, rel=1e-5) for row in expected.scores.tolist()]


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["train", "sasrec", "--out", "{out}", "--lines", "{lines}", "--source", "wikipedia"], "got source and lines"),
        (["train", "sasrec", "--out", "{out}", "--source", "gowalla"], "no histories of `gowalla`"),
        (["eval", "{run}", "--data", "nowhere.csv"], "nowhere.csv"),
        (["score", "{run}", "{lines}", "{out}", "--k", "0"], "expected lists of 1 to 13 items, got 0"),
        (["score", "{run}", "{lines}", "{lines}"], "is there already; name another file, or say --overwrite"),
        (["score", "{run}", "{lines}", "{out}", "--precision", "bf16"], "are a ranker's"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(
    run: Path, lines: Path, tmp_path: Path, argv: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    names = {"out": tmp_path / "other", "lines": lines, "run": run}
    assert app.main([word.format(**names) for word in argv]) == 2
    said = capsys.readouterr().err
    assert told in said
    assert said.count("\n") == 1


def test_runs_of_other_data_count_each_event_unless_asked(lines: Path, tmp_path: Path) -> None:
    """The default recipe collapses runs, but of its own data."""
    lines.write_text(lines.read_text() + "z 1 1 1 2 2 3\n")
    for name, options, events in (("as-is", [], 126), ("visits", ["--collapse", "True"], 123)):
        out = tmp_path / name
        assert app.main(["train", "sasrec", "--out", str(out), "--lines", str(lines), *OPTIONS, *options]) == 0
        recommender = recsys.load(out)
        assert isinstance(recommender, recsys.Recommender)
        assert recommender.training["events"] == events


def test_a_run_is_measured_from_any_folder(
    lines: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(lines.parent)
    assert app.main(["train", "sasrec", "--out", str(tmp_path / "run"), "--lines", lines.name, *OPTIONS]) == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    capsys.readouterr()
    assert app.main(["eval", str(tmp_path / "run"), "--json"]) == 0
    own = _json(capsys)
    assert app.main(["eval", str(tmp_path / "run"), "--data", str(lines), "--json"]) == 0
    assert _json(capsys) == own
