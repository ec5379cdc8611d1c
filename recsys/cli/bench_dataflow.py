"""`recsys bench dataflow`: plans, predicted beside measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import tyro
from rich.table import Table
from rich.text import Text

from recsys.cli.app import Result
from recsys.cli.show import console

__all__ = ["dataflow"]


def dataflow(
    workload: Annotated[tuple[str, ...], tyro.conf.Positional, tyro.conf.arg(metavar="NAME|FILE")] = (
        "criteo-kaggle",
        "mlperf-dlrm-v2",
        "uniform-200",
    ),
    batch: tuple[int, ...] = (),
    ids: tuple[Literal["as it is", "zipf", "uniform", "equal", "trace"], ...] = ("as it is", "equal"),
    cores: int | None = None,
    cap: int = 400_000,
    platform: str | None = None,
) -> Result:
    """Plan workloads, run the plans, and show predicted beside measured; others run beside ours.

    Symmetric plans (every core does all look-ups for its share of the batch) run on 1, 2, 4, … cores, and the best is
    shown; so is FBGEMM at its best thread count, where it is installed.

    Args:
        workload: Published workloads, or TOML files.
        batch: Batch sizes; by default those of each workload.
        ids: How ids fall on the rows; `equal` is the extreme case, all ids the same, and `trace` is from production.
        cores: How many to plan for; by default all.
        cap: Cut tables to at most so many rows.
        platform: A platform file; by default what `recsys profile` has measured.
    """
    from recsys.bench.dataflow import measure
    from recsys.dataflow.platform import here
    from recsys.dataflow.workload import Workload

    found = measure([Workload.find(name).cap(cap).pooled() for name in workload], here(platform), cores, batch, ids)
    screen = console()
    screen.print(_plans(found), _worst(found), sep="\n")
    screen.print(f"pieces: predicted within {found['median_error']:.0%} (median), at worst {found['worst_error']:.0%}")
    return found


def _plans(found: Mapping[str, Any]) -> Table:
    table = Table(title="plans, µs a batch", title_justify="left")
    columns = (
        "workload",
        "ids",
        "batch",
        "cores",
        "predicted",
        "measured",
        "bound",
        "symmetric",
        "one core",
        "FBGEMM",
        "symmetric / ours",
    )
    for name in columns:
        table.add_column(name, justify="left" if name in columns[:2] else "right")
    for row in found["rows"]:
        keys = ("predicted_us", "us", "bound_us", "symmetric_us", "one_core_us", "fbgemm_us")
        times = ["–" if row[key] is None else f"{row[key]:,.1f}" for key in keys]
        used = len({piece["core"] for piece in row["pieces"]})
        table.add_row(
            Text(row["workload"]), row["ids"], f"{row['batch']:,}", f"{used}", *times, f"{row['ratio_symmetric']:.2f} ×"
        )
    return table


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
