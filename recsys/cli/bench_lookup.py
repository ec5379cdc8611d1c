"""`recsys bench lookup`: look-ups of whole workloads, on the CPU or on a GPU."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.table import Table

from recsys.cli.app import Result, command_line
from recsys.cli.show import card_table, cells_table, console

if TYPE_CHECKING:
    from recsys.bench.lookup import Distribution

__all__ = ["lookup"]


def lookup(
    only: tuple[str, ...] = (),
    batch: tuple[int, ...] = (),
    ids: tuple[Literal["zipf", "uniform", "equal", "trace"], ...] = (),
    seconds: float = 0.7,
    device: Literal["cpu", "cuda"] = "cpu",
    results: Path | None = None,
) -> Result:
    """Measure how long the look-ups of whole workloads take, beside their peers.

    Args:
        only: The workloads to measure, such as `w1-d16`; by default all.
        batch: Batch sizes; by default those of each workload.
        ids: How ids fall on the rows; `equal` is the extreme case, all ids the same, and `trace` is from production. By
            default in all ways, on a GPU but for `trace`.
        seconds: About how long is measured for each batch size and class of peers.
        device: `cuda`: on a GPU, beside FBGEMM, captured graphs on both sides.
        results: A markdown file whose section of this benchmark and machine is written anew.
    """
    from recsys.bench.report import Section

    section = None if results is None else Section("lookup" if device == "cpu" else "lookup-gpu", results)
    found = (_on_cpu if device == "cpu" else _on_gpu)(only, batch, ids, seconds)
    for name, command in found["absent"].items():
        console().print(f"absent: {name}; it runs after `{command}`", markup=False)
    if section is not None:
        given = {"only": only, "batch": batch, "ids": ids, "seconds": seconds, "device": device, "results": results}
        section.write(found, command_line(lookup, "recsys bench lookup", given))
    return found


def _on_cpu(only: Sequence[str], batch: Sequence[int], ids: Sequence[Distribution], seconds: float) -> Result:
    from recsys.bench.lookup import measure
    from recsys.bench.report import LOOKUP_FACTS, distributions_cells

    found = measure(only, batch, ids, seconds)
    screen = console()
    screen.print(card_table(found["machine"], {**_lookup_facts(found), **LOOKUP_FACTS}))
    for (name, kind), rows in groupby(found["rows"], lambda row: (row["workload"], row["ids"])):
        screen.print(_lookup_table(f"{name}, {kind} ids: µs a batch", list(rows)), "", sep="\n")
    if found["distributions"]:
        screen.print(cells_table(distributions_cells(found)))
    return found


def _on_gpu(only: Sequence[str], batch: Sequence[int], ids: Sequence[Distribution], seconds: float) -> Result:
    from recsys.bench.gpu_lookup import measure
    from recsys.bench.report_gpu import GPU_REPORTS

    found = measure(only, batch, ids, seconds)
    screen = console()
    facts, tables = GPU_REPORTS["lookup-gpu"](found)
    screen.print(card_table(found["machine"], facts))
    for cells in tables:
        screen.print(cells_table(cells), "", sep="\n")
    return found


def _lookup_facts(found: Mapping[str, Any]) -> dict[str, str]:
    return {name: f"{one['bytes']:,} bytes as fp32. {one['about']}" for name, one in found["workloads"].items()}


def _lookup_table(title: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    """A line for each batch size, type of our rows and number of threads."""
    table = Table(title=title, title_justify="left")
    named = ("rows", "best stock", "best tuned")
    for name in ("batch", "rows", "threads", "ours", "p99", *named[1:], "of the bound"):
        table.add_column(name, justify="left" if name in named else "right")
    for row in rows:
        share = "–" if row["share_of_bound"] is None else f"{row['share_of_bound']:.0%}"
        times = [f"{row['ours'][key]:,.1f}" for key in ("us", "p99_us")]
        best = [_lookup_best(row, kind) for kind in ("stock", "tuned")]
        table.add_row(f"{row['batch']:,}", row["dtype"], f"{row['threads']}", *times, *best, share)
    return table


def _lookup_best(row: Mapping[str, Any], kind: str) -> str:
    """The fastest peer of a class with its time and ratio; of the type of our rows, the ratio too."""
    peers = [peer for peer in row["peers"] if peer["class"] == kind]
    if not peers:
        return f"{row['ratio_one_thread']:.2f} × one thread" if row["threads"] > 1 and kind == "stock" else "–"
    best = min(peers, key=lambda peer: float(peer["us"]))
    alike = row[f"ratio_{kind}_dtype"]
    also = "" if best["dtype"] == row["dtype"] or alike is None else f" ({row['dtype']}: {alike:.2f} ×)"
    return f"{row[f'ratio_{kind}']:.2f} × {best['name']} {best['us']:,.1f}{also}"
