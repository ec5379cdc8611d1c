"""`recsys profile --device cuda`: measure what look-ups cost on the GPU, for plans to be made for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from recsys.cli.app import Result
from recsys.cli.show import console

if TYPE_CHECKING:
    import torch

    from recsys.dataflow.gpu_platform import GpuPlatform

__all__ = ["measure_gpu"]


def measure_gpu(out: Path | None, tune: Sequence[str]) -> Result:
    """Measure the GPU and write its platform file; by default where `recsys plan --device cuda` looks for it.

    Args:
        out: The file.
        tune: Workloads whose block shapes are found out first, and kept.

    Raises:
        ConfigError: When there is no GPU, or no such workload.
    """
    from recsys.dataflow.gpu import cuda_device
    from recsys.dataflow.gpu_platform import default_path
    from recsys.dataflow.gpu_profile import measure
    from recsys.files import make_folder, write_text

    path = out or default_path()
    make_folder(path.parent)
    screen, device = console(), cuda_device()
    found = measure(device, tune=lambda: _tune(tune, device, lambda told: screen.print(told, markup=False)))
    write_text(path, found.toml())
    screen.print(_facts(found), _gathered(found), _linked(found), sep="\n")
    screen.print(f"saved {path}", markup=False, soft_wrap=True)
    return {**found.model_dump(mode="json"), "fingerprint": found.fingerprint, "out": str(path)}


def _tune(names: Sequence[str], device: torch.device, tell: Callable[[str], object]) -> None:
    """Find out block shapes, and keep them workload by workload."""
    from recsys.bench.gpu_tune import tune
    from recsys.dataflow.gpu import gpu_name
    from recsys.dataflow.kernels.gpu.blocks import remember

    for name in names:
        remember(gpu_name(device), tune(name, device=device, tell=tell))


def _facts(found: GpuPlatform) -> Table:
    facts = {
        "GPU": f"{found.gpu}, {found.processors} processors, {found.memory / 1e9:.1f} GB, {found.l2 / 1e6:.0f} MB L2",
        "versions": f"torch {found.torch}, {found.driver}",
        "memory": f"{found.copy_gbs:,.0f} GB/s copied (read and written)",
        "link": f"{found.to_gpu_gbs:.1f} GB/s to the GPU, {found.to_host_gbs:.1f} GB/s back",
        "shared memory": "–" if found.shared_gbs is None else f"{found.shared_gbs:,.0f} GB/s gathered",
        "a launch": f"{found.launch_us:.1f} µs; in a graph {found.kernel_us:.2f}; a graph {found.replay_us:.2f}",
        "look-ups of one id": ", ".join(f"{n} in {us:.1f} µs" for n, us in found.slots_us),
        "a bag alone": ", ".join(f"{n} ids {us:.1f} µs" for n, us in found.alone[0].far_us),
        "the same on the host": ", ".join(f"{n} ids {us:.1f} µs" for n, us in found.host_latency_us),
        "a remap": f"{found.remap_ns * 1e3:.1f} ps an id, {found.remap_us:.2f} µs alone",
        "the CPU's look-ups": "–"
        if found.cpu is None
        else f"{found.cpu.call_us:.1f} µs a call, rows {found.cpu.row_ns}",
        "measured": f"in {found.seconds:.0f} s; measurements lay {found.spread:.1%} apart",
    }
    table = Table(title="this GPU", title_justify="left", show_header=False)
    for name, value in facts.items():
        table.add_row(name, value)
    return table


def _gathered(found: GpuPlatform) -> Table:
    """TB/s of float32 rows by their sizes and their working sets, of long bags and of single ids."""
    batch = found.most_sets
    table = Table(title=f"TB/s of rows in {batch:,} bags of 32 (single ids), out of", title_justify="left")
    table.add_column("row", justify="right")
    for size in found.sets:
        table.add_column(f"{size / 1e6:,.3g} MB", justify="right")
    kept = [one for one in found.gather if (one.dtype, one.bags) == ("fp32", batch)]
    for row_bytes in sorted({one.row_bytes for one in kept}):
        own = sorted((one for one in kept if one.row_bytes == row_bytes), key=lambda one: one.working_set)
        cells = [f"{32 * row_bytes / one.bag32_ns / 1e3:.2f} ({row_bytes / one.one_ns / 1e3:.2f})" for one in own]
        table.add_row(f"{row_bytes} B", *cells)
    return table


def _linked(found: GpuPlatform) -> Table:
    """Millions of rows a second over the link, by their sizes and the host memory that they are spread over."""
    table = Table(title="million rows a second over the link, out of host memory of", title_justify="left")
    table.add_column("row", justify="right")
    regions = sorted({one.region for one in found.host})
    for region in regions:
        table.add_column(f"{region / 1e6:,.0f} MB", justify="right")
    ns = {(one.row_bytes, one.region): one.ns for one in found.host}
    for row_bytes in sorted({one.row_bytes for one in found.host}):
        table.add_row(f"{row_bytes} B", *(f"{1e3 / ns[row_bytes, region]:,.1f}" for region in regions))
    return table
