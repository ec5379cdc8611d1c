"""The picture of `recsys bench dataflow --device cuda --larger`: latency against the GPU's memory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recsys.dataflow.report import kind
from recsys.files import replacing
from recsys.pictures import new_figure

__all__ = ["draw"]


def draw(found: Mapping[str, Any], path: Path) -> None:
    """Write the picture; the file's ending says the format.

    Raises:
        ConfigError: When there is no such format.
        DataError: When the disk refuses.
    """
    ending = kind(path)
    figure = new_figure(8.0, 5.0)
    axes = figure.subplots()
    rows = found["rows"]
    memory = [row["bytes"] / 1e9 for row in rows]
    axes.plot(memory, [row["ours"]["p50_us"] for row in rows], "o-", color="#0072b2", label="planned, p50")
    axes.plot(memory, [row["ours"]["p99_us"] for row in rows], "o:", color="#0072b2", label="planned, p99")
    axes.plot(memory, [row["predicted_us"] for row in rows], "x--", color="#009e73", label="predicted")
    link = [row["link"]["p50_us"] for row in rows]
    axes.plot(memory, link, "^-", color="#56b4e9", label="planned without the CPU, p50")
    axes.plot(memory, [row["random"]["p50_us"] for row in rows], "s-", color="#e69f00", label="random rows, p50")
    axes.plot(memory, [row["bound_us"] for row in rows], "-", color="black", label="bound of the best rows")
    axes.plot(memory, [row["read_bound_us"] for row in rows], ":", color="black", label="bound as the link reads rows")
    axes.axhline(found["host"]["p50_us"], color="#cc79a7", linestyle="-.", label="all rows on the host, p50")
    if found["cpu"] is not None:
        name = f"the CPU alone, {found['cpu']['cores']} cores, p50"
        axes.axhline(found["cpu"]["p50_us"], color="#d55e00", linestyle="--", label=name)
    axes.set(xlabel="GB that tables may take on the GPU", ylabel="µs of a batch", yscale="log", xlim=(0, None))
    title = f"{found['workload']}, {found['table_bytes'] / 1e9:.0f} GB, batches of {found['batch']:,}: {found['gpu']}"
    axes.set_title(title, fontsize=10, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, which="both", axis="y", linewidth=0.3)
    figure.legend(loc="outside lower center", ncols=3, fontsize=8, frameon=False)
    with replacing(path) as temporary:
        figure.savefig(temporary, format=ending, dpi=150)
