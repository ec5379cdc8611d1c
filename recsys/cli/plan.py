"""`recsys plan`: for every table the cores that look it up and how, as a table, a picture and a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from recsys.cli.app import Result, call
from recsys.cli.plan_gpu import plan_gpu
from recsys.cli.planned import find
from recsys.cli.show import console
from recsys.dataflow.workload import Dtype
from recsys.errors import ConfigError

__all__ = ["main"]


def main(argv: Sequence[str]) -> Result:
    """Parse and run."""
    return call(plan, argv, "recsys plan")


def plan(
    what: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="RUN|WORKLOAD")],
    out: Path = Path("plan.json"),
    picture: Path | None = None,
    platform: str | None = None,
    cores: int | None = None,
    batch: tuple[int, ...] = (),
    device: Literal["cpu", "cuda"] = "cpu",
    memory: str | None = None,
    latency: float | None = None,
    dtypes: tuple[Dtype, ...] = (),
    gpus: int | None = None,
    data: str | None = None,
) -> Result:
    """Plan the look-ups of a workload or of a trained model, for a CPU's cores or for GPUs.

    Args:
        what: A workload's TOML file, the name of a published one, or the folder of a trained model, whose ids are then
            assumed; `recsys dataflow workload RUN DATA` measures them.
        out: Plan file (JSON) to write.
        picture: Picture to draw; by default beside the plan.
        platform: A platform that comes along, such as xeon-avx512-2, or a file; by default what `recsys profile` has
            measured on this machine.
        cores: How many cores to plan for; by default all of the platform's.
        batch: Batch sizes; by default the workload's.
        device: `cuda` plans for GPUs: which rows lie in their memory, which in host memory, what the CPU looks up.
        memory: Of each GPU for the tables, such as 40GB; by default what it has, less a sixteenth or at least 1 GiB.
        latency: Target in µs for the largest batch; where it is met, as little of the GPU's memory is taken as can be.
        dtypes: How tables may be stored on the GPU, such as fp32 fp16; by default as the workload says.
        gpus: How many to plan for; by default one. Plans of several are not run yet.
        data: Rows to count a trained model's ids in, a file, a folder or SOURCE:SPLIT: which of its rows are hot.
    """
    if device == "cuda":
        if cores is not None:
            raise ConfigError("--cores is of a CPU's plan: leave it out with --device cuda")
        return plan_gpu(what, out, picture, platform, batch, memory, latency, dtypes, gpus, data)
    given = {"memory": memory, "latency": latency, "dtypes": dtypes or None, "gpus": gpus, "data": data}
    foreign = [name for name, value in given.items() if value is not None]
    if foreign:
        raise ConfigError(f"--{foreign[0]} is of a GPU's plan: add --device cuda")
    from recsys.dataflow import report
    from recsys.dataflow.cost import CostModel
    from recsys.dataflow.planner import plan as make
    from recsys.dataflow.platform import here
    from recsys.files import make_folder

    machine = here(platform)
    workload = find(what)
    count = len(machine.cores) if cores is None else cores
    if count < 1 or any(size < 1 for size in batch):
        raise ConfigError("expected at least one core, and batches of at least 1")
    pooled = workload.pooled()
    if not pooled.lookups:
        raise ConfigError(f"`{workload.name}` has no pooled look-ups to plan")
    drawn = picture or out.with_suffix(".png")
    if drawn == out:
        raise ConfigError(f"the plan and its picture are both to be {out}: name another with --picture")
    report.kind(drawn)
    made = make(pooled, CostModel(pooled, machine), count, batch or None)
    make_folder(out.parent)
    made.write(out)
    report.draw(made, drawn)
    screen = console()
    screen.print(report.overview(made), report.table(made, made.schedules[-1]), sep="\n")
    screen.print(f"saved {out} and {drawn}", markup=False, soft_wrap=True)
    return {**summary(made.model_dump(mode="json")), "out": str(out), "picture": str(drawn)}


def summary(made: dict[str, Any]) -> dict[str, Any]:
    """A plan without its pieces, for what reads JSON."""
    kept = ("batch", "predicted_us", "bound_us", "symmetric_us")
    schedules = [{key: one[key] for key in kept} for one in made["schedules"]]
    return {"workload": made["workload"], "platform": made["platform"], "cores": made["cores"], "schedules": schedules}
