"""`recsys train` of a sequence model: from histories to a recommender."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import tyro

from recsys.cli.app import Result
from recsys.cli.epochs import reporter
from recsys.cli.show import console, metrics_tables
from recsys.data.history_data import HistoryData
from recsys.inference.cuda.device import find_gpu
from recsys.training.protocol import Protocol
from recsys.training.sequence_recipe import SequenceRecipe
from recsys.training.sequence_run import train_recommender
from recsys.training.sequence_trainer import SequenceTraining

__all__ = ["sequence_command"]

_SHOWN = ("hr@10", "ndcg@10")


def sequence_command(recipe: SequenceRecipe) -> Any:
    """The command with the recipe's values as its defaults."""

    def command(
        name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(name="recipe", metavar="RECIPE|MODEL")],
        out: Path,
        source: str | None = None,
        events: tuple[Path, ...] = (),
        lines: Path | None = None,
        user: str = recipe.data.user,
        item: str = recipe.data.item,
        time: str | None = recipe.data.time,
        collapse: bool | None = None,
        overwrite: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
        device: str = "cpu",
        model: Any = recipe.model,
        protocol: Protocol = recipe.protocol,
        training: SequenceTraining = recipe.training,
    ) -> Result:
        """Train a model that says what comes next in a history, from a recipe or from a model's name.

        An interrupted training goes on where it was when the same command is given again. The test questions of the
        protocol are not looked at; `recsys eval` asks them.

        Args:
            name: A recipe file (.toml), or a model: hstu, sasrec.
            out: Folder to write the run to.
            source: A source of histories, in place of the recipe's data: movielens-100k, wikipedia.
            events: Files or folders of interactions, a row each (Parquet, CSV, TSV), in place of the recipe's data.
            lines: A text file in place of the recipe's data, one user a line: the user and then the items.
            user: Column of `events` that names the user.
            item: Column that names the item.
            time: Column that orders a user's events; by default their order in the files.
            collapse: Whether a run of one item counts once; by default only if the recipe says so, of its own data.
            overwrite: Start again even if the folder holds a run.
            device: Where to train: `cpu`, or a GPU: `cuda`, `cuda:1`.
            model: The model.
            protocol: What is held out, and how it is asked about.
            training: How it is trained.
        """
        columns = {"user": user, "item": item, "time": time}
        own = not (events or lines) and source in (None, recipe.data.source)
        data = recipe.data if own else HistoryData.parse({"source": source, "events": events, "lines": lines}, "data")
        changed = {"collapse": data.collapse if collapse is None else collapse}
        given = {"data": data.model_copy(update=columns | changed)}
        parts = {"model": model, "protocol": protocol, "training": training}
        return _run(recipe.model_copy(update=given | parts), out, overwrite, device)

    command.__annotations__["model"] = type(recipe.model)
    return command


def _run(recipe: SequenceRecipe, out: Path, overwrite: bool, device: str) -> Result:
    screen = console()
    place = "cpu" if device == "cpu" else find_gpu(device)
    report = reporter(screen, "events_per_second", "events/s", _SHOWN)
    recommender = train_recommender(recipe, out, overwrite=overwrite, report=report, device=place)
    told = recommender.metrics["valid"]
    shown = {name: one for name, one in told["metrics"].items() if not name.startswith("recall")}  # it is the hit rate
    for table in metrics_tables(shown, f"{told['questions']:,} validation questions, all items ranked"):
        screen.print(table)
    screen.print(f"saved {out}\nnext: recsys eval {out}    recsys score {out} IN.parquet OUT.parquet")
    return {"run": str(out), "metrics": recommender.metrics, "training": recommender.training}
