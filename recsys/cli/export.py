"""`recsys export`: a trained model as a folder for machines."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import tyro

from recsys.cli.app import Result, call
from recsys.cli.show import console, verdict_table
from recsys.inference.tolerance import Tolerance

__all__ = ["main"]


def main(argv: Sequence[str]) -> Result:
    """Parse and run."""
    return call(command, argv, "recsys export")


def command(
    run: tyro.conf.Positional[Path],
    out: tyro.conf.Positional[Path],
    data: str | None = None,
    plan: Path | None = None,
    onnx: bool = False,
    overwrite: bool = False,
    tolerance: Tolerance = Tolerance(),  # noqa: B008 (frozen)
) -> Result:
    """Write a trained model for inference: raw tables that can be mapped, and the network without Python code.

    Args:
        run: Folder of a trained model.
        out: Folder to write.
        data: Labelled rows, a file or SOURCE:SPLIT, to hold the export against the trained model on; precisions that
            pass may then be chosen by a session. Exit code 3 when float32 does not pass.
        plan: A plan for the model, from `recsys plan`: how tables are stored and looked up. One for a GPU says how they
            are stored; give it to `recsys serve` and `recsys score` as well.
        onnx: Also write the network as ONNX.
        overwrite: Replace an export.
        tolerance: What the quality gate lets pass.
    """
    from recsys.data.sources import resolve
    from recsys.inference.convert import convert
    from recsys.inference.plans import read_plan

    chosen = None if plan is None else read_plan(plan)
    rows = None if data is None else resolve(data)
    seal = convert(run, out, chosen, rows, tolerance, onnx=onnx, overwrite=overwrite)
    screen = console()
    for precision, verdict in seal.gate.items():
        screen.print(verdict_table(verdict, f"{out} as {precision} against {run}"))
    size = sum(file.bytes for file in seal.files.values())
    screen.print(f"{out}: {size:,} bytes; a session may choose from {', '.join(seal.precisions)}")
    return {
        "out": str(out),
        "bytes": size,
        "tables": {table.name: table.dtype for table in seal.tables},
        "precisions": list(seal.precisions),
        "gate": seal.gate,
    }
