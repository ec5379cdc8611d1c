"""Hot rows under a budget: the most hits that fit, and more of them with more memory."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.dataflow.gpu_plan import bytes_on_gpu
from recsys.dataflow.heat import Heat, even
from recsys.dataflow.knapsack import Knapsack

TABLES = st.lists(
    st.tuples(st.integers(1, 300), st.sampled_from([1, 4, 16]), st.lists(st.floats(0, 5), min_size=1, max_size=4)),
    min_size=1,
    max_size=4,
)


def heats(drawn: list[tuple[int, int, list[float]]]) -> tuple[dict[str, Heat], dict[str, int]]:
    found, dims = {}, {}
    for k, (rows, dim, hits) in enumerate(drawn):
        sizes = np.diff(np.linspace(0, rows, len(hits) + 1).astype(int))
        kept = sizes > 0
        heat = np.sort(np.array(hits))[::-1][kept]
        found[f"t{k}"], dims[f"t{k}"] = Heat(sizes[kept], heat, even(rows, 1.0).chosen), dim
    return found, dims


def got(heat: dict[str, Heat], hot: dict[str, int]) -> float:
    return sum(one.ids * one.share(hot[name]) for name, one in heat.items())


@given(TABLES, st.floats(0, 1), st.floats(0, 1))
def test_it_fits_and_more_memory_has_what_less_memory_has(
    drawn: list[tuple[int, int, list[float]]], a: float, b: float
) -> None:
    heat, dims = heats(drawn)
    sack = Knapsack(heat, {name: 4 * dim for name, dim in dims.items()})
    everything = sum(bytes_on_gpu(int(one.rows.sum()), dims[n], "fp32", int(one.rows.sum())) for n, one in heat.items())
    small, large = (int(share * 1.2 * everything) for share in sorted((a, b)))
    less, more = sack.hot(small), sack.hot(large)
    for size, hot in ((small, less), (large, more)):
        used = sum(bytes_on_gpu(int(heat[n].rows.sum()), dims[n], "fp32", count) for n, count in hot.items())
        assert used <= size
    assert all(less[name] <= more[name] for name in heat)


@given(TABLES, st.floats(0, 1))
def test_without_remaps_nothing_fits_better(drawn: list[tuple[int, int, list[float]]], share: float) -> None:
    """Row by row, the hottest by byte first: what is left over is less than a row."""
    heat, dims = heats(drawn)
    size = share * sum(4 * dims[name] * int(one.rows.sum()) for name, one in heat.items())
    hot = Knapsack(heat, {name: 4 * dim for name, dim in dims.items()}, remapped=False).hot(size)
    rows = [(h / dims[n], h, 4 * dims[n]) for n, one in heat.items() for h in np.repeat(one.hits, one.rows)]
    best, left = 0.0, size
    for _, hits, row_bytes in sorted(rows, reverse=True):
        best += hits * min(1.0, max(left, 0.0) / row_bytes)
        left -= row_bytes
    most = max(h for _, h, _ in rows)
    assert best - most - 1e-6 <= got(heat, hot) <= best + 1e-6


def test_a_remap_is_paid_for_before_any_row() -> None:
    heat = {"wide": even(100, 1.0), "narrow": even(3200, 100.0)}
    sack = Knapsack(heat, {"wide": 400, "narrow": 4})
    assert sack.hot(799)["narrow"] == 0  # 800 bytes of remap
    assert sack.hot(900)["narrow"] == 25
    assert sack.hot(1 << 20) == {"wide": 100, "narrow": 3200}


def test_no_memory_holds_nothing() -> None:
    assert Knapsack({"t": even(5, 1.0)}, {"t": 4}).hot(0) == {"t": 0}
    assert Knapsack({"t": even(5, 0.0)}, {"t": 4}).hot(1000) == {"t": 5}


@pytest.mark.parametrize("rows", [1, 32, 33])
def test_bytes_are_those_of_rows_and_remap(rows: int) -> None:
    assert bytes_on_gpu(rows, 4, "int8", rows) == rows * 12
    assert bytes_on_gpu(33, 4, "fp16", 1) == 8 + 16
    assert bytes_on_gpu(33, 4, "fp16", 0) == 0
