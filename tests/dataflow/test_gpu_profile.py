"""A profile measures every quantity; by the interpreter none of them means anything."""

from __future__ import annotations

from pathlib import Path

import torch

from recsys.dataflow.gpu_bench import Sizes
from recsys.dataflow.gpu_platform import CpuReading, GpuPlatform
from recsys.dataflow.gpu_profile import measure

TINY = Sizes(
    row_bytes=(256,),
    sets=(1 << 12, 1 << 16),
    stored={"fp16": (32,), "int8": (72,)},
    batches=(2, 4, 8),
    ids=(16, 16, 16),
    singles=4,
    regions=(1 << 15, 1 << 16),
    host_ids=64,
    outputs=(1 << 12,),
    chain=(1, 8),
    chain_dims=(16,),
    slots=(1, 3),
    rotated=1,
    copied=1 << 14,
    rounds=2,
)


def test_everything_is_measured_and_comes_back(device: torch.device, tmp_path: Path) -> None:
    tuned: list[int] = []
    found = measure(device, TINY, tune=lambda: tuned.append(1))
    path = tmp_path / "gpu.toml"
    path.write_text(found.toml())
    assert GpuPlatform.read(path) == found
    assert tuned == [1]
    assert found.sets == list(TINY.sets)
    assert {(one.dtype, one.bags) for one in found.gather} == {
        (d, b) for d in ("fp32", "fp16", "int8") for b in (2, 4, 8)
    }
    assert found.cpu is None or 0 < found.cpu.scan_ns != CpuReading.model_fields["scan_ns"].default
    assert [n for n, _ in found.slots_us] == [1, 3]
    assert [(one.row_bytes, one.region) for one in found.host] == [(256, 1 << 15), (256, 1 << 16)]
    assert {(one.dim, one.bags) for one in found.alone} == {(16, bags) for bags in (2, 4, 8)}
