"""Training sequence models: what an example is, what is learnt, when it stops, and that a kill costs nothing."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from recsys.errors import CheckpointError, ConfigError, DataError, DivergedError
from recsys.models.generative.base import SequenceModel
from recsys.models.generative.hstu import HSTU, HSTUConfig
from recsys.models.generative.sasrec import SASRec, SASRecConfig
from recsys.models.generative.windows import windows
from recsys.training.item_losses import ItemLoss
from recsys.training.sequence_trainer import SequenceTrainer, SequenceTraining
from recsys.training.trainer import Progress

ITEMS = 12
Array = npt.NDArray[Any]


class Killed(Exception):
    """Stands for a kill at a chosen moment."""


def rounds(users: int = 60, seed: int = 0) -> tuple[Array, Array]:
    """Users who go round through the items, from anywhere, 2 to 9 steps."""
    draw = np.random.RandomState(seed)
    lengths = draw.randint(2, 10, users)
    first = draw.randint(0, ITEMS, users)
    items = np.concatenate([(f + np.arange(n)) % ITEMS + 1 for f, n in zip(first, lengths, strict=True)])
    return items.astype(np.int32), np.concatenate([[0], np.cumsum(lengths)])


def model(dropout: float = 0.1, kind: str = "sasrec") -> SequenceModel:
    torch.manual_seed(7)
    sizes = {"context": 6, "width": 16, "layers": 1, "dropout": dropout}
    if kind == "hstu":
        return HSTU(ITEMS, HSTUConfig.parse(sizes, "here"))
    return SASRec(ITEMS, SASRecConfig.parse(sizes, "here"))


def share_right(model: SequenceModel) -> dict[str, float]:
    """How often the last item of users is scored best after the ones before it."""
    items, offsets = rounds(40, 1)
    rows, lengths = windows(items, offsets[:-1], offsets[1:] - 1, model.config.context)
    best = model.next_scores(rows, lengths).argmax(dim=1)
    return {"right": float((best == torch.from_numpy(items[offsets[1:] - 1])).double().mean())}


def trainer(state: Path | None = None, start: SequenceModel | None = None, **changes: Any) -> SequenceTrainer:
    values = {"batch_size": 16, "epochs": 4, "monitor": "right", "patience": 50, "save_seconds": 0, **changes}
    report = values.pop("report", None)
    config = SequenceTraining.parse(values, "here")
    return SequenceTrainer(start or model(), *rounds(), share_right, config, state, "us", report)


def assert_same(one: SequenceTrainer, two: SequenceTrainer) -> None:
    for (name, value), other in zip(one.model.state_dict().items(), two.model.state_dict().values(), strict=True):
        assert torch.equal(value, other), name
    times = ("seconds", "events_per_second")
    logs = [[{k: v for k, v in row.items() if k not in times} for row in t.progress.history] for t in (one, two)]
    assert logs[0] == logs[1]


def test_an_example_is_a_users_newest_events_each_with_its_successor() -> None:
    items = np.array([9, 1, 2, 3, 4, 5, 6, 7, 8, 3, 2], dtype=np.int32)
    offsets = np.array([0, 1, 9, 9, 11])  # one event, eight, none, two
    config = SequenceTraining(batch_size=2, monitor="right")
    one = SequenceTrainer(model(), items, offsets, share_right, config)
    ((inputs, targets),) = one._batches()
    rows = {tuple(i): tuple(t) for i, t in zip(inputs.tolist(), targets.tolist(), strict=True)}
    assert rows == {(2, 3, 4, 5, 6, 7): (3, 4, 5, 6, 7, 8), (3, 2, 0, 0, 0, 0): (2, 0, 0, 0, 0, 0)}
    assert one.targets == 7
    assert one.steps == 1


def test_every_user_comes_once_an_epoch_in_another_order() -> None:
    one = trainer()
    orders = []
    for one.progress.epoch in (0, 1, 0):
        orders.append([tuple(row) for inputs, _ in one._batches() for row in F.pad(inputs, (0, 6))[:, :6].tolist()])
    assert len(orders[0]) == 60
    assert orders[0] == orders[2] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1])


@pytest.mark.parametrize("kind", ["sasrec", "hstu"])
@pytest.mark.parametrize("loss", ["bce", "sampled", "full"])
def test_it_learns_what_comes_next(kind: str, loss: ItemLoss) -> None:
    one = trainer(start=model(kind=kind), loss=loss, negatives=8, epochs=20, learning_rate=0.03)
    progress = one.fit(show=False)
    assert progress.history[-1]["loss"] < progress.history[0]["loss"]
    assert progress.best > 0.9
    assert share_right(one.model)["right"] == progress.best
    assert not one.model.training


def test_the_loss_told_is_the_mean_over_all_places() -> None:
    start = model(dropout=0.0)
    items, offsets = rounds()
    rows, _ = windows(items, offsets[:-1], offsets[1:], 7)
    logits, targets = start.score(start.hidden(rows[:, :-1]))[..., 1:], rows[:, 1:]
    expected = F.cross_entropy(logits[targets > 0], targets[targets > 0] - 1)
    (record,) = trainer(start=start, epochs=1, learning_rate=1e-9).fit(show=False).history
    assert record["loss"] == pytest.approx(expected.item(), rel=1e-5)


def test_bfloat16_learns_too_and_keeps_float32_weights() -> None:
    one = trainer(precision="bf16", epochs=15, learning_rate=0.03)
    assert one.fit(show=False).best > 0.9
    assert {value.dtype for value in one.model.state_dict().values()} == {torch.float32}


def test_the_rate_rises_in_a_straight_line() -> None:
    one = trainer(warmup_steps=6, learning_rate=0.6)
    rates = []
    for one.progress.epoch in (0, 1):
        for one.progress.step in range(4):
            rates.append(one._rate())
    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.6, 0.6])
    assert trainer(learning_rate=0.6)._rate() == 0.6


def test_weight_decay_shrinks_matrices_alone() -> None:
    plain, decayed = trainer(epochs=1), trainer(epochs=1, weight_decay=20.0)
    for one in (plain, decayed):
        one.fit(show=False)
    state = plain.model.state_dict()
    for name, value in decayed.model.state_dict().items():
        if value.dim() > 1:
            assert value.norm() < 0.97 * state[name].norm(), name
    assert decayed.model.norm.weight.mean() > 0.99  # type: ignore[operator]


def test_patience_stops_and_the_best_weights_come_back() -> None:
    scores = iter([0.1, 0.5, 0.4, 0.3, 0.9])
    seen: list[Tensor] = []

    def validate(model: SequenceModel) -> dict[str, float]:
        seen.append(model.items.weight.detach().clone())
        return {"right": next(scores)}

    one = trainer(epochs=9, patience=2)
    one.validate = validate
    progress = one.fit(show=False)
    assert (progress.epoch, progress.best_epoch, progress.best) == (4, 1, 0.5)
    assert torch.equal(one.model.items.weight, seen[1])
    assert not torch.equal(one.model.items.weight, seen[3])


def test_the_same_seed_gives_the_same_bits_and_leaves_the_global_state() -> None:
    one, two, other = trainer(), trainer(), trainer(seed=1)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    for each in (one, two, other):
        each.fit(show=False)
    assert torch.equal(torch.rand(3), expected)
    assert_same(one, two)
    assert not torch.equal(one.model.items.weight, other.model.items.weight)


@pytest.mark.parametrize("loss", ["bce", "sampled", "full"])
def test_a_resumed_training_ends_with_the_same_bits(tmp_path: Path, loss: ItemLoss) -> None:
    straight = trainer(loss=loss)
    straight.fit(show=False)
    told: list[int] = []

    def stop(progress: Progress) -> None:
        told.append(progress.epoch)
        raise Killed

    for _ in range(3):
        with pytest.raises(Killed):
            trainer(tmp_path / "state", loss=loss, report=stop).fit(show=False)
    resumed = trainer(tmp_path / "state", loss=loss)
    resumed.fit(show=False)
    assert_same(straight, resumed)
    assert told == [1, 2, 3]
    again = trainer(tmp_path / "state", loss=loss, report=stop)
    again.fit(show=False)  # nothing is left to do
    assert_same(straight, again)


def test_a_kill_in_the_middle_of_an_epoch_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    straight = trainer()
    straight.fit(show=False)
    step, calls = SequenceTrainer._step, iter(range(1000))

    def dying(self: SequenceTrainer, inputs: Tensor, targets: Tensor) -> float:
        if next(calls) == 6:
            raise Killed
        return step(self, inputs, targets)

    monkeypatch.setattr(SequenceTrainer, "_step", dying)
    with pytest.raises(Killed):
        trainer(tmp_path / "state").fit(show=False)
    resumed = trainer(tmp_path / "state")
    resumed.fit(show=False)
    assert_same(straight, resumed)
    assert next(calls) == 6 + 1 + (16 - 6)  # only the steps that were not done are done


def test_another_trainings_state_is_refused(tmp_path: Path) -> None:
    trainer(tmp_path / "state", epochs=1).fit(show=False)
    other = trainer(tmp_path / "state")
    other.fingerprint = "them"
    with pytest.raises(CheckpointError, match="unfinished training with another recipe"):
        other.fit(show=False)


def test_a_loss_that_explodes_is_said_and_changes_no_weight() -> None:
    one = trainer(learning_rate=1e18, epochs=30)
    with pytest.raises(DivergedError, match=r"became .* in epoch .*; lower the learning rate"):
        one.fit(show=False)
    start = model()
    with torch.no_grad():
        start.items.weight[3] = math.nan
    broken = trainer(start=start)
    with pytest.raises(DivergedError, match="the loss became nan in epoch 1; lower the learning rate"):
        broken.fit(show=False)
    assert not torch.isnan(broken.model.items.weight).all()


def test_metrics_that_say_nothing_are_said() -> None:
    with pytest.raises(ConfigError, match="validation has no `rihgt`: did you mean `right`"):
        trainer(monitor="rihgt").fit(show=False)
    one = trainer()
    one.validate = lambda model: {"right": math.nan}
    with pytest.raises(DivergedError, match="right became nan after epoch 1"):
        one.fit(show=False)


def test_data_that_cannot_teach_is_said() -> None:
    with pytest.raises(DataError, match="users with two events or more to train on, got none among 2 users"):
        SequenceTrainer(model(), np.array([1, 2]), np.array([0, 1, 2]), share_right, SequenceTraining())
    for wrong in (0, ITEMS + 1):
        with pytest.raises(DataError, match=rf"expected items from 1 to {ITEMS}, those of the model, got"):
            SequenceTrainer(model(), np.array([1, wrong]), np.array([0, 2]), share_right, SequenceTraining())
