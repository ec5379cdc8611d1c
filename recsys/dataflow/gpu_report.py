"""Show a plan for GPUs: tables for a terminal, and a picture of latency against memory."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from rich.table import Table
from rich.text import Text

from recsys.dataflow.gpu_plan import GpuPlan, GpuTable
from recsys.dataflow.report import kind
from recsys.files import replacing
from recsys.pictures import new_figure

__all__ = ["draw", "longest", "overview", "table"]


def overview(plan: GpuPlan) -> Table:
    """A row for each batch size: predicted time, what takes it, the bound and the target."""
    used = " + ".join(f"{used / 1e9:.2f}" for used in plan.used())
    title = f"{plan.workload} on {_gpus(plan)}: {used} GB of {plan.memory / 1e9:.2f} for tables"
    found = Table(title=Text(title), title_justify="left", min_width=len(title))
    names = ["batch", "predicted µs", "µs of each GPU" if plan.gpus > 1 else "GPU µs"]
    names += ["CPU µs", "copy µs", "bound µs"]
    target = plan.latency_us
    for name in [*names, *([f"target of {target:g} µs"] if target is not None else [])]:
        found.add_column(name, justify="right")
    for one in plan.schedules:
        cpu = [f"{us:,.1f}" if us else "–" for us in (one.cpu_us, one.copy_us)]
        gpu = " | ".join(f"{us:,.1f}" for us in one.gpus)
        cells = [f"{one.batch:,}", f"{one.predicted_us:,.1f}", gpu, *cpu, f"{one.bound_us:,.1f}"]
        if target is not None:
            over = one.predicted_us - target
            cells.append("met" if over <= 0 else f"missed by {over:,.1f}")
        found.add_row(*cells)
    return found


def longest(plan: GpuPlan) -> str | None:
    """Of several GPUs, which one needs longest, and what of it a table takes that cannot be divided; None: one GPU."""
    if plan.gpus == 1 or not plan.schedules:
        return None
    last = plan.schedules[-1]
    gpu = max(range(plan.gpus), key=lambda k: last.gpus[k])
    own = {table.name: 0.0 for table in plan.tables if table.gpu == gpu}
    for lookup in plan.lookups:
        if lookup.table in own:
            own[lookup.table] += lookup.predicted_us
    most = max(own, key=lambda name: own[name], default=None)
    told = "" if most is None else f", {own[most]:,.1f} of them table {most}: a table is one GPU's"
    return f"batches of {last.batch:,}: GPU {gpu} needs longest, {last.gpus[gpu]:,.1f} µs{told}"


def table(plan: GpuPlan) -> Table:
    """A row for each table, or for several alike: where it lies, its bytes, and what its look-ups are to take."""
    batch = f", batches of {plan.schedules[-1].batch:,}" if plan.schedules else ""
    found = Table(title=Text(f"{plan.workload}{batch}"), title_justify="left")
    names = ["table", "rows", "dim", "dtype", "place", "MB on the GPU", "hot rows", "ids from it", "predicted µs"]
    names += ["GPU"] if plan.gpus > 1 else []
    for name in names:
        found.add_column(name, justify="left" if name in ("table", "dtype", "place") else "right")
    lines = [(one.name, _cells(plan, one)) for one in plan.tables]
    for cells, alike in groupby(lines, key=lambda line: line[1]):
        same = [name for name, _ in alike]
        found.add_row(Text(same[0] if len(same) == 1 else f"{same[0]} … {same[-1]}"), *cells)
    return found


def _cells(plan: GpuPlan, one: GpuTable) -> tuple[str, ...]:
    own = [lookup for lookup in plan.lookups if lookup.table == one.name]
    ids = sum(lookup.ids for lookup in own)
    near = sum(lookup.ids * lookup.near for lookup in own) / ids if ids else 0.0
    us = f"{sum(lookup.predicted_us for lookup in own):,.2f}"
    lies = f"{one.bytes / 1e6:,.2f}", _hot(one), f"{near:.1%}", us
    return f"{one.rows:,}", str(one.dim), one.dtype, one.place, *lies, *([str(one.gpu)] if plan.gpus > 1 else [])


def _hot(one: GpuTable) -> str:
    return "all" if one.place == "device" else f"{one.hot_rows:,}" if one.hot_rows else "–"


def _gpus(plan: GpuPlan) -> str:
    return f"{plan.gpus} × {plan.gpu}" if plan.gpus > 1 else plan.gpu


def draw(plan: GpuPlan, latencies: Sequence[tuple[float, float]], path: Path) -> None:
    """Write the picture of what plans are predicted to take; the file's ending says the format.

    Args:
        plan: That was made.
        latencies: (share of its memory, predicted µs of its largest batch), ascending.
        path: Where to.

    Raises:
        ConfigError: When there is no such format.
        DataError: When the disk refuses.
    """
    ending, last = kind(path), plan.schedules[-1]
    figure = new_figure(8.0, 5.0)
    axes = figure.subplots()
    shares, us = [share * plan.memory / 1e9 for share, _ in latencies], [one for _, one in latencies]
    axes.plot(shares, us, "o-", color="#0072b2", label="plans of that memory")
    used = max(plan.used()) / 1e9
    axes.plot([used], [last.predicted_us], "D", color="#d55e00", markersize=9, label="this plan")
    axes.axhline(last.bound_us, color="black", linewidth=1.3, label=f"bound {last.bound_us:,.1f} µs")
    if plan.latency_us is not None:
        axes.axhline(plan.latency_us, color="black", linestyle=":", label=f"target {plan.latency_us:g} µs")
    axes.set(xlabel="GB for tables on each GPU", ylabel="predicted µs of a batch", xlim=(0, None), ylim=(0, None))
    axes.set_title(f"{plan.workload}, batches of {last.batch:,}: {_gpus(plan)}", fontsize=10, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    with replacing(path) as temporary:
        figure.savefig(temporary, format=ending, dpi=150)
