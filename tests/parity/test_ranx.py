"""ranx gives our metrics, for one answer a question and for several."""

from __future__ import annotations

import pytest
import torch

from recsys.training.answer_sets import set_metrics, top_items
from recsys.training.ranks import rank_metrics, ranks
from tests.training.test_ranks import ragged

ranx = pytest.importorskip("ranx", reason="parity with ranx needs it: `pip install ranx`")

pytestmark = [
    pytest.mark.parity,
    pytest.mark.slow,  # ranx compiles itself for a minute
    pytest.mark.filterwarnings("ignore:unsafe cast from uint64 to int64"),
]
QUESTIONS, ITEMS, KS = 60, 40, (1, 5, 10)


def theirs(scores: torch.Tensor, answers: list[list[int]], names: dict[str, str]) -> dict[str, float]:
    """Their figures under our names; theirs are `names` of a metric."""
    asked = {f"q{row}": {str(item): 1 for item in items} for row, items in enumerate(answers)}
    run = {f"q{row}": {str(item): float(scores[row, item]) for item in range(1, ITEMS + 1)} for row in range(QUESTIONS)}
    wanted = [f"{name}@{k}" for k in KS for name in names.values()]
    found = ranx.evaluate(ranx.Qrels(asked), ranx.Run(run), wanted)
    return {f"{ours}@{k}": float(found[f"{name}@{k}"]) for k in KS for ours, name in names.items()}


@pytest.fixture(scope="module")
def scores() -> torch.Tensor:
    return torch.rand(QUESTIONS, ITEMS + 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_one_answer(scores: torch.Tensor) -> None:
    answers = torch.randint(1, ITEMS + 1, (QUESTIONS,), generator=torch.Generator().manual_seed(1))
    names = {"hr": "hit_rate", "recall": "recall", "ndcg": "ndcg", "mrr": "mrr"}
    expected = theirs(scores, [[answer] for answer in answers.tolist()], names)
    assert rank_metrics(ranks(scores, answers), KS) == pytest.approx(expected)


def test_several_answers(scores: torch.Tensor) -> None:
    random = torch.Generator().manual_seed(2)
    sizes = torch.randint(1, 15, (QUESTIONS,), generator=random).tolist()
    answers = [(torch.randperm(ITEMS, generator=random)[:size] + 1).tolist() for size in sizes]
    expected = theirs(scores, answers, {"recall": "recall", "ndcg": "ndcg"})
    assert set_metrics(top_items(scores, 10), ragged(*answers), KS) == pytest.approx(expected)
