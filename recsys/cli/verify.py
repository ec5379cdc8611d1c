"""`recsys verify`: does an export still say what the trained model says?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import tyro

from recsys.cli.app import Result, call
from recsys.cli.show import console, verdict_table
from recsys.inference.tolerance import Tolerance

__all__ = ["main"]


def main(argv: Sequence[str]) -> Result:
    """Parse and run."""
    return call(command, argv, "recsys verify")


def command(
    run: tyro.conf.Positional[Path],
    export: tyro.conf.Positional[Path],
    data: str,
    plan: str = "auto",
    backend: Literal["auto", "eager", "aoti", "onnx", "inductor", "fused"] = "auto",
    precision: Literal["auto", "fp32", "tf32", "bf16", "int8"] = "auto",
    device: str = "cpu",
    tolerance: Tolerance = Tolerance(),  # noqa: B008 (frozen)
) -> Result:
    """Score rows by a trained model and by its export, and compare; exit code 3 when more is lost than tolerated.

    Args:
        run: Folder of a trained model.
        export: Its export, or a run folder again, to try another precision.
        data: A file or a folder (Parquet, CSV, TSV), or SOURCE:SPLIT; without labels scores alone are compared.
        plan: File of a plan of its look-ups, on a GPU of one for it; by default the export's own.
        backend: What runs the export's network.
        precision: Of the export's network.
        device: `cpu`, or a GPU: `cuda`, `cuda:1`.
        tolerance: What may be lost.
    """
    from recsys.data.sources import resolve
    from recsys.inference.gate import verify
    from recsys.inference.session import session
    from recsys.models.checkpoint import load

    path = resolve(data)
    with session(export, plan, backend, precision=precision, device=device) as tested:
        verdict = verify(load(run), tested, path, tolerance)
    found = verdict.to_json()
    screen = console()
    screen.print(
        verdict_table(found, f"{export} as {verdict.precision} against {run} on {data} ({verdict.rows:,} rows)")
    )
    return {"run": str(run), "export": str(export), "backend": backend} | found
