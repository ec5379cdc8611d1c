"""What a study writes: a section of a file that is otherwise its author's, tables, and pictures that are there."""

from __future__ import annotations

import csv
import json
import math
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

import recsys
from recsys.errors import DataError
from recsys.training.bootstrap import Interval
from recsys.training.study.config import Study
from recsys.training.study.figures import figures
from recsys.training.study.made import made_with
from recsys.training.study.report import made_on, update_results, write
from recsys.training.study.study import SettingResult
from recsys.training.study.tables import difference, gradients_cells, point_text, results_cells
from tests.training.study import small

PNG = b"\x89PNG\r\n"
BEGIN, END = "<!-- study: mine -->", "<!-- /study: mine -->"


def config_of(**changes: Any) -> Study:
    data = [{"name": name, "source": "adult", "bits": [4, 6, 8], "window": 100} for name in ("one", "two")]
    arms = [{"name": name, "model": {"name": "lr"}} for name in ("base", "a|b", "c*")]
    values = {"seeds": [1, 2, 3], "tune": {"training.learning_rate": [0.01, 0.1]}, "data": data, "arm": arms}
    return Study.parse({"title": "Which?", "baseline": "base", "gradients": True} | values | changes, "test")


def results_of() -> list[SettingResult]:
    means = {"base": 0.7, "a|b": 0.75, "c*": 0.7}
    return [small.result(name, bits, means) for name in ("one", "two") for bits in (4, 6, 8)]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("report") / "out"
    write(config_of(), results_of(), out)
    return out


def test_all_files_are_written(written: Path) -> None:
    names = {path.name for path in written.iterdir()}
    assert names == {"study.json", "study.md", "runs.csv", "differences.png", "bits.png", "windows.png"}
    for picture in written.glob("*.png"):
        assert picture.read_bytes().startswith(PNG)
    told = json.loads((written / "study.json").read_text())
    assert told["study"] == "Which?"
    assert [setting["setting"] for setting in told["settings"]] == [result.setting.name for result in results_of()]
    assert told["made_on"].keys() == made_on().keys()


