"""`recsys bench session`, `request`, `score` and `optimize`: sessions beside their peers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from rich.table import Table

from recsys.cli.app import Result
from recsys.cli.show import card_table, console

__all__ = ["optimize", "request", "score", "session"]

_FIGURES = "processor time of one thread; medians of interleaved turns"


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
        "figures": f"{_FIGURES}; bound: products at peak, and rows",
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


def score(rows: int = 1_000_000, rounds: int = 1, bits: int = 20, only: tuple[str, ...] = ()) -> Result:
    """Measure how many rows a second are scored from Parquet to Parquet on all cores, beside pandas and FuxiCTR.

    Args:
        rows: Rows of the file, which are Criteo-shaped.
        rounds: Runs of each job, interleaved; medians are printed.
        bits: Each of the 26 tables has 2^bits rows.
        only: The jobs to run, such as `int8` or `pandas`; by default all.
    """
    from recsys.bench.score import measure

    found = measure(rows, rounds, bits, only)
    screen = console()
    grown = found["most_memory_beside_models"]
    facts = {
        "file": f"{found['file_rows']:,} rows, Criteo-shaped: made by a formula",
        "model": "DCNv2, 429 inputs, 3 crosses, 1024-512-256; float32, and bfloat16 and int8 products",
        "memory": f"{grown:,} bytes at the most beside the models, of whoever took most",
    }
    screen.print(card_table(found["machine"], facts))
    names = sorted({name for row in found["rows"] for name in row["times"]})
    table = Table(title="from Parquet to Parquet, all cores", title_justify="left")
    for name in ("who", "class", "rows/s", *(f"÷ {name}" for name in names)):
        table.add_column(name, justify="left" if name in ("who", "class") else "right")
    for row in found["rows"]:
        times = [f"{row['times'][name]:.2f} ×" if row["times"] else "" for name in names]
        table.add_row(row["name"], row["class"], f"{row['rows_per_second']:,}", *times)
    screen.print(table)
    for name, how in found["absent"].items():
        screen.print(f"absent: {name}; it runs after `{how}`", markup=False)
    return found


def optimize(batch: tuple[int, ...] = (1, 64, 512), seconds: float = 1.0, cap: int = 20_000_000) -> Result:
    """Measure models that know nothing of recsys, as they are, through torch.compile, and optimised.

    Args:
        batch: Batch sizes.
        seconds: About how long is measured for each batch size.
        cap: Cut tables to at most so many rows.
    """
    from recsys.bench.optimize import measure

    found = measure(seconds, batch, cap)
    screen = console()
    facts = {"tables": f"Criteo's, at most {cap:,} rows each, dim 16; ids by Zipf's law", "figures": _FIGURES}
    screen.print(card_table(found["machine"], facts))
    names = list(dict.fromkeys(peer["name"] for row in found["rows"] for peer in row["peers"]))
    table = Table(title="models as they are, and optimised: one thread", title_justify="left")
    for name in ("model", "batch", "back end", "µs", *(f"{name} ÷ ours" for name in names)):
        table.add_column(name, justify="left" if name in ("model", "back end") else "right")
    for row in found["rows"]:
        ratios = {peer["name"]: f"{peer['ratio']:.2f}" for peer in row["peers"]}
        ours = row["ours"]
        told = row["model"], f"{row['batch']:,}", str(ours["backend"]), f"{ours['us']:,.1f}"
        table.add_row(*told, *(ratios.get(name, "failed") for name in names))
    screen.print(table)
    for name, how in found["absent"].items():
        screen.print(f"absent: {name}; it runs after `{how}`", markup=False)
    return found


def request(seconds: float = 5.0, bits: int = 18) -> Result:
    """Measure raw requests, encoding included: one row as a dict, and 500 candidates of one user.

    Args:
        seconds: How long is measured for each kind.
        bits: Each of the 26 tables has 2^bits rows.
    """
    from recsys.bench.request import measure

    found = measure(seconds, bits)
    screen = console()
    facts = {
        "request": "dicts of Criteo's 13 numbers and 26 categories, hashed; requests differ, values recur",
        "model": "DCNv2, 429 inputs, 3 crosses, 1024-512-256, float32; one thread",
        "back end": ", ".join(f"{name} for {size}" for size, name in found["backends"].items()),
    }
    screen.print(card_table(found["machine"], facts))
    table = Table(title="from a request to its scores, µs", title_justify="left")
    for name in ("request", "rows", "p50", "p99"):
        table.add_column(name, justify="left" if name == "request" else "right")
    for row in found["rows"]:
        table.add_row(row["request"], f"{row['rows']:,}", f"{row['p50_us']:,.0f}", f"{row['p99_us']:,.0f}")
    screen.print(table)
    return found
