"""`recsys profile --device cuda`: measure what look-ups cost on the GPU, for plans to be made for it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from recsys.cli.app import Result
from recsys.cli.show import console

if TYPE_CHECKING:
    from recsys.dataflow.gpu_platform import GpuPlatform

__all__ = ["measure_gpu"]


def measure_gpu(out: Path | None) -> Result:
    """Measure the GPU and write its platform file; by default where `recsys plan --device cuda` looks for it.

    Raises:
        ConfigError: When there is no GPU.
    """
    from recsys.dataflow.gpu import cuda_device
    from recsys.dataflow.gpu_platform import default_path
    from recsys.dataflow.gpu_profile import measure
    from recsys.files import make_folder, write_text

    path = out or default_path()
    make_folder(path.parent)
    found = measure(cuda_device())
    write_text(path, found.toml())
    screen = console()
    screen.print(_facts(found), _gathered(found), sep="\n")
    screen.print(f"saved {path}", markup=False, soft_wrap=True)
    return {**found.model_dump(mode="json"), "fingerprint": found.fingerprint, "out": str(path)}


def _facts(found: GpuPlatform) -> Table:
    link = ", ".join(f"{width} B {width / ns:.1f} GB/s" for width, ns in found.host_ns)
    facts = {
        "GPU": f"{found.gpu}, {found.processors} processors, {found.memory / 1e9:.1f} GB, {found.l2 / 1e6:.0f} MB L2",
        "versions": f"torch {found.torch}, {found.driver}",
        "memory": f"{found.copy_gbs:,.0f} GB/s copied (read and written)",
        "link": f"{found.to_gpu_gbs:.1f} GB/s to the GPU, {found.to_host_gbs:.1f} GB/s back",
        "rows over the link": link,
        "shared memory": "–" if found.shared_gbs is None else f"{found.shared_gbs:,.0f} GB/s gathered",
        "a launch": f"{found.launch_us:.1f} µs; in a graph {found.kernel_us:.2f}; a graph {found.replay_us:.2f}",
        "a bag alone": ", ".join(f"{n} ids {us:.1f} µs" for n, us in found.latency_us),
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
    """TB/s of rows by their sizes and their working sets, of long bags and of single ids."""
    table = Table(title="TB/s of rows in bags of 32 (single ids), out of", title_justify="left")
    table.add_column("row", justify="right")
    for size in found.sets:
        table.add_column(f"{size / 1e6:,.3g} MB", justify="right")
    for row_bytes in sorted({one.row_bytes for one in found.gather}):
        own = sorted((one.working_set, one) for one in found.gather if one.row_bytes == row_bytes)
        cells = [f"{32 * row_bytes / one.bag32_ns / 1e3:.2f} ({row_bytes / one.one_ns / 1e3:.2f})" for _, one in own]
        table.add_row(f"{row_bytes} B", *cells)
    return table