def test_one_line_a_run(written: Path) -> None:
    with (written / "runs.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 6 * 3 * 3
    first = results_of()[0].arms[0].runs[0]
    assert float(rows[0].pop("mean")) == first.value
    assert rows[0] == {"setting": "one, 2^4 rows", "arm": "base", "seed": "1", "point": "learning_rate 0.01",
                       "auc": "0.7", "log_loss": "0.5", "rows_per_second": "1000"}  # fmt: skip


def test_the_markdown_says_what_was_done(written: Path) -> None:
    text = (written / "study.md").read_text()
    assert text.startswith("# Which?\n")
    assert "predicts a batch, and then learns from it" in text
    assert "one 500 rows in 5 windows of 100" in text
    assert "- 3 seeds: 1, 2, 3" in text
    assert "the best of 2 points for each arm in each setting, by seed 0 on the rows that are measured (" in text
    assert "| a\\|b | learning_rate 0.01 |" in text
    assert "| c\\* |" in text
    assert "2.0e-09" in text
    for name in ("differences", "bits", "windows"):
        assert f"]({name}.png)" in text
    widths = [line.replace("\\|", "").count("|") for line in text.splitlines() if line.startswith("|")]
    assert set(widths) == {10, 6}  # of results, and of gradients: tables and one part an arm
    assert "no tables" not in text


def test_a_study_without_tuning_or_gradients_says_so(tmp_path: Path) -> None:
    write(config_of(tune={}, gradients=False), results_of()[:1], tmp_path)
    text = (tmp_path / "study.md").read_text()
    assert "not tuned" in text
    assert "gradients" not in text


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_what_stands_outside_of_the_section_stays(newline: str, tmp_path: Path) -> None:
    file = tmp_path / "RESULTS.md"
    before, after = f"# Mine{newline}é{newline}", f"{newline}<!-- study: other -->{newline}   no newline at the end"
    file.write_bytes(f"{before}{BEGIN}{newline}old{newline}{END}{after}".encode())
    update_results(config_of(), results_of()[:3], file, "mine")
    once = file.read_bytes().decode()
    assert once.startswith(f"{before}{BEGIN}{newline}## Which?{newline}")
    assert once.count("\n") == once.count(newline)
    assert once.endswith(END + after)
    assert "old" not in once
    links = [link for link in ("differences", "bits", "windows") if f"](results/mine-{link}.png)" in once]
    assert len(links) == 3
    assert all((tmp_path / "results" / f"mine-{link}.png").read_bytes().startswith(PNG) for link in links)
    update_results(config_of(), results_of()[:3], file, "mine")
    assert file.read_bytes().decode() == once


def test_a_marker_without_its_other_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    file = tmp_path / "RESULTS.md"
    file.write_text(BEGIN)
    with pytest.raises(DataError, match="mend the markers by hand"):
        update_results(config_of(), results_of()[:3], file, "mine")
    assert file.read_text() == BEGIN
    assert not (tmp_path / "results").exists()


def test_figures_are_those_that_the_study_gives() -> None:
    results = results_of()
    assert list(figures(config_of(), results)) == ["differences", "bits", "windows"]
    assert list(figures(config_of(), results[:2])) == ["differences", "windows"]
    assert list(figures(config_of(protocol="holdout"), results)) == ["differences", "bits"]


def test_figures_show_the_numbers() -> None:
    results = results_of()
    drawn = figures(config_of(), results)
    (first, *_) = drawn["differences"].axes
    gap = results[0].arm("a|b").difference
    assert gap is not None
    assert first.get_title() == "one, 2^4 rows"
    assert gap.value in [float(line.get_xdata()[0]) for line in first.lines if len(line.get_xdata()) == 1]  # type: ignore[arg-type,index]
    (panel, *_) = drawn["bits"].axes
    assert panel.lines[1].get_ydata() == pytest.approx([r.arm("a|b").mean for r in results[:3]])
    (along, *_) = drawn["windows"].axes
    arm, base = (results[0].arm(name).windows().mean(axis=0) for name in ("a|b", "base"))
    assert along.lines[1].get_ydata() == pytest.approx(arm - base)
    assert list(along.lines[1].get_xdata()) == [100, 200, 300, 400, 500]  # type: ignore[arg-type]


def test_cells() -> None:
    cells = results_cells(config_of(), results_of()[0])
    assert {len(row) for row in cells.rows} == {len(cells.header)} == {9}
    assert cells.header[-2] == "minus base (95 % interval)"
    assert [row[-2].endswith("*") for row in cells.rows] == [False, True, False]
    assert cells.rows[0][-2] == "–"
    found = gradients_cells(results_of()[0])
    assert found.header == ("arm", "tables", "base", "a|b", "c*")
    assert found.rows[1] == ("a|b", "1.0e-03", "", "2.0e-09", "")


@pytest.mark.parametrize(
    ("low", "high", "told"),
    [(0.1, 0.3, "+0.2000 (+0.1000 to +0.3000) *"), (-0.1, 0.5, "+0.2000 (-0.1000 to +0.5000)"),
     (0.0, 0.4, "+0.2000 (+0.0000 to +0.4000)"), (math.nan, math.nan, "+0.2000")],
)  # fmt: skip
def test_an_interval_that_leaves_out_0_is_marked(low: float, high: float, told: str) -> None:
    assert difference(Interval(0.2, low, high)) == told


def test_points_in_few_words() -> None:
    point = {"training.learning_rate": 1e-4, "model.hidden": (8, 4), "model.structure": "stacked", "a.b": True}
    assert point_text(point) == "learning_rate 0.0001, hidden [8, 4], structure stacked, b True"
    assert point_text({}) == ""


def test_a_commit_only_inside_of_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    alone = f"recsys {recsys.__version__}, torch {torch.__version__}"
    assert made_with() == alone
    subprocess.run(["git", "init", "-q"], check=True)
    assert made_with() == alone  # another project's

    def absent(*words: object, **options: object) -> None:
        raise FileNotFoundError("git")

    monkeypatch.setattr(subprocess, "run", absent)
    assert made_with() == alone
