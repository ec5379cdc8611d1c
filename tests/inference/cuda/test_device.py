"""Which GPU, and what a session on one refuses before anything is read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import recsys
from recsys.errors import ConfigError
from recsys.inference.cuda.device import find_gpu, told
from tests import toy


@pytest.mark.parametrize("bad", ["gpu", "cuda:x", "mps", "meta", 3.5])
def test_what_is_no_gpu_is_refused(bad: str) -> None:
    with pytest.raises(ConfigError, match="expected a device"):
        find_gpu(bad)


def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(ConfigError, match="is built without CUDA"):
        find_gpu("cuda")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="no GPU that torch can use: see what nvidia-smi says"):
        find_gpu("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    assert [find_gpu(name).index for name in ("cuda", "cuda:0", torch.device("cuda:1"))] == [1, 0, 1]
    with pytest.raises(ConfigError, match="no GPU cuda:2: there are 2, from cuda:0 on"):
        find_gpu("cuda:2")


def test_a_session_says_what_a_gpu_has_not(run: Path) -> None:
    with pytest.raises(ConfigError, match="the precision on a GPU as one of auto, fp32, tf32, bf16, got int8"):
        recsys.session(run, device="cuda", precision="int8")
    with pytest.raises(ConfigError, match="the back end on a GPU as one of auto, eager, inductor, fused, got onnx"):
        recsys.session(run, device="cuda", backend="onnx")
    with pytest.raises(ConfigError, match="not shared out among threads on a GPU"):
        recsys.session(run, device="cuda", threads=2)
    with pytest.raises(ConfigError, match="tf32 is a GPU's"):
        recsys.session(run, precision="tf32")


def test_errors_of_the_driver_are_one_sentence() -> None:
    with pytest.raises(ConfigError, match="opening: the GPU's memory does not suffice"), told("opening"):
        raise torch.cuda.OutOfMemoryError("tried to allocate 3 GiB\nand more")
    with pytest.raises(ConfigError, match=r"opening: CUDA error: an illegal memory access$"), told("opening"):
        raise RuntimeError("CUDA error: an illegal memory access\nset CUDA_LAUNCH_BLOCKING=1")


def test_a_session_on_the_processor_imports_no_triton() -> None:
    code = "import sys, recsys.inference.session; sys.exit('triton' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0


def test_tables_larger_than_the_gpu_stay_on_the_host_and_a_warning_says_so(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu = recsys.session(run, backend="eager")
    monkeypatch.setattr("recsys.dataflow.gpu.free_bytes", lambda device: (1 << 30) + cpu.table_bytes // 2)
    with pytest.warns(UserWarning, match=r"the rest is read from host memory, .* `recsys plan --device cuda") as told:
        session = recsys.session(run, device="cuda", backend="eager", max_batch=16)
    assert [Path(one.filename).name for one in told] == [Path(__file__).name]
    table = toy.rows(20, 3).select(cpu.columns)
    np.testing.assert_allclose(session.predict(table), cpu.predict(table), rtol=1e-5, atol=2e-6)
