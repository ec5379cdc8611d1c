"""A model of somebody else's gives the same scores when it is optimised."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from recsys.dataflow import platform
from recsys.inference.optimize import OptimizeConfig, optimize
from tests.inference.optimize_models import (
    EAGER,
    Bag,
    Columns,
    Nested,
    Shapes,
    checked,
    columns,
    ids,
    offsets,
    own_cache,
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own_cache(tmp_path, monkeypatch)


@pytest.mark.parametrize("mode", ["sum", "mean"])
@pytest.mark.parametrize("padding", [None, 3])
def test_bags_in_rows(mode: str, padding: int | None) -> None:
    checked(Bag(mode=mode, padding_idx=padding), lambda n: (ids(6, n, 4),))
    checked(Bag(mode=mode, padding_idx=padding), lambda n: (ids(6, n, 1),))


@pytest.mark.parametrize("mode", ["sum", "mean"])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("padding", [None, 3])
def test_bags_with_offsets(mode: str, last: bool, padding: int | None) -> None:
    checked(Bag(mode=mode, include_last_offset=last, padding_idx=padding), lambda n: offsets(n, last))


def test_weighted_bags() -> None:
    def jagged(n: int) -> tuple[Any, ...]:
        values, at = offsets(n)
        return values, at, torch.rand(len(values))

    checked(Bag(mode="sum"), jagged)
    checked(Bag(mode="sum", padding_idx=2), jagged)
    checked(Bag(mode="sum"), lambda n: (ids(50, n, 3), None, torch.rand(n, 3)))


def test_int32_ids() -> None:
    checked(Bag(mode="sum"), lambda n: (ids(50, n, 2).int(),))


@pytest.mark.parametrize("way", ["slice", "unsqueeze", "split", "select", "unbind", "stack", "rows", "backwards"])
def test_tables_over_columns_are_looked_up_at_once_and_read_at_once(way: str) -> None:
    made = checked(Columns(way), columns, calls=1)
    assert made._compiled is not None
    parts = made._compiled._cut
    assert parts.ids is None
    targets = [str(node.target) for node in parts.network.graph.nodes]
    assert not any("slice" in target or "stack" in target for target in targets)
    assert parts.widths == (16,)


def test_tables_of_several_widths() -> None:
    checked(Columns("slice", (4, 2, 2, 8)), columns, calls=1)


def test_ids_of_any_shape_computed_ids_masks_and_several_results() -> None:
    made = checked(Shapes(), lambda n: (ids(30, n, 5), ids(1000, n)), calls=2)
    longer = ids(30, 3, 11), ids(1000, 3)
    with torch.no_grad():
        torch.testing.assert_close(made(*longer), made._module(*longer))
    assert made.apart == 1  # that of no rows


def test_shared_weights_of_nested_modules_are_stored_once() -> None:
    made = checked(Nested(), columns, calls=1)
    sizes = {one.name: one.bytes for one in made.report.placed}
    assert sizes["left.tables.0"] == 20 * 4 * 4
    assert sizes["right.tables.0"] == 0
    assert made.report.bytes == sum(sizes.values())


def test_what_cannot_be_the_same_is_left_and_said() -> None:
    class Own(nn.Embedding):
        pass

    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.most = nn.EmbeddingBag(50, 4, mode="max")
            self.norm = nn.Embedding(50, 4, max_norm=1.0)
            self.small = nn.Embedding(50, 4, dtype=torch.float16)
            self.own = Own(50, 4)
            self.fine = nn.Embedding(50, 4, sparse=True, scale_grad_by_freq=True)

        def forward(self, ids: Tensor) -> Tensor:
            found = [self.most(ids), self.norm(ids).sum(1), self.small(ids).float().sum(1), self.own(ids).sum(1)]
            return torch.cat([*found, self.fine(ids).sum(1)], dim=1)

    model = Mixed()
    made = checked(model, lambda n: (ids(50, n, 3),), rows=(1, 2, 5), whole=False)
    left = {one.name: one.why for one in made.report.left}
    assert left.keys() == {"most", "norm", "small", "own"}
    assert "max" in left["most"]
    assert "max_norm" in left["norm"]
    assert "float16" in left["small"]
    assert "Own" in left["own"]
    assert [one.name for one in made.report.placed] == ["fine"]
    text = str(made.report)
    assert "left as it was: most (EmbeddingBag): it pools by max" in text
    assert "fine    Embedding  1       50    4    fp32       800" in text
    assert "module by module, since it" in text


def test_a_model_without_embeddings_is_compiled() -> None:
    made = checked(nn.Sequential(nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 1)), lambda n: (torch.randn(n, 5),))
    assert str(made.report).startswith("no embedding module was replaced")


def test_look_ups_are_planned_where_the_machine_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    found = platform.here(sorted(Path("dataflow/platforms").glob("*.toml"))[0])
    monkeypatch.setattr(platform, "here", lambda: found)
    made = checked(Columns("slice"), columns)
    assert "planned from the sample's ids for 1 of 1 cores" in made.report.plan
    unplanned = checked(Columns("slice"), columns, config=OptimizeConfig(backend="eager", cores=0))
    assert unplanned.report.plan == "not planned, one core gathers all"


class Pairs(nn.Module):
    """As facebook's DLRM has it: a tensor of offsets for all tables, and a list of ids."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.EmbeddingBag(50, 4, mode="sum") for _ in range(3))
        self.top = nn.Linear(2 + 12, 1)

    def forward(self, dense: Tensor, offsets: Tensor, ids: list[Tensor]) -> Tensor:
        found = [table(one, at) for table, one, at in zip(self.tables, ids, offsets, strict=True)]
        out: Tensor = torch.sigmoid(self.top(torch.cat([dense, *found], dim=1)))
        return out


