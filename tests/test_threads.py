"""One thread for small steps, all of them for large ones, and what was set before comes back."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from recsys.threads import WORTH_FLOPS, network_flops, suited_threads, torch_threads


def test_flops_are_those_of_the_linear_layers() -> None:
    model = nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 1))
    assert network_flops(model, rows=7, passes=3) == 2 * 3 * 7 * (10 * 20 + 20)


@pytest.mark.parametrize(("rows", "expected"), [(WORTH_FLOPS / 2e6 - 1, 1), (WORTH_FLOPS / 2e6, 2)])
def test_small_steps_get_one_thread(rows: float, expected: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        model = nn.Linear(1000, 1000)
        with suited_threads(model, int(rows)) as chosen:
            assert chosen == torch.get_num_threads() == expected
        assert torch.get_num_threads() == 2
        with pytest.raises(RuntimeError, match="inside"), suited_threads(model, 1):
            raise RuntimeError("inside")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_threads_nest_and_come_back() -> None:
    before = torch.get_num_threads()
    with torch_threads(2):
        with pytest.raises(RuntimeError, match="1 inside"), torch_threads(1), torch_threads(1):
            raise RuntimeError(f"{torch.get_num_threads()} inside")
        assert torch.get_num_threads() == 2
    assert torch.get_num_threads() == before
