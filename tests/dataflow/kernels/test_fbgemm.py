"""FBGEMM over our rows, against the reference."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest
import torch

from recsys.dataflow.kernels import fbgemm
from recsys.dataflow.kernels.fbgemm import FbgemmKernels
from recsys.dataflow.kernels.reference import look_up
from recsys.dataflow.workload import Dtype
from recsys.errors import ConfigError
from tests.dataflow.slots import ids, slots, width

pytestmark = pytest.mark.skipif(not fbgemm.installed(), reason="FBGEMM is not installed: python -m recsys.install")


@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
@pytest.mark.parametrize("longest", [None, 5])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("pooling", ["sum", "mean"])
@pytest.mark.parametrize("size", [0, 1, 70])
def test_it_gives_the_reference(
    dtype: Dtype, longest: int | None, weighted: bool, pooling: Literal["sum", "mean"], size: int
) -> None:
    found = slots((16, 4, 20, 128), dtype=dtype, pooling=pooling)
    found = [
        replace(found[2], pooling="sum"),
        found[0],
        found[3],
        replace(found[1], feature=0),
    ]  # one feature is read twice
    batch = ids(slots((16, 4, 20, 128)), size, longest, weighted)
    ours, expected = (torch.full((size, width(found)), 7.0) for _ in range(2))
    kernels = FbgemmKernels(found)
    assert kernels.look_up(batch, ours) == look_up(found, batch, expected)
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


def test_rows_stay_where_they_are() -> None:
    found = slots((16, 8))
    kernels, batch = FbgemmKernels(found), ids(found, 8)
    found[0].rows.data.fill_(3.0)
    x = torch.zeros(8, width(found))
    kernels.look_up(batch, x)
    assert bool((x[:, 1:17] == 3.0).all())


def test_nothing_to_look_up_is_no_work() -> None:
    x = torch.full((3, 2), 7.0)
    assert FbgemmKernels([]).look_up(ids([], 3), x) == 0
    assert bool((x == 7.0).all())


def test_rows_that_it_does_not_read_are_refused() -> None:
    with pytest.raises(ConfigError, match="store the table of `0` as fp16"):
        FbgemmKernels(slots((16,), dtype="int8"))
    with pytest.raises(ConfigError, match="one storage"):
        FbgemmKernels([*slots((16,)), *slots((8,), seed=1)])
