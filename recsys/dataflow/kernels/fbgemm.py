"""Look-ups by FBGEMM's inference kernels, of our rows where they lie: for where the C++ kernels could not be built."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor

from recsys.data.batch import JaggedIds
from recsys.dataflow.kernels.reference import Slot
from recsys.errors import ConfigError

__all__ = ["FbgemmKernels", "installed"]


def installed() -> bool:
    """Whether FBGEMM is here."""
    return importlib.util.find_spec("fbgemm_gpu") is not None


class FbgemmKernels:
    """One call of `IntNBitTableBatchedEmbeddingBagsCodegen` for all slots.

    Ids are checked in torch before, and the result is copied into the caller's buffer: FBGEMM does neither.

    Args:
        slots: What to look up: float32 or float16 rows, all of one `Storage`.

    Raises:
        ConfigError: Where FBGEMM is not installed, or rows are stored as it does not read them.
    """

    def __init__(self, slots: Sequence[Slot]) -> None:
        if not installed():
            raise ConfigError("FBGEMM is not installed: python -m recsys.install")
        odd = next((slot for slot in slots if slot.rows.dtype == "int8"), None)
        if odd is not None:
            raise ConfigError(f"FBGEMM reads int8 rows of another layout: store the table of `{odd.name}` as fp16")
        self.slots = tuple(slots)
        self._names = tuple(slot.name for slot in slots)
        self._rows = torch.tensor([slot.rows.data.shape[0] for slot in slots], dtype=torch.int64)
        self._module = _module(self.slots) if slots else None

    def look_up(self, ids: JaggedIds, x: Tensor) -> int:
        """Fill the slots' columns of x [B, width] and return how many ids were out of range; these read row 0."""
        if self._module is None:
            return 0
        ids.check()
        own = JaggedIds.stack(self._names, [ids.feature(slot.feature) for slot in self.slots])
        lengths = own.lengths()
        values = own.values.long()
        known = (values >= 0) & (values < torch.repeat_interleave(self._rows, lengths.sum(1)))
        weights = None if own.weights is None else own.weights.float()
        pooled = self.sums(torch.where(known, values, 0), own.full_offsets(), weights)
        column = 0
        for slot, bags in zip(self.slots, lengths, strict=True):
            part = pooled[:, column : column + slot.rows.dim]
            column += slot.rows.dim
            out = x[:, slot.column : slot.column + slot.rows.dim]
            out.copy_(part / bags.clamp(min=1).unsqueeze(1) if slot.pooling == "mean" else part)
        return int((~known).sum())

    def sums(self, values: Tensor, offsets: Tensor, weights: Tensor | None = None) -> Tensor:
        """FBGEMM itself: [B, sum of dims] of ids that are known to be right, int32 or int64 as `offsets` is.

        Args:
            values: Ids of all bags, slot by slot.
            offsets: [slots * B + 1] where each bag begins.
            weights: float32, one an id.
        """
        if self._module is None:
            raise ConfigError("expected at least one look-up, got none")
        found: Tensor = self._module(values, offsets, weights)
        return found


def _module(slots: Sequence[Slot]) -> torch.nn.Module:
    """FBGEMM's module over the memory that the rows are in, told where each table begins."""
    with warnings.catch_warnings():  # the CPU build warns of each kernel that it leaves out
        warnings.simplefilter("ignore")
        from fbgemm_gpu.split_embedding_configs import SparseType
        from fbgemm_gpu.split_table_batched_embeddings_ops_common import BoundsCheckMode, EmbeddingLocation
        from fbgemm_gpu.split_table_batched_embeddings_ops_inference import IntNBitTableBatchedEmbeddingBagsCodegen

        module: torch.nn.Module = IntNBitTableBatchedEmbeddingBagsCodegen(
            [
                ("", len(slot.rows.data), slot.rows.dim, SparseType(slot.rows.dtype), EmbeddingLocation.HOST)
                for slot in slots
            ],
            device="cpu",
            output_dtype=SparseType.FP32,
            bounds_check_mode=BoundsCheckMode.NONE,
            row_alignment=1,
        )
    module.initialize_logical_weights_placements_and_offsets()  # type: ignore[operator]
    memory = slots[0].rows.data.untyped_storage()
    if any(slot.rows.data.untyped_storage().data_ptr() != memory.data_ptr() for slot in slots):
        raise ConfigError("FBGEMM reads rows that lie in one storage: store all tables by one `Storage`")
    module.weights_host = torch.tensor([], dtype=torch.uint8).set_(memory)
    module.weights_offsets = torch.tensor([slot.rows.data.data_ptr() - memory.data_ptr() for slot in slots])
    module.weight_initialized = True  # type: ignore[assignment]
    return module
