"""A progressive pass from a recipe to a run folder: what `recsys progressive` does."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from recsys.data.protocol import hashed
from recsys.data.readers import Dataset
from recsys.data.schema import Schema
from recsys.data.sources import load as load_source
from recsys.errors import CheckpointError
from recsys.files import locked, make_folder, replacing
from recsys.models.checkpoint import Checkpoint, is_checkpoint, save
from recsys.models.registry import build
from recsys.pictures import new_figure
from recsys.training.progressive import Progressive, in_order_of_time, progressive
from recsys.training.recipe import DataConfig, Recipe

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["run_progressive", "windows_figure"]


def run_progressive(
    recipe: Recipe,
    bits: int = 18,
    window: int = 20_000,
    out: Path | None = None,
    *,
    hashes: int = 1,
    overwrite: bool = False,
    show: bool = True,
) -> tuple[Checkpoint, Progressive]:
    """One pass of a recipe's model over its rows, hashed, in the order of time.

    Of a named source these are the rows to train on, to validate and to test on; of own files the first two. With
    `out`, that folder becomes a checkpoint of the model as it is after the last row, with ``windows.csv`` and
    ``windows.png``.

    Args:
        recipe: The model, its data, and how steps are taken.
        bits: All values share a table of 2^bits rows.
        window: Rows of a window.
        out: Folder of the checkpoint; None keeps it in memory.
        hashes: How many hashes a value has, each of a table as much narrower.
        overwrite: Write even if `out` holds a checkpoint.
        show: A progress bar on standard error.

    Raises:
        CheckpointError: When `out` holds a checkpoint.
        ConfigError: When the loss is no number any more.
        DataError: When the data cannot be read, or is less than a window.
        SchemaError: When the data cannot feed the model.
    """
    if out is not None:
        if is_checkpoint(out) and not overwrite:
            raise CheckpointError(f"{out}: holds a finished run; name another folder, or say overwrite")
        make_folder(out.parent)
    schema, data = _opened(recipe.data)
    encoder, rows = in_order_of_time(hashed(schema, bits, hashes), data)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.training.seed)
        model = build(recipe.model, encoder.inputs)
    found = progressive(model, rows, recipe.training, window, show)
    metrics = {"progressive": {name: _alone(value) for name, value in found.summary().items()}}
    checkpoint = Checkpoint(recipe.model, model, encoder, metrics, _account(recipe, found, bits, hashes))
    if out is not None:
        with locked(out.with_name(f".{out.name}.lock")):
            save(checkpoint, out, overwrite=True)
            _write_windows(found, out)
    return checkpoint, found


def _opened(config: DataConfig) -> tuple[Schema, Dataset]:
    """Schema, and all rows of a recipe's data."""
    own = list(dict.fromkeys([*config.train, *config.valid]))
    if config.source is None:
        assert config.schema_file
        schema, files = Schema.load(config.schema_file), own
    else:
        source = load_source(config.source)
        schema, files = (
            Schema.load(config.schema_file or source.schema),
            own or [source.train, source.valid, source.test],
        )
    return schema, Dataset(files, schema.format)


def _alone(value: float) -> dict[str, float | None]:
    """A metric without an interval, as a checkpoint keeps it."""
    return {"value": value, "low": None, "high": None}


def _account(recipe: Recipe, found: Progressive, bits: int, hashes: int) -> dict[str, Any]:
    seconds = max(found.seconds, 1e-9)
    return {
        "recipe": recipe.model_dump(mode="json", exclude={"search"}, exclude_none=True),
        "protocol": {"name": "progressive", "bits": bits, "hashes": hashes, "window": found.window},
        "epochs": 1,
        "seconds": round(found.seconds, 1),
        "samples_per_second": round(len(found.scores) / seconds),
    }


def _write_windows(found: Progressive, out: Path) -> None:
    aucs = ["" if math.isnan(value) else value for value in found.aucs]  # of one class there is none
    lines = [[number, found.window, value] for number, value in enumerate(aucs, 1)]
    with replacing(out / "windows.csv") as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["window", "rows", "auc"], *lines])
    with replacing(out / "windows.png") as temporary:
        windows_figure(found).savefig(temporary, dpi=120, format="png")


def windows_figure(found: Progressive) -> Figure:
    """AUC of each window along the rows, and their mean."""
    figure = new_figure(7, 3.6)
    axes = figure.subplots()
    seen = [found.window * (number + 1) for number in range(len(found.aucs))]
    mean = found.summary()["mean"]
    axes.plot(seen, found.aucs, "o-", markersize=3, linewidth=1)
    axes.axhline(mean, linestyle="--", linewidth=1, color="grey", label=f"mean {mean:.4f}")
    axes.set(title=f"AUC in windows of {found.window:,} rows", xlabel="rows seen", ylabel="AUC")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.grid(alpha=0.3)
    axes.legend()
    return figure
