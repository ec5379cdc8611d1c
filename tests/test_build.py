"""The build of the kernels: what it does where there is no compiler, and where one complains."""

from __future__ import annotations

import importlib.util
import stat
import subprocess
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("hatchling", reason="the build is tested where hatchling is installed")
ROOT = Path(__file__).parent.parent


@pytest.fixture
def hook() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hatch_build", ROOT / "hatch_build.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def initialize(hook: ModuleType, root: Path) -> tuple[dict[str, Any], list[str]]:
    (root / hook.NATIVE).mkdir(parents=True)
    data: dict[str, Any] = {"artifacts": []}
    said: list[str] = []
    made = SimpleNamespace(target_name="wheel", root=str(root), app=SimpleNamespace(display_warning=said.append))
    hook.NativeHook.initialize(made, "standard", data)
    return data, said


def test_without_a_compiler_the_package_is_built_all_the_same(
    hook: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    data, said = initialize(hook, tmp_path)
    assert data == {"artifacts": []}
    assert "no C++ compiler is on the PATH" in said[0]


def test_what_a_compiler_complains_of_is_said_in_one_line(
    hook: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho 'x.cpp:1: warning: hm' >&2\necho 'x.cpp:2: error: Python.h' >&2\nexit 1\n")
    broken.chmod(broken.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("CXX", str(broken))
    data, said = initialize(hook, tmp_path)
    assert data == {"artifacts": []}
    assert "x.cpp:2: error: Python.h" in said[0]


def test_every_source_is_compiled(hook: ModuleType) -> None:
    sources = {path.name for path in (ROOT / hook.NATIVE).glob("*.cpp")}
    assert sources == {*hook.PLAIN, *hook.STRATEGIES}


def test_a_command_that_fails_is_an_error(hook: ModuleType) -> None:
    with pytest.raises(subprocess.CalledProcessError):
        hook.run(["false"])
