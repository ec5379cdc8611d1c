"""Random look-ups for the GPU's kernels, and what must come out, in float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from hypothesis import strategies as st
from torch import Tensor

from recsys.data.batch import JaggedIds
from recsys.dataflow.kernels.gpu.blocks import Blocks, Shapes
from recsys.dataflow.kernels.gpu.kernels import GpuKernels, GpuSlot
from recsys.dataflow.kernels.gpu.rows import Hot, place
from recsys.dataflow.kernels.reference import Slot
from recsys.dataflow.storage import Rows, Source, Storage
from recsys.dataflow.workload import Dtype
from tests.dataflow import slots as made

DIMS = (1, 3, 16, 24, 64, 128, 200)
TOLERANCE = {torch.float32: 1e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}
"""Of x: the norm of the error ÷ that of the sums of absolute values, from which alone rounding follows."""


@dataclass(frozen=True)
class Buffer:
    """x [B, width] in a larger piece of memory, which is NaN all over."""

    memory: Tensor
    x: Tensor

    @classmethod
    def made(
        cls, size: int, width: int, dtype: torch.dtype, device: torch.device, gap: int = 0, offset: int = 0
    ) -> Buffer:
        """Rows begin `width + gap` columns after one another, the first after `offset`."""
        stride = width + gap
        memory = torch.full((offset + size * stride + 3,), float("nan"), dtype=dtype, device=device)
        return cls(memory, memory.as_strided((size, width), (stride, 1), offset))

    def written(self) -> Tensor:
        """x on the CPU in float64; whatever lies between its rows must be as it was."""
        found = self.x.double().cpu()
        self.x.fill_(float("nan"))
        assert self.memory.isnan().all()
        return found


def exact(slots: Sequence[Slot], ids: JaggedIds, width: int) -> tuple[Tensor, Tensor, int]:
    """What x must hold, NaN where no slot writes; the sums of absolute values; how many ids are out of range."""
    x, size = (torch.full((ids.size, width), float("nan"), dtype=torch.float64) for _ in range(2))
    unknown = 0
    for slot in slots:
        values, lengths, weights = ids.feature(slot.feature)
        lengths = torch.ones_like(values) if lengths is None else lengths
        known = (values >= 0) & (values < len(slot.rows.data))
        unknown += int((~known).sum())
        rows, large = _read(slot.rows, torch.where(known, values, 0).long())
        weight = torch.ones(len(values)).double() if weights is None else weights.double()
        bags = torch.repeat_interleave(torch.arange(ids.size), lengths.long())
        divide = lengths.clamp(min=1).double().unsqueeze(1) if slot.pooling == "mean" else 1.0
        columns = slice(slot.column, slot.column + slot.rows.dim)
        for out, read, scale in ((x, rows, weight), (size, large, weight.abs())):
            sums = torch.zeros(ids.size, slot.rows.dim).double().index_add_(0, bags, read * scale.unsqueeze(1))
            out[:, columns] = sums / divide
    return x, size, unknown


def _read(rows: Rows, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Rows as they are stored, and how large the numbers are that they are made from."""
    stored = Rows(rows.data[ids], rows.dim, rows.dtype).read().double()
    if rows.dtype != "int8":
        return stored, stored.abs()
    bias = rows.data[ids][:, -4:].flatten().clone().view(-1, 4).view(torch.float32).double().abs()  # a copy is aligned
    return stored, (stored - bias).abs() + bias


def error(found: Tensor, expected: Tensor, size: Tensor) -> float:
    """Norm-relative; NaN must stand where nothing is written, and nowhere else."""
    assert torch.equal(found.isnan(), expected.isnan())
    off, norm = (float(one.nan_to_num().norm()) for one in (found - expected, size))
    return off / norm if norm else off


@dataclass(frozen=True)
class Problem:
    """A launch: all that it depends on."""

    slots: list[Slot]
    hot: list[Hot]
    means: list[float]
    ids: JaggedIds
    shapes: Shapes
    x: torch.dtype
    gap: int
    offset: int
    checked: bool

    def check(self, device: torch.device) -> None:
        """Launch, and compare with what must come out."""
        width = made.width(self.slots)
        buffer = Buffer.made(self.ids.size, width, self.x, device, self.gap, self.offset)
        unknown = torch.full((1,), 5, dtype=torch.int32, device=device)
        ids = self.ids.to(device)
        kernels = self.kernels(device)  # kept until it has run: rows in host memory go with it
        kernels.launch(ids.values, ids.offsets, ids.weights, buffer.x, unknown)
        expected, size, wrong = exact(self.slots, self.ids, width)
        assert error(buffer.written(), expected, size) < TOLERANCE[self.x]
        assert int(unknown) == 5 + wrong

    def kernels(self, device: torch.device) -> GpuKernels:
        """For its slots, their rows placed."""
        rows = {slot.name: slot.rows for slot in self.slots}
        placed = place(rows, dict(zip(rows, self.hot, strict=True)), device)
        slots = [
            GpuSlot(slot.name, slot.feature, placed[slot.name], slot.column, slot.pooling, mean)
            for slot, mean in zip(self.slots, self.means, strict=True)
        ]
        return GpuKernels(slots, device, self.checked, Blocks.fixed(self.shapes))


