"""`recsys data synthetic`: what it writes, prints and returns."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from recsys.cli import app
from recsys.cli.data_synthetic import main
from recsys.errors import ConfigError

SMALL = [
    "--users",
    "20",
    "--items",
    "10",
    "--others",
    "5",
    "--rows",
    "3000",
    "--valid-rows",
    "500",
    "--test-rows",
    "500",
]


def test_it_writes_three_files_and_says_the_best_auc(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = main([str(tmp_path), *SMALL])
    out = capsys.readouterr().out
    assert {name: split["rows"] for name, split in result["splits"].items()} == {
        "train": 3000,
        "valid": 500,
        "test": 500,
    }
    assert f"{result['splits']['test']['best_auc']:.4f}" in out
    assert result["config"]["users"] == 20
    assert pq.read_metadata(result["splits"]["train"]["file"]).num_rows == 3000


def test_the_next_command_trains(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = str(main([str(tmp_path / "data"), *SMALL])["next"]).split()
    assert words[:3] == ["recsys", "train", "dcn2"]
    words[-1] = str(tmp_path / "run")
    assert app.main([*words[1:], "--training.epochs", "1"]) == 0


def test_one_file_to_score(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = main([str(tmp_path), *SMALL, "--valid-rows", "0", "--test-rows", "0", "--history", "0"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["schema.toml", "synthetic.json", "train.parquet"]
    assert result["next"] is None
    assert "next:" not in capsys.readouterr().out
    assert "history" not in pq.read_schema(tmp_path / "train.parquet").names


@pytest.mark.parametrize(
    ("options", "told"),
    [(["--rows", "-1"], "got -1 of train"), (["--rows", "many"], "many"), (["--users", "0"], "users")],
)
def test_what_cannot_be_is_said_in_one_line(tmp_path: Path, options: list[str], told: str) -> None:
    with pytest.raises((ConfigError, app.UsageError), match=told) as caught:
        main([str(tmp_path / "out"), *options])
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
