"""A disk that takes no more: one clear line, what was committed stays, and the same command goes on later."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq

from tests import toy


def run(command: list[str], folder: Path, most: int | None = None) -> subprocess.CompletedProcess[str]:
    """Run recsys with files of at most `most` bytes, which fails as a full disk does."""

    def limit() -> None:
        if most is not None:
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))

    return subprocess.run(
        [sys.executable, "-m", "recsys", *command],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=limit,
        # Byte code that Python writes on the way would be cut off, too, and stay so.
        env={"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": "", "PYTHONDONTWRITEBYTECODE": "1"},
    )


def test_training_says_so_and_goes_on(tmp_path: Path) -> None:
    recipe = toy.recipe(tmp_path, save_seconds=0)
    (tmp_path / "recipe.toml").write_text(recipe.toml())
    command = ["train", "recipe.toml", "--out", "run"]
    full = run(command, tmp_path, most=8_192)
    assert full.returncode == 2
    (line,) = [line for line in full.stderr.splitlines() if line.startswith("recsys train:")]
    assert "cannot be written" in line
    assert not (tmp_path / "run" / "config.json").exists()
    assert not list((tmp_path / "run").rglob("*.partial"))
    assert run(command, tmp_path).returncode == 0
    assert (tmp_path / "run" / "config.json").is_file()


def test_scoring_says_so_and_keeps_what_was_there(tmp_path: Path) -> None:
    paths = toy.files(tmp_path)
    (tmp_path / "recipe.toml").write_text(toy.recipe(tmp_path, epochs=1).toml())
    assert run(["train", "recipe.toml", "--out", "run"], tmp_path).returncode == 0
    pq.write_table(toy.rows(20_000), paths["test"])
    command = ["score", "run", "test.parquet", "scores.parquet"]
    assert run(command, tmp_path).returncode == 0
    before = (tmp_path / "scores.parquet").read_bytes()
    full = run(command, tmp_path, most=8_192)
    assert full.returncode == 2
    (line,) = [line for line in full.stderr.splitlines() if line.startswith("recsys score:")]
    assert "cannot be written" in line
    assert (tmp_path / "scores.parquet").read_bytes() == before
    assert run(command, tmp_path).returncode == 0
    assert (tmp_path / "scores.parquet").read_bytes() == before