def kernels(
    slots: Sequence[Slot], device: torch.device, checked: bool = True, ids: float = 1.0, blocks: Blocks | None = None
) -> GpuKernels:
    """For slots whose rows all lie on the device."""
    rows = {slot.name: slot.rows for slot in slots}
    placed = place(rows, dict.fromkeys(rows, True), device)
    of_gpu = [GpuSlot(s.name, s.feature, placed[s.name], s.column, s.pooling, ids) for s in slots]
    return GpuKernels(of_gpu, device, checked, blocks)


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    """One to four look-ups of tables of any dim and type, in any place, of any ids."""
    seed = draw(st.integers(0, 1 << 30))
    slots = _slots(draw, seed)
    longest = draw(st.sampled_from([None, None, 0, 3, 20]))
    size = draw(st.sampled_from([0, 1, 2, 7, 33]))
    checked = draw(st.booleans())
    index = draw(st.sampled_from([torch.int32, torch.int64]))
    ids = made.ids(slots, size, longest, draw(st.booleans()), index, wrong=checked, seed=seed)
    if ids.offsets is not None:
        ids = replace(ids, offsets=ids.offsets.to(draw(st.sampled_from([torch.int32, torch.int64]))))
    if checked or len({len(slot.rows.data) for slot in slots}) == 1:  # a feature that others read, too
        slots = [replace(slot, feature=draw(st.integers(0, len(slots) - 1))) for slot in slots]
    most = 1 << (max(size, 1) - 1).bit_length()
    shapes = Shapes(
        short=max(draw(st.sampled_from([1, 2, 8, 64])), most // 4),
        long=max(draw(st.sampled_from([1, 2, 4])), most // 4),
        lanes=draw(st.sampled_from([2, 4, 16])),
    )
    return Problem(
        slots,
        [_hot(draw, len(slot.rows.data), seed) for slot in slots],
        [draw(st.sampled_from([1.0, 30.0])) for _ in slots],
        ids,
        shapes,
        draw(st.sampled_from(list(TOLERANCE))),
        draw(st.integers(0, 9)),
        draw(st.sampled_from([0, 1, 2, 8])),
        checked,
    )


def _slots(draw: st.DrawFn, seed: int) -> list[Slot]:
    """Their columns lie in another order than they, some with free ones between."""
    generator = torch.Generator().manual_seed(seed)
    count = draw(st.integers(1, 4))
    alike = draw(st.booleans())  # one launch, or several
    kinds: list[tuple[int, Dtype, int]] = [
        (draw(st.sampled_from(DIMS)), draw(st.sampled_from(["fp32", "fp16", "int8"])), draw(st.sampled_from(ROWS)))
        for _ in range(count)
    ]
    if alike:
        kinds = [(*kinds[0][:2], rows) for _, _, rows in kinds]
    sources = {
        str(k): Source(torch.randn(rows, dim, generator=generator), dtype) for k, (dim, dtype, rows) in enumerate(kinds)
    }
    tables = Storage(sources).tables
    columns, column = [0] * count, 0
    for k in draw(st.permutations(range(count))):
        columns[k] = column + draw(st.sampled_from([0, 0, 1, 4]))
        column = columns[k] + kinds[k][0]
    return [Slot(str(k), k, tables[str(k)], columns[k], draw(st.sampled_from(["sum", "mean"]))) for k in range(count)]


ROWS = (1, 7, 31, 32, 33, 100, 1000)


def _hot(draw: st.DrawFn, rows: int, seed: int) -> Hot:
    """All rows on the device, none, or some of them, even if these are all or none."""
    share = draw(st.sampled_from([True, True, False, 0.0, 0.1, 0.5, 0.9, 1.0]))
    if isinstance(share, bool):
        return share
    return torch.rand(rows, generator=torch.Generator().manual_seed(seed)) < share