def test_lists_of_ids_and_rows_of_offsets() -> None:
    def batch(n: int) -> tuple[Any, ...]:
        pairs = [offsets(n) for _ in range(3)]
        return torch.randn(n, 2), torch.stack([at for _, at in pairs]), [one for one, _ in pairs]

    checked(Pairs(), batch, calls=1)


class Many(nn.Module):
    """Three bags that are asked alike, each in its own words."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.EmbeddingBag(50, 4, **options) for _ in range(3))

    def forward(self, *words: Tensor | None) -> Tensor:
        step = len(words) // 3
        return torch.cat([table(*words[k * step : (k + 1) * step]) for k, table in enumerate(self.tables)], dim=1)


def several(make: Callable[[int, int], tuple[Any, ...]]) -> Callable[[int], tuple[Any, ...]]:
    return lambda n: tuple(one for k in range(3) for one in make(n, k))


def weighted(n: int, last: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    values, bounds = offsets(n, last)
    return values, bounds, torch.rand(len(values))


@pytest.mark.parametrize("padding", [None, 3])
def test_calls_of_one_form_are_put_together(padding: int | None) -> None:
    model = partial(Many, mode="sum", padding_idx=padding)
    checked(model(), several(lambda n, k: (ids(6, n, 4),)), calls=1)
    checked(model(), several(lambda n, k: (ids(6, n, 2 + k),)), calls=1)
    checked(model(), several(lambda n, k: (ids(6, n, 4), None, torch.rand(n, 4))), calls=1)
    checked(model(), several(lambda n, k: offsets(n)), calls=1)
    checked(model(), several(lambda n, k: weighted(n)), calls=1)
    checked(model(include_last_offset=True), several(lambda n, k: weighted(n, True)), calls=1)


@pytest.mark.parametrize("last", [False, True])
def test_offsets_that_are_wrong_are_the_modules_own_affair(last: bool) -> None:
    model = Many(mode="sum", include_last_offset=last).eval()
    made = optimize(model, several(lambda n, k: offsets(n, last))(4), EAGER)
    for wrong in ([1, 2, 4, 4], [0, 3, 2, 4], [0, 2, 4, 9]):
        given = ids(50, 4), torch.tensor(wrong)
        try:
            answers = [nn.EmbeddingBag.forward(cast("nn.EmbeddingBag", table), *given) for table in model.tables]
        except (RuntimeError, ValueError):
            with pytest.raises((RuntimeError, ValueError)):
                made(*given * 3)
        else:
            torch.testing.assert_close(made(*given * 3), torch.cat(answers, dim=1))
    assert made.apart


def test_weights_that_do_not_fit_their_ids_are_the_modules_own_error() -> None:
    made = optimize(Many(mode="sum").eval(), several(lambda n, k: weighted(n))(4), EAGER)
    at = torch.tensor([0, 1, 2])
    short, long, fit = (torch.rand(n) for n in (3, 5, 4))
    with pytest.raises((RuntimeError, ValueError)):
        made(ids(50, 4), at, short, ids(50, 4), at, long, ids(50, 4), at, fit)


def test_a_model_that_is_a_table() -> None:
    made = checked(nn.EmbeddingBag(50, 4, mode="mean"), lambda n: (ids(50, n, 3),), calls=1)
    assert made.report.placed[0].name == "(the model)"
    checked(nn.Embedding(50, 4), lambda n: (ids(50, n),), calls=1)
