"""The README's commands and example run as they stand there, in their order, in one folder."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from recsys.data.schema import Schema
from recsys.data.sources import load, state
from recsys.inference.export import read_seal

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


SLOW = ("demo", "bench", "study", "profile", "serve")
"""Commands that take minutes, or never end; `profile` would also write where the user's plans look."""


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def commands(first_word: str) -> list[str]:
    lines = [line.split(" #")[0].strip() for block in blocks("bash") for line in block.splitlines()]
    return [line for line in lines if line.split(" ")[0] == first_word]


def test_make_targets_exist() -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert commands("make")
    assert {line.split()[1] for line in commands("make")} <= set(targets)


def test_linked_files_exist() -> None:
    linked = re.findall(r"\]\((?!http)([^)]+)\)", README)
    assert linked
    assert all((ROOT / path).exists() for path in linked)


def test_the_schema_is_one() -> None:
    import tomllib

    (text,) = blocks("toml")
    assert [feature.name for feature in Schema.parse(tomllib.loads(text), "README").features] == ["user", "item"]


def test_commands_and_example_run(tmp_path: Path) -> None:
    if state("movielens-100k") != "ready":
        pytest.skip("needs MovieLens-100K: run `recsys data fetch movielens-100k`")
    ratings = pq.read_table(load("movielens-100k").train, columns=["user", "item", "age", "hour", "label"])
    pacsv.write_csv(ratings.slice(0, 8000), tmp_path / "ratings.csv")  # the user's own file of the README
    ran = [line for line in commands("recsys") if line.split()[1] not in SLOW]
    assert len(ran) >= 10
    for line in ran:
        done = subprocess.run(
            [sys.executable, "-m", *line.split()], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{line}\n{done.stderr}"
    printed = []
    for example in blocks("python"):
        done = subprocess.run(
            [sys.executable, "-c", example], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        printed.append(done.stdout)
    ranked, optimised, metric, searched = printed
    assert ranked.startswith("[")
    assert float(optimised.split()[-1]) < 1e-5
    assert metric.startswith("Interval(value=0.")
    assert float(searched.split()[0]) > 0.8
    assert (tmp_path / "scores.parquet").is_file()
    assert pq.read_table(tmp_path / "scored.parquet").num_rows == 8000
    exported = read_seal(tmp_path / "exports" / "dcn2")
    assert exported.precisions == ("fp32", "bf16", "int8")  # all pass the gate on real rows
    assert set(exported.gate) == set(exported.precisions)
