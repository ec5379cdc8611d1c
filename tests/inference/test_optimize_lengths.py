"""What a model asks of lengths in Python is in no graph: other lengths get the model's own answer all the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from recsys.inference.optimize import optimize
from tests.inference.optimize_models import EAGER, ids, own_cache

Asks = Callable[[Tensor, Tensor], bool]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own_cache(tmp_path, monkeypatch)


class Asking(nn.Module):
    """Its scores are doubled where `asks` says so, of two lists of ids."""

    def __init__(self, asks: Asks) -> None:
        super().__init__()
        self.table, self.top, self.asks = nn.Embedding(50, 4), nn.Linear(4, 1), asks

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        scores: Tensor = self.top(self.table(x).mean(1) + self.table(y).mean(1))
        return scores * 2 if self.asks(x, y) else scores


QUESTIONS: dict[str, Asks] = {
    "more than ten rows": lambda x, y: x.shape[0] > 10,
    "one row": lambda x, y: x.shape[0] == 1,
    "an even number": lambda x, y: x.shape[0] % 2 == 0,
    "all but seven": lambda x, y: x.shape[0] != 7,
    "the longer list": lambda x, y: x.shape[1] < y.shape[1],
    "more than one id": lambda x, y: x.shape[1] > 1,
    "how many ids": lambda x, y: x.numel() > 20,
    "a table's own rule": lambda x, y: x.shape[0] * y.shape[1] % 5 == x.shape[1],
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_branch_that_the_sample_did_not_take_is_taken(question: str) -> None:
    model = Asking(QUESTIONS[question]).eval()
    made = optimize(model, (ids(50, 8, 3), ids(50, 8, 5)), EAGER)
    assert not made.report.eager
    for rows in (1, 2, 5, 7, 8, 12):
        for left, right in ((3, 5), (1, 5), (6, 3), (3, 1)):
            call = ids(50, rows, left), ids(50, rows, right)
            with torch.no_grad():
                torch.testing.assert_close(made(*call), model(*call), rtol=1e-5, atol=1e-5)
    ran = made.apart
    made(ids(50, 8, 3), ids(50, 8, 5))
    assert made.apart == ran  # lengths as the sample's run compiled


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 6), st.sampled_from(sorted(QUESTIONS)))
def test_whatever_the_sample_was(sample: int, rows: int, length: int, question: str) -> None:
    torch.manual_seed(sample)
    model = Asking(QUESTIONS[question]).eval()
    made = optimize(model, (ids(50, sample + 1, 3), ids(50, sample + 1, length)), EAGER)
    call = ids(50, rows, length), ids(50, rows, 3)
    with torch.no_grad():
        torch.testing.assert_close(made(*call), model(*call), rtol=1e-5, atol=1e-5)


def test_questions_about_numbers_alone() -> None:
    class Dense(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.top = nn.Linear(4, 1)

        def forward(self, x: Tensor) -> Tensor:
            scores: Tensor = self.top(x)
            return scores * 2 if x.shape[0] > 10 else scores

    model = Dense().eval()
    made = optimize(model, (torch.randn(20, 4),), EAGER)
    for rows in (1, 5, 10, 11, 30):
        x = torch.randn(rows, 4)
        with torch.no_grad():
            torch.testing.assert_close(made(x), model(x), rtol=1e-5, atol=1e-5)
    assert made.apart == 3


def test_rows_that_no_question_is_about_all_run_compiled() -> None:
    made = optimize(Asking(lambda x, y: False).eval(), (ids(50, 8, 3), ids(50, 8, 5)), EAGER)
    for rows, left, right in ((1, 3, 5), (2, 1, 1), (9, 7, 2), (64, 2, 9)):
        made(ids(50, rows, left), ids(50, rows, right))
    assert made.apart == 0
