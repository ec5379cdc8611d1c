"""Who looks up on a GPU: we, and FBGEMM's inference look-up, each with ids checked and unchecked.

All get the same ids as int32 in the device's memory and give float16 [B, sum of dims]. We write into a buffer that is
there; FBGEMM allocates its result, which costs nothing in a captured graph. FBGEMM checks ids by default, in a kernel
of its own before the look-up, and warns; we check them in the same kernel, and count.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from recsys.bench.gpu_rig import GpuRig
from recsys.bench.lookup_peers import INSTALL
from recsys.data.batch import JaggedIds
from recsys.dataflow.kernels.fbgemm import installed
from recsys.dataflow.kernels.gpu.kernels import GpuKernels
from recsys.dataflow.workload import Dtype

__all__ = ["Contender", "absent", "cuda_fbgemm", "fbgemm", "ours", "version"]


@dataclass(frozen=True)
class Contender:
    """Someone who looks up.

    Attributes:
        name: Who.
        kind: Ours, or a peer: as it is used by default (`stock`), or told to be fastest (`tuned`).
        dtype: Of its rows.
        checked: Whether it expects ids that are out of range.
        run: Looks up a batch that lies on the device.
    """

    name: str
    kind: Literal["ours", "stock", "tuned"]
    dtype: Dtype
    checked: bool
    run: Callable[[JaggedIds], Tensor]


def absent(device: torch.device) -> Mapping[str, str]:
    """Peers that are not here, and how they come."""
    return {} if _there(device) else {"fbgemm_gpu": INSTALL["fbgemm_gpu"]}


def version(device: torch.device) -> str | None:
    """FBGEMM's; None where it is not here."""
    if not _there(device):
        return None
    import fbgemm_gpu

    return str(fbgemm_gpu.__version__)


def _there(device: torch.device) -> bool:
    return device.type == "cuda" and cuda_fbgemm()


def cuda_fbgemm() -> bool:
    """Whether FBGEMM is here, built for GPUs."""
    if not installed():
        return False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import fbgemm_gpu

    return getattr(fbgemm_gpu, "__variant__", "") == "cuda"


def ours(kernels: GpuKernels, dtype: Dtype, checked: bool, x: Tensor, unknown: Tensor) -> Contender:
    """Our kernels, writing into x."""

    def run(ids: JaggedIds) -> Tensor:
        kernels.launch(ids.values, ids.offsets, None, x, unknown)
        return x

    return Contender("recsys", "ours", dtype, checked, run)


def fbgemm(rig: GpuRig, dtype: Dtype) -> list[Contender]:
    """FBGEMM over the rig's rows, as it is by default and without its check; nothing where it is not here."""
    if not _there(rig.device):
        return []
    return [_nbit(rig, dtype, checked) for checked in (True, False)]


def _nbit(rig: GpuRig, dtype: Dtype, checked: bool) -> Contender:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from fbgemm_gpu.split_embedding_configs import SparseType
        from fbgemm_gpu.split_table_batched_embeddings_ops_common import BoundsCheckMode, EmbeddingLocation
        from fbgemm_gpu.split_table_batched_embeddings_ops_inference import IntNBitTableBatchedEmbeddingBagsCodegen

    memory, tables = rig.fbgemm[dtype], rig.tables()
    module = IntNBitTableBatchedEmbeddingBagsCodegen(
        [("", size, rig.dim, SparseType(dtype), EmbeddingLocation.DEVICE) for size in rig.sizes],
        feature_table_map=tables,
        device=rig.device,
        output_dtype=SparseType.FP16,
        bounds_check_mode=BoundsCheckMode.WARNING if checked else BoundsCheckMode.NONE,
    )
    # `initialize_weights` would make rows of its own, and fill them.
    module.initialize_logical_weights_placements_and_offsets()
    module.weights_dev = memory.data
    module.weights_offsets = torch.tensor([memory.starts[table] for table in tables], device=rig.device)
    module.weight_initialized = True
    offsets: dict[int, Tensor] = {}

    def run(ids: JaggedIds) -> Tensor:
        if ids.offsets is not None:
            at = ids.offsets
        else:  # one id a bag: the same for all batches of a size, and FBGEMM wants to be told
            count = ids.values.numel()
            if count not in offsets:
                offsets[count] = torch.arange(count + 1, dtype=torch.int32, device=rig.device)
            at = offsets[count]
        found: Tensor = module(ids.values, at)
        return found

    return Contender(f"fbgemm-nbit-{dtype}", "stock" if checked else "tuned", dtype, checked, run)
