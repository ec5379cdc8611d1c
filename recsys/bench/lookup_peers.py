"""How others look up the same ids in the same rows, each as its users would, and each at its best.

Everybody gets the same ids, as int32: those are read fastest. A batch is in the order that its contender likes best
before the clock runs, for torch the bags of an example side by side. All give float32 [B, sum of dims].

========================  ========================================================================================
``torch-embedding``       all tables in one, one `F.embedding` of ids plus each table's first row; one id a bag
``torch-index-select``    the same by `torch.index_select`, which can write into a buffer; tuned it does
``torch-embedding-bag``   the same with one `F.embedding_bag`
``torch-loop``            an `F.embedding_bag` for each table, and `torch.cat`
``torchrec``              `EmbeddingBagCollection`
``fbgemm-split``          `SplitTableBatchedEmbeddingBagsCodegen`, which trains
``fbgemm-nbit-…``         `IntNBitTableBatchedEmbeddingBagsCodegen`, which serves, of rows as fp32, fp16 and int8
========================  ========================================================================================

Each is there twice. `stock` has torch's ordinary memory for rows and result; `tuned` has huge pages for the rows and,
see `recycled`, a result in memory that is not new each time. The loop and torchrec are stock only: what they call is
what ``torch-embedding-bag`` calls once. FBGEMM is told not to check ids in a pass of its own, by which it is faster;
ours are checked.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recsys.data.batch import JaggedIds
from recsys.dataflow.workload import Dtype

__all__ = ["DTYPES", "INSTALL", "Contender", "Given", "absent", "fbgemm_int8", "peers", "recycled"]

Kind = Literal["ours", "stock", "tuned"]
DTYPES: tuple[Dtype, ...] = ("fp32", "fp16", "int8")
INSTALL = {"torchrec": "python -m recsys.install", "fbgemm_gpu": "python -m recsys.install"}


@dataclass(frozen=True)
class Contender:
    """Someone who looks up.

    Attributes:
        name: As the module describes it.
        kind: Whose, and in which memory.
        dtype: Of its rows.
        prepare: A batch as it likes it best; not timed.
        run: Looks up what `prepare` made.
    """

    name: str
    kind: Kind
    dtype: Dtype
    prepare: Callable[[JaggedIds], Any]
    run: Callable[[Any], Tensor]


@dataclass(frozen=True)
class Given:
    """Tables of one dim, one behind the other.

    Attributes:
        sizes: Rows of each.
        rows: [sum of sizes, stored columns] for every dtype; int8 as `fbgemm_int8` makes them.
    """

    sizes: Sequence[int]
    rows: Mapping[Dtype, Tensor]

    @property
    def dim(self) -> int:
        """Columns of every table."""
        return self.rows["fp32"].shape[1]

    @property
    def starts(self) -> Tensor:
        """[T] the first row of each table, int32."""
        sizes = torch.tensor(self.sizes, dtype=torch.int32)
        return sizes.cumsum(0, dtype=torch.int32) - sizes

    def tables(self) -> list[Tensor]:
        """The float32 rows of each table."""
        return list(torch.split(self.rows["fp32"], list(self.sizes)))


def peers(given: Given, kind: Literal["stock", "tuned"], single: bool) -> list[Contender]:
    """Everybody who is installed; `single`: every bag holds one id."""
    found = [_embedding_bag(given, kind)]
    if single:
        found += [_embedding(given, kind), _index_select(given, kind)]
    if kind == "stock":
        found.append(_loop(given))
    with warnings.catch_warnings():  # FBGEMM's CPU build warns of each kernel that it leaves out
        warnings.simplefilter("ignore")
        if kind == "stock" and _has("torchrec"):
            found.append(_torchrec(given))
        if _has("fbgemm_gpu"):
            found += [_split(given, kind), *(_nbit(given, kind, dtype) for dtype in DTYPES)]
    return found


def absent() -> dict[str, str]:
    """What is not installed, and how it is."""
    return {name: command for name, command in INSTALL.items() if not _has(name)}


def _has(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of mallopt


@contextlib.contextmanager
def recycled() -> Iterator[None]:
    """Within it memory that was freed is used again; else a large result is new each time, page fault by page fault.

    glibc's own rule for what it keeps, which moves while a process runs, does not come back afterwards: measure stock
    peers before. Without glibc nothing changes.
    """
    libc = ctypes.CDLL(None)
    set_option = getattr(libc, "mallopt", lambda option, value: None)
    set_option(_MMAP_MAX, 0)
    set_option(_TRIM_THRESHOLD, 1 << 30)
    try:
        yield
    finally:
        set_option(_MMAP_MAX, 1 << 16)
        set_option(_TRIM_THRESHOLD, 128 << 10)
        getattr(libc, "malloc_trim", lambda pad: None)(0)


# --- torch


def _embedding(given: Given, kind: Kind) -> Contender:
    starts, rows = given.starts, given.rows["fp32"]

    def run(ids: Tensor) -> Tensor:
        return F.embedding(ids + starts, rows).view(len(ids), -1)

    return Contender("torch-embedding", kind, "fp32", partial(_examples, len(starts)), run)


def _index_select(given: Given, kind: Kind) -> Contender:
    starts, rows = given.starts, given.rows["fp32"]
    buffers: dict[int, Tensor] = {}

    def run(ids: Tensor) -> Tensor:
        return torch.index_select(rows, 0, (ids + starts).view(-1)).view(len(ids), -1)

    def into(ids: Tensor) -> Tensor:
        size = len(ids)
        if size not in buffers:
            buffers.clear()
            buffers[size] = torch.empty(size * len(starts), given.dim)
        return torch.index_select(rows, 0, (ids + starts).view(-1), out=buffers[size]).view(size, -1)

    prepare = partial(_examples, len(starts))
    return Contender("torch-index-select", kind, "fp32", prepare, into if kind == "tuned" else run)


def _examples(features: int, ids: JaggedIds) -> Tensor:
    """[B, features] ids, of bags of one."""
    return ids.values.view(features, -1).T.contiguous()


def _embedding_bag(given: Given, kind: Kind) -> Contender:
    starts, rows = given.starts, given.rows["fp32"]
    width = len(starts) * given.dim

    def run(batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        ids, first, offsets = batch
        return F.embedding_bag(ids + first, rows, offsets, mode="sum", include_last_offset=True).view(-1, width)

    return Contender("torch-embedding-bag", kind, "fp32", partial(_bags, starts), run)


def _bags(starts: Tensor, ids: JaggedIds) -> tuple[Tensor, Tensor, Tensor]:
    """Ids, the first row of each one's table, and offsets, with the bags of an example side by side."""
    lengths = ids.lengths()
    begins, sizes = (part.view_as(lengths).T.reshape(-1) for part in (ids.full_offsets()[:-1], lengths))
    offsets = F.pad(sizes.cumsum(0), (1, 0))
    index = torch.arange(len(ids.values)) + torch.repeat_interleave(begins - offsets[:-1], sizes)
    first = torch.repeat_interleave(starts.repeat(ids.size), sizes)
    return ids.values[index], first, offsets.int()


