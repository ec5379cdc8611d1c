"""What the benchmark of sessions on a GPU found: how to read it, and its tables, for the screen and for a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from recsys.markdown import Cells

__all__ = ["session_gpu"]

Row = Mapping[str, Any]

_GPU_SESSION = ("batch", "network", "back end", "µs", "p99", "rows/s", "look-up alone", "network alone",
                "of the bound")  # fmt: skip


def session_gpu(found: Row) -> tuple[dict[str, str], list[Cells]]:
    """How to read it, and a table for each model."""
    ceilings = found["ceilings"]
    products = ", ".join(
        f"{gflops / 1e3:.0f} as {name.removesuffix('_gflops')}"
        for name, gflops in ceilings.items()
        if name.endswith("_gflops")
    )
    facts = {
        "GPU": found["device"],
        "tables": f"{found['workload']['bytes']:,} bytes as fp32, ids by Zipf's law",
        "ceilings": f"TFLOP/s of a large product: {products}; link {ceilings['link_gbs']:.0f} GB/s; "
        f"a graph that does next to nothing {ceilings['floor_us']:.1f} µs",
        "figures": "wall time of a call, ids and scores in host memory; medians of interleaved turns",
        "peers": "float32 products, and ids as int32, as ours; ours with fewer bits have no ratio",
        "bound": "such a graph, ids and numbers over the link, and products at peak",
    }
    grouped = groupby(found["rows"], lambda row: row["workload"])
    return facts, [_gpu_cells(f"{name}: from ids to scores on a GPU", list(rows)) for name, rows in grouped]


def _gpu_cells(title: str, rows: Sequence[Row]) -> Cells:
    peers = list(dict.fromkeys(peer["name"] for row in rows for peer in row["peers"]))
    header = (*_GPU_SESSION, *(f"{peer} ÷ ours" for peer in peers))
    return Cells(title, header, tuple(_gpu_row(row, peers) for row in rows), left=3)


def _gpu_row(row: Row, peers: Sequence[str]) -> tuple[str, ...]:
    ours = row["ours"]
    return (
        f"{row['batch']:,}",
        row["dtype"],
        ours["what"],
        *(f"{ours[key]:,.1f}" for key in ("us", "p99_us")),
        f"{ours['rows_per_second']:,}",
        *(f"{ours[key]:,.1f}" for key in ("lookup_us", "network_us")),
        f"{row['share_of_bound']:.0%}",
        *(f"{row['ratios'][peer]:.2f}" if peer in row["ratios"] else "–" for peer in peers),
    )
