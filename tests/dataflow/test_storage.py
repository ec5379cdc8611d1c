"""Storage: aligned, exact for what it can be exact for, refused where it cannot be had."""

from __future__ import annotations

import hashlib
import mmap
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.dataflow import storage
from recsys.dataflow.storage import (
    HUGE_PAGE,
    Rows,
    Source,
    Storage,
    allocate,
    copied,
    dequantise,
    mapped,
    places,
    quantise,
    view,
)
from recsys.dataflow.workload import Dtype
from recsys.errors import CheckpointError, ConfigError, DataError


def test_memory_begins_on_a_huge_page_and_says_what_it_got() -> None:
    memory, pages = allocate(3 * HUGE_PAGE)
    assert memory.data_ptr() % HUGE_PAGE == 0
    assert memory.numel() == 3 * HUGE_PAGE
    assert pages == "huge" or pages.startswith("4 KB: ")
    assert allocate(100, huge=False)[1].startswith("4 KB: ")


def test_a_system_that_refuses_huge_pages_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(mmap, "MADV_HUGEPAGE", raising=False)
    memory, pages = allocate(100)
    assert memory.numel() == 100
    assert pages == "4 KB: the system has no transparent huge pages"


def test_tables_lie_on_lines_and_read_back() -> None:
    sources = {name: Source(torch.randn(rows, dim)) for name, rows, dim in (("a", 3, 5), ("b", 1, 1), ("c", 70, 16))}
    stored = Storage(sources)
    for name, rows in stored.tables.items():
        assert rows.data.data_ptr() % 64 == 0
        assert torch.equal(rows.read(), sources[name].rows)
    assert stored.bytes == sum(source.bytes for source in sources.values()) == (15 + 1 + 70 * 16) * 4


def test_scales_are_folded_in() -> None:
    rows, scale = torch.randn(10, 4), torch.randn(10, 1)
    assert torch.equal(Storage({"t": Source(rows, scale=scale)}).tables["t"].read(), rows * scale)


def test_long_tables_are_converted_part_by_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "_CONVERTED", 4 * 8 * 3)
    rows = torch.randn(10, 8)
    assert torch.equal(Storage({"t": Source(rows)}).tables["t"].read(), rows)
    assert torch.equal(Storage({"t": Source(rows, "fp16")}).tables["t"].read(), rows.half().float())
    assert torch.equal(Storage({"t": Source(rows, "int8")}).tables["t"].read(), dequantise(quantise(rows)))


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(0, 20),
    dim=st.integers(1, 40),
    scale=st.sampled_from([0.0, 1e-30, 1e-3, 1.0, 1e30]),
    seed=st.integers(0, 100),
)
def test_int8_is_off_by_half_a_step_at_most(rows: int, dim: int, scale: float, seed: int) -> None:
    values = torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed)) * scale
    step = (values.amax(1, keepdim=True) - values.amin(1, keepdim=True)) / 255 if rows else values
    error = (dequantise(quantise(values)) - values).abs()
    assert (error <= step * 0.501 + values.abs() * 1e-6).all()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 3e38])
def test_int8_needs_finite_rows(bad: float) -> None:
    values = torch.tensor([[1.0, bad, -bad]])
    with pytest.raises(DataError, match="finite"):
        quantise(values)


@pytest.mark.parametrize("bad", [1e5, -7e4])
def test_fp16_refuses_what_it_cannot_hold(bad: float) -> None:
    with pytest.raises(DataError, match=r"table `t` holds numbers beyond 65504"):
        Storage({"t": Source(torch.tensor([[1.0, bad]]), "fp16")})
    kept = Storage({"t": Source(torch.tensor([[float("inf"), 65504.0]]), "fp16")})
    assert kept.tables["t"].read().tolist() == [[float("inf"), 65504.0]]


@pytest.mark.parametrize(
    ("data", "dim", "dtype", "message"),
    [
        (torch.zeros(3, 4), 5, "fp32", r"torch.float32 \[rows, 5\], got torch.float32 \(3, 4\)"),
        (torch.zeros(3, 4), 4, "fp16", "got torch.float32"),
        (torch.zeros(3, 4, dtype=torch.uint8), 4, "int8", r"\[rows, 12\]"),
        (torch.zeros(12), 12, "fp32", r"got torch.float32 \(12,\)"),
        (torch.zeros(3, 0), 0, "fp32", "rows of 0 columns"),
        (torch.zeros(4, 3).t(), 4, "fp32", "side by side"),
    ],
)
def test_rows_are_what_they_say(data: torch.Tensor, dim: int, dtype: Dtype, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Rows(data, dim, dtype)


def test_a_system_that_gives_no_huge_pages_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "huge_pages", lambda: "never")
    assert allocate(100)[1] == "4 KB: the system has no transparent huge pages"


def test_no_rows_are_no_trouble() -> None:
    assert Storage({"t": Source(torch.zeros(0, 4))}).tables["t"].read().shape == (0, 4)
    assert Storage({}).bytes == 0


def test_too_much_is_refused_before_anything_is_allocated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "available_memory", lambda: 1000)
    monkeypatch.setattr(storage, "allocate", lambda size: pytest.fail("it allocates"))
    with pytest.raises(ConfigError, match=r"need 1,024 bytes and 1,000 are available"):
        Storage({"t": Source(torch.zeros(16, 16))})


def test_memory_that_the_system_does_not_have_is_one_sentence() -> None:
    with pytest.raises(ConfigError, match="no memory for tables"):
        allocate(1 << 62)


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "int8"])
def test_rows_written_to_a_file_are_read_or_mapped_as_they_were_stored(
    tmp_path: Path, dtype: Dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "_CONVERTED", 100)  # a file is read in many parts
    sources = {name: Source(torch.randn(rows, 6), dtype) for name, rows in (("a", 7), ("b", 33))}
    starts, end = places(sources)
    content = bytearray(end)
    for name, source in sources.items():
        raw = b"".join(piece.view(torch.uint8).numpy().tobytes() for piece in source.pieces(name))
        content[starts[name] : starts[name] + source.bytes] = raw
    path = tmp_path / "tables.bin"
    path.write_bytes(content)
    expected = Storage(sources).tables
    for memory in (mapped(path, end), copied(path, end, hashlib.sha256(content).hexdigest())):
        for name, source in sources.items():
            rows = view(memory[starts[name] : starts[name] + source.bytes], len(source.rows), 6, dtype)
            assert torch.equal(rows.read(), expected[name].read())


def test_what_is_written_to_a_mapped_file_stays_in_the_process(tmp_path: Path) -> None:
    path = tmp_path / "tables.bin"
    path.write_bytes(bytes(4096))
    mapped(path, 4096).fill_(1)
    assert path.read_bytes() == bytes(4096)


def test_a_file_that_is_absent_cut_or_altered_is_named(tmp_path: Path) -> None:
    path = tmp_path / "tables.bin"
    with pytest.raises(CheckpointError, match="cannot be read: No such file"):
        mapped(path, 10)
    path.write_bytes(bytes(10))
    with pytest.raises(CheckpointError, match="10 bytes, expected 11: altered or cut off"):
        mapped(path, 11)
    with pytest.raises(CheckpointError, match="10 bytes, expected 11: altered or cut off"):
        copied(path, 11, "")
    with pytest.raises(CheckpointError, match="its checksum differs"):
        copied(path, 10, "0" * 64)
