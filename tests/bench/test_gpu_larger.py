"""Tables of which GPU and CPU each look up a part give what the slow way gives, and both plans are timed."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from recsys.bench import gpu_larger
from recsys.bench.gpu_larger_rig import LargerRig, placed
from recsys.dataflow.kernels.reference import look_up
from recsys.errors import ConfigError
from tests.dataflow.gpu_made import gpu, workload


@pytest.mark.parametrize("ids", [1, 7])
def test_rows_of_both_sides_add_up_to_all_columns(device: torch.device, ids: int) -> None:
    rig = LargerRig(workload([500, 400, 30, 20], dim=4, ids=ids), device, batch=3, calls=2)
    some, few = torch.arange(500) % 3 == 0, torch.arange(400) % 5 == 0
    hot: dict[str, torch.Tensor | bool] = {"t0": some, "t1": few, "t2": False, "t3": True}
    memory = torch.empty(1 << 16, dtype=torch.uint8, device=device)
    made = placed(rig, hot, memory, cpu={"t0", "t2"})
    assert made.cpu is not None
    assert [slot.skip is not None for slot in made.cpu.kernels.slots] == [True, False]
    found = rig.times(made)  # looks before
    assert 0 < found["p50_us"] <= found["p99_us"]
    assert placed(rig, hot, memory).cpu is None


def test_a_part_that_is_missing_is_found_out(device: torch.device) -> None:
    rig = LargerRig(workload([500], dim=4, ids=7), device, batch=3, calls=2)
    memory = torch.empty(1 << 16, dtype=torch.uint8, device=device)
    made = placed(rig, {"t0": torch.arange(500) % 3 == 0}, memory, cpu={"t0"})
    with pytest.raises(ConfigError, match="look-ups of rows in two places are off"):
        rig.times(type(made)(made.gpu))


def test_skipped_rows_are_those_of_the_gpu(device: torch.device) -> None:
    rig = LargerRig(workload([100], dim=4, ids=7), device, batch=3, calls=2)
    memory = torch.empty(1 << 16, dtype=torch.uint8, device=device)
    hot = torch.arange(100) % 3 == 0
    made = placed(rig, {"t0": hot}, memory, cpu={"t0"})
    assert made.cpu is not None
    (slot,) = made.cpu.kernels.slots
    assert slot.skip is not None
    bits = (slot.skip[torch.arange(100) >> 5] >> (torch.arange(100) & 31)) & 1
    assert torch.equal(bits.bool(), hot)
    x = torch.empty(3, 4)
    look_up([slot], rig.ids[0], x)
    values, _, _ = rig.ids[0].feature(0)
    whole = torch.zeros(3, 4).index_add_(0, torch.arange(21) // 7, rig.host["t0"].data[values] * ~hot[values][:, None])
    torch.testing.assert_close(x, whole)


def test_the_best_plan_without_the_cpu_stands_beside(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: Any = workload([20_000, 5000, 10], dim=64, ids=20)
    monkeypatch.setattr(gpu_larger, "room", lambda memory: asked.bytes)
    slow = tuple(one.model_copy(update={"ns": 1e4}) for one in gpu().host)  # a batch of 4 asks for next to nothing
    told = gpu_larger.measure(gpu(host=slow), device, asked, batch=4, budgets=(0.1, 1.0), calls=2, counted_ids=20_000)
    small, large = told["rows"]
    assert small["places"].get("shared", 0) > 0
    assert small["predicted_us"] < small["link_predicted_us"]
    assert small["link"] != small["ours"]
    assert large["places"] == {"device": 3}
    assert large["link"] == large["ours"]
