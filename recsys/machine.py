"""The machine that recsys runs on, as its system tells it."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from recsys import __version__

__all__ = ["read_machine"]

CPU_INFO = Path("/proc/cpuinfo")
HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def read_machine() -> dict[str, Any]:
    """Python, the processor, and whether the system hands out memory in huge pages."""
    affinity: Callable[[int], set[int]] | None = getattr(os, "sched_getaffinity", None)
    return {
        "recsys": __version__,
        "python": platform.python_version(),
        "executable": sys.executable,
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_name(),
        "cores": len(affinity(0)) if affinity else os.cpu_count(),
        "huge_pages": _huge_pages(),
    }


def _cpu_name() -> str:
    """The processor as the kernel names it, or its architecture."""
    lines = CPU_INFO.read_text(encoding="utf-8").splitlines() if CPU_INFO.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _huge_pages() -> str | None:
    """The chosen word of ``always [madvise] never``; None where the system has no such setting."""
    if not HUGE_PAGES.is_file():
        return None
    return HUGE_PAGES.read_text(encoding="utf-8").partition("[")[2].partition("]")[0] or None
