"""`recsys bench`: the door, and what it prints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import pytest

from recsys.bench.report import Bench, Section
from recsys.cli import app
from recsys.cli.bench import BENCHES


@pytest.mark.parametrize("argv", [["bench"], ["bench", "--help"], ["bench", "-h"]])
def test_help_lists_the_benchmarks(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(argv) == 0
    out = capsys.readouterr().out
    assert "usage: recsys bench NAME" in out
    assert all(name in out and about in out for name, (_, about) in BENCHES.items())


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["dat"], "no such benchmark as `dat`: did you mean `data`?"),
        (["xyz"], "no such benchmark as `xyz`: known: data"),
        (["data", "--rows", "many"], "many"),
        (["data", "--rows", "0"], "expected at least 1 row, got 0"),
        (["data", "--only", "hsh"], "no such workload as `hsh`: did you mean `hash`?"),
    ],
)
def test_what_is_wrong_is_one_line(argv: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["bench", *argv]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = [line for line in err.splitlines() if line.startswith("recsys bench: ")]
    assert told in line


@pytest.mark.parametrize("bench", get_args(Bench))
def test_a_broken_section_is_one_line_before_anything_is_measured(
    bench: Bench,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    gpu = bench.removesuffix("-gpu")
    module, words = (f"gpu_{gpu}", [gpu, "--device", "cuda"]) if gpu != bench else (bench, [bench])
    if bench in ("gpu-dataflow", "gpu-larger"):
        module = bench.replace("-", "_")
        words = ["dataflow", "--device", "cuda", *(["--larger"] if bench == "gpu-larger" else [])]
    monkeypatch.setattr(f"recsys.bench.{module}.measure", lambda *given: pytest.fail("measured"))
    broken = f"<!-- {Section(bench, tmp_path / 'other.md').name} -->\n"
    (tmp_path / "R.md").write_text(broken)
    assert app.main(["bench", *words, "--results", str(tmp_path / "R.md")]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("recsys bench: ")
    assert "mend the markers by hand" in err
    assert err.count("\n") == 1
    assert (tmp_path / "R.md").read_text() == broken


def test_data_prints_a_card_a_table_and_last_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["bench", "data", "--rows", "500", "--rounds", "1", "--only", "hash"]) == 0
    *people, last = capsys.readouterr().out.splitlines()
    found = json.loads(last)
    text = "\n".join(people)
    (row,) = found["rows"]
    assert (found["bench"], row["workload"], row["rows"]) == ("data", "hash", 500)
    assert found["machine"]["cpu"] in text
    assert f"{found['file']['bytes']:,} bytes of Parquet" in text
    assert f"{row['ours']['cpu_rows_per_second']:,}" in text
    assert f"{row['ratio_stock']:.2f} × the best stock peer" in text
    assert all(peer["name"] in text for peer in row["peers"])
    assert all(f"absent: {name}" in text for name in found["absent"])
