"""Models that know nothing of recsys, optimised, beside themselves: run by torch, and by `torch.compile`.

``hand`` is what people write: an `nn.EmbeddingBag` for each column of an ids tensor, `torch.cat`, a perceptron.
``dlrm`` is torchrec's own DLRM over an `EmbeddingBagCollection`, fed a KeyedJaggedTensor that is new each time, as a
server's is. Tables and ids are Criteo's. All three run on one thread, take turns and get the same batches; the scores
of everybody's first batch are compared before anything is timed. `torch.compile` is there as it comes, compiled for
each batch size anew, and at its best, which takes options that are off by default.
"""

from __future__ import annotations

import copy
import importlib.util
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from recsys.bench.card import machine
from recsys.bench.lookup_peers import Contender
from recsys.bench.lookup_rig import Case, Turns, rotations
from recsys.data.batch import JaggedIds
from recsys.dataflow.workload import Workload, refuse_too_big
from recsys.errors import ConfigError
from recsys.inference.optimize import OptimizeConfig, OptimizedModule, optimize
from recsys.threads import torch_threads

__all__ = ["MODELS", "measure"]

_NUMBERS = 13
_DENSE, _OVER = [512, 256], [1024, 512, 256]
"""Widths of the layers that numbers go through, and of those behind the interactions."""
_SAMPLE = 4096
"""Rows that look-ups are planned from."""
_TOLERANCE = 1e-5
Row = dict[str, Any]
Prepare = Callable[[JaggedIds], tuple[Tensor, Any]]


def measure(seconds: float = 1.0, batches: Sequence[int] = (1, 512), cap: int = 400_000) -> dict[str, Any]:
    """Score the same rows by everybody.

    Args:
        seconds: About how long the turns of a batch size take.
        batches: Batch sizes.
        cap: Most rows of a table.

    Raises:
        ConfigError: For sizes or seconds that cannot be, or tables that do not fit into memory three times.
    """
    if min([1, *batches]) < 1 or not batches or not seconds > 0 or cap < 1:
        raise ConfigError(
            "expected batches and a cap of 1 or more and more than 0 seconds, "
            f"got {list(batches)}, {cap} and {seconds:g}"
        )
    workload = Case("criteo-kaggle", cap=cap).workload()
    refuse_too_big(workload)
    about = machine(["torchrec", "fbgemm-gpu-cpu", "onnxruntime"])
    names = [name for name in MODELS if name != "dlrm" or importlib.util.find_spec("torchrec")]
    with torch_threads(1), torch.no_grad(), torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # FBGEMM's CPU build and inductor warn of what they leave out
        torch.manual_seed(0)
        rows = [row for name in names for row in _rows(name, workload, tuple(batches), seconds)]
    absent = {name: "python -m recsys.install" for name in MODELS if name not in names}
    return {"bench": "optimize", "machine": about, "cap": cap, "rows": rows, "absent": absent}


class _Hand(nn.Module):
    """A table for each column of ids, and a perceptron over all that they give."""

    def __init__(self, workload: Workload) -> None:
        super().__init__()
        tables = [workload.table(lookup.table) for lookup in workload.lookups]
        self.tables = nn.ModuleList(nn.EmbeddingBag(table.rows, table.dim, mode="sum") for table in tables)
        widths = [_NUMBERS + sum(table.dim for table in tables), *_OVER]
        pairs = pairwise(widths)
        self.top = nn.Sequential(
            *(layer for pair in pairs for layer in (nn.Linear(*pair), nn.ReLU())), nn.Linear(256, 1)
        )

    def forward(self, dense: Tensor, ids: Tensor) -> Tensor:
        """Scores [B, 1] of numbers [B, 13] and ids [B, 26]."""
        found = [table(ids[:, k : k + 1]) for k, table in enumerate(self.tables)]
        out: Tensor = self.top(torch.cat([dense, *found], dim=1))
        return out


def _dlrm(workload: Workload) -> nn.Module:
    from torchrec.models.dlrm import DLRM
    from torchrec.modules.embedding_configs import EmbeddingBagConfig
    from torchrec.modules.embedding_modules import EmbeddingBagCollection

    tables = [
        EmbeddingBagConfig(
            num_embeddings=workload.table(lookup.table).rows,
            embedding_dim=workload.table(lookup.table).dim,
            name=lookup.table,
            feature_names=[lookup.name],
        )
        for lookup in workload.lookups
    ]
    dim = workload.tables[0].dim
    model: nn.Module = DLRM(EmbeddingBagCollection(tables=tables), _NUMBERS, [*_DENSE, dim], [*_OVER, 1])
    return model


