"""An optimised model is called as the model is, and put back as it was."""

from __future__ import annotations

import copy
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import recsys
from recsys.errors import ConfigError, DataError
from recsys.inference.optimize import OptimizeConfig, optimize
from tests.inference.optimize_models import EAGER, Bag, Columns, Nested, columns, ids, offsets, own_cache, state


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own_cache(tmp_path, monkeypatch)


def test_keywords_constants_and_calls_that_the_sample_did_not_show() -> None:
    model = Nested().eval()
    dense, given = columns(5)
    made = optimize(model, {"ids": given, "dense": dense, "scale": 2.0, "more": torch.ones(5, 1)}, EAGER)
    more = torch.ones(5, 1)
    expected = made._module(dense, given, 2.0, more=more)
    torch.testing.assert_close(made(dense, given, scale=2.0, more=more), expected)
    torch.testing.assert_close(made(dense, ids=given, more=more, scale=2.0), expected)
    assert made.apart == 0
    torch.testing.assert_close(made(dense, given, 1.0, more=more), expected / 2 + 0.5)
    torch.testing.assert_close(made(dense, given.int(), 2.0, more=more), expected)
    assert made.apart == 2
    with pytest.raises(TypeError, match="missing 1 required"):
        made(dense)


class Summed(nn.Module):
    """As many look-ups as the ids have columns, which the graph fixes."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(50, 4)

    def forward(self, ids: Tensor) -> Tensor:
        total = torch.zeros(ids.shape[0], 4)
        for k in range(ids.shape[1]):
            total = total + self.table(ids[:, k])
        return total.sum(dim=1)


def test_a_length_of_the_ids_that_the_model_fixed_runs_module_by_module() -> None:
    model = Summed().eval()
    made = optimize(model, (torch.randint(50, (6, 3)),), EAGER)
    for width, apart in ((3, 0), (5, 1), (2, 2)):
        given = torch.randint(50, (4, width))
        torch.testing.assert_close(made(given), sum(model.table(given[:, k]).sum(1) for k in range(width)))
        assert made.apart == apart


def test_an_id_out_of_range_is_the_modules_own_error() -> None:
    made = optimize(Columns("slice").eval(), columns(4), EAGER)
    dense, wrong = columns(4)
    wrong[2, 1] = 99
    with pytest.raises((IndexError, RuntimeError)):
        made(dense, wrong)
    with pytest.raises((IndexError, RuntimeError)):
        made(dense[:3], wrong)
    bag = optimize(Bag(mode="sum").eval(), offsets(4), EAGER)
    with pytest.raises((RuntimeError, ValueError)):
        bag(ids(50, 4), torch.tensor([1, 2, 3, 4]))


def test_revert_puts_back_exactly_what_was_there() -> None:
    model = Nested().eval()
    model.left.tables[1].weight.requires_grad_(False)
    model.left.tables[2].register_forward_hook(lambda *_: None)
    before = state(model)
    given = columns(5)
    made = optimize(model, given, EAGER)
    assert "forward" in vars(model.left.tables[0])
    assert sorted(model.state_dict()) == sorted(copy.deepcopy(model).state_dict())
    assert made.revert() is model
    assert state(model) == before
    assert model(*given).requires_grad
    made.close()
    with pytest.raises(ConfigError, match="put back"):
        made(*given)


def test_a_context_closes() -> None:
    model = Columns("slice").eval()
    before = state(model)
    with optimize(model, columns(4), EAGER) as made:
        assert made(*columns(3)).shape == (3, 1)
    assert state(model) == before


class Breaks(Columns):
    def forward(self, dense: Tensor, ids: Tensor) -> Tensor:
        super().forward(dense, ids)
        raise RuntimeError("of its own")


@pytest.mark.parametrize(
    ("model", "sample", "error", "said"),
    [
        (Breaks("slice"), columns(4), RuntimeError, "of its own"),
        (Columns("slice"), columns(1), DataError, "1 rows: give 2 or more"),
        (Columns("slice"), [*columns(4)], DataError, "a tuple of arguments"),
        (Columns("slice"), (object(), columns(4)[1]), DataError, "is a object: expected tensors"),
    ],
)
def test_an_optimisation_that_fails_leaves_the_model(
    model: nn.Module, sample: Any, error: type[Exception], said: str
) -> None:
    before = state(model.eval())
    with pytest.raises(error, match=said):
        optimize(model, sample, EAGER)
    assert state(model) == before


def test_a_model_in_training_mode_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"call \.eval\(\)"):
        optimize(Columns("slice"), columns(4), EAGER)


def test_a_second_optimisation_finds_nothing_to_do() -> None:
    model = Columns("slice").eval()
    first = optimize(model, columns(4), EAGER)
    second = optimize(model, columns(4), EAGER)
    assert not second.report.placed
    assert {one.why for one in second.report.left} == {"its forward was replaced already"}
    second.close()
    assert "forward" in vars(model.tables[0])
    first.close()


def test_inputs_of_different_lengths_never_reach_the_network() -> None:
    made = optimize(Columns("slice").eval(), columns(5), EAGER)
    with pytest.raises(RuntimeError, match="Sizes of tensors must match"):
        made(torch.randn(4, 3), columns(5)[1])


def test_threads_do_not_meet() -> None:
    made = optimize(Columns("slice").eval(), columns(5), EAGER)
    batches = [columns(n) for n in range(1, 9)]
    expected = [made(*batch) for batch in batches]
    wrong: list[int] = []

    def run(k: int) -> None:
        for _ in range(50):
            if not torch.equal(made(*batches[k]), expected[k]):
                wrong.append(k)

    threads = [threading.Thread(target=run, args=(k,)) for k in range(len(batches))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert made.apart == 0


def test_the_public_name() -> None:
    assert recsys.optimize is optimize
    assert OptimizeConfig().backend == "auto"
