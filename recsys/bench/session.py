"""A session beside its peers: Criteo's 26 tables and 13 numbers, dim 16, through DCNv2 and DCN², from ids to scores.

Contenders take turns, each on the next batches of a rotation. Figures are medians over the turns, of one thread's
processor time. Scores of everybody who has our weights are compared before anything is timed.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from recsys.bench.card import machine
from recsys.bench.criteo import CATEGORIES, NUMBERS
from recsys.bench.lookup_peers import Contender
from recsys.bench.lookup_rig import Figure, Turns, bound_us, rotations
from recsys.bench.session_peers import CROSSES, DIM, HIDDEN, absent, peers
from recsys.config import nearest
from recsys.data.batch import Batch, JaggedIds
from recsys.data.encoder import Encoder, IdInput, Inputs, Task
from recsys.data.fitting import Fitted, Normaliser
from recsys.data.schema import Categorical, Hashing, Label, Numeric, Schema
from recsys.dataflow import platform
from recsys.dataflow.executor import sources
from recsys.dataflow.storage import Storage
from recsys.dataflow.workload import Workload
from recsys.errors import ConfigError
from recsys.inference import backends
from recsys.inference.export import SEAL, read_export, write_export
from recsys.inference.parts import Parts
from recsys.inference.profile import SizeProfile, profile
from recsys.inference.session import InferenceSession
from recsys.inference.trace import trace
from recsys.models.base import RankingModel
from recsys.models.ranking.dcn2 import DCN2, DCN2Config
from recsys.models.ranking.dcnv2 import DCNv2, DCNv2Config
from recsys.threads import network_flops, torch_threads

__all__ = ["BATCHES", "MODELS", "check_scores", "criteo_encoder", "drawn_numbers", "measure", "model_inputs", "peak"]

Row = dict[str, Any]
BATCHES = (1, 64, 512, 4096)
MODELS: dict[str, Callable[[Inputs], RankingModel]] = {
    "dcnv2": lambda inputs: DCNv2(inputs, DCNv2Config(embedding_dim=DIM, cross_layers=CROSSES, hidden=HIDDEN)),
    "dcn2": lambda inputs: DCN2(
        inputs,
        DCN2Config(
            embedding_dim=DIM, onlydense_layers=CROSSES, hidden=HIDDEN, similarities=False, collision_weights=False
        ),
    ),
}
PRECISIONS: tuple[backends.Precision, ...] = ("fp32", "bf16", "int8")
_PROFILED = 64
"""Batches that are scored in turn to see where time goes."""
_TOLERANCE = {"fp32": 1e-5, "tf32": 5e-3, "bf16": 0.02, "int8": 0.1}


def measure(
    only: Sequence[str] = (), batches: Sequence[int] = (), seconds: float = 1.5, cap: int | None = None
) -> dict[str, Any]:
    """Score with everybody; what `recsys bench session` prints as JSON.

    Args:
        only: Names of `MODELS`; none means all.
        batches: Batch sizes; by default 1, 64, 512 and 4096.
        seconds: About how long the turns of a batch size take.
        cap: Most rows of a table; by default all that Criteo has.

    Raises:
        ConfigError: For an unknown model, sizes that cannot be, or tables that do not fit into memory.
    """
    for name in only:
        if name not in MODELS:
            raise ConfigError(f"no such model as `{name}`: {nearest(name, list(MODELS))}")
    if min([1, *batches]) < 1 or not seconds > 0:
        raise ConfigError(f"expected batches of 1 or more and more than 0 seconds, got {list(batches)} and {seconds:g}")
    about = machine(["torchrec", "fbgemm-gpu-cpu", "fuxictr", "onnxruntime"])
    workload = Workload.find("criteo-kaggle").with_dim(DIM)
    workload = workload if cap is None else workload.cap(cap)
    with torch_threads(1), torch.no_grad():
        peaks = {"fp32": peak(torch.float32), "bf16": peak(torch.bfloat16)}
        rows = [row for name in only or MODELS for row in _model(name, workload, batches or BATCHES, seconds, peaks)]
    left = {f"{backend} {kind}": why for backend, kind in backends.ENGINES if (why := backends.absent(backend, kind))}
    return {
        "bench": "session",
        "machine": about,
        "workload": {"name": workload.name, "bytes": workload.bytes, "numbers": len(NUMBERS)},
        "peak_gflops": peaks,
        "rows": rows,
        "absent": {**absent(), **left},
    }


def peak(dtype: torch.dtype) -> float:
    """GFLOP/s of one thread in a product [512, 1024] x [1024, 1024] by oneDNN, the best of many."""
    x, w = (torch.randn(shape).to(dtype) for shape in ((512, 1024), (1024, 1024)))
    w = torch.ops.mkldnn._reorder_linear_weight(w, 512)
    best = float("inf")
    for _ in range(30):
        start = time.perf_counter()
        torch.ops.mkldnn._linear_pointwise(x, w, None, "none", [], "")
        best = min(best, time.perf_counter() - start)
    return round(2 * 512 * 1024 * 1024 / best / 1e9, 1)


def _model(
    name: str, workload: Workload, batches: Sequence[int], seconds: float, peaks: dict[str, float]
) -> Iterator[Row]:
    model = MODELS[name](model_inputs(workload)).eval()
    numbers = drawn_numbers(max(batches))
    with tempfile.TemporaryDirectory(prefix="recsys-bench-") as folder:
        sessions = _sessions(model, Path(folder))
        ours = [_ours(storage, precision, one, numbers) for (storage, precision), one in sessions.items()]
        others = peers(model, numbers)
        bar = tqdm(total=len(batches), desc=name, disable=None)
        for size, rotation in rotations(workload, tuple(batches)):
            check_scores(model, [*ours, *others], rotation[0], numbers)
            figures = Turns(rotation).take([*ours, *others], seconds)
            told = [
                {"name": one.name, "class": one.kind, **figure.to_json("cpu")}
                for one, figure in zip(others, figures[len(ours) :], strict=True)
            ]
            given = [Batch(numbers(size), ids) for ids in rotation[:_PROFILED]]
            for kind, figure in zip(sessions, figures, strict=False):
                split = profile(sessions[kind], {size: given}, seconds / 4)[0]
                bound = _bound(workload, model, size, kind[1], peaks)
                yield _row(f"w1-d{DIM}, {name}", size, kind, figure, split, bound) | _beside(told, figure)
            bar.update()
        for session in sessions.values():
            session.close()


def _row(
    workload: str, size: int, kind: tuple[str, str], figure: Figure, split: SizeProfile, bound: float | None
) -> Row:
    """What one session took; `split` says where the time went."""
    ours = {
        **figure.to_json("cpu"),
        "p99_us": round(split.p99_us, 1),
        "rows_per_second": round(size / figure.cpu * 1e6),
        "lookup_us": round(split.lookup_us, 1),
        "network_us": round(split.network_us, 1),
        "glue_us": round(split.glue_us, 1),
        "what": split.backend,
    }
    about = {"workload": workload, "ids": "zipf", "batch": size, "threads": 1, "storage": kind[0], "dtype": kind[1]}
    share = None if bound is None else round(bound / figure.cpu, 3)
    return {**about, "ours": ours, "bound_us": bound, "share_of_bound": share}


def _beside(peers: list[Row], figure: Figure) -> Row:
    return {"peers": peers, "ratios": {peer["name"]: round(peer["us"] / figure.cpu, 2) for peer in peers}}


def _sessions(model: RankingModel, folder: Path) -> dict[tuple[str, backends.Precision], InferenceSession]:
    """All precisions on huge pages, and float32 on a mapped file."""
    rows, program, encoder = sources(model.tables), trace(model), criteo_encoder()
    parts = Parts(encoder, model.tables.spec, Storage(rows).tables, program, "")
    kinds = [kind for kind in PRECISIONS if any(not backends.absent(b, k) for b, k in backends.ENGINES if k == kind)]
    found: dict[tuple[str, backends.Precision], InferenceSession] = {
        ("huge", kind): InferenceSession(parts, precision=kind) for kind in kinds
    }
    seal = write_export(
        folder, model="dcn", source="", encoder=encoder, spec=parts.spec, rows=rows, program=program, overwrite=True
    )
    seal.write(folder / SEAL)
    mapped = read_export(folder, "map")
    found["map", "fp32"] = InferenceSession(Parts(encoder, parts.spec, mapped.rows, program, ""), precision="fp32")
    return found


def _ours(
    storage: str, precision: backends.Precision, session: InferenceSession, numbers: Callable[[int], Tensor]
) -> Contender:
    def run(batch: Batch) -> Tensor:
        return torch.from_numpy(session.predict(batch))

    kind: Literal["ours"] = "ours"
    dtype: Any = "fp32" if precision == "fp32" else precision
    return Contender(f"{storage}, {precision}", kind, dtype, lambda ids: Batch(numbers(ids.size), ids), run)


def check_scores(
    model: RankingModel, contenders: Sequence[Contender], ids: JaggedIds, numbers: Callable[[int], Tensor]
) -> None:
    """Everybody with our weights gives our model's scores."""
    expected = model.predict(Batch(numbers(ids.size), ids))[:, 0]
    for one in contenders:
        scores = one.run(one.prepare(ids)).flatten()
        off = float((scores - expected).abs().max())
        if one.name != "fuxictr" and not off <= _TOLERANCE[one.dtype]:
            raise AssertionError(f"{one.name} is off by {off:g}")


