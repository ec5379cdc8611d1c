"""Models of somebody else's, and what optimising them must not change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from recsys.inference.optimize import OptimizeConfig, OptimizedModule, optimize

EAGER = OptimizeConfig(backend="eager")
ROWS = (1, 2, 5, 64, 0)


def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test compiles is its own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    torch.manual_seed(0)


def checked(
    model: nn.Module,
    batch: Callable[[int], tuple[Any, ...]],
    whole: bool = True,
    config: OptimizeConfig = EAGER,
    rows: Sequence[int] = ROWS,
    calls: int | None = None,
) -> OptimizedModule:
    """Optimise, and compare with the model itself over batch sizes; `whole`: the network was compiled and used."""
    model.eval()
    given = {n: batch(n) for n in rows}
    with torch.no_grad():
        expected = {n: model(*given[n]) for n in rows}
    made = optimize(model, batch(6), config)
    assert bool(made.report.eager) is not whole, str(made.report)
    for n in rows:
        torch.testing.assert_close(made(*given[n]), expected[n], rtol=1e-5, atol=1e-5)
    assert made.apart == (sum(n == 0 for n in rows) if whole else 0)  # an empty batch is the module's own affair
    assert calls is None or made.report.calls == calls
    with torch.no_grad():  # module by module
        for n in rows:
            torch.testing.assert_close(model(*given[n]), expected[n], rtol=1e-5, atol=1e-5)
    return made


def ids(rows: int, *shape: int) -> Tensor:
    return torch.randint(0, rows, shape)


def columns(n: int) -> tuple[Tensor, Tensor]:
    return torch.randn(n, 3), ids(20, n, 4)


class Columns(nn.Module):
    """The common hand-written model: a table for each column of ids."""

    def __init__(self, way: str, dims: Sequence[int] = (4, 4, 4, 4)) -> None:
        super().__init__()
        kind = nn.EmbeddingBag if way in ("slice", "unsqueeze", "split") else nn.Embedding
        options: dict[str, Any] = {"mode": "sum"} if kind is nn.EmbeddingBag else {}
        self.tables = nn.ModuleList(kind(20 + k, dim, **options) for k, dim in enumerate(dims))
        self.way, self.top = way, nn.Linear(3 + sum(dims), 1)

    def forward(self, dense: Tensor, ids: Tensor) -> Tensor:
        n = len(self.tables)
        ways: dict[str, Callable[[], Sequence[Tensor]]] = {
            "slice": lambda: [ids[:, k : k + 1] for k in range(n)],
            "unsqueeze": lambda: [ids[:, k].unsqueeze(1) for k in range(n)],
            "split": lambda: torch.split(ids, 1, dim=1),
            "select": lambda: [ids[:, k] for k in range(n)],
            "unbind": lambda: ids.unbind(1),
            "stack": lambda: ids.unbind(1),
            "rows": lambda: [ids[:, k : k + 1] for k in range(n)],
            "backwards": lambda: [ids[:, n - 1 - k] for k in range(n)],
        }
        found = [table(one) for table, one in zip(self.tables, ways[self.way](), strict=True)]
        if self.way == "stack":
            found = [torch.stack(found, dim=1).flatten(1)]
        if self.way == "rows":
            found = [torch.cat(found, dim=1).flatten(1)]
        out: Tensor = self.top(torch.cat([dense, *found], dim=1))
        return out


class Shapes(nn.Module):
    """Rows for each id of a sequence, masked, beside a table of one id."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.one = nn.Embedding(30, 4, padding_idx=0), nn.Embedding(9, 4)
        self.top = nn.Linear(8, 1)

    def forward(self, words: Tensor, one: Tensor) -> dict[str, Tensor]:
        mask = (words != 0).unsqueeze(2)
        pooled = (self.words(words) * mask).sum(1)
        scores = self.top(torch.cat([pooled, self.one(one % 9)], dim=1)).squeeze(1)
        return {"scores": scores, "pooled": pooled}


class Nested(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = Columns("slice"), Columns("select")
        self.right.tables[0].weight = self.left.tables[0].weight

    def forward(self, dense: Tensor, ids: Tensor, scale: float = 1.0, **more: Tensor) -> Tensor:
        out: Tensor = scale * (self.left(dense, ids) + self.right(dense, ids)) + sum(more.values())
        return out


def state(model: nn.Module) -> dict[str, Any]:
    """All that tells one model from another, by identity."""
    found: dict[str, Any] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        found[name] = id(module), type(module), module.training, sorted(vars(module)), list(module._forward_hooks)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        found[f"{name}="] = id(parameter), parameter.requires_grad, parameter.data_ptr(), parameter._version
    return found


class Bag(nn.Module):
    """One bag and a linear layer."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.table = nn.EmbeddingBag(50, 8, **options)
        self.top = nn.Linear(8, 2)

    def forward(self, *words: Tensor | None) -> Tensor:
        out: Tensor = self.top(self.table(*words))
        return out


def offsets(n: int, last: bool = False) -> tuple[Tensor, Tensor]:
    """n bags of 0 to 3 ids."""
    bounds = torch.cat([torch.zeros(1, dtype=torch.int64), torch.randint(0, 4, (n,)).cumsum(0)])
    return ids(50, int(bounds[-1])), bounds if last else bounds[:-1]
