"""A profile measures everything that a platform needs; how long it takes is not tested."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from recsys.cli import app
from recsys.dataflow import profile
from recsys.dataflow.kernels import cpu
from recsys.dataflow.platform import Platform
from recsys.errors import ConfigError

built = pytest.mark.skipif(cpu.native is None, reason=f"the C++ kernels were not built: {cpu.missing}")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profile, "PASSES", 2)
    monkeypatch.setattr(profile, "CHUNKS", 1)
    monkeypatch.setattr(profile, "IDS", 512)
    monkeypatch.setattr(profile, "WORKING_SETS", (1 << 14, 1 << 16, 1 << 18, 1 << 20, 1 << 21, 1 << 22))
    monkeypatch.setattr(profile, "OUTPUTS", (1 << 16, 1 << 18))


@built
@pytest.mark.usefixtures("quick")
def test_the_command_writes_a_platform_that_reads_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "folder" / "platform.toml"
    assert app.main(["profile", "--out", str(path), "--json"]) == 0
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    found = Platform.read(path)
    assert told["fingerprint"] == found.fingerprint
    assert {r.row_bytes for r in found.gather if r.pages == "huge"} == set(profile.ROW_BYTES)
    assert {r.pages for r in found.gather} == {"huge", "4k"}
    assert found.call_us < 1000
    assert min(r.one_ns for r in found.gather) > 0


@pytest.mark.usefixtures("quick")
def test_too_little_memory_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profile, "isas", lambda: ["portable"])
    monkeypatch.setattr(profile, "available_memory", lambda: 1000)
    with pytest.raises(ConfigError, match="1,000 are left"):
        profile.measure()


def test_without_the_kernels_there_is_nothing_to_measure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profile, "isas", list)
    with pytest.raises(ConfigError, match="C\\+\\+ compiler"):
        profile.measure()
