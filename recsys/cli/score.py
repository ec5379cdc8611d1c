"""`recsys score`: a file or a folder in, Parquet with scores out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import tyro

from recsys.cli.app import Result, call
from recsys.cli.score_sequence import score_sequence
from recsys.cli.show import console, counts_notes
from recsys.data.sources import resolve
from recsys.errors import ConfigError
from recsys.inference.backends import Precision
from recsys.inference.parts import open_parts
from recsys.inference.plans import read_plan
from recsys.inference.session import check_device
from recsys.models.checkpoint import is_recommender
from recsys.scoring.local import score, session_for

__all__ = ["main"]


def main(argv: Sequence[str]) -> Result:
    """Parse and run."""
    return call(command, argv, "recsys score")


def command(
    run: tyro.conf.Positional[Path],
    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(name="in", metavar="IN")],
    target: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(name="out", metavar="OUT")],
    keep: tuple[str, ...] = (),
    batch_size: int = 16_384,
    precision: Precision = "fp32",
    overwrite: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    device: str = "cpu",
    plan: Path | None = None,
    k: int = 10,
    seen: Literal["kept", "left out"] = "left out",
) -> Result:
    """Score every row of a file or of a folder's files, in order and in bounded memory.

    A job that was interrupted or killed goes on where it was when the same command is given again. Of a model that
    says what comes next, IN holds interactions, or a line a user (.txt), and OUT a list of items for each user.

    Args:
        run: Folder of a trained model, or of an export.
        source: File to score (Parquet, CSV, TSV), folder of such files, or SOURCE:SPLIT such as movielens-100k:test.
        target: Parquet file to write, with the kept columns and `score`; of a folder, the folder to write to. What an
            earlier job has written there is replaced.
        keep: Columns to copy to the output.
        batch_size: Rows at a time.
        precision: Of the network's matrix products; `recsys verify` says what others than fp32 cost.
        overwrite: Discard the unfinished work of another job, and replace a Parquet file that no job has written.
        device: `cpu`, or a GPU: `cuda`, `cuda:1`.
        plan: File of a plan of look-ups, on a GPU of one for it; by default the model's own.
        k: Items of a list, of a model that says what comes next.
        seen: Whether items of a history may be in its list.
    """
    if is_recommender(run):
        if keep or plan is not None or precision != "fp32":
            raise ConfigError("keep, plan and precision are a ranker's; leave them out of lists of what comes next")
        return score_sequence(run, source, target, k, seen, device, overwrite)
    if (k, seen) != (10, "left out"):
        raise ConfigError("k and seen are of models that say what comes next; leave them out of a ranker's scores")
    path = resolve(source)
    chosen = None if plan is None else read_plan(plan)
    check_device(device, chosen)
    with session_for(open_parts(run, chosen), path, precision, device, chosen) as session:
        scored = score(session, path, target, keep, batch_size=batch_size, overwrite=overwrite)
    screen = console()
    fresh = scored.rows - scored.resumed
    speed = f"{fresh:,} rows in {scored.seconds:.1f} s ({scored.rows_per_second:,.0f} rows/s)"
    after = f" after {scored.resumed:,} of an earlier call" if scored.resumed else ""
    files = f" ({scored.files} files)" if scored.files > 1 else ""
    screen.print(f"{speed}{after} -> {target}{files}", markup=False, soft_wrap=True)
    for line in counts_notes(scored.counts):
        screen.print(line)
    return {
        "rows": scored.rows,
        "resumed": scored.resumed,
        "files": scored.files,
        "seconds": round(scored.seconds, 3),
        "rows_per_second": round(scored.rows_per_second),
        "out": str(target),
        "columns": list(scored.columns),
        "unknown": scored.counts.unknown,
        "missing": scored.counts.missing,
    }
