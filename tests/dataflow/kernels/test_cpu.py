"""The C++ kernels against the reference, over everything that a batch can be."""

from __future__ import annotations

import gc
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Literal, get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recsys.data.batch import JaggedIds
from recsys.dataflow.kernels import cpu
from recsys.dataflow.kernels.cpu import CpuKernels, isas
from recsys.dataflow.kernels.reference import ReferenceKernels, Slot, look_up
from recsys.dataflow.plan import Piece, Schedule, Strategy, spread
from recsys.dataflow.storage import Rows
from recsys.dataflow.workload import Dtype
from recsys.errors import ConfigError, DataError
from tests.dataflow.slots import ids, slots, width

ROOT = Path(__file__).parents[3]
DTYPES: tuple[Dtype, ...] = ("fp32", "fp16", "int8")
DIMS = range(1, 513)
built = pytest.mark.skipif(cpu.native is None, reason=f"the C++ kernels were not built: {cpu.missing}")


def test_where_there_is_a_compiler_the_kernels_were_built_and_are_loaded() -> None:
    """A broken build must not pass for a machine without a compiler."""
    if cpu.native is None and not any(map(shutil.which, ("c++", "g++", "clang++"))):
        pytest.skip("no C++ compiler is on the PATH")
    assert cpu.native is not None, cpu.missing
    assert isas()[-1] == "portable"


def both(found: Sequence[Slot], batch: JaggedIds, isa: str | None = None) -> tuple[Tensor, Tensor, int, int]:
    ours, reference = (torch.full((batch.size, width(found)), 7.0) for _ in range(2))
    counts = CpuKernels(found, isa).look_up(batch, ours), look_up(found, batch, reference)
    return ours, reference, *counts


@built
@pytest.mark.parametrize("isa", isas())
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [16, 100, 128, 300])
@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("lengths", [(0, 3, 0, 0, 50, 0), (1, 1, 2, 1, 1, 1), (0, 0, 0, 0, 0, 0), (40, 0, 0, 0, 0, 7)])
def test_look_ups_of_few_ids_or_none_beside_long_ones_give_the_reference(
    isa: str, dtype: Dtype, dim: int, size: int, lengths: tuple[int, ...]
) -> None:
    found = slots([dim] * len(lengths), dtype=dtype)
    bags = torch.tensor(lengths).repeat_interleave(size)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), bags.cumsum(0)])
    values = torch.randint(-2, 9, (int(bags.sum()),), generator=torch.Generator().manual_seed(0))
    ours, reference, unknown, expected = both(found, JaggedIds(tuple(s.name for s in found), values, offsets), isa)
    torch.testing.assert_close(ours, reference, rtol=1e-5, atol=1e-4)
    assert unknown == expected


@built
@pytest.mark.parametrize("isa", isas())
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("index", [torch.int32, torch.int64])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("longest", [None, 5])
def test_every_dim_gives_the_reference(
    isa: str, dtype: Dtype, index: torch.dtype, weighted: bool, longest: int | None
) -> None:
    found = slots(DIMS, dtype=dtype)
    ours, reference, unknown, expected = both(found, ids(found, 4, longest, weighted, index), isa)
    torch.testing.assert_close(ours, reference, rtol=1e-4, atol=1e-4)
    assert unknown == expected > 0


@built
@pytest.mark.parametrize("isa", isas())
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [16, 64, 256, 272])
@pytest.mark.parametrize("cpus", [(), (0, 1)])
def test_large_outputs_of_whole_lines_give_the_reference(isa: str, dtype: Dtype, dim: int, cpus: Sequence[int]) -> None:
    """They are written past the caches."""
    found = [replace(slot, column=k * dim) for k, slot in enumerate(slots([dim] * 3, (50,), dtype))]
    size = (9 << 20) // (3 * dim * 4) + 7
    pieces = [Piece(lookup=s.name, core=k, share=(k / 2, (k + 1) / 2)) for k in range(2) for s in found]
    schedules = [Schedule(batch=1, pieces=tuple(pieces), predicted_us=0, bound_us=0)] if cpus else []
    batch = ids(found, size)
    x, reference = (aligned(size, 3 * dim) for _ in range(2))
    assert x.numel() * 4 >= 8 << 20
    kernels = CpuKernels(found, isa, cpus, schedules)
    assert kernels.look_up(batch, x) == look_up(found, batch, reference)
    torch.testing.assert_close(x, reference, rtol=1e-6, atol=1e-6)


