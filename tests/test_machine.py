"""What the kernel says of the machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from recsys import machine


def test_the_processor_and_the_pages_are_read_from_the_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpuinfo").write_text("processor\t: 0\nmodel name\t: Fast CPU @ 3 GHz: new\nmodel name\t: other\n")
    (tmp_path / "pages").write_text("always [madvise] never\n")
    monkeypatch.setattr(machine, "CPU_INFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(machine, "HUGE_PAGES", tmp_path / "pages")
    found = machine.read_machine()
    assert (found["cpu"], found["huge_pages"]) == ("Fast CPU @ 3 GHz: new", "madvise")
    assert found["cores"] >= 1


def test_a_system_without_those_files_is_read_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "CPU_INFO", tmp_path / "none")
    monkeypatch.setattr(machine, "HUGE_PAGES", tmp_path / "none")
    found = machine.read_machine()
    assert found["cpu"]
    assert found["huge_pages"] is None


KILO, GIGA = 1 << 10, 1 << 30


def system(
    folder: Path, monkeypatch: pytest.MonkeyPatch, groups: str, files: dict[str, object], available: int | None = None
) -> None:
    """A made-up /proc and /sys/fs/cgroup."""
    if available is not None:
        (folder / "meminfo").write_text(f"MemTotal: 99 kB\nMemAvailable:   {available // KILO} kB\n")
    (folder / "groups").write_text(groups)
    for name, value in files.items():
        (folder / "fs" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "fs" / name).write_text(f"{value}\n")
    monkeypatch.setattr(machine, "MEMORY_INFO", folder / "meminfo")
    monkeypatch.setattr(machine, "OWN_CGROUPS", folder / "groups")
    monkeypatch.setattr(machine, "CGROUPS", folder / "fs")


def test_memory_is_what_the_system_can_give(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system(tmp_path, monkeypatch, "0::/\n", {}, available=3 * GIGA)
    assert machine.available_memory() == 3 * GIGA


@pytest.mark.parametrize(
    ("limits", "left"),
    [
        ({"a/b": (2 * GIGA, GIGA, 0)}, GIGA),
        ({"a/b": (2 * GIGA, GIGA, GIGA // 2)}, GIGA + GIGA // 2),  # cached files are given up
        ({"a/b": ("max", GIGA, 0), "a": (GIGA, GIGA // 4, 0)}, 3 * GIGA // 4),  # a group around it has the limit
        ({"a/b": ("max", GIGA, 0)}, 8 * GIGA),
        ({"a/b": (GIGA, 2 * GIGA, 0)}, 0),
        ({"elsewhere": (GIGA, 0, 0)}, 8 * GIGA),
    ],
)
def test_memory_is_no_more_than_the_control_groups_allow(
    limits: dict[str, tuple[object, int, int]], left: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files: dict[str, object] = {}
    for group, (limit, used, cached) in limits.items():
        files |= {f"{group}/memory.max": limit, f"{group}/memory.current": used}
        files[f"{group}/memory.stat"] = f"anon 5\ninactive_file {cached}"
    system(tmp_path, monkeypatch, "0::/a/b\n", files, available=8 * GIGA)
    assert machine.available_memory() == left


def test_the_first_version_of_control_groups_is_read_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        "memory/box/memory.limit_in_bytes": GIGA,
        "memory/box/memory.usage_in_bytes": GIGA // 2,
        "memory/box/memory.stat": f"inactive_file 0\ntotal_inactive_file {GIGA // 4}",
    }
    system(tmp_path, monkeypatch, "5:devices:/box\n4:memory:/box\n0::/\n", files, available=8 * GIGA)
    assert machine.available_memory() == 3 * GIGA // 4


def test_where_nothing_is_told_all_memory_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system(tmp_path, monkeypatch, "", {})
    (tmp_path / "groups").unlink()
    assert machine.available_memory() > GIGA // 2
