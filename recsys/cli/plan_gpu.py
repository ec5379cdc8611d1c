"""`recsys plan --device cuda`: which rows lie in a GPU's memory, which in host memory, and what the CPU looks up."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recsys.cli.app import Result
from recsys.cli.planned import find_either
from recsys.cli.show import console, counts_notes
from recsys.dataflow.workload import Dtype, Workload
from recsys.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from recsys.dataflow.gpu_plan import GpuPlan
    from recsys.dataflow.heat import Heat

__all__ = ["plan_gpu", "read_size"]

UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
UNITS |= {"kib": 1 << 10, "mib": 1 << 20, "gib": 1 << 30, "tib": 1 << 40}


def plan_gpu(
    what: str,
    out: Path,
    picture: Path | None,
    platform: str | None,
    batch: Sequence[int],
    memory: str | None,
    latency: float | None,
    dtypes: Sequence[Dtype],
    gpus: int | None,
    data: str | None,
) -> Result:
    """Make a plan, show it, and write it and its picture.

    Raises:
        ConfigError: For numbers that cannot be, or a GPU that was not measured.
    """
    from recsys.dataflow import gpu_report, report
    from recsys.dataflow.gpu_cost import GpuCostModel
    from recsys.dataflow.gpu_default import room
    from recsys.dataflow.gpu_planner import latencies, plan
    from recsys.dataflow.gpu_platform import find as find_gpu
    from recsys.files import make_folder

    gpu = find_gpu(platform)
    most, count = room(gpu.memory), 1 if gpus is None else gpus
    size = most if memory is None else read_size(memory)
    if size > most:
        raise ConfigError(
            f"--memory {memory}: {gpu.gpu} has {most / 1e9:.1f} GB for tables, the rest of its {gpu.memory / 1e9:.1f} "
            "GB being left to activations: ask for less"
        )
    if count < 1 or any(one < 1 for one in batch) or (latency is not None and not latency > 0):
        raise ConfigError("expected at least one GPU, batches of at least 1, and a latency above 0")
    workload, heat, ids = _counted(what, data) if data is not None else _assumed(what)
    drawn = picture or out.with_suffix(".png")
    if drawn == out:
        raise ConfigError(f"the plan and its picture are both to be {out}: name another with --picture")
    report.kind(drawn)
    model = GpuCostModel(workload, gpu)
    made = plan(model, heat, size, count, dtypes, batch or None, latency or workload.latency_us, ids)
    shares = [k / 10 for k in range(1, 11)]
    us = latencies(model, heat, [int(share * size) for share in shares], count, dtypes, made.schedules[-1].batch)
    make_folder(out.parent)
    made.write(out)
    gpu_report.draw(made, list(zip(shares, us, strict=True)), drawn)
    screen = console()
    screen.print(gpu_report.overview(made), gpu_report.table(made), sep="\n")
    if (told := gpu_report.longest(made)) is not None:
        screen.print(told, markup=False, soft_wrap=True)
    screen.print(f"ids: {made.ids}", markup=False, soft_wrap=True)
    screen.print(f"saved {out} and {drawn}", markup=False, soft_wrap=True)
    return {**summary(made), "memories": [int(share * size) for share in shares], "latencies_us": us} | {
        "out": str(out),
        "picture": str(drawn),
    }


def summary(made: GpuPlan) -> dict[str, Any]:
    """A plan without its row ranges, for what reads JSON."""
    values = made.model_dump(mode="json")
    tables = [{key: value for key, value in one.items() if key != "hot"} for one in values["tables"]]
    kept = ("workload", "gpu", "platform", "gpus", "memory", "ids", "latency_us", "lookups", "schedules")
    return {**{key: values[key] for key in kept}, "used": made.used(), "tables": tables}


def read_size(text: str) -> int:
    """Bytes of ``40GB``, ``512 MiB`` or ``1000000``.

    Raises:
        ConfigError: When it is none of these.
    """
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([a-z]*)\s*", text.lower())
    if found is None or found[2] not in UNITS:
        raise ConfigError(f"--memory {text}: expected bytes such as 40GB, 512MiB or 1000000000")
    return int(float(found[1]) * UNITS[found[2]])


def _assumed(what: str) -> tuple[Workload, Mapping[str, Heat], str]:
    """A workload by name or file, whose hot rows are known where its ids are made up; or a model, whose are not."""
    from recsys.dataflow.heat import assumed

    found, trained = find_either(what)
    workload = _pooled(found)
    told = "assumed, and no row is known as hot: --data counts them" if trained else "as the workload says, and made up"
    return workload, assumed(workload, made_up=not trained), told


def _counted(what: str, data: str) -> tuple[Workload, Mapping[str, Heat], str]:
    """A model's tables, their ids counted in real rows."""
    from recsys.cli.dataflow import read_batches
    from recsys.data.encoder import Counts
    from recsys.data.sources import resolve
    from recsys.dataflow.counting import count_tables
    from recsys.dataflow.heat import counted, even
    from recsys.models.checkpoint import load

    try:
        checkpoint, counts = load(what), Counts()
    except CheckpointError as error:
        raise ConfigError(f"--data counts the ids of a trained model, and `{what}` is none: {error}") from None
    batches = read_batches(checkpoint, resolve(data), None, counts)
    found, hits = count_tables(checkpoint.model.tables, batches, Path(what).resolve().name, source=data)
    for line in counts_notes(counts):
        console().print(line, markup=False)
    workload = _pooled(found)
    heat = {table.name: even(table.rows, 0.0) for table in workload.tables} | counted(hits, counts.rows)
    return workload, heat, f"counted in {counts.rows:,} rows of {data}"


def _pooled(workload: Workload) -> Workload:
    found = workload.pooled()
    if not found.lookups:
        raise ConfigError(f"`{workload.name}` has no pooled look-ups to plan")
    return found
