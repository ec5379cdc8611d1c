"""`recsys bench serve`: what HTTP adds to a session."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from rich.table import Table

from recsys.cli.app import Result
from recsys.cli.show import card_table, console
from recsys.inference.backends import Backend

__all__ = ["serve"]


def serve(
    run: Path | None = None,
    host: str = "127.0.0.1",
    backend: Literal["auto"] | Backend = "auto",
    requests: int = 2000,
    clients: int = 2,
    rate: float | None = None,
    seconds: float = 20.0,
) -> Result:
    """Measure requests to `recsys serve` on this machine, closed and open loop, beside the session's own time.

    Args:
        run: Folder of a trained model; by default a small one is trained on synthetic clicks.
        host: Where the server listens: an address of this machine alone.
        backend: What runs the network, in the server and beside it.
        requests: Of each measurement.
        clients: Of the second closed loop.
        rate: Requests a second of the open loop; by default half of what one client got in the closed one.
        seconds: Most that a measurement takes.
    """
    from recsys.bench.serve import measure

    found = measure(run, host, backend, requests, clients, rate, seconds)
    screen = console()
    screen.print(card_table(found["machine"], _facts(found)), _table(found), sep="\n")
    return found


def _facts(found: Mapping[str, Any]) -> dict[str, str]:
    backends = ", ".join(f"{name} for {size}" for size, name in found["backends"].items())
    return {
        "model": f"{found['model']}; back end by rows: {backends}",
        "figures": "medians; client and server share the cores; the session's own calls are made between requests",
    }


def _table(found: Mapping[str, Any]) -> Table:
    table = Table(title="µs a request", title_justify="left")
    for name in ("request", "loop", "p50", "p99", "requests/s", "session p50", "p99", "overhead p50"):
        table.add_column(name, justify="left" if name in ("request", "loop") else "right")
    for row in found["rows"]:
        open_loop = f"open, {row['rate']:,.0f}/s due" if row["loop"] == "open" else f"closed, clients: {row['clients']}"
        own = ("session_p50_us", "session_p99_us", "overhead_p50_us")
        table.add_row(
            f"{row['case']}, rows: {row['rows']}",
            open_loop,
            *(f"{row[name]:,.0f}" for name in ("p50_us", "p99_us", "per_second")),
            *(f"{row[name]:,.0f}" if name in row else "" for name in own),
        )
    return table
