"""Run look-ups on a GPU: tables placed by a plan, and one launch for all of a batch's columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from recsys.dataflow.kernels.gpu.kernels import GpuKernels, GpuSlot
from recsys.dataflow.kernels.gpu.rows import GpuRows, Hot, place
from recsys.dataflow.storage import Rows
from recsys.errors import ConfigError
from recsys.layers.tables import TableSpec

__all__ = ["GpuExecutor", "cuda_device"]


class GpuExecutor:
    """The pooled look-ups of a model's tables on a GPU.

    It gives the numbers of `recsys.dataflow.executor.TableExecutor`, up to the order of sums and x's dtype.

    Args:
        spec: What is looked up where.
        rows: The stored rows of every table, by name; they are copied.
        device: The GPU. With a CPU, Triton's interpreter does the work: for tests.
        hot: For each table, which rows lie on the device; by default all.
        ids: Look-up -> ids in a bag, on average; by default one.
        checked: Whether ids may be out of range: these read row 0, and are counted.

    Raises:
        ConfigError: When the tables do not fit.
        MissingExtraError: When Triton is not here.
    """

    def __init__(
        self,
        spec: TableSpec,
        rows: Mapping[str, Rows],
        device: torch.device,
        hot: Mapping[str, Hot] | None = None,
        ids: Mapping[str, float] | None = None,
        checked: bool = True,
    ) -> None:
        self.layout, self.device = spec.layout, device
        self.rows: dict[str, GpuRows] = place(rows, hot or dict.fromkeys(rows, True), device)
        self._kernels = GpuKernels(self._slots(spec, ids or {}), device, checked)

    def _slots(self, spec: TableSpec, ids: Mapping[str, float]) -> list[GpuSlot]:
        """Where each look-up's columns begin: those of one field stand one after the other."""
        position = {name: f for f, name in enumerate(spec.features)}
        filled: dict[str, int] = {}
        slots = []
        for lookup in spec.pooled:
            rows = self.rows[lookup.table]
            column = self.layout.slices[lookup.slot].start + filled.get(lookup.slot, 0)
            filled[lookup.slot] = filled.get(lookup.slot, 0) + rows.dim
            pooling: Literal["sum", "mean"] = "mean" if lookup.pooling == "mean" else "sum"
            slots.append(
                GpuSlot(lookup.name, position[lookup.feature], rows, column, pooling, ids.get(lookup.name, 1.0))
            )
        return slots

    def prepare(self, batches: Sequence[int], single: bool) -> None:
        """Make what launches of batches of these sizes need; `single`: every bag holds one id."""
        for batch in batches:
            self._kernels.prepare(batch, single)

    def launch(
        self, values: Tensor, offsets: Tensor | None, weights: Tensor | None, x: Tensor, unknown: Tensor
    ) -> None:
        """Fill the columns of the pooled look-ups; see `GpuKernels.launch`. All tensors lie on the device."""
        self._kernels.launch(values, offsets, weights, x, unknown)


def cuda_device() -> torch.device:
    """The GPU that torch sees first.

    Raises:
        ConfigError: When there is none.
    """
    if not torch.cuda.is_available():
        why = "this torch is built without CUDA" if torch.version.cuda is None else "no driver or no card answers"
        raise ConfigError(f"no GPU is here ({why}): use --device cpu, or run this where `nvidia-smi` shows one")
    return torch.device("cuda", torch.cuda.current_device())
