"""A measured GPU comes back from its file as it was, and what cannot be is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from recsys.dataflow.gpu_platform import GpuPlatform, find
from recsys.errors import ConfigError
from tests.dataflow.gpu_made import SETS, gpu
from tests.dataflow.test_platform import machine


def test_it_comes_back_from_its_file(tmp_path: Path) -> None:
    made = gpu()
    path = tmp_path / "gpu.toml"
    path.write_text(made.toml())
    assert find(path) == made
    assert GpuPlatform.read(path).fingerprint == made.fingerprint


def test_between_readings_it_is_between_them_and_outside_as_at_the_edge() -> None:
    made = gpu()
    at = {(one.row_bytes, one.working_set): one.one_ns for one in made.gather}
    assert made.bag_ns("one", 64, SETS[0], 1) == at[64, SETS[0]]
    assert made.bag_ns("one", 64, 1.0, 1) == at[64, SETS[0]]
    assert made.bag_ns("one", 64, 1 << 40, 1) == at[64, SETS[-1]]
    assert at[64, SETS[-1]] < made.bag_ns("one", 96, SETS[-1], 1) < at[128, SETS[-1]]
    assert made.bag_ns("one", 2048, SETS[-1], 1) == pytest.approx(2 * at[1024, SETS[-1]])
    assert made.alone_us(64, 64, 1) < made.alone_us(128, 64, 1) < made.alone_us(256, 64, 1)
    assert made.alone_us(64, 64, 1, 0.0) < made.alone_us(64, 64, 1, 0.5) < made.alone_us(64, 64, 1)
    assert made.host_row_ns(128, 1) == made.host_row_ns(128, 1 << 30) < made.host_row_ns(128, 1 << 32)
    assert made.host_row_ns(128, 1 << 33) == made.host_row_ns(128, 1 << 40)
    assert made.written(1) == 0 < made.written(1 << 26) <= made.written(1 << 40) == 1


def test_the_reading_of_the_nearest_batch_is_taken() -> None:
    made = gpu()
    more = [one.model_copy(update={"bags": 512, "one_ns": 9.0}) for one in made.gather]
    both = gpu(gather=(*made.gather, *more))
    assert both.bag_ns("one", 64, SETS[0], 1) == both.bag_ns("one", 64, SETS[0], 1024) == 9.0
    assert both.bag_ns("one", 64, SETS[0], 2048) == made.bag_ns("one", 64, SETS[0], 1)


def test_a_dtype_that_was_not_measured_counts_as_float32() -> None:
    made = gpu()
    halves = [one.model_copy(update={"dtype": "fp16", "one_ns": 9.0}) for one in made.gather]
    both = gpu(gather=(*made.gather, *halves))
    assert both.bag_ns("one", 64, SETS[0], 1, "fp16") == 9.0
    assert both.bag_ns("one", 64, SETS[0], 1, "int8") == both.bag_ns("one", 64, SETS[0], 1)


def test_what_a_dropped_id_takes_is_assumed_where_it_was_not_measured(tmp_path: Path) -> None:
    made = gpu()
    path = tmp_path / "gpu.toml"
    path.write_text("\n".join(made.toml().replace("scan_ns = 0.2", "").replace(",  }", " }").splitlines()))
    assert "scan_ns" not in path.read_text()
    assert GpuPlatform.read(path) == made


def test_the_h100_that_comes_along_was_measured_whole() -> None:
    found = find("h100")
    assert found.gpu == "NVIDIA H100 80GB HBM3"
    assert {one.dtype for one in found.gather} == {"fp32", "fp16", "int8"}
    assert 79e9 < found.memory < 86e9
    assert 2000 < found.copy_gbs < 3400
    assert found.host_row_ns(128, 1 << 33) > 1.5 * found.host_row_ns(128, 1 << 30)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("version = 2", "version = 1", "expected version 2"),
        ("launch_us", "lunch_us", "did you mean `launch_us`"),
        (
            "row_bytes = 64, bags = 4096, working_set = 262144",
            "row_bytes = 96, bags = 4096, working_set = 262144",
            "each row size with each",
        ),
        ('"fp32"', '"fp16"', "must hold readings of fp32 rows"),
        ("slots_us = [[1, 3.5], [256, 4.0]]", "slots_us = []", "`slots_us` must not be empty"),
        ("row_bytes = 32, region = 1073741824", "row_bytes = 32, region = 5", "each row size with each region"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = tmp_path / "gpu.toml"
    text = gpu().toml()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(ConfigError, match=message):
        GpuPlatform.read(path)


def test_other_files_and_none_are_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "platform.toml"
    path.write_text(machine().toml())
    with pytest.raises(ConfigError, match="this is a CPU's platform"):
        find(path)
    with pytest.raises(ConfigError, match="no such GPU as `h1000`"):
        find("h1000")
    monkeypatch.setattr("recsys.dataflow.gpu_platform.default_path", lambda: tmp_path / "gpu.toml")
    with pytest.raises(ConfigError, match="no GPU has been measured here"):
        find()
