"""The C++ kernels: every look-up of a batch in one call, written into the caller's buffer.

They are built when recsys is installed. `native` is None where they were not, and `missing` says why.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import torch
from torch import Tensor

from recsys.data.batch import JaggedIds
from recsys.dataflow.kernels.reference import Slot
from recsys.dataflow.plan import Piece, Schedule
from recsys.errors import ConfigError, DataError

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["CpuKernels", "isas", "missing", "native"]

native: ModuleType | None = None
missing = ""
try:
    from recsys.dataflow.kernels import _native as native  # type: ignore[attr-defined, no-redef]
except ImportError as error:
    missing = str(error)

_STRATEGIES = {"gather": 0, "resident": 0, "stream": 1, "vector": 2}
_DTYPES = {"fp32": 0, "fp16": 1, "int8": 2}


def isas() -> list[str]:
    """Instruction sets that this build has and this processor runs, the best first; empty where nothing was built."""
    return [] if native is None else list(native.isas())


class CpuKernels:
    """Look-ups by the C++ kernels.

    Args:
        slots: What to look up.
        isa: The instruction set; by default the best that the processor has.
        cpus: CPUs to share a batch out among, the cores of a plan. Each has a thread; the caller's works for the CPU
            that it happens to be on.
        schedules: Who looks up what; by default one core does all.
        timed: Keep pieces apart, for `times`; else those that are alike are done together, which is faster.

    Raises:
        ConfigError: Where the kernels were not built, the processor does not run `isa`, or a schedule or a slot is of
            what is not there.
    """

    def __init__(
        self,
        slots: Sequence[Slot],
        isa: str | None = None,
        cpus: Sequence[int] = (),
        schedules: Sequence[Schedule] = (),
        timed: bool = False,
    ) -> None:
        if native is None:
            raise ConfigError(f"the C++ look-up kernels are not here ({missing}): install recsys with a C++ compiler")
        isa = isa or isas()[0]
        if isa not in isas():
            raise ConfigError(f"this processor runs the kernels of {', '.join(isas())}, not of {isa}")
        self.slots = tuple(slots)  # keeps the rows alive: the kernels hold addresses
        self.isa = isa
        self._pool = native.Pool(list(cpus)) if len(cpus) > 1 else None
        self._native: Any = native.Executor(isa, [_described(slot) for slot in slots], self._pool)
        place = {slot.name: k for k, slot in enumerate(slots)}
        if schedules and len(place) < len(slots):
            raise ConfigError("a schedule needs look-ups of different names, but two are named alike")
        for schedule in schedules:
            pieces = [self._piece(piece, place) for piece in schedule.pieces]
            try:
                self._native.add_schedule(schedule.batch, pieces, not timed)
            except ValueError as error:
                raise ConfigError(f"schedule for {schedule.batch}: {error}: make a new plan") from None
        self._run = self._native.run
        self._features = max((slot.feature for slot in slots), default=-1) + 1
        self._width = max((slot.column + slot.rows.dim for slot in slots), default=0)

    def _piece(self, piece: Piece, place: dict[str, int]) -> tuple[int | float, ...]:
        at = place.get(piece.lookup)
        if at is None:
            raise ConfigError(f"a piece of the schedule is of look-up `{piece.lookup}`, which is not here")
        first, last = piece.rows or (0, self.slots[at].rows.data.shape[0])
        return at, piece.core, _STRATEGIES[piece.strategy], first, last, *piece.share

    def look_up(self, ids: JaggedIds, x: Tensor) -> int:
        """Fill the columns of every slot and return how many ids were out of range; these read row 0.

        Args:
            ids: B bags of every feature; packed ids and weights of another layout are copied first.
            x: [B, width] float32 on the CPU, its columns side by side; filled in place.

        Raises:
            DataError: When `x` does not fit, or offsets or weights do not fit the ids. Offsets are looked at on the
                way: `x` may then be filled in part.
        """
        arguments, _kept = self._arguments(ids, x)
        try:
            return int(self._run(*arguments))
        except ValueError as error:  # of offsets
            raise DataError(str(error)) from None

    def times(self, ids: JaggedIds, x: Tensor) -> list[int]:
        """Look up as `look_up` does, and return the nanoseconds of each of the schedule's pieces."""
        arguments, _kept = self._arguments(ids, x)
        try:
            return list(self._native.run_timed(*arguments))
        except ValueError as error:
            raise DataError(str(error)) from None

    def _arguments(self, ids: JaggedIds, x: Tensor) -> tuple[tuple[int | bool, ...], tuple[Tensor | None, ...]]:
        """What the kernels are called with, and the tensors that must live until they return."""
        # Each question to a tensor takes some 50 ns, and a small batch 500 in all: ask once, and explain elsewhere.
        values, offsets, weights = ids.values, ids.offsets, ids.weights
        shape, strides = x.shape, x.stride()
        bags = values.numel() if offsets is None else offsets.numel() - 1
        if (
            x.dtype is not torch.float32
            or len(shape) != 2
            or strides[1] != 1
            or shape[1] < self._width
            or len(ids.features) < self._features
            or bags != len(ids.features) * shape[0]
            or not (x.is_cpu and values.is_cpu)
            or (offsets is not None and not offsets.is_cpu)
            or (weights is not None and (not weights.is_cpu or weights.numel() != values.numel()))
        ):
            _refuse(x, ids, self._width, self._features)
        if offsets is not None and offsets.dtype is not torch.int64:
            offsets = offsets.long()
        if weights is not None and weights.dtype is not torch.float32:
            weights = weights.float()
        values, offsets, weights = _packed(values), _packed(offsets), _packed(weights)
        arguments = (
            values.data_ptr(),
            values.numel(),
            values.dtype is torch.int64,
            0 if offsets is None else offsets.data_ptr(),
            0 if weights is None else weights.data_ptr(),
            shape[0],
            x.data_ptr(),
            strides[0],
        )
        return arguments, (values, offsets, weights)