def _loop(given: Given) -> Contender:
    tables = given.tables()

    def prepare(ids: JaggedIds) -> list[tuple[Tensor, Tensor]]:
        found = []
        for f in range(len(tables)):
            values, _, _ = ids.feature(f)
            offsets = ids.full_offsets()[f * ids.size : (f + 1) * ids.size]
            found.append((values.clone(), (offsets - offsets[0]).int()))
        return found

    def run(batch: list[tuple[Tensor, Tensor]]) -> Tensor:
        pairs = zip(tables, batch, strict=True)
        return torch.cat([F.embedding_bag(ids, rows, at, mode="sum") for rows, (ids, at) in pairs], dim=1)

    return Contender("torch-loop", "stock", "fp32", prepare, run)


def _torchrec(given: Given) -> Contender:
    from torchrec.modules.embedding_configs import EmbeddingBagConfig
    from torchrec.modules.embedding_modules import EmbeddingBagCollection
    from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

    names = [f"t{k}" for k in range(len(given.sizes))]
    configs = [
        EmbeddingBagConfig(n, given.dim, name=x, feature_names=[x]) for n, x in zip(given.sizes, names, strict=True)
    ]
    module = EmbeddingBagCollection(tables=configs, device=torch.device("meta"))
    for name, rows in zip(names, given.tables(), strict=True):
        module.embedding_bags[name].weight = nn.Parameter(rows, requires_grad=False)

    def prepare(ids: JaggedIds) -> Any:
        return KeyedJaggedTensor(names, ids.values.clone(), lengths=ids.lengths().view(-1).int())

    return Contender("torchrec", "stock", "fp32", prepare, lambda batch: module(batch).values())


