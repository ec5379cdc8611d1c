"""`recsys bench dataflow --device cuda`: look-ups on a GPU, predicted beside measured, and tables larger than it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recsys.cli.app import Result
from recsys.cli.show import card_table, cells_table, console
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
    from recsys.bench.report_gpu_dataflow import predicted_cells, predicted_line
    from recsys.dataflow.gpu import cuda_device
    from recsys.dataflow.gpu_platform import find

    device, gpu = cuda_device(), find(platform)
    found = [Workload.find(name) for name in names] or [_published(*one) for one in WORKLOADS]
    chosen = [one.pooled() if cap is None else one.cap(cap).pooled() for one in found]
    kinds: Sequence[Distribution] = ("zipf", "uniform", "equal") if tuple(ids) == ("as it is", "equal") else ids
    result = measure(gpu, device, chosen, dtype, batch or BATCHES, kinds)
    screen = console()
    screen.print(cells_table(predicted_cells(result)))
    screen.print(predicted_line(result))
    return result


def _published(name: str, dim: int | None) -> Workload:
    found = Workload.find(name)
    return found if dim is None else found.with_dim(dim)


def larger_gpu(
    names: Sequence[str],
    batch: Sequence[int],
    cap: int | None,
    platform: str | None,
    dtype: Dtype,
    pictures: Sequence[Path],
) -> Result:
    """Measure one workload by the memory that its tables may take on the GPU; each budget is told when it is done."""
    from recsys.bench.gpu_larger import measure
    from recsys.bench.gpu_picture import draw
    from recsys.bench.report_gpu_dataflow import larger_cells, larger_facts, larger_row
    from recsys.dataflow import report
    from recsys.dataflow.gpu import cuda_device
    from recsys.dataflow.gpu_platform import find
    from recsys.files import make_folder

    if len(names) > 1:
        raise ConfigError(f"--larger measures one workload, got {len(names)}")
    for picture in pictures:
        report.kind(picture)
    device, gpu, screen = cuda_device(), find(platform), console()
    workload = Workload.find(names[0] if names else "mlperf-dlrm-v2").pooled()
    workload = workload if cap is None else workload.cap(cap)
    tables = tuple(table.model_copy(update={"dtype": dtype}) for table in workload.tables)

    def began(about: Mapping[str, Any]) -> None:
        screen.print(card_table(about["machine"], larger_facts(about)))

    def found(row: Mapping[str, Any]) -> None:
        cells = dict(zip(larger_cells({"rows": []}).header, larger_row(row), strict=False))
        screen.print(", ".join(f"{name} {cell}" for name, cell in cells.items()), markup=False, soft_wrap=True)

    result = measure(
        gpu,
        device,
        workload.model_copy(update={"tables": tables}),
        batch[0] if batch else 2048,
        began=began,
        found=found,
    )
    screen.print(cells_table(larger_cells(result)))
    for picture in pictures:
        make_folder(picture.parent)
        draw(result, picture)
        screen.print(f"saved {picture}", markup=False, soft_wrap=True)
    return result
