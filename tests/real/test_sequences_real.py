"""Sequence models on Amazon Beauty, each user's last two items kept out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from recsys.models.generative.base import SequenceConfig, SequenceModel
from recsys.models.generative.hstu import HSTU, HSTUConfig
from recsys.models.generative.sasrec import SASRec, SASRecConfig
from recsys.models.generative.windows import windows
from recsys.training.sequence_trainer import SequenceTrainer, SequenceTraining

BEAUTY = Path(__file__).parents[3] / "shared" / "data" / "beauty" / "Beauty.txt"
ITEMS = 12_101
KINDS: dict[str, tuple[Any, type[SequenceConfig]]] = {"sasrec": (SASRec, SASRecConfig), "hstu": (HSTU, HSTUConfig)}


@pytest.fixture(scope="module")
def users() -> list[npt.NDArray[np.int32]]:
    if not BEAUTY.is_file():
        pytest.skip(f"needs the Beauty sequences at {BEAUTY}")
    return [np.array(line.split()[1:], dtype=np.int32) for line in BEAUTY.read_text().splitlines()]


def ndcg_at_10(scores: Tensor, answers: Tensor) -> float:
    """Over all items, those of the history too; what ties with the answer stands before it."""
    ranks = (scores >= scores.gather(1, answers.unsqueeze(1))).sum(dim=1)
    return float(torch.where(ranks <= 10, 1 / (ranks + 1).log2(), 0.0).mean())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sasrec", "hstu"])
def test_three_epochs_are_far_better_than_the_most_popular(users: list[npt.NDArray[np.int32]], name: str) -> None:
    model_class, config_class = KINDS[name]
    items, train = np.concatenate(users), np.concatenate([user[:-2] for user in users])
    ends = np.cumsum([len(user) for user in users]) - 2
    starts = ends + 2 - [len(user) for user in users]
    asked = np.arange(0, len(users), 10)
    answers = torch.from_numpy(items[ends[asked]].astype(np.int64))

    def validate(model: SequenceModel) -> dict[str, float]:
        rows, lengths = windows(items, starts[asked], ends[asked], model.config.context)
        return {"ndcg@10": ndcg_at_10(model.next_scores(rows, lengths), answers)}

    torch.manual_seed(0)
    model = model_class(ITEMS, config_class(dropout=0.3))
    offsets = np.concatenate([[0], np.cumsum([len(user) - 2 for user in users])])
    trainer = SequenceTrainer(model, train, offsets, validate, SequenceTraining(epochs=3, batch_size=128))
    popular = ndcg_at_10(torch.from_numpy(np.bincount(train, minlength=ITEMS + 1)).repeat(len(asked), 1), answers)
    assert trainer.fit(show=False).best > 2 * popular