def _columns(dense: Tensor, ids: JaggedIds) -> tuple[Tensor, Tensor]:
    """Numbers, and ids [B, 26] as a data loader stacks them."""
    return dense[: ids.size], ids.values.view(-1, ids.size).t().contiguous().long()


def _jagged(dense: Tensor, ids: JaggedIds) -> tuple[Tensor, Any]:
    """Numbers, and a new KeyedJaggedTensor."""
    from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

    lengths = torch.ones(ids.values.numel(), dtype=torch.int32)
    return dense[: ids.size], KeyedJaggedTensor(list(ids.features), ids.values.long(), lengths=lengths)


MODELS: Mapping[str, tuple[Callable[[Workload], nn.Module], Callable[[Tensor, JaggedIds], tuple[Tensor, Any]]]] = {
    "hand": (_Hand, _columns),
    "dlrm": (_dlrm, _jagged),
}
"""How a model is made, and how it likes its inputs."""


def _compiled(model: nn.Module, batch: tuple[Tensor, Any]) -> Callable[..., Tensor]:
    """As it comes, for this batch size alone."""
    return torch.compile(model, dynamic=False)


def _frozen(model: nn.Module, batch: tuple[Tensor, Any]) -> Callable[..., Tensor]:
    """At its best: frozen, it packs the weights, and where the batch size may vary for oneDNN instead of MKL."""
    import torch._inductor.config

    found = torch.compile(model, dynamic=True)
    with torch._inductor.config.patch(freezing=True):  # as an option of `torch.compile` it does nothing
        found(*batch)
    return found


PEERS: Mapping[str, Callable[[nn.Module, tuple[Tensor, Any]], Callable[..., Tensor]]] = {
    "eager": lambda model, batch: model,
    "torch.compile": _compiled,
    "torch.compile, frozen": _frozen,
}


def _rows(name: str, workload: Workload, sizes: tuple[int, ...], seconds: float) -> Iterator[Row]:
    make, lay = MODELS[name]
    dense = torch.randn(max(*sizes, _SAMPLE), _NUMBERS)
    prepare = partial(lay, dense)
    model = make(workload).eval()
    itself = copy.deepcopy(model, {id(one): one for one in model.parameters()})  # with the same weights
    ((_, (sample, *_)),) = rotations(workload, (_SAMPLE,))
    start = time.perf_counter()
    made = optimize(model, prepare(sample), OptimizeConfig())
    took = time.perf_counter() - start
    bar = tqdm(rotations(workload, sizes), total=len(sizes), desc=name, disable=None)
    with made, bar:
        for size, rotation in bar:
            yield {"model": name, "optimize_seconds": round(took, 1)} | _one(
                made, itself, prepare, size, rotation, seconds
            )


def _one(
    made: OptimizedModule, itself: nn.Module, prepare: Prepare, size: int, rotation: Sequence[JaggedIds], seconds: float
) -> Row:
    """Figures of one batch size."""
    batch = prepare(rotation[0])
    everybody, failed = [_contender("optimised", "ours", prepare, made)], {}
    torch.compiler.reset()
    for name, start in PEERS.items():
        try:
            everybody.append(_contender(name, "stock", prepare, start(itself, batch)))
            everybody[-1].run(batch)
        except Exception as error:  # torch.compile raises all kinds
            failed[name] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
            everybody = [one for one in everybody if one.name != name]
    _check(everybody, itself, batch)
    turns = Turns(rotation)
    turns.take(everybody, seconds / 4)
    first, *others = turns.take(everybody, seconds)
    return {
        "batch": size,
        "ours": first.to_json("cpu") | {"backend": made.report.backend(size), "calls": made.report.calls},
        "peers": [
            {"name": one.name, **figure.to_json("cpu"), "ratio": round(figure.cpu / first.cpu, 3)}
            for one, figure in zip(everybody[1:], others, strict=True)
        ],
        "eager": made.report.eager,
        "failed": failed,
    }


def _contender(name: str, kind: Any, prepare: Prepare, run: Callable[..., Tensor]) -> Contender:
    return Contender(name, kind, "fp32", prepare, lambda batch: run(*batch))


def _check(contenders: Sequence[Contender], itself: nn.Module, batch: tuple[Tensor, Any]) -> None:
    """Everybody gives the model's scores."""
    expected = itself(*batch)
    for one in contenders:
        off = float((one.run(batch) - expected).abs().max())
        if not off <= _TOLERANCE * max(1.0, float(expected.abs().max())):
            raise AssertionError(f"{one.name} is off by {off:g}")
