"""`recsys study`: compare arms over seeds under one protocol."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro
from rich.markup import escape

from recsys.cli.app import Result, call
from recsys.cli.show import cells_table, console
from recsys.machine import read_machine
from recsys.training.study.config import find_study
from recsys.training.study.report import update_results, write
from recsys.training.study.study import study
from recsys.training.study.tables import LEAVES_OUT_0, gradients_cells, results_cells

__all__ = ["main"]


def main(argv: Sequence[str]) -> Result:
    """Parse and run."""
    return call(command, argv, "recsys study")


def command(
    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(name="study", metavar="FILE|NAME")],
    out: Path,
    workers: int | None = None,
    results: Path | None = None,
) -> Result:
    """Compare arms, tuned with the same budget, over data sets, table sizes and seeds, with paired intervals.

    An interrupted study goes on where it was when the same command is given again.

    Args:
        name: A study file (.toml), or one of recsys' own: dcn2, recommended, hash-bits,
            collision-weights, onlydense, holdout.
        out: Folder to write study.md, study.json, runs.csv and pictures to; its runs.jsonl keeps what is done.
        workers: Processes, one thread each; by default as many as there are cores. 0 runs all in this one.
        results: A markdown file whose section of this study is written anew.
    """
    config, screen = find_study(name), console()
    found = study(config, out, workers=read_machine()["cores"] if workers is None else workers)
    write(config, found, out)
    for result in found:
        screen.print(cells_table(results_cells(config, result)))
        if config.gradients:
            screen.print(cells_table(gradients_cells(result)))
    screen.print(f"{LEAVES_OUT_0} the interval leaves out 0", highlight=False)
    if results is not None:
        update_results(config, found, results, Path(name).stem)
    screen.print(f"saved {escape(str(out / 'study.md'))}, study.json, runs.csv, pictures", soft_wrap=True)
    return {"study": config.title, "settings": [result.to_json() for result in found]}
