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
