"""A platform's file, what it interpolates, and the cores that the system tells of."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recsys.dataflow import platform
from recsys.dataflow.platform import Platform, default_path, here, read_cores
from recsys.errors import ConfigError
from recsys.machine import read_machine

SETS = (1 << 14, 1 << 18, 1 << 22, 1 << 30)


def machine(**changes: Any) -> Platform:
    """Rows that cost 1 ns and 1 more for each 64 bytes, times 1, 2, 4 and 8 by working set; pages cost nothing."""
    values: dict[str, Any] = {
        "cpu": "made up",
        "isa": "portable",
        "cores": [{"cpu": k, "core": k, "l2": 1 << 20, "l3": 1 << 26, "l3_cpus": 4} for k in range(4)],
        "call_us": 1.0,
        "lookup_us": 0.01,
        "wake_us": [(2, 10.0), (4, 20.0)],
        "read_gbs": 16.0,
        "bag_ns": [(64, 2.0), (512, 4.0)],
        "ragged_ns": 1.0,
        "column_ns": {"fp32": 0.0, "fp16": 0.01, "int8": 0.02},
        "scan_ns": 2.0,
        "sort_ns": 6.0,
        "add_ns": [(64, 1.0), (512, 4.0)],
        "vector": [(size, 0.5 * 2**k) for k, size in enumerate(SETS)],
        "gather": [
            {"row_bytes": row, "working_set": size, "one_ns": ns, "more_ns": 0.5 * ns}
            for row in (64, 512)
            for k, size in enumerate(SETS)
            for ns in [(1 + row / 64) * 2**k]
        ],
        "fresh": [(64, 8.0), (512, 36.0)],
        "scatter": [(size, 2.0 * ns) for size, ns in zip(SETS, (1, 1, 1, 2), strict=True)],
        "write": [
            {"row_bytes": row, "output": size, "one_ns": k * row / 64, "more_ns": 2 * k * row / 64}
            for row in (64, 512)
            for k, size in enumerate(SETS)
        ],
    }
    return Platform.parse(values | changes, "made up")


def test_the_file_gives_back_the_platform(tmp_path: Path) -> None:
    path = tmp_path / "platform.toml"
    path.write_text(machine().toml())
    assert Platform.read(path) == machine()


def test_readings_are_met_and_between_them_lie_the_means() -> None:
    found = machine()
    assert found.one_ns(64, np.array(SETS, dtype=float)).tolist() == [2, 4, 8, 16]
    assert found.more_ns(512, np.array([SETS[1]], dtype=float)).tolist() == [9]
    middle = np.array([np.sqrt(float(SETS[0]) * SETS[1])])
    assert found.one_ns(64, middle)[0] == pytest.approx(3)
    assert found.one_ns((64 + 512) / 2, np.array([float(SETS[0])]))[0] == pytest.approx((2 + 9) / 2)


def test_outside_of_the_readings_it_is_as_at_the_edge_and_wide_rows_cost_in_proportion() -> None:
    found = machine()
    assert found.one_ns(4, np.array([1.0, 1e15])).tolist() == [2, 16]
    assert found.one_ns(1024, np.array([1.0]))[0] == pytest.approx(18)
    assert found.write_ns(64, 1 << 40, single=True) == 3
    assert found.write_ns(64, 1 << 40, single=False) == 6


def test_hardware_threads_of_a_core_share_its_cache() -> None:
    assert machine().private == 1 << 20
    twins = [{"cpu": k, "core": k // 2, "l2": 1 << 20} for k in range(4)]
    assert machine(cores=twins).private == 1 << 19


def test_the_fingerprint_tells_machines_apart_and_not_measurements() -> None:
    assert machine(call_us=2.0).fingerprint == machine().fingerprint
    assert machine(cpu="another").fingerprint != machine().fingerprint
    assert machine(cores=[{"cpu": 0}]).fingerprint != machine().fingerprint


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gather": []}, "each row size with each working set"),
        ({"write": []}, "must not be empty"),
        ({"call_us": -1.0}, "call_us"),
        ({"cals_us": 1.0}, "unknown key `cals_us`: did you mean `call_us`"),
        ({"read_gbs": float("nan")}, "read_gbs"),
        ({"wake_us": [(1, 5.0)]}, "`wake_us` is of 2 cores or more"),
        ({"wake_us": [(2, -5.0)]}, "wake_us"),
        ({"wake_us": [(4, 5.0), (2, 9.0)]}, "sizes must ascend, got"),
        ({"add_ns": [(0, 5.0)]}, "add_ns"),
        ({"scatter": [(1 << 20, float("nan"))]}, "scatter"),
        ({"crowd": [(2, 1 << 20, 0.5)]}, "1 or more"),
        ({"crowd": [(1, 1 << 20, 1.5)]}, "2 cores or more"),
        ({"crowd": [(2, 1 << 20, 1.5), (4, 1 << 10, 1.5)]}, "each number of cores with each working set"),
        ({"write_gbs": 0.0}, "write_gbs"),
        ({"column_ns": {"fp32": 0.0, "fp16": 0.0}}, "`column_ns` must hold fp32, fp16, int8"),
        ({"write": machine().model_dump()["write"][1:]}, "each row size with each output"),
        ({"gather": machine().model_dump()["gather"] * 2}, "each row size with each working set"),
    ],
)
def test_a_file_that_cannot_be_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        machine(**changes)


def test_one_reading_too_few_is_refused() -> None:
    gather = machine().model_dump()["gather"][1:]
    with pytest.raises(ConfigError, match="each row size with each working set"):
        machine(gather=gather)


def fake_cpu(root: Path, cpu: int, core: int, node: int) -> None:
    for index, (level, kind, size) in enumerate(
        [(1, "Data", "48K"), (1, "Instruction", "32K"), (2, "Unified", "2048K")]
    ):
        folder = root / f"cpu{cpu}" / "cache" / f"index{index}"
        folder.mkdir(parents=True)
        for name, value in {"level": level, "type": kind, "size": size, "shared_cpu_list": str(cpu)}.items():
            (folder / name).write_text(f"{value}\n")
    last = root / f"cpu{cpu}" / "cache" / "index3"
    last.mkdir()
    for name, value in {"level": 3, "type": "Unified", "size": "32M", "shared_cpu_list": "0-2,5"}.items():
        (last / name).write_text(f"{value}\n")
    topology = root / f"cpu{cpu}" / "topology"
    topology.mkdir()
    (topology / "core_id").write_text(f"{core}\n")
    (root / "nodes" / f"node{node}" / f"cpu{cpu}").mkdir(parents=True)


def test_cores_come_before_their_second_hardware_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for cpu in range(4):
        fake_cpu(tmp_path, cpu, core=cpu // 2, node=cpu // 2)
    monkeypatch.setattr(platform, "_CPUS", tmp_path)
    monkeypatch.setattr(platform, "_NODES", tmp_path / "nodes")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    found = read_cores()
    assert [core.cpu for core in found] == [0, 2, 1, 3]
    assert [core.node for core in found] == [0, 1, 0, 1]
    assert {(core.l1, core.l2, core.l3, core.l3_cpus) for core in found} == {(48 << 10, 2 << 20, 32 << 20, 4)}


def test_where_the_system_tells_nothing_there_are_cores_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(platform, "_CPUS", tmp_path)
    monkeypatch.setattr(platform, "_NODES", tmp_path)
    assert len(read_cores()) >= 1


def test_a_machine_that_was_not_measured_says_how(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(ConfigError, match="run `recsys profile`"):
        here()


def test_the_file_of_another_machine_is_refused_unless_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = default_path()
    path.parent.mkdir()
    path.write_text(machine().toml())
    with pytest.raises(ConfigError, match="is of another machine"):
        here()
    assert here(path) == machine()
    own = machine(cpu=read_machine()["cpu"], cores=[core.model_dump() for core in read_cores()])
    path.write_text(own.toml())
    assert here() == own


def test_a_platform_of_an_older_version_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "old.toml").write_text('version = 1\ncpu = "x"\ncrowd = [[262144, 1.5]]\n')
    with pytest.raises(ConfigError, match="expected version 2, got 1: measure again with `recsys profile`"):
        Platform.read(tmp_path / "old.toml")


def test_platforms_that_come_along_are_found_by_name() -> None:
    assert here("xeon-avx512-2").isa == "avx512"
    with pytest.raises(ConfigError, match="did you mean `xeon-avx512-2`"):
        here("xeon-avx512")
