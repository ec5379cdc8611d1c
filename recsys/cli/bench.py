"""`recsys bench NAME`: measure recsys beside its peers, on this machine; the last line is one JSON object."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from recsys.cli.app import Result, UsageError, call, command_line
from recsys.cli.bench_dataflow import dataflow
from recsys.cli.bench_lookup import lookup
from recsys.cli.bench_session import optimize, request, score, serve, session
from recsys.cli.show import card_table, cells_table, console
from recsys.config import nearest

__all__ = ["BENCHES", "main"]


def main(argv: Sequence[str]) -> Result:
    """Find the benchmark and run it; alone it lists them."""
    if not argv or argv[0] in ("-h", "--help"):
        print(USAGE)
        return {}
    if argv[0] not in BENCHES:
        raise UsageError(f"no such benchmark as `{argv[0]}`: {nearest(argv[0], list(BENCHES))}")
    return call(BENCHES[argv[0]][0], argv[1:], f"recsys bench {argv[0]}")


def data(rows: int = 1_000_000, rounds: int = 5, only: tuple[str, ...] = (), folder: Path | None = None) -> Result:
    """Measure how many Criteo-shaped rows a second one core encodes from Parquet, beside its peers.

    Args:
        rows: Rows of the file.
        rounds: Runs of each job, interleaved; medians are printed.
        only: The workloads to measure, such as `hash`; by default all.
        folder: Where the file goes and stays; by default a temporary folder.
    """
    from recsys.bench.data import measure

    found = measure(rows, rounds, only, folder)
    screen = console()
    screen.print(card_table(found["machine"], _data_facts(found)))
    for row in found["rows"]:
        screen.print(_data_table(row), _data_ratios(row), "", sep="\n")
    for name, install in found["absent"].items():
        screen.print(f"absent: {name}; it runs after `pip install {install}`", markup=False)
    return found


def train(rows: int = 10_000, rounds: int = 3, only: tuple[str, ...] = ()) -> Result:
    """Measure how many encoded rows a second an epoch of training takes, beside its peers.

    Args:
        rows: Rows of an epoch.
        rounds: Epochs of each contender, interleaved; medians are printed.
        only: The workloads to measure, such as `bits14`; by default all.
    """
    from recsys.bench.train import measure

    found = measure(rows, rounds, only)
    screen = console()
    screen.print(card_table(found["machine"], _train_facts(found)))
    for row in found["rows"]:
        screen.print(_train_table(row), _train_ratios(row), "", sep="\n")
    for name, command in found["absent"].items():
        screen.print(f"absent: {name}; it runs after `{command}`", markup=False)
    return found


def strategies(
    only: tuple[str, ...] = (), batch: tuple[int, ...] = (), seconds: float = 0.5, results: Path | None = None
) -> Result:
    """Measure where another strategy than `gather` pays, on one core.

    Args:
        only: The workloads to measure, such as `frappe`; by default all.
        batch: Batch sizes; by default those of each workload.
        seconds: About how long is measured for each batch size.
        results: A markdown file whose section of this benchmark and machine is written anew.
    """
    from recsys.bench.report import STRATEGIES_FACTS, Section, strategies_cells
    from recsys.bench.strategies import measure

    section = None if results is None else Section("strategies", results)
    found = measure(only, batch, seconds)
    screen = console()
    screen.print(card_table(found["machine"], STRATEGIES_FACTS), cells_table(strategies_cells(found)), sep="\n")
    for name in found["absent"]:
        screen.print(f"absent: {name}, whose strategy needs AVX-512", markup=False)
    if section is not None:
        given = {"only": only, "batch": batch, "seconds": seconds, "results": results}
        section.write(found, command_line(strategies, "recsys bench strategies", given))
    return found


BENCHES: dict[str, tuple[Callable[..., Result], str]] = {
    "data": (data, "rows a second encoded on one core from Parquet"),
    "train": (train, "rows a second of an epoch of training"),
    "lookup": (lookup, "microseconds of the look-ups of whole workloads"),
    "dataflow": (dataflow, "plans of look-ups, predicted beside measured, and other plans beside them"),
    "optimize": (optimize, "models that know nothing of recsys, beside themselves and torch.compile"),
    "request": (request, "microseconds from dicts to scores, encoding included"),
    "score": (score, "rows a second scored from Parquet to Parquet, beside pandas and FuxiCTR"),
    "session": (session, "microseconds from ids to scores, beside torchrec, torch.compile and FuxiCTR"),
    "serve": (serve, "microseconds of requests over HTTP, beside the session's own"),
    "strategies": (strategies, "strategies of looking up, on one core, beside gather"),
}

USAGE = "\n".join(
    [
        "usage: recsys bench NAME [OPTIONS]",
        "",
        "Measure recsys beside its peers; the last line printed is one JSON object.",
        "",
        "benchmarks:",
        *(f"  {name:<12}{about}" for name, (_, about) in BENCHES.items()),
    ]
)


def _data_facts(found: Mapping[str, Any]) -> dict[str, str]:
    file = found["file"]
    core = "threads are not bound to a core here" if found["core"] is None else f"all threads on core {found['core']}"
    return {
        "rows": f"{file['rows']:,}, Criteo-shaped: made by a formula",
        "file": f"{file['bytes']:,} bytes of Parquet, {file['compression']}, {file['bytes_per_row']} a row",
        "core": core,
        "figures": f"medians of {found['rounds']} interleaved rounds; ratios by processor time",
    }


def _data_table(row: Mapping[str, Any]) -> Table:
    """Ours, the peers from the fastest on, and the bound."""
    table = Table(title=f"{row['workload']}: {row['rows']:,} rows, 1 core", title_justify="left")
    for column in (
        "name",
        "class",
        "rows/s, wall",
        "rows/s, cpu",
        "cpu µs/row",
        "recsys / peer",
        "rows",
        "fit rows/s",
    ):
        table.add_column(column, justify="left" if column in ("name", "class") else "right")
    ours, fits = row["ours"], row["fit"]
    peers = sorted(row["peers"], key=lambda peer: peer["cpu_us_per_row"])
    for one in ({"class": "bound", **row["bound"]}, {"class": "ours", **ours}, *peers):
        table.add_row(
            one["name"],
            one["class"],
            f"{one['rows_per_second']:,}",
            f"{one['cpu_rows_per_second']:,}",
            f"{one['cpu_us_per_row']:.3f}",
            f"{one['cpu_us_per_row'] / ours['cpu_us_per_row']:.2f} ×" if one in peers else "",
            f"{one.get('rows', row['rows']):,}",
            f"{fits[one['name']]['cpu_rows_per_second']:,}" if one["name"] in fits else "",
        )
    return table


def _data_ratios(row: Mapping[str, Any]) -> str:
    return f"recsys has {_ratios(row)}, and {row['share_of_bound']:.0%} of the bound"


def _ratios(row: Mapping[str, Any]) -> str:
    ratios = {kind: row[f"ratio_{kind}"] for kind in ("stock", "tuned")}
    told = [f"{'–' if ratio is None else f'{ratio:.2f}'} × the best {kind} peer" for kind, ratio in ratios.items()]
    return " and ".join(told)


def _train_facts(found: Mapping[str, Any]) -> dict[str, str]:
    return {
        "rows": f"{found['rows'][0]['rows']:,}, Criteo-shaped and encoded: 13 numbers, 26 ids",
        "step": f"{found['batch']:,} rows; embeddings of {found['rows'][0]['dim']} columns",
        "figures": f"medians of {found['rounds']} interleaved epochs without validation; ratios by wall time",
    }


def _train_table(row: Mapping[str, Any]) -> Table:
    """Ours, everybody else from the fastest on, and the bound."""
    title = f"{row['workload']}: {row['rows']:,} rows, tables of {row['table_rows']:,} rows in all"
    table = Table(title=title, title_justify="left")
    for column in ("name", "class", "threads", "rows/s", "slowest to fastest", "cpu µs/row", "dcn2 / it"):
        table.add_column(column, justify="left" if column in ("name", "class") else "right")
    ours = row["ours"]
    others = sorted([*row["also"], *row["peers"]], key=lambda one: float(one["us_per_row"]))
    for one in (row["bound"], ours, *others):
        table.add_row(
            one["name"],
            one["class"],
            str(one["threads"]),
            f"{one['rows_per_second']:,}",
            f"{one['slowest']:,} – {one['fastest']:,}",
            f"{one['cpu_us_per_row']:.2f}",
            f"{one['us_per_row'] / ours['us_per_row']:.2f} ×" if one in others else "",
        )
    return table


def _train_ratios(row: Mapping[str, Any]) -> str:
    fuxictr = "–" if row["ratio_fuxictr"] is None else f"{row['ratio_fuxictr']:.2f}"
    return f"dcn2 has {_ratios(row)}, {fuxictr} × the best of FuxiCTR's, and {row['share_of_bound']:.0%} of the bound"
