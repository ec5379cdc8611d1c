"""What benchmarks of sessions found: how to read it, and its tables, for the screen and for a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Any, Literal

from recsys.markdown import Cells

__all__ = ["SESSION_REPORTS", "SessionBench"]

SessionBench = Literal["session", "optimize", "request", "score", "serve"]
Row = Mapping[str, Any]
Report = tuple[dict[str, str], list[Cells]]

_FIGURES = "processor time of one thread; medians of interleaved turns"
_DCNV2 = "DCNv2, 429 inputs, 3 crosses, 1024-512-256"
_SESSION = ("batch", "storage", "network", "back end", "µs", "p99", "rows/s", "look-up", "network, µs", "glue",
            "of the bound")  # fmt: skip
_SERVE = ("request", "loop", "p50", "p99", "requests/s", "session p50", "session p99", "overhead p50")


def _session(found: Row) -> Report:
    peaks = ", ".join(f"{gflops:.0f} as {kind}" for kind, gflops in found["peak_gflops"].items())
    facts = {
        "tables": f"{found['workload']['bytes']:,} bytes as fp32, ids by Zipf's law",
        "peak": f"GFLOP/s of one core in a large product: {peaks}",
        "figures": f"{_FIGURES}; bound: products at peak, and rows",
    }
    grouped = groupby(found["rows"], lambda row: row["workload"])
    return facts, [_session_cells(f"{name}: from ids to scores, one thread", list(rows)) for name, rows in grouped]


def _session_cells(title: str, rows: Sequence[Row]) -> Cells:
    peers = [peer["name"] for peer in rows[0]["peers"]]
    header = (*_SESSION, *(f"{peer} ÷ ours" for peer in peers))
    return Cells(title, header, tuple(_session_row(row, peers) for row in rows), left=4)


def _session_row(row: Row, peers: Sequence[str]) -> tuple[str, ...]:
    ours = row["ours"]
    return (
        f"{row['batch']:,}",
        row["storage"],
        row["dtype"],
        ours["what"],
        *(f"{ours[key]:,.1f}" for key in ("us", "p99_us")),
        f"{ours['rows_per_second']:,}",
        *(f"{ours[key]:,.1f}" for key in ("lookup_us", "network_us", "glue_us")),
        "–" if row["share_of_bound"] is None else f"{row['share_of_bound']:.0%}",
        *(f"{row['ratios'][peer]:.2f}" for peer in peers),
    )


def _optimize(found: Row) -> Report:
    tables = f"Criteo's, at most {found['cap']:,} rows each, dim 16; ids by Zipf's law"
    peers = list(dict.fromkeys(peer["name"] for row in found["rows"] for peer in row["peers"]))
    header = ("model", "back end", "batch", "µs", *(f"{peer} ÷ ours" for peer in peers))
    rows = tuple(_optimize_row(row, peers) for row in found["rows"])
    cells = Cells("models as they are, and optimised: one thread", header, rows, left=2)
    return {"tables": tables, "figures": _FIGURES}, [cells]


def _optimize_row(row: Row, peers: Sequence[str]) -> tuple[str, ...]:
    ours, ratios = row["ours"], {peer["name"]: f"{peer['ratio']:.2f}" for peer in row["peers"]}
    told = row["model"], str(ours["backend"]), f"{row['batch']:,}", f"{ours['us']:,.1f}"
    return (*told, *(ratios.get(peer, "failed") for peer in peers))


def _request(found: Row) -> Report:
    facts = {
        "request": "dicts of Criteo's 13 numbers and 26 categories, hashed; requests differ, values recur",
        "model": f"{_DCNV2}, float32; one thread",
        "back end": _backends(found),
    }
    rows = tuple(
        (row["request"], f"{row['rows']:,}", *(f"{row[key]:,.0f}" for key in ("p50_us", "p99_us")))
        for row in found["rows"]
    )
    return facts, [Cells("from a request to its scores, µs", ("request", "rows", "p50", "p99"), rows)]


def _score(found: Row) -> Report:
    facts = {
        "file": f"{found['file_rows']:,} rows, Criteo-shaped: made by a formula",
        "model": f"{_DCNV2}; float32, and bfloat16 and int8 products",
        "memory": "what a job took at the most, beside models and what there was before",
    }
    peers = sorted({name for row in found["rows"] for name in row["times"]})
    rows = tuple(
        (
            row["name"],
            row["class"],
            f"{row['rows_per_second']:,}",
            f"{row['most_memory_bytes'] / 1e6:,.0f}",
            *(f"{row['times'][peer]:.2f} ×" if row["times"] else "" for peer in peers),
        )
        for row in found["rows"]
    )
    header = ("who", "class", "rows/s", "memory, MB", *(f"÷ {peer}" for peer in peers))
    return facts, [Cells("from Parquet to Parquet, all cores", header, rows, left=2)]


def _serve(found: Row) -> Report:
    facts = {
        "model": f"{found['model']}; back end by rows: {_backends(found)}",
        "figures": "medians; client and server share the cores; the session's own calls are made between requests",
    }
    return facts, [Cells("µs a request", _SERVE, tuple(map(_serve_row, found["rows"])), left=2)]


def _serve_row(row: Row) -> tuple[str, ...]:
    due = f"open, {row['rate']:,.0f}/s due" if row["loop"] == "open" else f"closed, clients: {row['clients']}"
    own = ("session_p50_us", "session_p99_us", "overhead_p50_us")
    return (
        f"{row['case']}, rows: {row['rows']}",
        due,
        *(f"{row[key]:,.0f}" for key in ("p50_us", "p99_us", "per_second")),
        *(f"{row[key]:,.0f}" if key in row else "" for key in own),
    )


def _backends(found: Row) -> str:
    return ", ".join(f"{name} for {size}" for size, name in found["backends"].items())


SESSION_REPORTS: dict[SessionBench, Callable[[Row], Report]] = {
    "session": _session,
    "optimize": _optimize,
    "request": _request,
    "score": _score,
    "serve": _serve,
}
"""Of each benchmark: how to read it, and its tables."""