def aligned(rows: int, columns: int) -> Tensor:
    """A buffer that begins with a line."""
    memory = torch.full((rows * columns + 16,), 7.0)
    first = -memory.data_ptr() // 4 % 16
    return memory[first : first + rows * columns].view(rows, columns)


@built
@pytest.mark.parametrize("isa", isas())
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("index", [torch.int32, torch.int64])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("longest", [None, 40])
@pytest.mark.parametrize("pooling", ["sum", "mean"])
def test_every_form_of_ids_gives_the_reference(
    isa: str, dtype: Dtype, index: torch.dtype, weighted: bool, longest: int | None, pooling: Literal["sum", "mean"]
) -> None:
    found = slots((16, 16, 3, 128, 300), rows=(50, 1), dtype=dtype, pooling=pooling)
    ours, reference, unknown, expected = both(found, ids(found, 150, longest, weighted, index), isa)
    torch.testing.assert_close(ours, reference, rtol=1e-4, atol=1e-4)
    assert unknown == expected


@built
def test_rows_that_are_not_pooled_come_out_bit_by_bit() -> None:
    found = slots(DIMS)
    ours, reference, _, _ = both(found, ids(found, 200))
    assert torch.equal(ours, reference)


@built
@settings(max_examples=60, deadline=None)
@given(
    dims=st.lists(st.integers(1, 80), min_size=0, max_size=5),
    rows=st.lists(st.integers(1, 300), min_size=1, max_size=3),
    size=st.integers(0, 200),
    longest=st.none() | st.integers(0, 30),
    weighted=st.booleans(),
    dtype=st.sampled_from(DTYPES),
    index=st.sampled_from([torch.int32, torch.int64]),
    seed=st.integers(0, 1000),
)
def test_any_workload_gives_the_reference(
    dims: list[int],
    rows: list[int],
    size: int,
    longest: int | None,
    weighted: bool,
    dtype: Dtype,
    index: torch.dtype,
    seed: int,
) -> None:
    found = slots(dims, rows, dtype, seed=seed)
    batch = ids(found, size, longest, weighted, index, seed=seed)
    ours, reference = torch.full((batch.size, width(found)), 7.0), torch.full((batch.size, width(found)), 7.0)
    assert CpuKernels(found).look_up(batch, ours) == look_up(found, batch, reference)
    torch.testing.assert_close(ours, reference, rtol=1e-4, atol=1e-4)


@built
def test_other_layouts_of_the_input_give_the_same() -> None:
    found = slots((16, 5))
    batch = ids(found, 10, 4, weighted=True)
    assert batch.offsets is not None
    assert batch.weights is not None
    odd = JaggedIds(
        batch.features,
        batch.values.repeat_interleave(2)[::2],
        batch.offsets.int(),
        batch.weights.double(),
    )
    assert not odd.values.is_contiguous()
    kernels = CpuKernels(found)
    x, y = torch.zeros(10, width(found)), torch.zeros(12, 2 * width(found))[1:11, 3 : 3 + width(found)]
    kernels.look_up(batch, x)
    kernels.look_up(odd, y)
    assert torch.equal(x, y)


@built
def test_nothing_but_the_slots_columns_is_written() -> None:
    found = slots((16, 5, 130))
    x = torch.full((6, width(found)), 7.0)
    CpuKernels(found).look_up(ids(found, 6, 3), x)
    free = [0, 17, 23, width(found) - 1]
    assert (x[:, free] == 7).all()


