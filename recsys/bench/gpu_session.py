"""Sessions on a GPU beside their peers: Criteo's tables, dim 16, through DCNv2 and DCN², from ids to scores.

A call begins with ids and numbers in ordinary host memory and ends with scores there. Contenders take turns, each on
the next batches of a rotation; figures are medians of wall time. Everybody's scores are compared before anything is
timed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from recsys.bench.card import machine
from recsys.bench.criteo import NUMBERS
from recsys.bench.gpu_session_peers import AUTOTUNED, absent, peers
from recsys.bench.lookup_peers import Contender
from recsys.bench.lookup_rig import Figure, Turns, rotations
from recsys.bench.session import MODELS, check_scores, criteo_encoder, drawn_numbers, model_inputs
from recsys.bench.session_peers import DIM
from recsys.config import nearest
from recsys.data.batch import Batch, JaggedIds
from recsys.dataflow.executor import sources
from recsys.dataflow.storage import Storage
from recsys.dataflow.workload import Workload
from recsys.errors import ConfigError
from recsys.inference.backends import Precision
from recsys.inference.cuda.device import find_gpu
from recsys.inference.cuda.engines import GPU_PRECISIONS
from recsys.inference.cuda.lane import Lane
from recsys.inference.cuda.packing import host
from recsys.inference.parts import Parts
from recsys.inference.profile import SizeProfile, profile
from recsys.inference.session import InferenceSession
from recsys.inference.trace import trace
from recsys.models.base import RankingModel
from recsys.threads import network_flops

__all__ = ["BATCHES", "measure"]

Row = dict[str, Any]
BATCHES = (1, 64, 512, 2048, 8192)
_PROFILED = 16
"""Batches that are scored in turn to see where time goes."""


def measure(
    device: str = "cuda",
    only: Sequence[str] = (),
    batches: Sequence[int] = (),
    seconds: float = 1.5,
    cap: int | None = None,
) -> Row:
    """Score with everybody; what `recsys bench session --device cuda` prints as JSON.

    Args:
        device: The GPU.
        only: Names of `MODELS`; none means all.
        batches: Batch sizes; by default `BATCHES`.
        seconds: About how long the turns of a batch size take.
        cap: Most rows of a table; by default all that Criteo has.

    Raises:
        ConfigError: For an unknown model, sizes that cannot be, no GPU, or tables that do not fit.
    """
    for name in only:
        if name not in MODELS:
            raise ConfigError(f"no such model as `{name}`: {nearest(name, list(MODELS))}")
    if min([1, *batches]) < 1 or not seconds > 0:
        raise ConfigError(f"expected batches of 1 or more and more than 0 seconds, got {list(batches)} and {seconds:g}")
    gpu = find_gpu(device)
    workload = Workload.find("criteo-kaggle").with_dim(DIM)
    workload = workload if cap is None else workload.cap(cap)
    ceilings = _ceilings(gpu)
    with torch.no_grad():
        rows = [
            row
            for name in only or MODELS
            for row in _model(name, workload, batches or BATCHES, seconds, device, ceilings)
        ]
    autotuned = f"made for batches of {' and '.join(map(str, AUTOTUNED))} alone: each takes most of a minute"
    return {
        "bench": "session-gpu",
        "machine": machine(["triton", "fbgemm-gpu"]),
        "device": torch.cuda.get_device_name(gpu) if gpu.type == "cuda" else gpu.type,
        "workload": {"name": workload.name, "bytes": workload.bytes, "numbers": len(NUMBERS)},
        "ceilings": ceilings,
        "rows": rows,
        "absent": {**absent(), "torch-compile": autotuned},
    }


def _ceilings(device: torch.device) -> dict[str, float]:
    """What the GPU can do: GFLOP/s of products, GB/s of the link, and µs of a graph that does next to nothing."""
    size = 4096 if device.type == "cuda" else 512
    found: dict[str, float] = {}
    for precision in GPU_PRECISIONS:
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        x = torch.randn(size, size, device=device).to(dtype)
        out = torch.empty_like(x)

        def product(x: Tensor = x, out: Tensor = out) -> None:
            torch.mm(x, x, out=out)

        found[f"{precision}_gflops"] = round(2 * size**3 / _best_us(product, device, precision) / 1e3, 1)
    there = torch.zeros(size * size, dtype=torch.uint8, device=device)
    pinned = host(size * size, device)
    link = _best_us(lambda: (there.copy_(pinned, non_blocking=True), None)[1], device, "fp32")
    found["link_gbs"] = round(size * size / link / 1e3, 2)
    one = torch.zeros(1, device=device)
    found["floor_us"] = round(_best_us(lambda: (one.add_(1), None)[1], device, "fp32"), 2)
    return found


def _best_us(work: Callable[[], None], device: torch.device, precision: Precision) -> float:
    lane = Lane(device, precision)
    run, best = lane.captured(work), float("inf")
    for _ in range(20):
        start = time.perf_counter()
        lane.run(run)
        lane.wait()
        best = min(best, time.perf_counter() - start)
    return 1e6 * best


def _model(
    name: str,
    workload: Workload,
    batches: Sequence[int],
    seconds: float,
    device: str,
    ceilings: dict[str, float],
) -> Iterator[Row]:
    model = MODELS[name](model_inputs(workload)).eval()
    numbers, program = drawn_numbers(max(batches)), trace(model)
    parts = Parts(criteo_encoder(), model.tables.spec, Storage(sources(model.tables)).tables, program, "")
    sessions = {
        kind: InferenceSession(parts, precision=kind, max_batch=max(batches), device=device) for kind in GPU_PRECISIONS
    }
    ours = [_ours(kind, session, numbers) for kind, session in sessions.items()]
    everybody = peers(model, program, sessions["fp32"].choice, numbers, find_gpu(device))
    for size, rotation in rotations(workload, tuple(batches)):
        others = [one for one in everybody if one.name != "torch-compile" or size in AUTOTUNED]
        with tqdm(total=1, desc=f"{name}, batch {size}", disable=None):
            for ids in rotation[:4]:  # a session has two workspaces, and each captures what it has not met
                check_scores(model, [*ours, *others], ids, numbers)
            figures = Turns(rotation).take([*ours, *others], seconds)
        told = [
            {"name": one.name, "class": one.kind, **figure.to_json("wall")}
            for one, figure in zip(others, figures[len(ours) :], strict=True)
        ]
        given = [Batch(numbers(size), ids) for ids in rotation[:_PROFILED]]
        for kind, figure in zip(sessions, figures, strict=False):
            split = profile(sessions[kind], {size: given}, seconds / 4)[0]
            bound = _bound(model, size, kind, ceilings)
            yield _row(f"w1-d{DIM}, {name}", size, kind, figure, split, bound, told if kind == "fp32" else [])
    for session in sessions.values():
        session.close()


def _ours(precision: Precision, session: InferenceSession, numbers: Callable[[int], Tensor]) -> Contender:
    def run(batch: Batch) -> Tensor:
        return torch.from_numpy(session.predict(batch))

    def prepare(ids: JaggedIds) -> Batch:
        return Batch(numbers(ids.size), replace(ids, values=ids.values.int()))  # as the peers get them

    dtype: Any = precision
    return Contender(f"ours, {precision}", "ours", dtype, prepare, run)


def _bound(model: RankingModel, size: int, precision: Precision, ceilings: dict[str, float]) -> float:
    """µs of a graph that does next to nothing, of ids and numbers over the link, and of the products at their peak."""
    link = 4 * size * (len(model.tables.spec.features) + model.tables.spec.dense) / ceilings["link_gbs"] / 1e3
    products = network_flops(model, size, 1) / ceilings[f"{precision}_gflops"] / 1e3
    return round(ceilings["floor_us"] + link + products, 1)


def _row(
    workload: str, size: int, precision: Precision, figure: Figure, split: SizeProfile, bound: float, told: list[Row]
) -> Row:
    ours = {
        **figure.to_json("wall"),
        "p99_us": round(split.p99_us, 1),
        "rows_per_second": round(size / figure.wall * 1e6),
        "lookup_us": round(split.lookup_us, 1),
        "network_us": round(split.network_us, 1),
        "what": split.backend,
    }
    classes = {kind: [one["us"] for one in told if one["class"] == kind] for kind in ("stock", "tuned")}
    best = {f"ratio_{kind}": round(min(us) / figure.wall, 2) if us else None for kind, us in classes.items()}
    return {
        "workload": workload,
        "ids": "zipf",
        "batch": size,
        "dtype": precision,
        "ours": ours,
        "peers": told,
        "ratios": {one["name"]: round(one["us"] / figure.wall, 2) for one in told},
        **best,
        "bound_us": bound,
        "share_of_bound": round(bound / figure.wall, 3),
    }
