"""`recsys data describe` and `recsys data split`: from a file of one's own to scores, with no code written."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from recsys.cli import app
from recsys.data.schema import Schema


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_people(path: Path, n: int = 1200) -> None:
    rng = np.random.default_rng(0)
    user, item = rng.integers(0, 30, n), rng.integers(0, 20, n)
    good = ((user + item) % 2 == 0) ^ (rng.random(n) < 0.2)
    frame = pd.DataFrame({"user_id": user, "item_id": item, "age": 20 + user / 2, "day": 20240501 + np.arange(n) // 50})
    frame["liked"] = np.where(good, "yes", "no")
    frame.to_csv(path, index=False)


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> dict[str, Any]:
    assert app.main([*argv, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return found


def test_a_csv_file_goes_from_describe_to_scores(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    write_people(folder / "people.csv")
    described = run(capsys, "data", "describe", "people.csv", "--label", "liked")
    schema = Schema.load(folder / "schema.toml")
    assert (schema.group, schema.time, schema.labels[0].positive) == ("user_id", "day", "yes")
    assert [column["role"] for column in described["columns"]] == ["feature", "feature", "feature", "time", "label"]
    split, train = (shlex.split(line)[1:] for line in described["next"])
    splits = run(capsys, *split)["splits"]
    assert sum(part["rows"] for part in splits.values()) == 1200
    run(capsys, *train, "--training.epochs", "1", "--training.batch-size", "256")
    measured = run(capsys, "eval", train[-1], "--data", splits["test"]["file"])
    assert "auc" in json.dumps(measured)
    scored = run(capsys, "score", train[-1], splits["test"]["file"], "scores.parquet")
    assert scored["rows"] == splits["test"]["rows"]


def test_the_table_names_every_column_and_the_next_commands(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    write_people(folder / "people.csv")
    assert app.main(["data", "describe", "people.csv", "--label", "liked", "--rows", "100", "--out", "a/b.toml"]) == 0
    out = capsys.readouterr().out
    for told in (
        "people.csv: the first 100 rows",
        "names the user",
        "`yes` is 1",
        "next: recsys data split people.csv --out people-splits\n",
        "recsys train dcn2 --schema a/b.toml --train people-splits/train.parquet",
    ):
        assert told in out
    assert "guessed from the first 100 rows" in (folder / "a" / "b.toml").read_text()


def test_a_schema_that_was_edited_stays(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    write_people(folder / "people.csv")
    (folder / "schema.toml").write_text("mine")
    assert app.main(["data", "describe", "people.csv", "--label", "liked"]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert (folder / "schema.toml").read_text() == "mine"
    assert app.main(["data", "describe", "people.csv", "--label", "liked", "--overwrite"]) == 0


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["describe", "people.csv"], "name it (--label COLUMN); columns of two values: day, liked"),
        (["describe", "people.csv", "--label", "likes"], "did you mean `liked`?"),
        (["describe", "nowhere.csv"], "no such file"),
        (["describe", "people.csv", "--rows", "0"], "at least 1 row"),
        (["split", "people.csv"], "--out"),
        (["split", "people.csv", "--out", "s", "--time", "when"], "missing column `when`"),
        (["split", "people.csv", "--out", "s", "--fractions", "1", "1", "1"], "sum to 1"),
        (["describ"], "did you mean `describe`?"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(
    argv: list[str], told: str, capsys: pytest.CaptureFixture[str], folder: Path
) -> None:
    write_people(folder / "people.csv", 60)
    assert app.main(["data", *argv]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert told in err.splitlines()[-1]
    assert [path.name for path in folder.iterdir()] == ["people.csv"]


def test_help_names_the_actions(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["data", "--help"]) == 0
    out = capsys.readouterr().out
    for action in ("list", "fetch NAME", "describe FILE", "split FILE", "synthetic OUT"):
        assert action in out
