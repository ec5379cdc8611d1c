"""`recsys bench dataflow`: plans, predicted beside measured."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro
from rich.table import Table
from rich.text import Text

from recsys.cli.app import Result, command_line
from recsys.cli.bench_gpu import larger_gpu, predicted_gpu
from recsys.cli.show import cells_table, console
from recsys.dataflow.workload import Dtype
from recsys.errors import ConfigError

if TYPE_CHECKING:
    from recsys.bench.dataflow import Distribution

__all__ = ["dataflow"]


DEFAULT = ("criteo-kaggle", "mlperf-dlrm-v2", "uniform-200")
"""Workloads."""


def dataflow(
    workload: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="NAME|FILE")] = DEFAULT,
    batch: tuple[int, ...] = (),
    ids: tuple[Literal["as it is", "zipf", "uniform", "equal", "trace"], ...] = ("as it is", "equal"),
    cores: int | None = None,
    cap: int | None = None,
    platform: str | None = None,
    results: Path | None = None,
    device: Literal["cpu", "cuda"] = "cpu",
    dtype: Dtype = "fp32",
    larger: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    picture: Path | None = None,
) -> Result:
    """Plan workloads, run the plans, and show predicted beside measured; others run beside ours.

    Symmetric plans (every core does all look-ups for its share of the batch) run on 1, 2, 4, … cores, and the best is
    shown; so is FBGEMM at its best thread count, where it is installed.

    Args:
        workload: Published workloads, or TOML files.
        batch: Batch sizes; by default those of each workload.
        ids: How ids fall on the rows; `equal` is the extreme case, all ids the same, and `trace` is from production.
        cores: How many to plan for; by default all.
        cap: Cut tables to at most so many rows; by default 400,000, with a GPU as many as fit.
        platform: A platform file; by default what `recsys profile` has measured.
        results: A markdown file whose section of this benchmark and machine is written anew.
        device: `cuda` measures look-ups on the GPU, all rows there, beside what the cost model predicts.
        dtype: How rows are stored on the GPU.
        larger: With a GPU, measure the first workload (mlperf-dlrm-v2) with tables larger than its memory: latency by
            the memory that they may take, at the first batch size (2048).
        picture: Of `larger`: a picture to draw.
    """
    if device == "cuda":
        if cores is not None:
            raise ConfigError("--cores is of the CPU's benchmark: leave it out with --device cuda")
        words: dict[str, object] = {
            "workload": workload,
            "device": device,
            "dtype": dtype,
            "batch": batch,
            "ids": ids,
            "cap": cap,
        }
        words |= {"platform": platform, "larger": larger, "picture": picture, "results": results}
        return _on_gpu(workload, batch, ids, cap, platform, dtype, larger, picture, results, words)
    if larger or picture is not None or dtype != "fp32":
        raise ConfigError("--larger, --picture and --dtype are of a GPU: add --device cuda")
    from recsys.bench.dataflow import measure
    from recsys.bench.report import Section, errors_line, plans_cells
    from recsys.dataflow.platform import here
    from recsys.dataflow.workload import Workload

    section = None if results is None else Section("dataflow", results)
    found = measure(
        [Workload.find(name).cap(400_000 if cap is None else cap).pooled() for name in workload],
        here(platform),
        cores,
        batch,
        ids,
    )
    screen = console()
    screen.print(cells_table(plans_cells(found)), _worst(found), sep="\n")
    screen.print(errors_line(found))
    if section is not None:
        given = {"workload": workload, "batch": batch, "ids": ids, "cores": cores, "cap": cap, "platform": platform}
        words = given | {"results": results}
        section.write(found, command_line(dataflow, "recsys bench dataflow", words, positional="workload"))
    return found


def _on_gpu(
    workload: tuple[str, ...],
    batch: tuple[int, ...],
    ids: tuple[Distribution, ...],
    cap: int | None,
    platform: str | None,
    dtype: Dtype,
    larger: bool,
    picture: Path | None,
    results: Path | None,
    words: Mapping[str, object],
) -> Result:
    from recsys.bench.report import Section

    if picture is not None and not larger:
        raise ConfigError("--picture is of --larger: add it, or leave both out")
    section = None if results is None else Section("gpu-larger" if larger else "gpu-dataflow", results)
    named = () if workload == DEFAULT else workload
    if larger:
        pictures = [one for one in (picture, None if section is None else section.picture) if one is not None]
        found = larger_gpu(named, batch, cap, platform, dtype, pictures)
    else:
        found = predicted_gpu(named, batch, ids, cap, platform, dtype)
    if section is not None:
        line = command_line(dataflow, "recsys bench dataflow", words, positional="workload")
        section.write(found, line.replace("--larger True", "--larger"))
    return found


def _worst(found: Mapping[str, Any], most: int = 12) -> Table:
    """The pieces that take long and are predicted worst."""
    pieces = [(row, piece) for row in found["rows"] for piece in row["pieces"] if piece["us"] > 0]
    pieces.sort(key=lambda one: -abs(one[1]["predicted_us"] / one[1]["us"] - 1))
    table = Table(title="pieces that were predicted worst", title_justify="left")
    for name in ("workload", "ids", "batch", "look-up", "core", "strategy", "predicted µs", "measured µs", "off by"):
        table.add_column(name, justify="left" if name in ("workload", "ids", "look-up", "strategy") else "right")
    for row, piece in pieces[:most]:
        off = piece["predicted_us"] / piece["us"] - 1
        where = Text(row["workload"]), row["ids"], f"{row['batch']:,}", Text(piece["lookup"]), str(piece["core"])
        table.add_row(*where, piece["strategy"], f"{piece['predicted_us']:.2f}", f"{piece['us']:.2f}", f"{off:+.0%}")
    return table
