"""Block shapes: of the nearest that was measured, the user's own first; spoilt files change nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.dataflow.kernels.gpu import blocks
from recsys.dataflow.kernels.gpu.blocks import Blocks, Measured, Shapes, cached, remember
from recsys.dataflow.workload import Dtype

OWN = Measured(64, "fp16", False, 4096, Shapes(4, 2, 8, 2))


@pytest.fixture(autouse=True)
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(blocks, "_path", lambda: tmp_path / "gpu-blocks.json")
    return tmp_path / "gpu-blocks.json"


@given(
    dim=st.integers(1, 2048),
    dtype=st.sampled_from(["fp32", "fp16", "int8"]),
    single=st.booleans(),
    batch=st.integers(1, 1 << 20),
)
def test_any_launch_has_shapes_that_a_gpu_can_run(dim: int, dtype: Dtype, single: bool, batch: int) -> None:
    shapes = Blocks().shapes(dim, dtype, single, batch)
    assert all(1 <= n <= 256 and n & (n - 1) == 0 for n in (shapes.short, shapes.long, shapes.lanes, shapes.warps))


def test_wider_rows_have_smaller_blocks_and_long_bags_of_few_examples_more_lanes() -> None:
    table = Blocks()
    assert table.shapes(64, "fp16", True, 512).short == 2 * table.shapes(128, "fp16", True, 512).short
    assert table.shapes(64, "fp32", False, 8).lanes > table.shapes(64, "fp32", False, 65_536).lanes


def test_what_the_user_measured_comes_first_and_serves_its_own_kind_alone() -> None:
    found = Blocks([OWN])
    assert found.shapes(64, "fp16", False, 100) == found.shapes(64, "fp16", False, 9999) == OWN.shapes
    for dim, dtype, single in ((64, "fp16", True), (64, "fp32", False), (32, "fp16", False)):
        assert found.shapes(dim, dtype, single, 100) == Blocks().shapes(dim, dtype, single, 100)  # type: ignore[arg-type]


def test_it_is_kept_by_gpu_the_newest_of_each_kind() -> None:
    better = Measured(64, "fp16", False, 4096, Shapes(8, 2, 8, 2))
    remember("A", [OWN])
    remember("B", [better])
    remember("A", [better, Measured(16, "fp32", True, 512, Shapes(64))])
    assert cached("A") == [better, Measured(16, "fp32", True, 512, Shapes(64))]
    assert cached("B") == [better]
    assert cached("C") == []


@pytest.mark.parametrize(
    "spoilt",
    [
        "",
        "[]",
        "{",
        json.dumps({"gpus": {"A": [{"dim": 64}]}}),
        *(
            json.dumps({"gpus": {"A": [{"dim": 64, "dtype": "fp16", "single": True, "batch": 1, "shapes": shapes}]}})
            for shapes in ({"short": 3}, {"short": 1 << 20}, {"short": 8, "warps": 64}, {"long": 4}, {"short": -8})
        ),
    ],
)
def test_a_spoilt_file_is_as_if_there_were_none(path: Path, spoilt: str) -> None:
    path.write_text(spoilt)
    assert cached("A") == []
    remember("A", [OWN])
    assert cached("A") == [OWN]


def test_profile_tunes_and_keeps(monkeypatch: pytest.MonkeyPatch) -> None:
    from recsys.bench import gpu_tune
    from recsys.cli import profile_gpu

    told: list[str] = []

    def tune(name: str, device: Any, tell: Any) -> list[Measured]:
        tell(name)
        return [OWN]

    monkeypatch.setattr(gpu_tune, "tune", tune)
    monkeypatch.setattr("recsys.dataflow.gpu.gpu_name", lambda device: "A")
    profile_gpu._tune(["w2-d64"], None, told.append)  # type: ignore[arg-type]
    assert told == ["w2-d64"]
    assert cached("A") == [OWN]
