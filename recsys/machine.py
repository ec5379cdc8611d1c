"""The machine that recsys runs on, as its system tells it."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from recsys import __version__

__all__ = ["available_memory", "huge_pages", "read_machine", "resident_memory", "restart_most_memory"]

CPU_INFO = Path("/proc/cpuinfo")
MEMORY_INFO = Path("/proc/meminfo")
OWN_STATUS = Path("/proc/self/status")
OWN_PEAK = Path("/proc/self/clear_refs")
OWN_CGROUPS = Path("/proc/self/cgroup")
CGROUPS = Path("/sys/fs/cgroup")
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
        "huge_pages": huge_pages(),
    }


def _cpu_name() -> str:
    """The processor as the kernel names it, or its architecture."""
    lines = CPU_INFO.read_text(encoding="utf-8").splitlines() if CPU_INFO.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def huge_pages() -> str | None:
    """The chosen word of ``always [madvise] never``; None where the system has no such setting."""
    if not HUGE_PAGES.is_file():
        return None
    return HUGE_PAGES.read_text(encoding="utf-8").partition("[")[2].partition("]")[0] or None


def available_memory() -> int:
    """Bytes that this process can still be given: by the system, and under the limits of its control groups.

    Where the system does not say, all memory that the machine has.
    """
    told = [_meminfo("MemAvailable"), *map(_left_in, _cgroup_folders())]
    known = [size for size in told if size is not None]
    return max(min(known), 0) if known else os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def resident_memory(most: bool = False) -> int:
    """Bytes of this process that are in memory; with `most`, at the most so far. 0 where the system does not say."""
    key = "VmHWM:" if most else "VmRSS:"
    lines = OWN_STATUS.read_text(encoding="utf-8").splitlines() if OWN_STATUS.is_file() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(key)), 0)


def restart_most_memory() -> None:
    """From now on "at the most so far" begins with what is in memory now, where the system allows."""
    with contextlib.suppress(OSError):
        OWN_PEAK.write_text("5", encoding="ascii")


def _meminfo(key: str) -> int | None:
    lines = MEMORY_INFO.read_text(encoding="utf-8").splitlines() if MEMORY_INFO.is_file() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:")), None)


def _cgroup_folders() -> list[Path]:
    """Where limits of memory may stand: of this process's group and of those around it, in both versions."""
    folders = []
    for line in OWN_CGROUPS.read_text(encoding="utf-8").splitlines() if OWN_CGROUPS.is_file() else []:
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "memory"):  # of version 2, of version 1
            root = CGROUPS / controllers
            own = root / path.lstrip("/")
            folders += [folder for folder in (own, *own.parents) if folder.is_relative_to(root)]
    return folders


def _left_in(folder: Path) -> int | None:
    """The limit less what is used; files that the kernel keeps in memory do not count, for it gives them up."""
    names = (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes"))
    try:
        limit, used = next((folder / a, folder / b) for a, b in names if (folder / a).is_file())
        stat = dict(line.split() for line in (folder / "memory.stat").read_text(encoding="utf-8").splitlines())
        kept = int(stat.get("total_inactive_file", stat.get("inactive_file", 0)))
        return int(limit.read_text()) - int(used.read_text()) + kept
    except (StopIteration, OSError, ValueError):  # no such file, or `max`: no limit
        return None
