"""What a measurement was made on: figures without a machine and versions beside them say nothing."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Sequence
from importlib import metadata
from typing import Any

from recsys.machine import read_machine

__all__ = ["PACKAGES", "gpu_name", "machine", "versions"]

PACKAGES = ("torch", "numpy", "pyarrow")
"""What every benchmark names."""


def machine(packages: Sequence[str] = ()) -> dict[str, Any]:
    """Processor, cores that this process may use, GPU, Python, and the versions of `PACKAGES` and of `packages`.

    Call it before `timing.one_core`, which leaves a single core.
    """
    found = read_machine()
    kept = {name: found[name] for name in ("cpu", "cores", "huge_pages", "system", "python", "recsys")}
    return {**kept, "gpu": gpu_name(), **versions([*PACKAGES, *packages])}


def versions(packages: Sequence[str]) -> dict[str, str | None]:
    """The installed version of each package; None is absent."""
    found: dict[str, str | None] = {}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def gpu_name() -> str | None:
    """The GPUs by name, such as ``2 × NVIDIA H200``; None without one.

    The driver's own tool is asked, in a process of its own: torch would have to start CUDA in this one.
    """
    ask = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    try:
        done = subprocess.run(ask, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    names = Counter(line.strip() for line in done.stdout.splitlines() if line.strip()) if not done.returncode else {}
    return ", ".join(name if n == 1 else f"{n} × {name}" for name, n in names.items()) or None
