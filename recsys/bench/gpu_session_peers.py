"""Who else scores on a GPU: our rows and our network, each as its users would run them, and at its best.

==================  =====  =========================================================================================
``torch-loop``      stock  an `F.embedding_bag` for each table, `torch.cat`, and the network by eager torch
``torch-fused``     stock  all tables in one, one `F.embedding` of ids plus each table's first row, then the same
``torch-compile``   tuned  the module of ``torch-fused`` through `torch.compile(mode="max-autotune")`, which captures
``fbgemm-graph``    tuned  FBGEMM's nbit look-up of float32 rows, ids checked, and our own engine of the network, in one
                           CUDA graph that also copies a packed batch to the GPU and scores back
==================  =====  =========================================================================================

All get ids as int32 in the order that they like best, and numbers, in ordinary host memory. They write them to pinned
memory, copy them without waiting, and end with scores in host memory, as ours do.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.export import ExportedProgram

from recsys.bench.gpu_peers import cuda_fbgemm
from recsys.bench.lookup_peers import Contender, Kind
from recsys.data.batch import JaggedIds
from recsys.inference.choice import Choice
from recsys.inference.cuda.lane import Lane
from recsys.inference.cuda.module import on_device
from recsys.inference.cuda.packing import host
from recsys.inference.cuda.rows import network_input
from recsys.models.base import RankingModel

__all__ = ["AUTOTUNED", "absent", "peers"]

AUTOTUNED = (1, 2048)
"""Batch sizes that ``torch-compile`` is made for: each takes it the better part of a minute."""


def absent() -> dict[str, str]:
    """Peers that are not installed, and how they are."""
    return {} if cuda_fbgemm() else {"fbgemm-graph": "a CUDA build of fbgemm-gpu: python -m recsys.install"}


def peers(
    model: RankingModel,
    program: ExportedProgram,
    choice: Choice,
    numbers: Callable[[int], Tensor],
    device: torch.device,
) -> list[Contender]:
    """The peers of a model over Criteo's columns.

    Args:
        model: Its rows are copied to the GPU, once for all.
        program: Its network.
        choice: Of our own session with float32 products.
        numbers: [B, 13] for a batch of B.
        device: The GPU; on a CPU, for tests, eager torch alone.
    """
    rows = model.tables.storages()[0].detach().to(device)
    sizes = [model.tables.tables[lookup.table].rows for lookup in model.tables.spec.pooled]
    network = on_device(program, device, "fp32", "products")
    loop, fused = _Loop(rows, sizes, network), _Fused(rows, sizes, network)
    found = [
        _plain("torch-loop", "stock", loop, lambda ids: ids.values.view(len(sizes), -1), numbers, device),
        _plain("torch-fused", "stock", fused, lambda ids: _examples(ids, len(sizes)), numbers, device),
    ]
    if device.type == "cuda":
        found.append(_compiled(fused, len(sizes), numbers, device))
        if cuda_fbgemm():
            found.append(_fbgemm(rows, model, choice, numbers, device))
    return found


def _examples(ids: JaggedIds, features: int) -> Tensor:
    """[B, F] int32, the ids of an example side by side."""
    return ids.values.view(features, -1).T.contiguous()


class _Loop(nn.Module):
    def __init__(self, rows: Tensor, sizes: Sequence[int], network: nn.Module) -> None:
        super().__init__()
        self.tables, self.network = torch.split(rows, list(sizes)), network

    def forward(self, numbers: Tensor, ids: Tensor) -> Tensor:
        """[B, 13] and [F, B] -> [B, 1]."""
        found = [F.embedding_bag(one[:, None], rows, mode="sum") for one, rows in zip(ids, self.tables, strict=True)]
        scores: Tensor = self.network(torch.cat([numbers, *found], dim=1))
        return scores


class _Fused(nn.Module):
    starts: Tensor
    rows: Tensor

    def __init__(self, rows: Tensor, sizes: Sequence[int], network: nn.Module) -> None:
        super().__init__()
        counts = torch.tensor(sizes, dtype=torch.int32)
        self.register_buffer("starts", (counts.cumsum(0, dtype=torch.int32) - counts).to(rows.device))
        self.register_buffer("rows", rows)
        self.network = network

    def forward(self, numbers: Tensor, ids: Tensor) -> Tensor:
        """[B, 13] and [B, F] -> [B, 1]."""
        found = F.embedding(ids + self.starts, self.rows).flatten(1)
        scores: Tensor = self.network(torch.cat([numbers, found], dim=1))
        return scores


class _Staged:
    """Buffers of one batch size: pinned ones, and those on the device."""

    def __init__(self, numbers: Tensor, ids: Tensor, device: torch.device) -> None:
        pin = device.type == "cuda"
        self.pinned = [torch.empty(one.shape, dtype=one.dtype, pin_memory=pin) for one in (numbers, ids)]
        self.there = [torch.empty(one.shape, dtype=one.dtype, device=device) for one in (numbers, ids)]

    def load(self, given: Sequence[Tensor]) -> None:
        """Launch the copies of a batch."""
        for new, pinned, there in zip(given, self.pinned, self.there, strict=True):
            pinned.copy_(new)
            there.copy_(pinned, non_blocking=True)


def _plain(
    name: str,
    kind: Kind,
    module: nn.Module,
    order: Callable[[JaggedIds], Tensor],
    numbers: Callable[[int], Tensor],
    device: torch.device,
) -> Contender:
    staged: dict[int, _Staged] = {}

    def run(given: tuple[Tensor, Tensor]) -> Tensor:
        size = len(given[0])
        if size not in staged:
            staged[size] = _Staged(*given, device)
        staged[size].load(given)
        scores: Tensor = module(*staged[size].there)
        return scores.cpu()

    return Contender(name, kind, "fp32", lambda ids: (numbers(ids.size), order(ids)), run)


def _compiled(module: _Fused, features: int, numbers: Callable[[int], Tensor], device: torch.device) -> Contender:
    """Its inputs lie where they lay when it was captured, so that it need not copy them."""
    made: dict[int, tuple[_Staged, Any]] = {}

    def run(given: tuple[Tensor, Tensor]) -> Tensor:
        size = len(given[0])
        if size not in made:
            staged = _Staged(*given, device)
            for one in staged.there:
                torch._dynamo.mark_static_address(one)
            made[size] = staged, torch.compile(module, mode="max-autotune", dynamic=False)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                for _ in range(3):  # it captures at the second call or the third
                    _scored(*made[size], given)
        return _scored(*made[size], given)

    def prepare(ids: JaggedIds) -> tuple[Tensor, Tensor]:
        return numbers(ids.size), _examples(ids, features)

    return Contender("torch-compile", "tuned", "fp32", prepare, run)


def _scored(staged: _Staged, module: Callable[..., Tensor], given: Sequence[Tensor]) -> Tensor:
    torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
    staged.load(given)
    return module(*staged.there).cpu()


def _fbgemm(
    rows: Tensor, model: RankingModel, choice: Choice, numbers: Callable[[int], Tensor], device: torch.device
) -> Contender:
    spec = model.tables.spec
    sizes = [spec.table[one.table].rows for one in spec.pooled]
    lookup, lane = _nbit(rows, sizes, device), Lane(device, "fp32")
    made: dict[int, tuple[Tensor, Tensor, Tensor, Any, Any]] = {}

    def bound(given: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor, Any, Any]:
        """Pinned numbers, ids and scores of a batch size, the graph, and what has the memory that it works in."""
        (size, columns), ids = given[0].shape, given[1].numel()
        at = -(-4 * size * columns // 16) * 16
        pinned = host(at + 4 * ids, device)
        there, back = torch.zeros_like(pinned, device=device), host(4 * size, device)
        out = torch.zeros(size, 1, device=device)
        dense, packed = there[: 4 * size * columns].view(torch.float32).view(size, columns), there[at:]
        offsets = torch.arange(ids + 1, dtype=torch.int32, device=device)
        x = network_input(size, spec.layout, device)  # as our own network likes it best
        network = choice.engine(size).bind([x], out)

        def work() -> None:
            there.copy_(pinned, non_blocking=True)
            x[:, :columns].copy_(dense)
            x[:, columns:].copy_(lookup(packed.view(torch.int32), offsets))
            network()
            back.view(torch.float32).copy_(out[:, 0], non_blocking=True)

        graph = lane.captured(work)
        own = pinned[: 4 * size * columns].view(torch.float32).view(size, columns), pinned[at:].view(torch.int32)
        return *own, back.view(torch.float32), graph, work

    def run(given: tuple[Tensor, Tensor]) -> Tensor:
        size = len(given[0])
        if size not in made:
            made[size] = bound(given)
        dense, ids, scores, graph, _ = made[size]
        dense.copy_(given[0])
        ids.copy_(given[1])
        lane.run(graph)
        lane.wait()
        return scores.clone()

    return Contender("fbgemm-graph", "tuned", "fp32", lambda ids: (numbers(ids.size), ids.values.int()), run)


def _nbit(rows: Tensor, sizes: Sequence[int], device: torch.device) -> Callable[[Tensor, Tensor], Tensor]:
    """FBGEMM's module over rows that lie one table behind the other; ids are checked, which is its default."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from fbgemm_gpu.split_embedding_configs import SparseType
        from fbgemm_gpu.split_table_batched_embeddings_ops_common import BoundsCheckMode, EmbeddingLocation
        from fbgemm_gpu.split_table_batched_embeddings_ops_inference import IntNBitTableBatchedEmbeddingBagsCodegen

        module: Any = IntNBitTableBatchedEmbeddingBagsCodegen(
            [("", size, rows.shape[1], SparseType.FP32, EmbeddingLocation.DEVICE) for size in sizes],
            device=device,
            output_dtype=SparseType.FP32,
            bounds_check_mode=BoundsCheckMode.WARNING,
        )
    # `initialize_weights` would make rows of its own, and fill them.
    module.initialize_logical_weights_placements_and_offsets()
    module.weights_dev = rows.view(torch.uint8).view(-1)
    starts = torch.tensor([0, *sizes[:-1]], dtype=torch.int64).cumsum(0) * rows.shape[1] * 4
    module.weights_offsets = starts.to(device)
    module.weight_initialized = True
    found: Callable[[Tensor, Tensor], Tensor] = module
    return found
