"""What a model may meet beside its inputs: torch's modes, training, copies, files, other threads, odd numbers."""

from __future__ import annotations

import copy
import io
import threading
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from recsys.errors import ConfigError
from recsys.inference.optimize import OptimizeConfig, compiled, optimize, work
from tests.inference.optimize_models import EAGER, Bag, Columns, columns, ids, own_cache


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own_cache(tmp_path, monkeypatch)


@pytest.fixture
def double() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def answers(model: nn.Module, *call: Any) -> Any:
    with torch.no_grad():
        return model(*call)


@pytest.mark.parametrize("backend", ["eager", "onnx"])
def test_inference_mode_within_and_without(backend: Any) -> None:
    model, call = Columns("select").eval(), columns(5)
    expected = answers(model, *call)
    with torch.inference_mode():
        made = optimize(model, columns(6), OptimizeConfig(backend=backend))
        torch.testing.assert_close(made(*call), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(made(*call), expected, rtol=1e-5, atol=1e-5)
    assert made.apart == 0


@pytest.mark.parametrize("backend", ["eager", "onnx"])
def test_another_default_dtype(backend: Any, double: None) -> None:
    model, call = Columns("select").float().eval(), columns(5)
    call = call[0].float(), call[1]
    expected = answers(model, *call)
    made = optimize(model, call, OptimizeConfig(backend=backend))
    torch.testing.assert_close(made(*call), expected, rtol=1e-5, atol=1e-5)
    assert made(*call).dtype is torch.float32
    torch.testing.assert_close(answers(model, *call), expected, rtol=1e-5, atol=1e-5)  # module by module


def test_autocast_gives_what_the_model_gives() -> None:
    model, call = Columns("select").eval(), columns(5)
    made = optimize(model, call, EAGER)
    with torch.autocast("cpu", torch.bfloat16):
        assert made(*call).dtype is torch.bfloat16
    assert made(*call).dtype is torch.float32
    assert made.apart == 1


@pytest.mark.parametrize("training", [True, False])
def test_a_gradient_reaches_the_tables(training: bool) -> None:
    model, call = Columns("select").eval(), columns(5)
    optimize(model, call, EAGER)
    weights = [table.get_parameter("weight") for table in model.tables.children()]
    found = torch.autograd.grad(model.train(training)(*call).sum(), weights)
    assert all(bool(gradient.abs().sum() > 0) for gradient in found)


def test_weights_that_are_learnt_are_seen_in_training() -> None:
    model, call = Bag(mode="sum").eval(), (ids(50, 4, 2),)
    optimize(model, call, EAGER)
    table = next(one for one in model.modules() if isinstance(one, nn.EmbeddingBag))
    before = answers(model, *call)
    with torch.no_grad():
        table.weight += 1
    torch.testing.assert_close(answers(model, *call), before)
    assert not torch.allclose(answers(model.train(), *call), before)


def test_a_copy_has_weights_of_its_own_and_cannot_keep_the_rows() -> None:
    model, call = Columns("select").eval(), columns(5)
    made = optimize(model, call, EAGER)
    other = copy.deepcopy(model)
    with torch.no_grad():
        for table in other.tables.children():
            table.get_parameter("weight").zero_()
        other.top.bias.zero_()
        other.top.weight[:, :3] = 0
    for _ in range(2):
        assert answers(other, *call).abs().sum() == 0
        made.revert()


def test_an_optimised_model_cannot_be_saved_whole() -> None:
    model = Columns("select").eval()
    made = optimize(model, columns(5), EAGER)
    with pytest.raises(ConfigError, match=r"put it back with revert\(\) first"):
        torch.save(model, io.BytesIO())
    torch.save(model.state_dict(), io.BytesIO())
    made.revert()
    torch.save(model.state_dict(), io.BytesIO())


def test_what_was_put_in_a_forwards_place_afterwards_stays() -> None:
    model = Columns("select").eval()
    made = optimize(model, columns(5), EAGER)
    mine = lambda ids: torch.zeros(*ids.shape, 4)  # noqa: E731
    model.tables[0].forward = mine
    made.revert()
    assert model.tables[0].forward is mine
    assert "forward" not in vars(model.tables[1])


def test_models_that_are_optimised_at_once_are_compiled_one_after_the_other() -> None:
    models = [Columns(way).eval() for way in ("select", "slice", "stack", "rows")]
    made: dict[int, Any] = {}

    def one(k: int) -> None:
        made[k] = optimize(models[k], columns(5), EAGER)

    threads = [threading.Thread(target=one, args=(k,)) for k in range(len(models))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [made[k].report.eager for k in range(len(models))] == [""] * len(models)


class Bags(nn.Module):
    """Each list of ids has its own number of rows; concatenating them says whether these are alike."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.EmbeddingBag(20, 4, mode="sum") for _ in range(3))

    def forward(self, a: Tensor, b: Tensor, c: Tensor) -> Tensor:
        return torch.cat([table(x) for table, x in zip(self.tables, (a, b, c), strict=True)], dim=1).sum(1)


def test_lists_of_different_numbers_of_rows_are_refused_as_the_model_does() -> None:
    made = optimize(Bags().eval(), tuple(ids(20, 5, 3) for _ in range(3)), EAGER)
    assert not made.report.eager
    with pytest.raises(RuntimeError, match="must match"):
        made(ids(20, 2, 3), ids(20, 1, 3), ids(20, 3, 3))


class Masked(nn.Module):
    def __init__(self, fill: float) -> None:
        super().__init__()
        self.table, self.fill = nn.Embedding(20, 1), fill

    def forward(self, ids: Tensor) -> Tensor:
        scores: Tensor = self.table(ids).squeeze(2)
        return scores.masked_fill(ids < 5, self.fill)


@pytest.mark.parametrize("fill", [float("-inf"), float("nan")])
def test_scores_that_are_no_numbers_compare(fill: float) -> None:
    model = Masked(fill).eval()
    made = optimize(model, (ids(20, 6, 4),), EAGER)
    assert not made.report.eager
    call = ids(20, 9, 4)
    torch.testing.assert_close(made(call), answers(model, call), equal_nan=True)


class Batch(NamedTuple):
    dense: Tensor
    ids: Tensor


class Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.columns = Columns("select")

    def forward(self, batch: Any) -> Any:
        scores = self.columns(batch.dense, batch.ids)
        return OrderedDict(scores=scores, twice=2 * scores)


def test_named_tuples_and_ordered_dicts() -> None:
    model = Named().eval()
    made = optimize(model, (Batch(*columns(5)),), EAGER)
    call = Batch(*columns(7))
    found, expected = made(call), answers(model, call)
    assert type(found) is OrderedDict
    assert list(found) == ["scores", "twice"]
    torch.testing.assert_close(found["twice"], expected["twice"], rtol=1e-5, atol=1e-5)
    assert made.apart == 0


def test_a_thread_keeps_the_buffers_of_the_last_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "_KEPT", 3)
    made = optimize(Columns("select").eval(), columns(5), EAGER)
    network = made._compiled
    assert network is not None
    for rows in (2, 3, 4, 5, 4):
        made(*columns(rows))
    kept = [key[0][0] for key in network._space.bound]
    assert kept == [3, 4, 5]
    monkeypatch.setattr(compiled, "_BYTES", 1)
    made(*columns(9))
    assert [key[0][0] for key in network._space.bound] == [9]  # what is needed now, and no more


def test_a_network_with_tables_in_it_is_not_compiled_of_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work, "_HEAVY", 10)
    made = optimize(Columns("select").eval(), columns(5))
    assert set(made.report.backends.values()) == {"eager"}
    assert "would hold them again" in made.report.unused["onnx"]


def test_offsets_without_an_end_are_the_models_own_affair() -> None:
    model = Bag(mode="sum", include_last_offset=True).eval()
    made = optimize(model, (ids(50, 6), torch.tensor([0, 2, 4, 6])), EAGER)
    nothing = ids(50, 0), torch.empty(0, dtype=torch.int64)
    with pytest.raises(Exception) as theirs:  # noqa: PT011
        nn.EmbeddingBag(50, 4, mode="sum", include_last_offset=True)(*nothing)
    with pytest.raises(type(theirs.value)):
        made(*nothing)
