"""`recsys bench session`: from ids to scores, beside peers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from rich.table import Table

from recsys.cli.app import Result
from recsys.cli.show import card_table, console

__all__ = ["session"]


def session(
    only: tuple[str, ...] = (), batch: tuple[int, ...] = (), seconds: float = 1.5, cap: int | None = None
) -> Result:
    """Measure a session on one core: Criteo's tables, dim 16, through DCNv2 and DCN², beside its peers.

    Args:
        only: `dcnv2` or `dcn2`; by default both.
        batch: Batch sizes; by default 1, 64, 512 and 4096.
        seconds: About how long is measured for each batch size.
        cap: Cut tables to at most so many rows.
    """
    from recsys.bench.session import measure

    found = measure(only, batch, seconds, cap)
    screen = console()
    screen.print(card_table(found["machine"], _facts(found)))
    for name, rows in groupby(found["rows"], lambda row: row["workload"]):
        screen.print(_table(f"{name}: from ids to scores, one thread", list(rows)), "", sep="\n")
    for name, how in found["absent"].items():
        screen.print(f"absent: {name}; {how}", markup=False)
    return found


def _facts(found: Mapping[str, Any]) -> dict[str, str]:
    peaks = ", ".join(f"{gflops:.0f} as {kind}" for kind, gflops in found["peak_gflops"].items())
    return {
        "tables": f"{found['workload']['bytes']:,} bytes as fp32, ids by Zipf's law",
        "peak": f"GFLOP/s of one core in a large product: {peaks}",
        "figures": "processor time of one thread; medians of interleaved turns; bound: products at peak, and rows",
    }


def _table(title: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    names = [peer["name"] for peer in rows[0]["peers"]]
    table = Table(title=title, title_justify="left")
    left = ("storage", "network", "back end")
    for name in ("batch", *left, "µs", "p99", "rows/s", "look-up", "network µs", "glue", "of bound"):
        table.add_column(name, justify="left" if name in left else "right")
    for name in names:
        table.add_column(f"{name} ÷ ours", justify="right")
    for row in rows:
        ours = row["ours"]
        times = [f"{ours[key]:,.1f}" for key in ("lookup_us", "network_us", "glue_us")]
        share = "–" if row["share_of_bound"] is None else f"{row['share_of_bound']:.0%}"
        ratios = [f"{row['ratios'][name]:.2f}" for name in names]
        told = (f"{ours['us']:,.1f}", f"{ours['p99_us']:,.1f}", f"{ours['rows_per_second']:,}", *times, share)
        table.add_row(f"{row['batch']:,}", row["storage"], row["dtype"], ours["what"], *told, *ratios)
    return table