def _bound(workload: Workload, model: RankingModel, size: int, precision: str, peaks: dict[str, float]) -> float | None:
    """µs of the products at the machine's measured peak, and of the rows; None where no peak was measured."""
    if precision not in peaks:
        return None
    network = network_flops(model, size, 1) / peaks[precision] / 1e3
    try:
        rows = bound_us(workload, size, "fp32", platform.here())
    except ConfigError:
        rows = 0.0
    return round(network + rows, 1)


def model_inputs(workload: Workload) -> Inputs:
    """What a model must know of Criteo's columns."""
    rows = [table.rows for table in workload.tables]
    ids = [IdInput(name, name, n, "categorical", "context") for name, n in zip(CATEGORIES, rows, strict=True)]
    return Inputs(tuple(NUMBERS), tuple(ids), (Task("label"),))


def criteo_encoder() -> Encoder:
    """Criteo's columns; the benchmark's ids are drawn, not encoded."""
    features = [
        *(Numeric(name=name) for name in NUMBERS),
        *(Categorical(name=name, encoding=Hashing(bits=8)) for name in CATEGORIES),
    ]
    schema = Schema(labels=(Label(name="label"),), features=tuple(features))
    return Encoder(schema, Fitted({name: Normaliser(0.0, 1.0, 0.0) for name in NUMBERS}, {}, {}, {}))


def drawn_numbers(most: int) -> Callable[[int], Tensor]:
    """[B, 13] normal numbers for a batch of B, the same ones always."""
    drawn = torch.from_numpy(np.random.default_rng(0).standard_normal((most, len(NUMBERS)), dtype=np.float32))
    return lambda size: drawn[:size]
