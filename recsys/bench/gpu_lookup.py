"""Embedding look-ups of whole workloads on a GPU, beside FBGEMM's: `recsys.bench.gpu_peers` says who they are.

Everybody's look-up is captured in a graph, one for each of six batches of ids. Contenders take turns; in a turn their
graphs are replayed in a row many times, and figures are medians over the turns. Everybody's result is checked first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from tqdm import tqdm

from recsys.bench.card import machine
from recsys.bench.dataflow import with_ids
from recsys.bench.gpu_peers import Contender, absent, fbgemm, ours, version
from recsys.bench.gpu_rig import GpuRig, drawn, first
from recsys.bench.gpu_timing import Capture, Figure, captured, copy_rate, graph_floor_us, in_turn, release, synchronize
from recsys.bench.lookup import Distribution, distributions, told
from recsys.bench.lookup_rig import Case, chosen
from recsys.data.batch import JaggedIds
from recsys.dataflow.kernels.gpu.kernels import GpuKernels
from recsys.dataflow.workload import Dtype
from recsys.errors import ConfigError

__all__ = ["IDS", "WORKLOADS", "captures", "measure", "the_gpu"]

Row = dict[str, Any]
IDS: tuple[Distribution, ...] = ("zipf", "uniform", "equal")

_ONES, _BAGS = (1, 512, 4096, 8192, 16_384, 65_536), (1, 512, 4096, 8192, 16_384)
WORKLOADS = {
    "w1-d16": Case("criteo-kaggle", batches=_ONES),
    "w1-d64": Case("criteo-kaggle", dim=64, batches=_ONES),
    "w2-d64": Case("mlperf-dlrm-v2", dim=64, batches=_BAGS),
    "w2-d128": Case("mlperf-dlrm-v2", cap=20_000_000, batches=_BAGS),
    "w3": Case("uniform-200", batches=(1, 512, 2048)),
}
_INT8_FROM = 64
"""Columns from which int8 rows are measured, too: shorter ones are not much smaller than fp16's."""


def the_gpu() -> torch.device:
    """The GPU that torch uses.

    Raises:
        ConfigError: Where there is none.
    """
    if not torch.cuda.is_available():
        build = "torch finds none" if torch.version.cuda else "torch is a CPU build"
        raise ConfigError(f"--device cuda needs a GPU, and {build}: leave it out, or see `recsys doctor`")
    return torch.device("cuda", torch.cuda.current_device())


def measure(
    only: Sequence[str] = (),
    batches: Sequence[int] = (),
    ids: Sequence[Distribution] = (),
    seconds: float = 0.7,
    device: torch.device | None = None,
) -> dict[str, Any]:
    """Look up the workloads' ids with everybody; what `recsys bench lookup --device cuda` prints as JSON.

    Args:
        only: Names of `WORKLOADS`; none means all.
        batches: Batch sizes; by default each workload's.
        ids: How ids fall on the rows; by default as in `IDS`.
        seconds: About how long the turns of a batch size take.
        device: By default the GPU; a CPU is for tests.

    Raises:
        ConfigError: Without a GPU, for an unknown workload, sizes that cannot be, or tables that do not fit.
    """
    names = chosen(WORKLOADS, only, batches, seconds)
    device = the_gpu() if device is None else device
    with torch.no_grad():
        ceilings = _ceilings(device)
        rows = [row for name in names for row in _workload(name, batches, ids or IDS, seconds, device, ceilings)]
    return {
        "bench": "lookup-gpu",
        "machine": {**machine(["triton"]), "cuda": torch.version.cuda, "fbgemm": version(device)},
        "ceilings": ceilings,
        "workloads": {name: told(WORKLOADS[name].workload()) for name in names},
        "rows": rows,
        "distributions": distributions(rows),
        "absent": absent(device),
    }


def _ceilings(device: torch.device) -> dict[str, Any]:
    """What the device can do at best."""
    cache = torch.cuda.get_device_properties(device).L2_cache_size if device.type == "cuda" else 1 << 20
    return {
        "copy_tbs": round(copy_rate(device) / 1e12, 4),
        "graph_floor_us": round(graph_floor_us(device), 3),
        "cache_bytes": cache,
    }


