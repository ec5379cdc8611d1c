"""Without a GPU the device of these tests is the processor: Triton's interpreter runs the kernels."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # read when Triton is first imported

from recsys.inference import session as sessions


@pytest.fixture(autouse=True)
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[torch.device]:
    """The GPU, or what stands for it when sessions ask for one."""
    pytest.importorskip("triton", reason="look-ups on a GPU need Triton")
    if torch.cuda.is_available():
        yield torch.device("cuda", 0)
        return
    if os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("no GPU, and Triton was imported without its interpreter")
    monkeypatch.setattr(sessions, "find_gpu", lambda named: torch.device("cpu"))
    yield torch.device("cpu")


@pytest.fixture(params=["run", "din", "two"])
def folder(request: pytest.FixtureRequest) -> Path:
    """Of models with pooled features, with unpooled ones, and with two labels of which one is a regression."""
    found: Path = request.getfixturevalue(request.param)
    return found
