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
    assert made.bag_ns("one", 64, SETS[0]) == at[64, SETS[0]]
    assert made.bag_ns("one", 64, 1.0) == at[64, SETS[0]]
    assert made.bag_ns("one", 64, 1 << 40) == at[64, SETS[-1]]
    assert at[64, SETS[-1]] < made.bag_ns("one", 96, SETS[-1]) < at[128, SETS[-1]]
    assert made.bag_ns("one", 2048, SETS[-1]) == pytest.approx(2 * at[1024, SETS[-1]])
    assert made.alone_us(64) < made.alone_us(128) < made.alone_us(256)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("version = 1", "version = 2", "expected version 1"),
        ("launch_us", "lunch_us", "did you mean `launch_us`"),
        ("row_bytes = 64, working_set = 262144", "row_bytes = 96, working_set = 262144", "each row size with each"),
        ("fp32 = 1.0, ", "", "must hold times above 0"),
        ("host_ns = [[32, 9.5], [256, 9.5], [512, 10.0], [1024, 20.0]]", "host_ns = []", "`host_ns` must not be empty"),
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
