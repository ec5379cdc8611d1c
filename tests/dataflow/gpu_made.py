"""A made-up GPU, and workloads for it."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from recsys.dataflow.gpu_platform import Alone, CpuReading, Gathered, GpuPlatform, Linked
from recsys.dataflow.workload import Ids, Workload, WorkloadLookup, WorkloadTable

SETS = (1 << 18, 8 << 20, 25 << 20, 100 << 20, 1 << 30, 1 << 36)
TBS = {32: 0.9, 64: 1.67, 128: 2.46, 256: 2.74, 512: 2.78, 1024: 2.8}
"""Of rows by their bytes, from memory."""
CACHE, POWER, COPY = 30 << 20, 3.0, 3030.0
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
        "slots_us": ((1, 3.5), (256, 4.0)),
        "host_latency_us": ((1, 6.0), (4, 6.5), (8, 7.0), (32, 14.0), (128, 45.0)),
        "copy_gbs": COPY,
        "to_gpu_gbs": 55.0,
        "to_host_gbs": 53.0,
        "host": tuple(
            Linked(row_bytes=w, region=r, ns=max(w / 51, ns))
            for w in (32, 256, 512, 1024)
            for r, ns in ((1 << 30, 9.5), (1 << 33, 23.0))
        ),
        "remap_ns": 0.01,
        "remap_us": 0.7,
        "write_ns": tuple((size, _written(size)) for size in (1 << 22, 1 << 25, 1 << 26, 1 << 29)),
        "alone": tuple(
            Alone(dim=dim, bags=4096, near_us=((1, 3.5), (128, 11.0)), far_us=((1, 3.5), (32, 8.0), (128, 20.0)))
            for dim in (32, 128)
        ),
        "gather": tuple(_gathered(row_bytes, size) for row_bytes in TBS for size in SETS),
        "cpu": CpuReading(cores=16, call_us=12.0, row_ns=((256, 3.0), (512, 4.5))),
    }
    return GpuPlatform(**(values | changed))


def _near(row_bytes: int) -> float:
    return row_bytes / 5.5e3 + 0.004


def _both(near: float, memory: float) -> float:
    return float((near**POWER + memory**POWER) ** (1 / POWER))


def _gathered(row_bytes: int, size: int) -> Gathered:
    """Out of the caches a row takes the processors longer, and the memory what its bytes do."""
    near, memory = _near(row_bytes), row_bytes / COPY
    slow = max(near, (max((row_bytes / TBS[row_bytes] / 1e3) ** POWER - memory**POWER, 0.0)) ** (1 / POWER))
    missed = 1 - min(1.0, CACHE / size)
    ns = _both(near + missed * (slow - near), missed * memory)
    return Gathered(
        row_bytes=row_bytes, bags=4096, working_set=size, one_ns=ns, bag1_ns=ns, bag4_ns=4 * ns, bag32_ns=32 * ns
    )


def _written(size: int) -> float:
    """Of a KiB, in rows of 128 bytes with their ids."""
    return _both(8 * _near(128), 0.0 if size < 1 << 26 else 8 * (128 + 8) / COPY)


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
