"""What benchmarks found, as cells of text: the commands print them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from recsys.markdown import Cells

__all__ = ["distributions_cells"]


def distributions_cells(found: Mapping[str, Any]) -> Cells:
    """How much it matters how ids fall on the rows: ours, fp32, on one thread."""
    header = ("workload", "slowest ids", "fastest ids", "batch", "slowest, µs", "fastest, µs", "slowest ÷ fastest")
    rows = [
        (
            one["workload"],
            one["slowest"]["ids"],
            one["fastest"]["ids"],
            f"{one['batch']:,}",
            f"{one['slowest']['us']:,.1f}",
            f"{one['fastest']['us']:,.1f}",
            f"{one['ratio']:.2f} ×",
        )
        for one in found["distributions"]
        if one["dtype"] == "fp32"
    ]
    return Cells("how much it matters how ids fall: ours, fp32, one thread", header, tuple(rows), left=3)
