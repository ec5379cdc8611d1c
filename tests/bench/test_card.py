"""What a benchmark says about the machine."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch

from recsys.bench import card


def test_the_machine_has_a_name_and_versions() -> None:
    found = card.machine(["no-such-package"])
    assert found["cpu"]
    assert found["cores"] >= 1
    assert found["torch"] == torch.__version__
    assert found["numpy"]
    assert found["pyarrow"]
    assert found["no-such-package"] is None
    assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize(
    ("said", "code", "name"),
    [
        ("NVIDIA H100 80GB HBM3\n", 0, "NVIDIA H100 80GB HBM3"),
        ("NVIDIA H200\nNVIDIA H200\n", 0, "2 × NVIDIA H200"),
        ("", 0, None),
        ("NVIDIA-SMI has failed because it couldn't communicate with the driver\n", 9, None),
    ],
)
def test_gpus_are_named_by_the_drivers_tool(
    monkeypatch: pytest.MonkeyPatch, said: str, code: int, name: str | None
) -> None:
    done = subprocess.CompletedProcess([], code, said, "")
    monkeypatch.setattr(subprocess, "run", lambda *args, **kwargs: done)
    assert card.gpu_name() == name


def test_without_the_tool_there_is_no_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert card.gpu_name() is None


def test_a_tool_that_hangs_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(*args: Any, **kwargs: Any) -> None:
        raise subprocess.TimeoutExpired("nvidia-smi", 30)

    monkeypatch.setattr(subprocess, "run", hang)
    assert card.gpu_name() is None
