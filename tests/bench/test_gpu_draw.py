"""Ids drawn on a GPU are those of `recsys.dataflow.ids`, and tables are filled as they shall be."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from recsys.bench.gpu_dataflow import fitting
from recsys.bench.gpu_draw import BLOCK, _ranks, block, draw, filled, sample, scattered
from recsys.bench.gpu_larger_rig import DIFFERENT, LargerRig
from recsys.dataflow import ids as slow
from recsys.dataflow.workload import Ids
from tests.dataflow.gpu_made import workload
from tests.dataflow.made import HOT


@pytest.mark.parametrize("rows", [1, 3, 1024, 5000, 40_000_000])
@pytest.mark.parametrize(
    "made",
    [
        {},
        {"exponent": 1.0},
        {"exponent": 0.7},
        {"distribution": "uniform"},
        {"distribution": "equal"},
        {"distribution": "measured", "hot": HOT},
    ],
)
def test_the_same_numbers_give_the_same_ids(rows: int, made: dict[str, Any]) -> None:
    ids, u = Ids(**made), np.random.default_rng(0).random(20_000)
    np.testing.assert_array_equal(_ranks(ids, rows, torch.from_numpy(u)).numpy(), slow._ranks(ids, rows, u))
    ranks = np.arange(min(rows, 5000))
    np.testing.assert_array_equal(scattered(torch.from_numpy(ranks), rows).numpy(), slow.scatter(ranks, rows))


def test_bags_have_the_sizes_that_they_should() -> None:
    ids = Ids(bags=((0, 0.25), (3, 0.5), (10, 0.25)))
    values, lengths = sample(ids, 100, 4000, torch.Generator().manual_seed(0))
    assert len(values) == int(lengths.sum())
    assert float(lengths.double().mean()) == pytest.approx(ids.mean, rel=0.05)
    assert set(lengths.tolist()) == {0, 3, 10}


def test_a_batch_has_offsets_unless_every_bag_holds_one_id() -> None:
    generator = torch.Generator().manual_seed(0)
    assert draw(workload([10, 20]), 5, generator).offsets is None
    drawn = draw(workload([10, 20], ids=3), 5, generator)
    assert drawn.offsets is not None
    assert drawn.offsets.tolist() == list(range(0, 31, 3))


@pytest.mark.parametrize("rows", [5, BLOCK, 2 * BLOCK + 7])
def test_rows_are_the_block_again_and_again(rows: int) -> None:
    made = block(4, "fp16")
    to = filled(made, torch.empty(rows, 4, dtype=torch.float16))
    assert torch.equal(to, made[torch.arange(rows) % BLOCK])


def test_tables_are_cut_until_they_fit() -> None:
    made = workload([100_000, 50_000, 10])
    assert fitting(made, made.bytes) == made
    cut = fitting(made, made.bytes // 2)
    assert made.bytes // 2 - 2 * 2000 * 256 <= cut.bytes <= made.bytes // 2


def test_all_rows_of_a_larger_model_are_the_block_again_and_again(
    device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recsys.bench.gpu_larger_rig._PIECE", 2 * BLOCK)
    rig = LargerRig(workload([3, 2 * BLOCK + 5, 5 * BLOCK + 1], dim=4), device, batch=2, calls=50)
    for rows in rig.host.values():
        assert torch.equal(rows.data, rig.made[torch.arange(len(rows.data)) % BLOCK])
    assert len(rig.drawn) == DIFFERENT
    assert len(rig._turns()) == 50
