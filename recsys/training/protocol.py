"""How sequential recommenders are measured, by name, so that two figures under one name can be compared.

Every item of the catalogue is ranked. Sampled negatives do not exist here: to rank the answer among itself and 100
random items gives figures some three times as high, which change with how and how many are drawn, and may order models
otherwise than the full ranking does (Krichene and Rendle 2020, "On Sampled Metrics for Item Recommendation", KDD).
Published HR@10 of SASRec on MovieLens-1M are .82 among 101 items and .29 among all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field, field_validator
from torch import Tensor
from tqdm import tqdm

from recsys.config import Config
from recsys.data.histories import Histories
from recsys.data.questions import Held, Questions, Ragged, global_time, leave_one_out
from recsys.data.values import Ints
from recsys.errors import ConfigError, DataError
from recsys.training.bootstrap import Interval, means
from recsys.training.ranks import check_ks, list_ranks, rank_metrics, rank_values, ranks

__all__ = ["Measured", "Protocol", "Recommend", "Score", "measure", "measure_lists"]

Score = Callable[[Tensor, Tensor], Tensor]
"""Histories (items [T], offsets [B + 1]) to scores of all items [B, I + 1], of which column 0 does not count."""
Recommend = Callable[[Tensor, Tensor, int], Tensor]
"""Histories (items [T], offsets [B + 1]) and k to the best k items or more, [B, k …], the best first, 0 for none."""


class Protocol(Config):
    """What is held out, what is ranked, and what counts."""

    split: Literal["leave-one-out", "global-time"] = "leave-one-out"
    """Each user's last event, or everything after one moment (8:1:1)."""
    seen: Literal["kept", "left out"] = "kept"
    """Whether items of a user's whole history are ranked too; leave them out where nobody repeats an item.
    An answer is ranked even if it was seen: where people do repeat items, "left out" flatters whoever guesses that."""
    ks: tuple[int, ...] = (5, 10, 20)
    """How many recommendations count: metrics at each."""
    history: int = Field(50, ge=1)
    """Most items of a history that a model is given, the newest; published figures have 50 on Amazon's reviews."""
    batch: int = Field(256, ge=1)
    """Questions at a time; figures do not depend on it."""

    @field_validator("ks")
    @classmethod
    def _counts(cls, ks: tuple[int, ...]) -> tuple[int, ...]:
        try:
            check_ks(ks)
        except ConfigError as error:
            raise ValueError(str(error)) from None
        return ks

    def hold(self, histories: Histories) -> Held:
        """Split histories.

        Raises:
            ConfigError: When a split by time finds no times.
        """
        return leave_one_out(histories) if self.split == "leave-one-out" else global_time(histories)


@dataclass(frozen=True, eq=False)
class Measured:
    """How well questions were answered.

    Attributes:
        protocol: How it was measured.
        questions: What was asked, Q questions.
        ranks: [Q] int64, the rank of each answer; 0 where a list lacks it.
    """

    protocol: Protocol
    questions: Questions
    ranks: Tensor

    @property
    def users(self) -> Tensor:
        """The position of the user of each question, [Q] int64."""
        return torch.from_numpy(self.questions.owners())

    @property
    def metrics(self) -> dict[str, float]:
        """Means over all questions: ``hr@10``, ``recall@10``, ``ndcg@10``, ``mrr@10``, and so for each k."""
        return rank_metrics(self.ranks, self.protocol.ks)

    @property
    def values(self) -> dict[str, Tensor]:
        """What each question is worth, [Q] float64 by metric."""
        return rank_values(self.ranks, self.protocol.ks)

    def intervals(self, replicates: int = 500, seed: int = 0) -> dict[str, Interval]:
        """The metrics with 95 % intervals; users are resampled, each with all of their questions."""
        return means(self.values, self.users, replicates=replicates, seed=seed)

    def over(self, other: Measured, replicates: int = 500, seed: int = 0) -> dict[str, Interval]:
        """How much better than `other` it is, with 95 % intervals of the paired differences.

        Raises:
            DataError: When the two were not asked the same questions.
        """
        if self.protocol.ks != other.protocol.ks or not self.questions.same(other.questions):
            raise DataError("expected two measurements of the same questions at the same ks, to compare them in pairs")
        theirs = other.values
        gains = {name: value - theirs[name] for name, value in self.values.items()}
        return means(gains, self.users, replicates=replicates, seed=seed)

    def to_json(self) -> dict[str, Any]:
        """Protocol, number of questions and metrics as plain JSON values."""
        return {"protocol": self.protocol.model_dump(mode="json"), "questions": len(self.ranks), **self.metrics}


def measure(score: Score, questions: Questions, protocol: Protocol, show: bool = True) -> Measured:
    """Ask a model that scores all items.

    Args:
        score: See `Score`. It is called without gradients, on tensors of the CPU.
        questions: What to ask.
        protocol: How.
        show: Whether a bar on a terminal shows how far it is.

    Raises:
        DataError: When there are no questions, or scores are NaN or do not fit.
    """

    def rank(history: Ragged, answers: Tensor, seen: Ragged | None) -> Tensor:
        return ranks(score(*history), answers, seen)

    return _measure(rank, questions, protocol, show)


def measure_lists(recommend: Recommend, questions: Questions, protocol: Protocol, show: bool = True) -> Measured:
    """Ask a model that gives its best items, as beam search does, and no score for each item.

    What a protocol leaves out is taken from the lists, and what comes after moves up: such a model gives longer lists
    than it is asked for, or does not recommend what was seen.

    Args:
        recommend: See `Recommend`.
        questions: What to ask.
        protocol: How.
        show: Whether a bar on a terminal shows how far it is.

    Raises:
        DataError: When there are no questions, or lists are shorter than the protocol's largest k.
    """
    most = max(protocol.ks)

    def rank(history: Ragged, answers: Tensor, seen: Ragged | None) -> Tensor:
        lists = recommend(*history, most)
        if lists.dim() == 2 and lists.shape[1] < most:
            raise DataError(f"metrics at {most} need lists of {most} items or more, got {lists.shape[1]}")
        return list_ranks(lists, answers, seen)

    return _measure(rank, questions, protocol, show)


def _measure(
    rank: Callable[[Ragged, Tensor, Ragged | None], Tensor], questions: Questions, protocol: Protocol, show: bool
) -> Measured:
    found: list[Tensor] = []
    with torch.inference_mode():
        for rows in _batches(len(questions), protocol.batch, show):
            seen = questions.seen(rows) if protocol.seen == "left out" else None
            found.append(rank(questions.histories_of(rows, protocol.history), questions.answers(rows), seen).cpu())
    if not found:
        raise DataError("expected questions to ask, got none; are all histories shorter than three events?")
    return Measured(protocol, questions, torch.cat(found))


def _batches(questions: int, size: int, show: bool) -> Iterator[Ints]:
    with tqdm(total=questions, desc="ranking", unit=" questions", leave=False, disable=None if show else True) as bar:
        for start in range(0, questions, size):
            rows = np.arange(start, min(start + size, questions))
            yield rows
            bar.update(len(rows))
