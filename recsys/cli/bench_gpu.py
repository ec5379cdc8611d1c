"""`recsys bench dataflow --device cuda`: look-ups on a GPU, predicted beside measured, and tables larger than it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from recsys.cli.app import Result
from recsys.cli.show import card_table, console
from recsys.dataflow.workload import Dtype, Workload
from recsys.errors import ConfigError

if TYPE_CHECKING:
    from recsys.bench.dataflow import Distribution

__all__ = ["larger_gpu", "predicted_gpu"]


def predicted_gpu(
    names: Sequence[str],
    batch: Sequence[int],
    ids: Sequence[Distribution],
    cap: int | None,
    platform: str | None,
    dtype: Dtype,
) -> Result:
    """Measure look-ups whose tables lie on the GPU, beside what was predicted."""
    from recsys.bench.gpu_dataflow import BATCHES, WORKLOADS, measure
    from recsys.dataflow.gpu import cuda_device
    from recsys.dataflow.gpu_platform import find

    device, gpu = cuda_device(), find(platform)
    found = [Workload.find(name) for name in names] or [_published(*one) for one in WORKLOADS]
    chosen = [one.pooled() if cap is None else one.cap(cap).pooled() for one in found]
    kinds: Sequence[Distribution] = ("zipf", "uniform", "equal") if tuple(ids) == ("as it is", "equal") else ids
    result = measure(gpu, device, chosen, dtype, batch or BATCHES, kinds)
    screen = console()
    screen.print(_rows(result))
    screen.print(
        f"median error {result['median_error']:.1%}, worst {result['worst_error']:.1%}; by the readings the second "
        f"cache holds {result['cache'] / 1e6:.1f} MB, and p is {result['power']:g}"
    )
    return result


def _published(name: str, dim: int | None) -> Workload:
    found = Workload.find(name)
    return found if dim is None else found.with_dim(dim)


def _rows(found: Mapping[str, Any]) -> Table:
    table = Table(title=f"{found['gpu']}, {found['dtype']} rows: µs of a launch", title_justify="left")
    for name in (
        "workload",
        "dim",
        "ids",
        "batch",
        "predicted",
        "measured",
        "off by",
        "TB/s",
        "far",
        "near µs",
        "far µs",
    ):
        table.add_column(name, justify="left" if name in ("workload", "ids") else "right")
    for row in found["rows"]:
        told = [f"{row[key]:,.1f}" for key in ("predicted_us", "us")]
        off = f"{row['predicted_us'] / row['us'] - 1:+.0%}"
        parts = f"{row['tbs']:.2f}", f"{row['miss']:.0%}", f"{row['near_us']:,.1f}", f"{row['far_us']:,.1f}"
        table.add_row(Text(row["workload"]), str(row["dim"]), row["ids"], f"{row['batch']:,}", *told, off, *parts)
    return table


def larger_gpu(
    names: Sequence[str],
    batch: Sequence[int],
    cap: int | None,
    platform: str | None,
    dtype: Dtype,
    picture: Path | None,
) -> Result:
    """Measure one workload by the memory that its tables may take on the GPU."""
    from recsys.bench.gpu_larger import measure
    from recsys.dataflow import report
    from recsys.dataflow.gpu import cuda_device
    from recsys.dataflow.gpu_platform import find

    if len(names) > 1:
        raise ConfigError(f"--larger measures one workload, got {len(names)}")
    if picture is not None:
        report.kind(picture)
    device, gpu = cuda_device(), find(platform)
    workload = Workload.find(names[0] if names else "mlperf-dlrm-v2").pooled()
    workload = workload if cap is None else workload.cap(cap)
    tables = tuple(table.model_copy(update={"dtype": dtype}) for table in workload.tables)
    result = measure(gpu, device, workload.model_copy(update={"tables": tables}), batch[0] if batch else 2048)
    screen = console()
    screen.print(card_table(result["machine"], _facts(result)), _budgets(result), sep="\n")
    if picture is not None:
        from recsys.bench.gpu_picture import draw

        draw(result, picture)
        screen.print(f"saved {picture}", markup=False, soft_wrap=True)
    return result


def _facts(found: Mapping[str, Any]) -> dict[str, str]:
    cpu = found["cpu"]
    own = "–" if cpu is None else f"{cpu['p50_us']:,.0f} µs, p99 {cpu['p99_us']:,.0f}, on {cpu['cores']} cores"
    return {
        "workload": f"{found['workload']}: {found['table_bytes'] / 1e9:.1f} GB, batches of {found['batch']:,}",
        "memory": f"{found['free_bytes'] / 1e9:.1f} GB for tables",
        "hot rows": f"counted in {found['counted_examples']:,} examples; measured on {found['calls']:,} other batches",
        "all rows on the host": f"{found['host']['p50_us']:,.0f} µs, p99 {found['host']['p99_us']:,.0f}",
        "the CPU alone": own,
        **{f"absent: {name}": why for name, why in found["absent"].items()},
    }


def _budgets(found: Mapping[str, Any]) -> Table:
    table = Table(title="µs of a batch by the memory of the GPU", title_justify="left")
    columns = (
        "budget",
        "GB",
        "host ids",
        "best",
        "predicted",
        "p50",
        "p99",
        "random p50",
        "p99",
        "bound",
        "p50 ÷ bound",
    )
    for name in columns:
        table.add_column(name, justify="right")
    for row in found["rows"]:
        ours, chance = row["ours"], row["random"]
        us = [row["predicted_us"], ours["p50_us"], ours["p99_us"], chance["p50_us"], chance["p99_us"], row["bound_us"]]
        shares = f"{row['host_share']:.2%}", f"{row['best_host_share']:.2%}"
        ratio = f"{ours['p50_us'] / max(row['bound_us'], 1e-3):.2f}"
        cells = [f"{one:,.1f}" for one in us]
        table.add_row(f"{row['budget']:.0%}", f"{row['bytes'] / 1e9:.1f}", *shares, *cells, ratio)
    return table
