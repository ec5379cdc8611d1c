"""`recsys profile`: measure what look-ups cost on this machine, for plans to be made for it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from rich.table import Table

from recsys.cli.app import Result, call
from recsys.cli.profile_gpu import measure_gpu
from recsys.cli.show import console
from recsys.errors import ConfigError

if TYPE_CHECKING:
    from recsys.dataflow.platform import Platform

__all__ = ["main"]

SIZES = {1: "B", 1 << 10: "KiB", 1 << 20: "MiB", 1 << 30: "GiB"}


def main(argv: Sequence[str]) -> Result:
    """Parse and run."""
    return call(profile, argv, "recsys profile")


def profile(
    out: Path | None = None,
    seconds: float | None = None,
    device: Literal["cpu", "cuda"] = "cpu",
    tune: tuple[str, ...] = (),
) -> Result:
    """Measure this machine, or its GPU, in under two minutes and write its platform file.

    Nothing else should run meanwhile.

    Args:
        out: Platform file (TOML) to write; by default where `recsys plan` looks for it.
        seconds: About how long it may take: 100 by default. A GPU takes as long as it takes.
        device: `cuda` measures the GPU, for `recsys plan --device cuda`.
        tune: Workloads of `recsys bench lookup --device cuda`, such as `w2-d64`: the fastest block shapes for their
            tables are found out first, in minutes each, and kept for whatever looks up on such a GPU.
    """
    if device == "cuda":
        if seconds is not None:
            raise ConfigError("--seconds is of a CPU's profile: leave it out with --device cuda")
        return measure_gpu(out, tune)
    if tune:
        raise ConfigError("--tune is of a GPU's kernel: leave it out, or add --device cuda")
    from recsys.dataflow.platform import default_path
    from recsys.dataflow.profile import measure
    from recsys.files import make_folder, write_text

    path = out or default_path()
    make_folder(path.parent)
    found = measure(100.0 if seconds is None else seconds)
    write_text(path, found.toml())
    screen = console()
    screen.print(_machine(found), _gather(found), sep="\n")
    screen.print(f"saved {path}", markup=False, soft_wrap=True)
    return {**found.model_dump(mode="json"), "fingerprint": found.fingerprint, "out": str(path)}


def _machine(found: Platform) -> Table:
    core = found.cores[0]
    wake = f"{found.wake_us[-1][1]:.0f} µs to wake {found.wake_us[-1][0]} of them" if found.wake_us else "one"
    caches = " + ".join(_size(size) for size in (core.l1, core.l2))
    facts = {
        "processor": f"{found.cpu}, kernels for {found.isa}",
        "cores": f"{len(found.cores)}, {wake}",
        "caches": f"{caches} a core, {_size(core.l3)} for {core.l3_cpus}",
        "memory": f"{found.read_gbs:.1f} GB/s read in order by one core",
        "a call": f"{found.call_us:.2f} µs, {found.lookup_us * 1e3:.0f} ns a look-up",
        "measured": f"in {found.seconds:.0f} s; passes lay {found.spread:.0%} apart",
    }
    table = Table(title="this machine", title_justify="left", show_header=False)
    for name, value in facts.items():
        table.add_row(name, value)
    return table


def _gather(found: Platform) -> Table:
    """Nanoseconds of a row read at random: row sizes down, working sets across."""
    huge = [reading for reading in found.gather if reading.pages == "huge"]
    sets = sorted({reading.working_set for reading in huge})[1::2]
    table = Table(title="ns to read a row at random, out of", title_justify="left")
    table.add_column("row", justify="right")
    for size in sets:
        table.add_column(_size(size), justify="right")
    for row_bytes in sorted({reading.row_bytes for reading in huge}):
        times = {reading.working_set: reading.one_ns for reading in huge if reading.row_bytes == row_bytes}
        table.add_row(f"{row_bytes} B", *(f"{times[size]:.1f}" for size in sets))
    return table


def _size(size: int) -> str:
    unit = max(one for one in SIZES if one <= size)
    return f"{size / unit:g} {SIZES[unit]}"