# --- FBGEMM


def _split(given: Given, kind: Kind) -> Contender:
    from fbgemm_gpu.split_embedding_configs import EmbOptimType
    from fbgemm_gpu.split_table_batched_embeddings_ops_common import BoundsCheckMode, EmbeddingLocation
    from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
        ComputeDevice,
        SplitTableBatchedEmbeddingBagsCodegen,
    )

    module = SplitTableBatchedEmbeddingBagsCodegen(
        [(size, given.dim, EmbeddingLocation.HOST, ComputeDevice.CPU) for size in given.sizes],
        optimizer=EmbOptimType.EXACT_SGD,
        device=torch.device("cpu"),
        bounds_check_mode=BoundsCheckMode.NONE,
    )
    module.weights_host = nn.Parameter(given.rows["fp32"].view(-1), requires_grad=False)

    return Contender("fbgemm-split", kind, "fp32", _int32, lambda batch: module(*batch))


def _nbit(given: Given, kind: Kind, dtype: Dtype) -> Contender:
    from fbgemm_gpu.split_embedding_configs import SparseType
    from fbgemm_gpu.split_table_batched_embeddings_ops_common import BoundsCheckMode, EmbeddingLocation
    from fbgemm_gpu.split_table_batched_embeddings_ops_inference import IntNBitTableBatchedEmbeddingBagsCodegen

    module = IntNBitTableBatchedEmbeddingBagsCodegen(
        [("", size, given.dim, SparseType(dtype), EmbeddingLocation.HOST) for size in given.sizes],
        device="cpu",
        output_dtype=SparseType.FP32,
        bounds_check_mode=BoundsCheckMode.NONE,
        row_alignment=1,
        cacheline_alignment=False,  # tables begin where the one before ends: its default leaves gaps
    )
    # `initialize_weights` would make rows of its own, and fill them.
    module.initialize_logical_weights_placements_and_offsets()
    module.weights_host = given.rows[dtype].view(torch.uint8).view(-1)
    module.weight_initialized = True

    return Contender(f"fbgemm-nbit-{dtype}", kind, dtype, _int32, lambda batch: module(*batch))


def _int32(ids: JaggedIds) -> tuple[Tensor, Tensor]:
    return ids.values.clone(), ids.full_offsets().int()


def fbgemm_int8(rows: Tensor) -> Tensor:
    """Rows as FBGEMM's nbit keeps them: float16 scale and bias, then a byte a column."""
    low, high = rows.aminmax(dim=1, keepdim=True)
    header = torch.cat([(high - low) / 255, low], dim=1).half()
    scale, bias = torch.split(header.float(), 1, dim=1)
    q = ((rows - bias) / scale).round_().clamp_(0, 255).to(torch.uint8)
    return torch.cat([header.view(torch.uint8), q], dim=1)
