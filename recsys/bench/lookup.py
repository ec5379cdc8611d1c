"""Embedding look-ups of whole workloads, beside their peers: `recsys.bench.lookup_peers` says who they are.

Contenders take turns, each on the next batches of a rotation, and their ids have just been made, as a server's are.
Figures are medians over the turns: of one thread its processor time, since others may use the machine too; with two
threads of ours, wall time. Everybody's first batch is checked before anything is timed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from tqdm import tqdm

from recsys.bench.card import machine
from recsys.bench.dataflow import copied, with_ids
from recsys.bench.lookup_peers import DTYPES, Contender, absent, peers, recycled
from recsys.bench.lookup_rig import Case, Rig, Turns, bound_us, chosen, rotations
from recsys.data.batch import JaggedIds
from recsys.dataflow import platform
from recsys.dataflow.kernels.cpu import CpuKernels
from recsys.dataflow.kernels.reference import Slot, look_up
from recsys.dataflow.plan import Piece, Schedule
from recsys.dataflow.workload import BATCH_SIZES, Dtype, Workload
from recsys.errors import ConfigError
from recsys.threads import torch_threads

__all__ = ["IDS", "WORKLOADS", "Distribution", "distributions", "measure", "told"]

Distribution = Literal["zipf", "uniform", "equal", "trace"]
Kind = Literal["stock", "tuned"]
Row = dict[str, Any]
IDS: tuple[Distribution, ...] = ("zipf", "uniform", "equal", "trace")
KINDS: tuple[Kind, ...] = ("stock", "tuned")


WORKLOADS = {
    "w1-d16": Case("criteo-kaggle"),
    "w1-d64": Case("criteo-kaggle", dim=64, cap=2_000_000),
    "w2": Case("mlperf-dlrm-v2", cap=800_000),
    "w3": Case("uniform-200", batches=BATCH_SIZES[:-1]),
}
_TOLERANCE: dict[Dtype, float] = {"fp32": 1e-6, "fp16": 5e-4, "int8": 6e-3}
"""How far a stored column in (-1, 1) may be from its float32; of a bag, so often as it has ids."""


def measure(
    only: Sequence[str] = (), batches: Sequence[int] = (), ids: Sequence[Distribution] = (), seconds: float = 0.7
) -> dict[str, Any]:
    """Look up the workloads' ids with everybody; what `recsys bench lookup` prints as JSON.

    Args:
        only: Names of `WORKLOADS`; none means all.
        batches: Batch sizes; by default each workload's.
        ids: How ids fall on the rows; by default in all ways.
        seconds: About how long the turns of a batch size take, for each class of peers.

    Raises:
        ConfigError: For an unknown workload, sizes that cannot be, or tables that do not fit into memory.
    """
    names = chosen(WORKLOADS, only, batches, seconds)
    about = machine(["torchrec", "fbgemm-gpu-cpu"])
    with torch_threads(1), torch.no_grad():
        # Stock peers of all workloads come first: what `recycled` sets does not quite go away.
        stock, tuned = ([row for n in names for row in _pass(n, kind, batches, ids or IDS, seconds)] for kind in KINDS)
    rows = _joined(stock, tuned)
    return {
        "bench": "lookup",
        "machine": about,
        "workloads": {name: told(WORKLOADS[name].workload()) for name in names},
        "rows": rows,
        "distributions": distributions([row for row in rows if row["threads"] == 1]),
        "absent": absent(),
    }


def told(workload: Workload) -> dict[str, Any]:
    """What the account says of a workload."""
    return {"name": workload.name, "bytes": workload.bytes, "about": workload.about}


def _pass(name: str, kind: Kind, batches: Sequence[int], ids: Sequence[Distribution], seconds: float) -> list[Row]:
    """All rows of a workload, beside peers of one class."""
    case = WORKLOADS[name]
    rows: list[Row] = []
    workload = case.workload()
    rig = Rig(workload, kind)
    others = peers(rig.given, kind, all(lookup.ids.bags == ((1, 1.0),) for lookup in workload.lookups))
    kernels = {dtype: CpuKernels(rig.slots(dtype)) for dtype in DTYPES}
    sizes = tuple(batches or case.batches)
    bar = tqdm(total=len(ids) * len(sizes), desc=f"{name}, {kind} peers", disable=None)
    with bar, recycled() if kind == "tuned" else contextlib.nullcontext():
        for distribution in ids:
            drawn = with_ids(workload, distribution)
            for size, rotation in rotations(drawn, sizes):
                about = {"workload": name, "ids": distribution, "batch": size}
                x = torch.zeros(size, rig.width)
                ours = [_ours(dtype, kernels[dtype], x) for dtype in DTYPES]
                _check(rig, [*ours, *others], rotation[0])
                turns = Turns(rotation)
                if not rows:  # for a while after new memory was filled it is slower, on a virtual machine
                    turns.take([*ours, *others], seconds)
                rows += [about | row for row in _one(kind, ours, others, turns, seconds)]
                if kind == "stock" and size > 1:
                    rows += [about | row for row in _two(rig.slots("fp32"), ours[0], x, turns, seconds / 4)]
                bar.update()
    return rows


def _ours(dtype: Dtype, kernels: CpuKernels, x: Tensor) -> Contender:
    def run(ids: JaggedIds) -> Tensor:
        kernels.look_up(ids, x)
        return x

    return Contender(f"gather, {kernels.isa}", "ours", dtype, copied, run)


def _check(rig: Rig, contenders: Sequence[Contender], ids: JaggedIds) -> None:
    """Everybody gives what the reference gives of float32 rows, as near as the dtype allows."""
    expected = torch.zeros(ids.size, rig.width)
    look_up(rig.slots("fp32"), ids, expected)
    longest = int(ids.lengths().max())
    for one in contenders:
        off = float((one.run(one.prepare(ids)) - expected).abs().max())
        if not off <= longest * _TOLERANCE[one.dtype]:
            raise AssertionError(f"{one.name} ({one.kind}, {one.dtype}) is off by {off:g}")


def _one(
    kind: Kind, ours: Sequence[Contender], others: Sequence[Contender], turns: Turns, seconds: float
) -> Iterator[Row]:
    """A row for each dtype of ours, on one thread."""
    figures = turns.take([*ours, *others], seconds)
    told = [
        {"name": one.name, "class": one.kind, "dtype": one.dtype, **figure.to_json("cpu")}
        for one, figure in zip(others, figures[len(ours) :], strict=True)
    ]
    for one, figure in zip(ours, figures, strict=False):
        mine = {**figure.to_json("cpu"), "p99_us": turns.p99(one, seconds / 20), "what": one.name}
        alike = [peer for peer in told if peer["dtype"] == one.dtype]
        ratios = {f"ratio_{kind}": _ratio(told, figure.cpu), f"ratio_{kind}_dtype": _ratio(alike, figure.cpu)}
        yield {"threads": 1, "dtype": one.dtype, "ours": mine, "peers": told, **ratios}


def _two(slots: Sequence[Slot], one: Contender, x: Tensor, turns: Turns, seconds: float) -> Iterator[Row]:
    """Ours on two cores, each with half of the batch, beside ours on one; nothing where there is no second."""
    cpus = [core.cpu for core in platform.read_cores()[:2]]
    if len(cpus) == 2:
        halves = [Piece(lookup=slot.name, core=k, share=(k / 2, (k + 1) / 2)) for k in range(2) for slot in slots]
        schedule = Schedule(batch=len(x), pieces=tuple(halves), predicted_us=0, bound_us=0)
        two = _ours("fp32", CpuKernels(slots, cpus=cpus, schedules=[schedule]), x)
        alone, both = turns.take([one, two], seconds)
        what = f"{two.name}, half of the batch each"
        mine = {**both.to_json("wall"), "p99_us": turns.p99(two, seconds / 5), "what": what}
        ratios = {"ratio_stock": None, "ratio_tuned": None, "ratio_one_thread": round(alone.wall / both.wall, 3)}
        yield {"threads": 2, "dtype": "fp32", "ours": mine, "peers": [], **ratios}


def _ratio(found: Sequence[Row], us: float) -> float | None:
    """The best peer over ours."""
    return round(min(peer["us"] for peer in found) / us, 3) if found else None


def _joined(stock: Sequence[Row], tuned: Sequence[Row]) -> list[Row]:
    """Rows beside both classes of peers; each class is compared with what ours took beside it."""
    others = {_key(row): row for row in tuned}
    rows = []
    for row in stock:
        other = others.get(_key(row))
        both: Row = {}
        if other is not None:  # of two threads there is only one
            ours = row["ours"] | {"us_beside_tuned": other["ours"]["us"]}
            both = {"ours": ours, "peers": [*row["peers"], *other["peers"]]}
        rows.append({**(other or {}), **row, **both, **_bound(row)})
    return rows


def _key(row: Row) -> tuple[str | int, ...]:
    return tuple(row[name] for name in ("workload", "ids", "batch", "threads", "dtype"))


def distributions(rows: Sequence[Row]) -> list[Row]:
    """How much it matters how ids fall: ours, slowest ÷ fastest; nothing where all fell in one way."""
    found: dict[tuple[str, int, Dtype], list[Row]] = {}
    for row in rows:
        key = row["workload"], row["batch"], row["dtype"]
        found.setdefault(key, []).append({"ids": row["ids"], "us": row["ours"]["us"]})
    return [
        {"workload": workload, "batch": batch, "dtype": dtype, **_spread(ways)}
        for (workload, batch, dtype), ways in found.items()
        if len(ways) > 1
    ]


def _spread(ways: Sequence[Row]) -> Row:
    slowest, fastest = (pick(ways, key=lambda way: float(way["us"])) for pick in (max, min))
    return {"slowest": slowest, "fastest": fastest, "ratio": round(slowest["us"] / fastest["us"], 3)}


def _bound(row: Row) -> Row:
    """The bound of a row, and what share of ours it is: None where `recsys profile` has not been run."""
    try:
        found = platform.here()
    except ConfigError:
        return {"bound_us": None, "share_of_bound": None}
    workload = with_ids(WORKLOADS[row["workload"]].workload(), row["ids"])
    us = bound_us(workload, row["batch"], row["dtype"], found) / row["threads"]
    return {"bound_us": round(us, 3), "share_of_bound": round(us / row["ours"]["us"], 3)}
