"""Pinned memory lives as long as a tensor is on it, and a remap says where each row is."""

from __future__ import annotations

import gc
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recsys.dataflow.kernels.gpu import rows as module
from recsys.dataflow.kernels.gpu.rows import _pin, device_bytes, pinned, remap
from recsys.dataflow.storage import Rows, allocate
from recsys.errors import ConfigError


class Runtime:
    """A driver that notes what it is asked for."""

    cudaError = SimpleNamespace(success=0)

    def __init__(self, code: int = 0) -> None:
        self.code, self.asked = code, list[tuple[str, int]]()

    def cudaHostRegister(self, address: int, size: int, flags: int) -> int:
        assert flags == 3
        self.asked.append(("register", address))
        return self.code

    def cudaHostUnregister(self, address: int) -> None:
        self.asked.append(("unregister", address))


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Runtime:
    made = Runtime()
    monkeypatch.setattr(module, "_runtime", lambda: made)
    monkeypatch.setattr(module, "_forget", lambda: None)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: None)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: made.asked.append(("synchronize", 0)))
    return made


def test_memory_is_pinned_until_its_last_tensor_is_gone(runtime: Runtime) -> None:
    memory, _ = allocate(1 << 16)
    address = memory.data_ptr()
    _pin(memory)
    part = memory[64:128].view(torch.float32).view(4, 4)
    del memory
    gc.collect()
    row = part[1]
    del part
    gc.collect()
    assert runtime.asked == [("register", address)]
    row.fill_(1.0)
    del row
    gc.collect()
    # What was launched has ended before the GPU loses the memory that it reads.
    assert runtime.asked == [("register", address), ("synchronize", 0), ("unregister", address)]


def test_memory_that_is_not_pinned_is_refused_and_never_given_back(runtime: Runtime) -> None:
    runtime.code = 2
    memory, _ = allocate(1 << 16)
    with pytest.raises(ConfigError, match="did not pin 65,536 bytes"):
        _pin(memory)
    del memory
    gc.collect()
    assert [name for name, _ in runtime.asked] == ["register"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_without_a_gpu_it_is_ordinary_memory() -> None:
    assert pinned(0).shape == (0,)
    assert pinned(100).shape == (100,)


@given(st.lists(st.booleans(), min_size=1, max_size=200))
def test_a_remap_counts_the_rows_before(hot: list[bool]) -> None:
    words = remap(torch.tensor(hot))
    assert words.shape == (-(-len(hot) // 32), 2)
    for row, here in enumerate(hot):
        bits, before = (int(one) & 0xFFFFFFFF for one in words[row // 32])
        assert bool(bits >> row % 32 & 1) == here
        assert before + (bits & ((1 << row % 32) - 1)).bit_count() == sum(hot[:row])


@pytest.mark.parametrize(("hot", "size"), [(True, 640), (False, 0), (4, 64 + 16), (40, 640), (0, 0)])
def test_bytes_on_the_gpu_are_rows_and_remap(hot: Any, size: int) -> None:
    chosen = hot if isinstance(hot, bool) else torch.arange(40) < hot
    assert device_bytes(Rows(torch.zeros(40, 4), 4, "fp32"), chosen) == size


def test_pinned_memory_is_what_was_filled_in() -> None:
    found = pinned(5000, lambda memory: memory.copy_(torch.arange(len(memory)) % 7))
    assert torch.equal(found, (torch.arange(5000) % 7).to(torch.uint8))
