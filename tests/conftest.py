"""For all tests: hypothesis without deadlines, which a busy machine would miss, and a GPU's kernels without a GPU."""

from __future__ import annotations

import os

import pytest
import torch
from hypothesis import settings

settings.register_profile("recsys", deadline=None)
settings.load_profile("recsys")

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"  # read when Triton is first imported: its kernels then run in Python


@pytest.fixture(scope="session")
def device() -> torch.device:
    """Where a GPU's kernels run: on one, or by Triton's interpreter on the CPU."""
    pytest.importorskip("triton", reason="Triton is not installed: pip install triton")
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")