@built
def test_nan_weights_and_rows_stay_nan() -> None:
    found = slots((16,), rows=(4,))
    found[0].rows.data[2] = torch.nan
    batch = JaggedIds(("0",), torch.tensor([1, 2, 3]), torch.tensor([0, 1, 2, 3]), torch.tensor([1.0, 1.0, torch.nan]))
    x = torch.zeros(3, width(found))
    CpuKernels(found).look_up(batch, x)
    assert x[:, 1:17].isnan().any(dim=1).tolist() == [False, True, True]


@built
@pytest.mark.parametrize("pooling", ["sum", "mean"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("longest", [None, 9])
@pytest.mark.parametrize("index", [torch.int32, torch.int64])
def test_rows_that_are_skipped_are_somebody_elses(
    index: torch.dtype, longest: int | None, weighted: bool, pooling: Literal["sum", "mean"]
) -> None:
    """Two that skip each other's rows add up to one that skips none; beside them look-ups that skip nothing."""
    found = slots((16, 16, 3, 16), rows=(1, 70, 100), pooling=pooling)
    batch = ids(found, 30, longest, weighted, index)
    words = [torch.randint(-(1 << 31), 1 << 31, (-(-len(slot.rows.data) // 32),)).int() for slot in found]
    parts = []
    for flip in (0, -1):
        own = [replace(s, skip=None if k == 1 else w ^ flip) for k, (s, w) in enumerate(zip(found, words, strict=True))]
        ours, reference, unknown, counted = both(own, batch)
        torch.testing.assert_close(ours, reference, rtol=1e-5, atol=1e-5)
        assert unknown == counted == look_up([own[1]], batch, torch.zeros_like(ours))
        parts.append(ours)
        shared = CpuKernels(own, cpus=(0, 1), schedules=[spread([slot.name for slot in own], 2)])
        again = torch.full_like(ours, 7.0)
        assert shared.look_up(batch, again) == unknown
        torch.testing.assert_close(again, ours, rtol=1e-6, atol=1e-6)
    whole, _, _, _ = both(found, batch)
    for slot in (found[0], found[2], found[3]):
        columns = slice(slot.column, slot.column + slot.rows.dim)
        torch.testing.assert_close(parts[0][:, columns] + parts[1][:, columns], whole[:, columns], rtol=1e-4, atol=1e-5)


@built
def test_rows_to_skip_that_do_not_fit_are_refused() -> None:
    (slot,) = slots((16,), rows=(70,))
    for skip in (torch.zeros(2, dtype=torch.int32), torch.zeros(3)):
        with pytest.raises(ConfigError, match=r"look-up `0`: expected the rows to skip as int32 \[3\] on the CPU"):
            CpuKernels([replace(slot, skip=skip)])
    cut = Schedule(batch=8, pieces=(Piece(lookup="0", rows=(0, 9)),), predicted_us=0, bound_us=0)
    with pytest.raises(ConfigError, match="skips rows is not cut by rows"):
        CpuKernels([replace(slot, skip=torch.zeros(3, dtype=torch.int32))], cpus=(0, 1), schedules=[cut])


@built
def test_the_kernels_keep_their_rows_alive() -> None:
    kernels = CpuKernels(slots((64,), rows=(20_000,)))
    expected = kernels.slots[0].rows.read()[:100].clone()
    gc.collect()
    x = torch.zeros(100, 65)
    kernels.look_up(JaggedIds(("0",), torch.arange(100)), x)
    assert torch.equal(x[:, 1:], expected)


@built
@pytest.mark.parametrize(
    ("x", "message"),
    [
        (torch.zeros(4, 18, dtype=torch.float64), "float32"),
        (torch.zeros(18, 4).t(), "side by side"),
        (torch.zeros(4, 16), "fill 17 columns"),
        (torch.zeros(3, 18), "3 rows, the batch has 4"),
        (torch.zeros(18), "float32 buffer"),
    ],
)
def test_a_buffer_that_does_not_fit_is_refused(x: Tensor, message: str) -> None:
    found = slots((16,))
    with pytest.raises(DataError, match=message):
        CpuKernels(found).look_up(ids(found, 4), x)


@built
def test_a_batch_with_too_few_features_is_refused() -> None:
    found = slots((16, 16))
    with pytest.raises(DataError, match="read 2 features, the batch has 1"):
        CpuKernels(found).look_up(ids(found[:1], 4), torch.zeros(4, 40))


HUGE = 400_000_000


@built
@pytest.mark.parametrize("offsets", [[0, 2, HUGE], [-5, 2, 4], [0, 20, 4], [0, 4, 5], [0, 2**62, -(2**62)], [3, 2, 4]])
@pytest.mark.parametrize("strategy", ["gather", "stream"])
@pytest.mark.parametrize("cpus", [(), (0, 1)])
def test_offsets_that_leave_the_ids_are_refused(offsets: list[int], strategy: Strategy, cpus: Sequence[int]) -> None:
    found = slots((16,))
    pieces = [Piece(lookup="0", core=k if cpus else 0, strategy=strategy, share=(k / 2, (k + 1) / 2)) for k in range(2)]
    kernels = CpuKernels(
        found, cpus=cpus, schedules=[Schedule(batch=1, pieces=tuple(pieces), predicted_us=0, bound_us=0)]
    )
    bad = JaggedIds(("0",), torch.arange(4), torch.tensor(offsets))
    x = torch.zeros(2, 18)
    for run in (kernels.look_up, kernels.times, ReferenceKernels(found).look_up):
        with pytest.raises(DataError, match="offsets must ascend from 0 to at most the number of ids, which is 4"):
            run(bad, x)
    good = replace(bad, offsets=torch.tensor([0, 1, 4]))
    assert kernels.look_up(good, x) == look_up(found, good, torch.zeros(2, 18))


@built
def test_weights_that_are_not_one_an_id_are_refused() -> None:
    found = slots((16,))
    bad = JaggedIds(("0",), torch.arange(4), torch.tensor([0, 1, 4]), torch.ones(1))
    for kernels in (CpuKernels(found), ReferenceKernels(found)):
        with pytest.raises(DataError, match="a weight for each of the 4 ids, got 1"):
            kernels.look_up(bad, torch.zeros(2, 18))


@built
@pytest.mark.parametrize("name", ["values", "offsets", "weights"])
def test_what_is_not_in_this_memory_is_refused(name: str) -> None:
    found = slots((16,))
    batch = ids(found, 4, 3, weighted=True)
    elsewhere = replace(batch, **{name: getattr(batch, name).to("meta")})
    with pytest.raises(DataError, match="on the CPU, got some on meta"):
        CpuKernels(found).look_up(elsewhere, torch.zeros(4, 18))
    with pytest.raises(DataError, match=r"on the CPU, got torch\.float32"):
        CpuKernels(found).look_up(batch, torch.zeros(4, 18, device="meta"))


@built
def test_slots_that_cannot_be_are_refused() -> None:
    (slot,) = slots((16,))
    for changes in ({"column": -1}, {"feature": -1}, {"rows": Rows(torch.zeros(0, 16), 16, "fp32")}):
        with pytest.raises(ConfigError, match="look-up `0`: expected at least 1 row"):
            CpuKernels([replace(slot, **changes)])


@built
@pytest.mark.parametrize(
    ("piece", "message"),
    [
        (Piece(lookup="b"), "look-up `b`, which is not here"),
        (Piece(lookup="0", core=2), r"schedule for 8: a piece is on core 2 of 2 \(from 0 on\): make a new plan"),
        (Piece(lookup="0", rows=(0, 10**9)), "a piece is of rows 0 to 1000000000 of 1"),
    ],
)
def test_a_schedule_of_what_is_not_there_is_refused(piece: Piece, message: str) -> None:
    schedule = Schedule(batch=8, pieces=(piece,), predicted_us=0, bound_us=0)
    with pytest.raises(ConfigError, match=message):
        CpuKernels(slots((16,)), cpus=(0, 1), schedules=[schedule])
    with pytest.raises(ConfigError, match="named alike"):
        CpuKernels(slots((16,)) * 2, schedules=[schedule])


@built
@pytest.mark.parametrize("isa", isas())
def test_single_columns_of_a_wider_table_are_read_where_they_lie(isa: str) -> None:
    wide = torch.randn(100, 5)
    found = [Slot(str(k), k, Rows(wide[:, k : k + 1], 1, "fp32"), k) for k in range(5)]
    pieces = tuple(Piece(lookup=slot.name, strategy="vector") for slot in found)
    kernels = CpuKernels(found, isa, schedules=[Schedule(batch=1, pieces=pieces, predicted_us=0, bound_us=0)])
    x, rows = torch.zeros(100, 5), torch.arange(100)
    kernels.look_up(JaggedIds(tuple("01234"), rows.repeat(5)), x)
    assert torch.equal(x, wide)


@built
@pytest.mark.parametrize("cpus", [(), (0, 1)])
def test_pieces_are_timed_one_by_one(cpus: Sequence[int]) -> None:
    found = slots((16, 16, 64), rows=(5000,))
    pieces = [
        Piece(lookup=slot.name, core=k if cpus else 0, share=(k / 2, (k + 1) / 2)) for slot in found for k in range(2)
    ]
    schedule = Schedule(batch=1, pieces=tuple(pieces), predicted_us=0, bound_us=0)
    kernels = CpuKernels(found, cpus=cpus, schedules=[schedule], timed=True)
    batch = ids(found, 3000, 9)
    x, reference = torch.full((3000, width(found)), 7.0), torch.full((3000, width(found)), 7.0)
    times = kernels.times(batch, x)
    look_up(found, batch, reference)
    torch.testing.assert_close(x, reference, rtol=1e-4, atol=1e-4)
    assert len(times) == len(pieces)
    assert all(0 < ns < 1e9 for ns in times)
    assert sum(times[4:]) > times[0], "rows four times as wide"


@built
def test_only_who_asks_for_times_pays_for_the_clock() -> None:
    """The first call that is timed sets the counter of cycles against the clock, for 2 ms."""
    code = """
import time, torch
from tests.dataflow.kernels.test_cpu import *
found = slots((16,))
halves = [Piece(lookup="0", strategy="stream", share=(k / 2, (k + 1) / 2)) for k in range(2)]
one = Schedule(batch=1, pieces=tuple(halves), predicted_us=0, bound_us=0)
kernels, batch, x = CpuKernels(found, schedules=[one]), ids(found, 4, 3), torch.zeros(4, 18)
found = []
for run in (kernels.look_up, kernels.times):
    start = time.thread_time()
    run(batch, x)
    found.append(time.thread_time() - start)
assert found[0] < found[1], found
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@built
def test_an_instruction_set_that_is_not_here_is_refused() -> None:
    with pytest.raises(ConfigError, match="portable"):
        CpuKernels([], "sve")


def test_without_the_build_one_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "native", None)
    monkeypatch.setattr(cpu, "missing", "no such module")
    assert isas() == []
    with pytest.raises(ConfigError, match=r"no such module.*compiler"):
        CpuKernels([])


@st.composite
def schedules(draw: st.DrawFn, rows: Sequence[int], lanes: int) -> Schedule:
    """Every look-up cut by shares of the batch, each of them by rows, and dealt out with any strategy."""
    pieces: list[Piece] = []
    for lookup, count in enumerate(rows):
        shares = sorted(draw(st.sets(st.sampled_from([0.1, 0.25, 0.5, 0.9]), max_size=2)))
        for share in pairwise([0.0, *shares, 1.0]):
            cuts = sorted(draw(st.sets(st.integers(1, count - 1), max_size=2))) if count > 1 else []
            for part in pairwise([0, *cuts, count]):
                core, strategy = draw(st.integers(0, lanes - 1)), draw(st.sampled_from(get_args(Strategy)))
                pieces.append(Piece(lookup=str(lookup), core=core, strategy=strategy, rows=part, share=share))
    return Schedule(batch=1 << 20, pieces=tuple(draw(st.permutations(pieces))), predicted_us=0, bound_us=0)


@built
@settings(max_examples=80, deadline=None)
@given(
    data=st.data(),
    dims=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    size=st.integers(0, 120),
    longest=st.none() | st.integers(0, 12),
    weighted=st.booleans(),
    dtype=st.sampled_from(DTYPES),
    pooling=st.sampled_from(["sum", "mean"]),
    lanes=st.integers(1, 3),
    index=st.sampled_from([torch.int32, torch.int64]),
)
def test_any_plan_gives_the_reference(
    data: st.DataObject,
    dims: list[int],
    size: int,
    longest: int | None,
    weighted: bool,
    dtype: Dtype,
    pooling: Literal["sum", "mean"],
    lanes: int,
    index: torch.dtype,
) -> None:
    found = slots(dims, (1, 7, 50_000), dtype, pooling)
    schedule = data.draw(schedules([slot.rows.data.shape[0] for slot in found], lanes))
    batch = ids(found, size, longest, weighted, index)
    kernels = CpuKernels(found, data.draw(st.sampled_from(isas())), [0] * lanes, [schedule])
    ours, reference = torch.full((size, width(found)), 7.0), torch.full((size, width(found)), 7.0)
    assert kernels.look_up(batch, ours) == look_up(found, batch, reference)
    torch.testing.assert_close(ours, reference, rtol=1e-4, atol=1e-4)


@built
@pytest.mark.parametrize("isa", isas())
@pytest.mark.parametrize("columns", [1, 5, 16, 17, 40])
@pytest.mark.parametrize("index", [torch.int32, torch.int64])
def test_one_column_at_a_time_in_vectors(isa: str, columns: int, index: torch.dtype) -> None:
    found = slots([1] * columns, (1000, 3, 1))
    found = [replace(slot, column=3 + k) for k, slot in enumerate(found)]
    pieces = tuple(Piece(lookup=slot.name, core=0, strategy="vector") for slot in found)
    batch = ids(found, 77, index=index)
    kernels = CpuKernels(found, isa, schedules=[Schedule(batch=1, pieces=pieces, predicted_us=0, bound_us=0)])
    ours, reference = torch.full((77, columns + 9), 7.0), torch.full((77, columns + 9), 7.0)
    assert kernels.look_up(batch, ours) == look_up(found, batch, reference)
    assert torch.equal(ours, reference)


@built
def test_the_schedule_of_the_batch_size_is_run() -> None:
    """One that leaves rows out shows which one it was."""
    found = slots((4,), (10,))
    some = [
        Schedule(batch=n, pieces=(Piece(lookup="0", core=0, rows=(0, rows)),), predicted_us=0, bound_us=0)
        for n, rows in ((2, 1), (8, 2))
    ]
    kernels = CpuKernels(found, schedules=some)
    for size, rows in ((1, 1), (2, 1), (3, 2), (8, 2), (100, 2)):
        x = torch.full((size, 9), 7.0)
        kernels.look_up(JaggedIds(("0",), torch.arange(size) % 10), x)
        assert int((x[:, 1] != 7).sum()) == int((torch.arange(size) % 10 < rows).sum())
