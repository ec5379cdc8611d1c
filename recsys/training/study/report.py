"""A study's results as files: JSON, CSV, markdown with pictures, and a section of a file that people write too."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recsys.files import make_folder, replacing, write_json, write_text
from recsys.machine import read_machine
from recsys.markdown import check_section, table, write_section
from recsys.training.study.config import Study
from recsys.training.study.figures import figures
from recsys.training.study.study import SettingResult
from recsys.training.study.tables import LEAVES_OUT_0, gradients_cells, point_text, results_cells

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["made_on", "update_results", "write"]

PROTOCOLS = {
    "progressive": "Each model goes once through the rows in the order of time: it predicts a batch, and then learns "
    "from it. Measured is AUC in windows of consecutive rows, none of which the model had seen when it predicted them.",
    "holdout": "Each model is trained on the training rows and stopped by the validation rows. Measured is AUC in "
    "windows of the test rows, on which nothing was chosen.",
}

FOOTNOTE = (
    "the interval leaves out 0. It is of the mean over seeds and windows, both drawn at random, neighbouring windows "
    "being alike, and paired with the baseline's. Of many such intervals one in twenty leaves out 0 by chance."
)

CAPTIONS = {
    "differences": "Difference to the baseline",
    "bits": "Window AUC by the size of the table",
    "windows": "Difference to the baseline along the rows",
}


def write(config: Study, results: Sequence[SettingResult], out: Path) -> None:
    """Write ``study.json``, ``study.md``, ``runs.csv`` and the pictures into a folder.

    Raises:
        DataError: When the disk refuses.
    """
    make_folder(out)
    made = made_on()
    told = {"study": config.title, "settings": [result.to_json() for result in results], "made_on": made}
    write_json(out / "study.json", told)
    with replacing(out / "runs.csv") as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(_run_lines(config, results))
    links = _save(figures(config, results), out, "")
    write_text(out / "study.md", _markdown(config, results, made, links, 1))


def update_results(config: Study, results: Sequence[SettingResult], file: Path, name: str) -> None:
    """Put tables and pictures between ``<!-- study: NAME -->`` and ``<!-- /study: NAME -->`` of a markdown file.

    All else in it stays byte for byte; where it has no such section, or there is no file, one is added at its end. The
    pictures go to ``results/NAME-*.png`` beside it.

    Raises:
        DataError: When one marker lacks the other, or the disk refuses.
    """
    section = f"study: {name}"
    check_section(file, section)
    folder = file.parent / "results"
    links = {key: f"results/{link}" for key, link in _save(figures(config, results), folder, f"{name}-").items()}
    write_section(file, section, _markdown(config, results, made_on(), links, 2))


def _save(drawn: Mapping[str, Figure], folder: Path, prefix: str) -> dict[str, str]:
    """Name of each picture -> its file's name."""
    make_folder(folder)
    for key, figure in drawn.items():
        with replacing(folder / f"{prefix}{key}.png") as temporary:
            figure.savefig(temporary, dpi=120, format="png")
    return {key: f"{prefix}{key}.png" for key in drawn}


def _run_lines(config: Study, results: Sequence[SettingResult]) -> list[list[Any]]:
    lines: list[list[Any]] = [["setting", "arm", "seed", "point", "mean", "auc", "log_loss", "rows_per_second"]]
    for result in results:
        for arm in result.arms:
            for seed, run in zip(config.seeds, arm.runs, strict=True):
                where = [result.setting.name, arm.arm, seed, point_text(arm.point)]
                lines.append([*where, run.value, run.auc, run.log_loss, run.rows_per_second])
    return lines


def _markdown(
    config: Study, results: Sequence[SettingResult], made: Mapping[str, Any], links: Mapping[str, str], level: int
) -> str:
    """The whole report, under a heading of `level`."""
    lines = [f"{'#' * level} {config.title}", "", PROTOCOLS[config.protocol], "", *_facts(config, results), ""]
    for result in results:
        lines += table(results_cells(config, result), level + 1)
        lines += table(gradients_cells(result), level + 2) if config.gradients else []
    lines += [f"\\{LEAVES_OUT_0} {FOOTNOTE}", ""]
    for key, link in links.items():
        lines += [f"![{CAPTIONS[key]}]({link})", ""]
    return "\n".join([*lines, _made(made, results), ""])


def _facts(config: Study, results: Sequence[SettingResult]) -> list[str]:
    """Rows, windows, seeds, and how the arms were tuned."""
    rows = {result.setting.data: result.arms[0].runs[0] for result in results}
    told = [f"{data.name} {run.rows:,} rows in {len(run.windows)} windows of {data.window:,}"
            for data, run in rows.items()]  # fmt: skip
    seeds = f"{len(config.seeds)} seeds" if len(config.seeds) > 1 else "1 seed"
    return [f"- measured: {'; '.join(told)}", f"- {seeds}: {', '.join(map(str, config.seeds))}", _budget(config)]


def _budget(config: Study) -> str:
    points = len(config.grid(config.arm[0]))
    if points == 1 and not config.tune:
        return "- not tuned: each arm is trained as it is written"
    grid = "; ".join(f"{key.rpartition('.')[2]} {' | '.join(map(str, values))}" for key, values in config.tune.items())
    own = [arm.name for arm in config.arm if arm.tune is not None]
    rows = "on the rows that are measured" if config.protocol == "progressive" else "on the validation rows"
    told = f"- tuned: the best of {points} points for each arm in each setting, by seed {config.tuning_seed} {rows}"
    told += f" ({grid})" if grid else ""
    return told + (f"; with a grid of its own: {', '.join(own)}" if own else "")


def made_on() -> dict[str, Any]:
    """Machine, versions and date."""
    import torch

    machine = read_machine()
    kept = {name: machine[name] for name in ("cpu", "cores", "system", "python", "recsys")}
    today = datetime.now(UTC).date().isoformat()
    return {**kept, "torch": torch.__version__, "date": today}


def _made(made: Mapping[str, Any], results: Sequence[SettingResult]) -> str:
    versions = sorted({run.made for result in results for arm in result.arms for run in arm.runs})
    told = f"Runs of {'; '.join(versions)}."
    return (
        f"Written on {made['date']} by Python {made['python']} on {made['cores']} cores of {made['cpu']} "
        f"({made['system']}), one thread a run. {told}"
    )
