"""A made-up GPU, and workloads for it."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from recsys.dataflow.gpu_platform import CpuReading, Gathered, GpuPlatform
from recsys.dataflow.workload import Ids, Workload, WorkloadLookup, WorkloadTable

SETS = (1 << 18, 8 << 20, 25 << 20, 100 << 20, 1 << 30, 1 << 36)
TBS = {32: 0.9, 64: 1.67, 128: 2.46, 256: 2.74, 512: 2.78, 1024: 2.8}
"""Of rows by their bytes, from memory."""
CACHE, POWER = 30 << 20, 3.0
"""What the readings are made by."""


def gpu(**changed: Any) -> GpuPlatform:
    """Readings by the model's own formula, of about an H100."""
    values: dict[str, Any] = {
        "gpu": "Triton's interpreter",
        "memory": 85_000_000_000,
        "processors": 132,
        "l2": 50 << 20,
        "shared": 228 << 10,
        "launch_us": 30.0,
        "replay_us": 6.0,
        "kernel_us": 1.3,
        "latency_us": ((1, 3.5), (4, 4.0), (8, 4.5), (32, 8.0), (128, 20.0)),
        "host_latency_us": ((1, 6.0), (4, 6.5), (8, 7.0), (32, 14.0), (128, 45.0)),
        "copy_gbs": 3030.0,
        "to_gpu_gbs": 55.0,
        "to_host_gbs": 53.0,
        "host_ns": ((32, 9.5), (256, 9.5), (512, 10.0), (1024, 20.0)),
        "remap_ns": 0.01,
        "remap_us": 0.7,
        "dtype_cost": {"fp32": 1.0, "fp16": 0.8, "int8": 1.1},
        "write_ns": ((1 << 22, 0.5), (1 << 25, 0.6), (1 << 29, 0.9)),
        "gather": tuple(_gathered(row_bytes, size) for row_bytes in TBS for size in SETS),
        "cpu": CpuReading(cores=16, call_us=12.0, row_ns=((256, 3.0), (512, 4.5))),
    }
    return GpuPlatform(**(values | changed))


def _gathered(row_bytes: int, size: int) -> Gathered:
    far, near = row_bytes / TBS[row_bytes] / 1e3, row_bytes / 5.5e3 + 0.004
    missed = 1 - min(1.0, CACHE / size)
    ns = (near**POWER + missed**POWER * (far**POWER - near**POWER)) ** (1 / POWER) if far > near else near
    return Gathered(row_bytes=row_bytes, working_set=size, one_ns=ns, bag1_ns=ns, bag4_ns=4 * ns, bag32_ns=32 * ns)


def workload(rows: list[int], dim: int = 64, ids: float = 1, distribution: str = "zipf") -> Workload:
    """A look-up of each table."""
    made: Any = {"bags": ((int(ids), 1.0),), "distribution": distribution}
    return Workload(
        name="made",
        tables=tuple(WorkloadTable(name=f"t{k}", rows=n, dim=dim) for k, n in enumerate(rows)),
        lookups=tuple(WorkloadLookup(name=f"l{k}", table=f"t{k}", ids=Ids(**made)) for k in range(len(rows))),
        batch_sizes=(64, 2048),
    )


@st.composite
def workloads(draw: st.DrawFn) -> Workload:
    """Some tables, and look-ups of them: some tables have several, some none."""
    count = draw(st.integers(1, 5))
    tables = tuple(
        WorkloadTable(
            name=f"t{k}",
            rows=draw(st.integers(1, 2000)),
            dim=draw(st.sampled_from([1, 16, 64, 100])),
            dtype=draw(st.sampled_from(["fp32", "fp16", "int8"])),
        )
        for k in range(count)
    )
    lookups = tuple(
        WorkloadLookup(
            name=f"l{k}",
            table=f"t{draw(st.integers(0, count - 1))}",
            ids=Ids(
                bags=draw(st.sampled_from([((1, 1.0),), ((0, 0.5), (3, 0.5)), ((40, 1.0),)])),
                distribution=draw(st.sampled_from(["zipf", "uniform", "equal"])),
            ),
        )
        for k in range(draw(st.integers(1, 6)))
    )
    return Workload(name="drawn", tables=tables, lookups=lookups, batch_sizes=(draw(st.integers(1, 5000)),))