def _workload(
    name: str,
    batches: Sequence[int],
    ids: Sequence[Distribution],
    seconds: float,
    device: torch.device,
    ceilings: dict[str, Any],
) -> Iterator[Row]:
    """A row for each way that ids fall, batch size, and dtype of rows."""
    release(device)
    case = WORKLOADS[name]
    workload, sizes = case.workload(), tuple(batches or case.batches)
    dtypes: tuple[Dtype, ...] = ("fp16", "int8") if workload.tables[0].dim >= _INT8_FROM else ("fp16",)
    rig = GpuRig(workload, dtypes, device, peers=not absent(device))
    kernels = {(dtype, checked): GpuKernels(rig.slots(dtype), device, checked) for dtype in dtypes for checked in _BOTH}
    others = [peer for dtype in dtypes for peer in fbgemm(rig, dtype)]
    with tqdm(total=len(ids) * len(sizes), desc=name, disable=None) as bar:
        for distribution in ids:
            largest = drawn(with_ids(workload, distribution), max(sizes), device)
            for size in sizes:
                sets = first(largest, size)
                unknown = torch.zeros(1, dtype=torch.int32, device=device)
                x = torch.empty(size, rig.width, dtype=torch.float16, device=device)
                mine = [ours(kernels[key], *key, x, unknown) for key in kernels]
                everybody = [*mine, *others]
                figures = in_turn(captures(rig, everybody, sets), seconds, device)
                if int(unknown):
                    raise AssertionError(f"{int(unknown)} ids were taken for wrong")
                timed = {_key(one): figure for one, figure in zip(everybody, figures, strict=True)}
                for dtype in dtypes:
                    counted = rig.counted_bytes(sets[0], dtype, ceilings["cache_bytes"])
                    about = {"workload": name, "ids": distribution, "batch": size, "dtype": dtype}
                    yield {**about, **_row(dtype, timed, counted, ceilings)}
                bar.update()


_BOTH = (True, False)


def captures(rig: GpuRig, contenders: Sequence[Contender], sets: Sequence[JaggedIds]) -> list[list[Capture]]:
    """Everybody's graphs, one for each batch of ids; what the last of them gives has been checked."""
    pool = torch.cuda.graph_pool_handle() if rig.device.type == "cuda" else None
    found = []
    for one in contenders:
        for ids in sets:  # compiles what these ids need, which a capture may not do
            one.run(ids)
        synchronize(rig.device)
        graphs: list[Capture] = []
        for ids in sets:
            out = None  # its memory is the next one's
            replay, out = captured(partial(one.run, ids), rig.device, pool)
            graphs.append(replay)
        assert out is not None
        out.fill_(float("nan"))
        graphs[-1]()
        synchronize(rig.device)
        rig.check(f"{one.name}, {'checked' if one.checked else 'unchecked'}", one.dtype, sets[-1], out)
        found.append(graphs)
    return found


def _key(one: Contender) -> tuple[str, Dtype, bool]:
    return one.name, one.dtype, one.checked


def _row(dtype: Dtype, timed: dict[tuple[str, Dtype, bool], Figure], counted: int, ceilings: Row) -> Row:
    """Ours beside FBGEMM of the same dtype: checked beside checked, unchecked beside unchecked."""
    checked, unchecked = (timed["recsys", dtype, way] for way in _BOTH)
    peers, ratios = [], {}
    for way, kind, mine in ((True, "stock", checked), (False, "tuned", unchecked)):
        name = f"fbgemm-nbit-{dtype}"
        other = timed.get((name, dtype, way))
        ratios[f"ratio_{kind}"] = None if other is None else round(other.us / mine.us, 3)
        if other is not None:
            peers.append({"name": name, "class": kind, "dtype": dtype, "checked": way, **_told(other)})
    bound = counted / ceilings["copy_tbs"] / 1e6
    fp16 = timed["recsys", "fp16", True]
    return {
        "ours": {**_told(checked), "unchecked_us": round(unchecked.us, 3), "what": "one launch"},
        "peers": peers,
        **ratios,
        "ratio_fp16": None if dtype == "fp16" else round(fp16.us / checked.us, 3),
        "counted_bytes": counted,
        "tbs": round(counted / checked.us / 1e6, 4),
        "bound_us": round(bound, 3),
        "share_of_bound": round(bound / checked.us, 3),
    }


def _told(figure: Figure) -> dict[str, float]:
    return {"us": round(figure.us, 3), "low_us": round(figure.low, 3), "high_us": round(figure.high, 3)}
