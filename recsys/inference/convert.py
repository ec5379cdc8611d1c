"""From a run folder to an export, through the quality gate."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from recsys.data.readers import Rows
from recsys.dataflow.executor import sources
from recsys.dataflow.gpu_plan import GpuPlan
from recsys.dataflow.plan import DataFlowPlan
from recsys.errors import ConfigError, MissingExtraError, QualityError
from recsys.files import locked
from recsys.inference.backends import ENGINES, Precision, absent
from recsys.inference.export import SEAL, Seal, read_export, write_export
from recsys.inference.gate import Verdict, verify
from recsys.inference.plans import Plan
from recsys.inference.session import InferenceSession
from recsys.inference.tolerance import Tolerance
from recsys.inference.trace import trace
from recsys.models.checkpoint import Checkpoint, load

__all__ = ["convert"]


def convert(
    run: str | Path,
    out: str | Path,
    plan: Plan | None = None,
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
        plan: How tables are stored and looked up; by default as float32. A GPU's says how they are stored and no more:
            where they lie depends on the GPU, so that sessions are given it themselves.
        data: Rows to hold the export against the trained model on, in every precision and by every back end that this
            machine can run. Precisions that pass may be chosen by a session; without data float32 alone may.
        tolerance: What the gate lets pass.
        onnx: Also write the network as ONNX.
        overwrite: Replace an export.
        show: Progress on standard error.

    Raises:
        CheckpointError: When the run does not load, or `out` holds an export or a trained model.
        ConfigError: When a GPU's plan is for other tables.
        QualityError: When the export does not pass even with a float32 network; then it does not load.
    """
    checkpoint, folder = load(run), Path(out)
    real = folder.resolve()
    with locked(real.parent / f".{real.name}.lock"):
        seal = _written(checkpoint, folder, plan, onnx, overwrite, show)
        if data is not None:
            verdicts = dict(_gated(checkpoint, folder, seal, data, tolerance, show))
            passed = tuple(kind for kind, verdict in verdicts.items() if verdict.passed)
            found = {kind: verdict.to_json() for kind, verdict in verdicts.items()}
            if "fp32" not in passed:  # one that ran and did not pass is said by `_gated`
                raise QualityError(f"{folder}: no back end here could run the export as fp32, so the gate saw nothing")
            seal = seal.model_copy(update={"gate": found, "precisions": passed})
        seal.write(folder / SEAL)
    return seal


def _written(checkpoint: Checkpoint, folder: Path, plan: Plan | None, onnx: bool, overwrite: bool, show: bool) -> Seal:
    """All of an export but its seal."""
    model = checkpoint.model
    if isinstance(plan, GpuPlan):
        plan.check(model.tables.spec.tables)
    return write_export(
        folder,
        model=checkpoint.config.name,  # type: ignore[attr-defined]
        source=checkpoint.fingerprint(),
        encoder=checkpoint.encoder,
        spec=model.tables.spec,
        rows=sources(model.tables, plan),
        program=trace(model),
        plan=plan if isinstance(plan, DataFlowPlan) else None,
        onnx=onnx,
        overwrite=overwrite,
        show=show,
    )


def _gated(
    checkpoint: Checkpoint, folder: Path, seal: Seal, data: Rows, tolerance: Tolerance, show: bool
) -> Iterator[tuple[Precision, Verdict]]:
    """Each precision and the worst of its back ends' verdicts; those that this machine cannot run are left out."""
    parts = read_export(folder, "map", seal)
    for precision in dict.fromkeys(kind for _, kind in ENGINES):
        able = [backend for backend, kind in ENGINES if kind == precision and not absent(backend, kind)]
        found: list[Verdict] = []
        for backend in able:
            try:
                with InferenceSession(parts, None, backend, precision) as session:
                    found.append(verify(checkpoint, session, data, tolerance, show))
            except (ConfigError, MissingExtraError):  # it cannot be built here, and so is no session's either
                continue
        if not found:
            continue
        worst = max(found, key=lambda one: (not one.passed, max(task.largest for task in one.tasks.values())))
        if precision == "fp32" and not worst.passed:
            raise QualityError(f"{folder}: the export does not pass the quality gate: {worst.reasons}")
        yield precision, worst
