"""A profile measures every quantity; by the interpreter none of them means anything."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from recsys.dataflow.gpu_platform import GpuPlatform
from recsys.dataflow.gpu_probes import FEATURES, Sizes
from recsys.dataflow.gpu_profile import measure

TINY = Sizes(
    row_bytes=(256,),
    sets=(1 << 12, 1 << 16),
    ids=64,
    host=1 << 16,
    host_ids=32,
    outputs=(1 << 12,),
    chain=(1, 8),
    rotated=1,
    copied=1 << 14,
    rounds=2,
)


def test_everything_is_measured_and_comes_back(
    device: torch.device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind, count in FEATURES.items():
        monkeypatch.setitem(FEATURES, kind, count // 8)
    tuned: list[int] = []
    found = measure(device, TINY, tune=lambda: tuned.append(1))
    path = tmp_path / "gpu.toml"
    path.write_text(found.toml())
    assert GpuPlatform.read(path) == found
    assert tuned == [1]
    assert found.sets == list(TINY.sets)
    assert [n for n, _ in found.latency_us] == [1, 8]
    assert found.dtype_cost.keys() == {"fp32", "fp16", "int8"}
