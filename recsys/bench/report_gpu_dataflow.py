"""What `recsys bench dataflow --device cuda` found: how to read it, and its tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recsys.markdown import Cells

__all__ = [
    "larger_cells",
    "larger_facts",
    "larger_gpu",
    "larger_row",
    "predicted_cells",
    "predicted_gpu",
    "predicted_line",
]

Row = Mapping[str, Any]
Report = tuple[dict[str, str], list[Cells]]

_PREDICTED = ("workload", "ids", "dim", "batch", "predicted, µs", "measured, µs", "off by", "TB/s", "not cached",
              "processors, µs", "memory, µs", "waits, µs")  # fmt: skip
_LARGER = ("budget", "GB", "host ids", "best", "CPU tables", "predicted, µs", "p50, µs", "p99, µs", "link only p50",
           "link only p99", "random p50", "random p99", "bound, µs", "p50 ÷ bound", "bound of reads, µs",
           "p50 ÷ that")  # fmt: skip


def predicted_gpu(found: Row) -> Report:
    """Predicted beside measured, of look-ups whose rows all lie on the GPU."""
    facts = {
        "platform": found["platform"],
        "figures": "launches in captured graphs, six batches of ids in turn; medians of many replays",
        "TB/s": "rows read, ids and output, whatever caches do",
        "error": predicted_line(found),
    }
    return facts, [predicted_cells(found)]


def predicted_line(found: Row) -> str:
    """How well launches were predicted."""
    return (
        f"median {found['median_error']:.1%}, nine of ten within {found['p90_error']:.1%}, worst "
        f"{found['worst_error']:.1%}; by the readings the second cache keeps {found['cache'] / 1e6:.1f} MB, and p is "
        f"{found['power']:g}"
    )


def predicted_cells(found: Row) -> Cells:
    """A row for each launch."""
    title = f"{found['gpu']}, {found['dtype']} rows: a launch"
    return Cells(title, _PREDICTED, tuple(map(_predicted_row, found["rows"])), left=2)


def _predicted_row(row: Row) -> tuple[str, ...]:
    return (
        row["workload"],
        row["ids"],
        str(row["dim"]),
        f"{row['batch']:,}",
        *(f"{row[key]:,.1f}" for key in ("predicted_us", "us")),
        f"{row['predicted_us'] / row['us'] - 1:+.0%}",
        f"{row['tbs']:.2f}",
        f"{row['miss']:.0%}",
        *(f"{row[key]:,.1f}" for key in ("near_us", "far_us", "chain_us")),
    )


def larger_gpu(found: Row) -> Report:
    """Latency by the memory that tables may take on the GPU."""
    facts = larger_facts(found) | {
        "figures": "by the clock, from ids that GPU and CPU both have until all columns are filled on the GPU",
        "CPU tables": "those of which the CPU adds up rows; link only: the best plan in which it has none",
        "bound": "max(HBM bytes ÷ HBM bandwidth, host bytes ÷ link bandwidth) of the best hot rows; of reads: with as "
        "many rows a second as the link was measured to give of so much host memory",
    }
    return facts, [larger_cells(found)]


def larger_facts(found: Row) -> dict[str, str]:
    """What was measured, before any budget."""
    cpu = found["cpu"]
    own = "–" if cpu is None else f"{cpu['p50_us']:,.0f} µs, p99 {cpu['p99_us']:,.0f}, on {cpu['cores']} cores"
    return {
        "workload": f"{found['workload']}: {found['table_bytes'] / 1e9:.1f} GB, batches of {found['batch']:,}",
        "memory": f"{found['free_bytes'] / 1e9:.1f} GB for tables",
        "hot rows": f"counted in {found['counted_examples']:,} examples; measured on {found['calls']:,} calls of "
        f"{found['batches']:,} other batches",
        "all rows on the host": f"{found['host']['p50_us']:,.0f} µs, p99 {found['host']['p99_us']:,.0f}",
        "the CPU alone": own,
        **{f"absent: {name}": why for name, why in found["absent"].items()},
    }


def larger_cells(found: Row) -> Cells:
    """A row for each budget."""
    return Cells("a batch by the memory of the GPU", _LARGER, tuple(map(larger_row, found["rows"])), left=0)


def larger_row(row: Row) -> tuple[str, ...]:
    """Of one budget."""
    ours, measured = row["ours"], ("ours", "link", "random")
    us = [row["predicted_us"], *(row[name][q] for name in measured for q in ("p50_us", "p99_us"))]
    bounds = [
        (f"{row[key]:,.1f}", f"{ours['p50_us'] / max(row[key], 1e-3):.2f}") for key in ("bound_us", "read_bound_us")
    ]
    return (
        f"{row['budget']:.0%}",
        f"{row['bytes'] / 1e9:.1f}",
        *(f"{row[key]:.2%}" for key in ("host_share", "best_host_share")),
        str(sum(row["places"].get(place, 0) for place in ("shared", "cpu"))),
        *(f"{one:,.1f}" for one in us),
        *bounds[0],
        *bounds[1],
    )
