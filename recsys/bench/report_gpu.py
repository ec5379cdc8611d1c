"""What benchmarks of a GPU found: how to read it, and its tables, for the screen and for a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Any, Literal

from recsys.bench.report_gpu_dataflow import larger_gpu, predicted_gpu
from recsys.bench.report_gpu_sessions import session_gpu
from recsys.markdown import Cells

__all__ = ["GPU_REPORTS", "GpuBench"]

GpuBench = Literal["lookup-gpu", "session-gpu", "gpu-dataflow", "gpu-larger"]
Row = Mapping[str, Any]
Report = tuple[dict[str, str], list[Cells]]

_LOOKUP = ("ids", "batch", "rows", "ours, µs", "unchecked", "FBGEMM, µs", "unchecked", "checked: FBGEMM ÷ ours",
           "unchecked: FBGEMM ÷ ours", "fp16 ÷ int8", "MB counted", "TB/s", "of a copy's")  # fmt: skip
_SPREAD = ("workload", "rows", "slowest ids", "fastest ids", "batch", "slowest, µs", "fastest, µs", "slowest ÷ fastest")


def _lookup(found: Row) -> Report:
    ceilings = found["ceilings"]
    facts = {
        "ceilings": f"a copy within the GPU's memory moves {ceilings['copy_tbs']:.2f} TB/s, read and written; a graph "
        f"that does nothing takes {ceilings['graph_floor_us']:.1f} µs",
        "figures": "captured graphs, six batches of ids in turn; medians of interleaved turns of many replays in a row",
        "FBGEMM": "IntNBitTableBatchedEmbeddingBagsCodegen; checked: it warns, as by default; over our rows where they "
        "are stored alike",
        "ours": "one launch; checked: ids out of range are counted and read row 0",
        "counted": f"distinct rows of a batch, of tables larger than half of the cache of "
        f"{ceilings['cache_bytes'] / 1e6:.0f} MB, ids, and the output as fp16; TB/s: counted ÷ ours, checked",
        **{f"{name}, tables": _about(one) for name, one in found["workloads"].items()},
    }
    grouped = groupby(found["rows"], lambda row: row["workload"])
    tables = [Cells(f"{name}, on a GPU", _LOOKUP, tuple(map(_lookup_row, rows)), left=1) for name, rows in grouped]
    return facts, tables + _spread(found["distributions"])


def _about(workload: Row) -> str:
    return f"{workload['bytes'] / 2e9:,.2f} GB as fp16. {workload['about']}"


def _lookup_row(row: Row) -> tuple[str, ...]:
    ours, peers = row["ours"], {peer["class"]: peer for peer in row["peers"]}
    return (
        row["ids"],
        f"{row['batch']:,}",
        row["dtype"],
        *(f"{ours[key]:,.1f}" for key in ("us", "unchecked_us")),
        *(f"{peers[kind]['us']:,.1f}" if kind in peers else "–" for kind in ("stock", "tuned")),
        *(_times(row[key]) for key in ("ratio_stock", "ratio_tuned", "ratio_fp16")),
        f"{row['counted_bytes'] / 1e6:,.1f}",
        f"{row['tbs']:.2f}",
        f"{row['share_of_bound']:.0%}",
    )


def _times(ratio: float | None) -> str:
    return "–" if ratio is None else f"{ratio:.2f} ×"


def _spread(distributions: Sequence[Row]) -> list[Cells]:
    rows = [
        (
            one["workload"],
            one["dtype"],
            *(one[key]["ids"] for key in ("slowest", "fastest")),
            f"{one['batch']:,}",
            *(f"{one[key]['us']:,.1f}" for key in ("slowest", "fastest")),
            _times(one["ratio"]),
        )
        for one in distributions
    ]
    return [Cells("how much it matters how ids fall: ours, checked", _SPREAD, tuple(rows), left=4)] if rows else []


GPU_REPORTS: dict[GpuBench, Callable[[Row], Report]] = {
    "lookup-gpu": _lookup,
    "session-gpu": session_gpu,
    "gpu-dataflow": predicted_gpu,
    "gpu-larger": larger_gpu,
}
"""Of each benchmark: how to read what it found, and its tables."""
