"""From a run folder to an export, through the quality gate."""

from __future__ import annotations

from pathlib import Path

from recsys.data.readers import Rows
from recsys.dataflow.executor import sources
from recsys.dataflow.plan import DataFlowPlan
from recsys.errors import QualityError, RecsysError
from recsys.inference.backends import ENGINES, Precision, absent
from recsys.inference.export import SEAL, Seal, read_export, write_export
from recsys.inference.gate import Verdict, verify
from recsys.inference.session import InferenceSession
from recsys.inference.tolerance import Tolerance
from recsys.inference.trace import trace
from recsys.models.checkpoint import Checkpoint, load

__all__ = ["convert"]


def convert(
    run: str | Path,
    out: str | Path,
    plan: DataFlowPlan | None = None,
    data: Rows | None = None,
    tolerance: Tolerance = Tolerance(),  # noqa: B008 (frozen)
    *,
    onnx: bool = False,
    overwrite: bool = False,
    show: bool = True,
) -> Seal:
    """Export a trained model.

    Args:
        run: Folder of a trained model, or the name of one that recsys brings along.
        out: Folder to write.
        plan: How tables are stored and looked up; by default as float32.
        data: Rows to hold the export against the trained model on, in every precision that this machine can run.
            Those that pass may be chosen by a session; without data float32 alone may.
        tolerance: What the gate lets pass.
        onnx: Also write the network as ONNX.
        overwrite: Replace an export.
        show: Progress on standard error.

    Raises:
        CheckpointError: When the run does not load, or `out` holds an export or a trained model.
        QualityError: When the export does not pass even with a float32 network; then it does not load.
    """
    checkpoint, folder = load(run), Path(out)
    model = checkpoint.model
    seal = write_export(
        folder,
        model=checkpoint.config.name,  # type: ignore[attr-defined]
        source=checkpoint.fingerprint(),
        encoder=checkpoint.encoder,
        spec=model.tables.spec,
        rows=sources(model.tables, plan),
        program=trace(model),
        plan=plan,
        onnx=onnx,
        overwrite=overwrite,
        show=show,
    )
    if data is not None:
        verdicts = _gated(checkpoint, folder, seal, data, tolerance, show)
        passed = tuple(precision for precision, verdict in verdicts.items() if verdict.passed)
        found = {precision: verdict.to_json() for precision, verdict in verdicts.items()}
        seal = seal.model_copy(update={"gate": found, "precisions": passed})
    seal.write(folder / SEAL)
    return seal


def _gated(
    checkpoint: Checkpoint, folder: Path, seal: Seal, data: Rows, tolerance: Tolerance, show: bool
) -> dict[Precision, Verdict]:
    parts = read_export(folder, "map", seal)
    verdicts: dict[Precision, Verdict] = {}
    for precision in dict.fromkeys(kind for _, kind in ENGINES):
        able = [backend for backend, kind in ENGINES if kind == precision and not absent(backend, kind)]
        if not able:
            continue
        # Any back end of a precision rounds alike; eager torch is there at once.
        try:
            with InferenceSession(parts, parts.plan, able[0], precision) as session:
                verdicts[precision] = verify(checkpoint, session, data, tolerance, show)
        except RecsysError:
            if precision == "fp32":
                raise
    if not verdicts["fp32"].passed:
        raise QualityError(f"{folder}: the export does not pass the quality gate: {verdicts['fp32'].reasons}")
    return verdicts
