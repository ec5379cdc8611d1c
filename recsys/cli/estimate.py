"""`recsys estimate`: how much memory a session will take."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro
from rich.table import Table

from recsys.cli.app import Result, call
from recsys.cli.show import console

__all__ = ["main"]


def main(argv: Sequence[str]) -> Result:
    """Parse and run."""
    return call(command, argv, "recsys estimate")


def command(
    what: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN|EXPORT|WORKLOAD")], plan: Path | None = None
) -> Result:
    """Say how much memory a session will take, before it loads.

    Args:
        what: Folder of a trained model or an export, a workload's TOML file, or the name of a published one.
        plan: How tables are stored; by default as they are.
    """
    from recsys.inference.estimate import estimate
    from recsys.inference.plans import for_cpu, read_plan
    from recsys.machine import available_memory

    found = estimate(what, None if plan is None else for_cpu(read_plan(plan)))
    table = Table(title=f"memory of {what}, one thread", title_justify="left")
    table.add_column("what")
    table.add_column("bytes", justify="right")
    largest = sorted(found.tables.items(), key=lambda one: -one[1])[:5]
    rows = [("Python, torch and back ends, measured", found.process), ("tables", sum(found.tables.values()))]
    rows += [(f"  of them {name}", size) for name, size in largest]
    rows += [("network", found.network)]
    rows += [(f"buffers, batch {size:,}", count) for size, count in found.buffers.items()]
    rows += [("in all", found.steady), ("at the most, while it loads", found.peak), ("available", available_memory())]
    for name, size in rows:
        table.add_row(name, f"{size:,}")
    console().print(table)
    return found.to_json()
