"""What becomes of a model's network: which graphs and back ends are used, and what happens where none can be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.export import ExportedProgram

from recsys.errors import MissingExtraError
from recsys.inference import backends
from recsys.inference.backends import load
from recsys.inference.choice import Choice
from recsys.inference.optimize import OptimizeConfig, optimize, work
from tests.inference.optimize_models import EAGER, Columns, Shapes, checked, columns, ids, own_cache, state


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own_cache(tmp_path, monkeypatch)


class Branches(Columns):
    def forward(self, dense: Tensor, ids: Tensor) -> Tensor:
        return super().forward(dense, ids) * (2 if float(dense.sum()) > 0 else 1)


class Chained(Columns):
    def forward(self, dense: Tensor, ids: Tensor) -> Tensor:
        first, second = self.tables[0], self.tables[1]
        out: Tensor = super().forward(dense, ids) + second(first(ids[:, 0]).argmax(dim=1)).sum(1, keepdim=True)
        return out


class Random(Columns):
    def forward(self, dense: Tensor, ids: Tensor) -> Tensor:
        return super().forward(dense, ids) + next(counter)


counter = iter(range(1000))


@pytest.mark.parametrize(
    ("kind", "why"), [(Branches, "torch.export refuses it"), (Chained, "depend on what was looked")]
)
def test_what_cannot_be_traced_runs_module_by_module(kind: type[Columns], why: str) -> None:
    made = checked(kind("select"), columns, whole=False)
    assert why in made.report.eager
    assert why in str(made.report)


def test_a_graph_that_gives_other_scores_is_not_used() -> None:
    made = optimize(Random("select").eval(), columns(5), EAGER)
    assert "something else each time" in made.report.eager


class Fixed(Columns):
    def forward(self, dense: Tensor, ids: Tensor) -> Tensor:
        return super().forward(dense, ids).squeeze()


def test_one_row_that_is_a_case_of_its_own_runs_module_by_module() -> None:
    model = Fixed("select").eval()
    made = optimize(model, columns(5), EAGER)
    assert not made.report.eager
    assert made(*columns(7)).shape == (7,)
    assert made.apart == 0
    assert made(*columns(1)).shape == ()
    assert made.apart == 1


class Wrong:
    """An engine that gives something else."""

    def bind(self, inputs: Sequence[Tensor], out: Tensor) -> Callable[[], None]:
        def run() -> None:
            out.fill_(7.0)

        return run


@pytest.mark.parametrize("trouble", ["raises", "errs"])
def test_back_ends_that_fail_or_err_are_not_used(trouble: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def chosen(program: ExportedProgram, *_: object) -> Choice:
        if trouble == "raises":
            raise KeyError("a type that it does not know")
        return Choice({1: ("onnx", Wrong()), 512: ("eager", load("eager", "fp32", program))}, {1: {"onnx": 3.0}}, {})

    monkeypatch.setattr(work, "choose", chosen)
    made = checked(Columns("slice"), columns, config=OptimizeConfig())
    assert dict(made.report.backends) == {512: "eager"}
    assert ("other scores" if trouble == "errs" else "KeyError") in made.report.unused["onnx"]
    assert "not used: onnx: " in str(made.report)


class Masked(Shapes):
    """With a mask that is given, and ids of both kinds."""

    def forward(self, words: Tensor, one: Tensor, mask: Tensor | None = None) -> dict[str, Tensor]:
        found = super().forward(words, one)
        return found if mask is None else found | {"scores": found["scores"] * mask * (one > 3)}


def test_onnx_runtime() -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")

    def batch(n: int) -> tuple[Tensor, ...]:
        return ids(30, n, 5), ids(1000, n).int(), torch.rand(n) > 0.5

    made = checked(Masked(), batch, config=OptimizeConfig(backend="onnx"))
    assert dict(made.report.backends) == {512: "onnx"}
    assert "up to 512: onnx" in str(made.report)


def test_aot_inductor() -> None:
    made = checked(Columns("slice"), columns, config=OptimizeConfig(backend="aoti"))
    assert dict(made.report.backends) == {512: "aoti"}


def test_a_back_end_that_was_asked_for_and_is_absent_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "absent", lambda *_: "it is not here")
    model = Columns("slice").eval()
    before = state(model)
    with pytest.raises(MissingExtraError, match="not here"):
        optimize(model, columns(4), OptimizeConfig(backend="onnx"))
    assert state(model) == before
