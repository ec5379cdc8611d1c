"""`recsys score` of a model that says what comes next: interactions in, a list of items for each user out."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from recsys.cli.app import Result
from recsys.cli.eval_sequence import histories_named
from recsys.cli.show import console
from recsys.errors import DataError
from recsys.inference.cuda.device import find_gpu
from recsys.models.generative.recommender import load_recommender
from recsys.scoring.lists import list_items

__all__ = ["score_sequence"]


def score_sequence(
    run: Path, source: str, target: Path, k: int, seen: Literal["kept", "left out"], device: str, overwrite: bool
) -> Result:
    """Recommend, and say what was done."""
    if target.exists() and not overwrite:
        raise DataError(f"{target}: is there already; name another file, or say --overwrite")
    place = "cpu" if device == "cpu" else find_gpu(device)
    recommender = load_recommender(run)
    recommender.model.to(place)
    found = histories_named(source, recommender).open(recommender.catalogue)
    listed = list_items(recommender, found, target, k, seen)
    screen = console()
    speed = (
        f"{listed.users:,} users in {listed.seconds:.1f} s ({listed.users / max(listed.seconds, 1e-9):,.0f} users/s)"
    )
    screen.print(f"{speed} -> {target}", markup=False, soft_wrap=True)
    for column, rows in listed.missing.items():
        if rows:
            screen.print(f"  {rows:,} rows without `{column}` were left out", markup=False)
    if listed.unknown:
        screen.print(f"  {listed.unknown:,} events of items that the model does not know were left out")
    return {
        "users": listed.users,
        "seconds": round(listed.seconds, 3),
        "out": str(target),
        "unknown": listed.unknown,
        "missing": listed.missing,
    }