def _described(slot: Slot) -> tuple[int | bool, ...]:
    data = slot.rows.data
    if not data.is_cpu or len(data) < 1 or slot.feature < 0 or slot.column < 0:
        raise ConfigError(
            f"look-up `{slot.name}`: expected at least 1 row on the CPU, and a feature and a column from 0 on, "
            f"got {len(data)} rows on {data.device}, feature {slot.feature}, column {slot.column}"
        )
    return (
        data.data_ptr(),
        data.shape[0],
        data.stride(0) * data.element_size(),
        slot.rows.dim,
        _DTYPES[slot.rows.dtype],
        slot.feature,
        slot.column,
        slot.pooling == "mean",
        _skipped(slot),
    )


def _skipped(slot: Slot) -> int:
    """The address of the bits of rows that are skipped; 0: there are none."""
    if slot.skip is None:
        return 0
    words = -(-len(slot.rows.data) // 32)
    if slot.skip.dtype is not torch.int32 or slot.skip.shape != (words,) or not slot.skip.is_cpu:
        raise ConfigError(
            f"look-up `{slot.name}`: expected the rows to skip as int32 [{words}] on the CPU, got {slot.skip.dtype} "
            f"{tuple(slot.skip.shape)} on {slot.skip.device}"
        )
    return slot.skip.data_ptr()


Maybe = TypeVar("Maybe", Tensor, Tensor | None)


def _packed(tensor: Maybe) -> Maybe:
    return tensor if tensor is None or tensor.is_contiguous() else tensor.contiguous()


def _refuse(x: Tensor, ids: JaggedIds, width: int, features: int) -> NoReturn:
    """Say what does not fit."""
    values, offsets, weights = ids.values, ids.offsets, ids.weights
    if x.dim() != 2 or x.dtype is not torch.float32 or not x.is_cpu:
        raise DataError(
            f"expected a float32 buffer [B, width] on the CPU, got {x.dtype} {tuple(x.shape)} on {x.device}"
        )
    elsewhere = next((one for one in (values, offsets, weights) if one is not None and not one.is_cpu), None)
    if elsewhere is not None:
        raise DataError(f"expected ids, offsets and weights on the CPU, got some on {elsewhere.device}")
    if x.stride(1) != 1:
        raise DataError("the buffer's columns must lie side by side: pass a row-major tensor")
    if x.shape[1] < width:
        raise DataError(f"the look-ups fill {width} columns, the buffer has {x.shape[1]}")
    if len(ids.features) < features:
        raise DataError(f"the look-ups read {features} features, the batch has {len(ids.features)}")
    if weights is not None and weights.numel() != values.numel():
        raise DataError(f"expected a weight for each of the {values.numel()} ids, got {weights.numel()}")
    raise DataError(f"the buffer has {x.shape[0]} rows, the batch has {ids.size}")
