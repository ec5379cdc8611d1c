"""Losses over items: exact where they are exact, unbiased where they draw."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from recsys.errors import DataError
from recsys.training import item_losses
from recsys.training.item_losses import _against, _others, bce, cross_entropy, item_loss, sampled_softmax


def example(places: int = 11, items: int = 7, width: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(places * 31 + items)
    queries = torch.randn(places, width, generator=generator, dtype=torch.float64).requires_grad_()
    keys = torch.randn(items + 1, width, generator=generator, dtype=torch.float64).requires_grad_()
    return queries, keys, torch.randint(1, items + 1, (places,), generator=generator)


def theirs(queries: Tensor, keys: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(queries @ keys[1:].T, targets - 1)


@pytest.mark.parametrize("held", [1, 8, 24, 1 << 20])
@pytest.mark.parametrize("shape", [(1, 1, 1), (11, 7, 5), (12, 30, 3)])
def test_cross_entropy_and_its_gradients_are_torchs(
    monkeypatch: pytest.MonkeyPatch, held: int, shape: tuple[int, int, int]
) -> None:
    monkeypatch.setattr(item_losses, "_LOGITS", held)
    queries, keys, targets = example(*shape)
    expected = theirs(queries, keys, targets)
    ours = cross_entropy(queries, keys, targets)
    torch.testing.assert_close(ours, expected)
    right = torch.autograd.grad(3 * expected, (queries, keys))
    for mine, wanted in zip(torch.autograd.grad(3 * ours, (queries, keys)), right, strict=True):
        torch.testing.assert_close(mine, wanted)


def test_no_more_logits_are_held_than_are_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    plain = item_losses._single

    def watched(logits: Tensor) -> Tensor:
        sizes.append(logits.numel())
        return plain(logits)

    monkeypatch.setattr(item_losses, "_single", watched)
    monkeypatch.setattr(item_losses, "_LOGITS", 24)
    cross_entropy(*example(11, 7))
    assert sizes == [24, 24, 24, 16]


def test_cross_entropy_outlasts_large_scores() -> None:
    queries, keys = torch.tensor([[300.0]]), torch.tensor([[999.0], [1.0], [0.0]])
    assert cross_entropy(queries, keys, torch.tensor([1])).item() == 0.0
    assert cross_entropy(queries, keys, torch.tensor([2])).item() == 300.0


def test_cross_entropy_in_bfloat16_is_near() -> None:
    queries, keys, targets = (value.float() if value.is_floating_point() else value for value in example(64, 50, 16))
    keys = (keys * 0.2).detach().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        loss = cross_entropy(queries, keys, targets)
    (grad,) = torch.autograd.grad(loss, keys)
    assert loss.dtype == grad.dtype == torch.float32
    expected = theirs(queries, keys, targets)
    torch.testing.assert_close(loss, expected, rtol=0.02, atol=0.02)
    (wanted,) = torch.autograd.grad(expected, keys)
    assert F.cosine_similarity(grad.flatten(), wanted.flatten(), dim=0) > 0.999


def test_bce_by_hand() -> None:
    # Of two items the other one is certain. Scores: place 1: 2 for its target, 0 against; place 2: -1, 3 against.
    queries = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    keys = torch.tensor([[9.0, 9.0], [2.0, 3.0], [0.0, -1.0]])
    first = math.log1p(math.exp(-2)) + math.log(2)
    second = math.log1p(math.exp(1)) + math.log1p(math.exp(3))
    assert bce(queries, keys, torch.tensor([1, 2])).item() == pytest.approx((first + second) / 2, rel=1e-6)


def test_others_are_all_but_the_target_alike() -> None:
    torch.manual_seed(0)
    drawn = _others(torch.full((30_000,), 3), 4)
    counts = torch.bincount(drawn, minlength=5)
    assert counts[0] == counts[3] == 0
    assert ((counts[[1, 2, 4]] - 10_000).abs() < 400).all()


def test_sampled_against_every_item_once_is_cross_entropy() -> None:
    queries, keys, targets = example()
    torch.testing.assert_close(_against(queries, keys, targets, torch.arange(1, 8)), theirs(queries, keys, targets))


def test_sampled_is_near_cross_entropy_whatever_the_number_drawn() -> None:
    torch.manual_seed(1)
    queries, keys, targets = example(40, 60)
    queries, keys = queries * 0.3, keys * 0.3
    full = theirs(queries, keys, targets)
    for negatives, draws in ((20, 100), (2000, 1)):
        mean = torch.stack([sampled_softmax(queries, keys, targets, negatives) for _ in range(draws)]).mean()
        torch.testing.assert_close(mean, full, rtol=0.01, atol=0.0)


def test_a_draw_of_targets_alone_costs_nothing() -> None:
    queries, keys, _ = example(2)
    same = torch.tensor([4, 4])
    assert _against(queries, keys, same, torch.tensor([4, 4, 4])).item() == 0.0


@pytest.mark.parametrize("kind", ["bce", "sampled"])
def test_one_item_cannot_be_told_apart(kind: item_losses.ItemLoss) -> None:
    queries, keys, targets = example(3, 1)
    with pytest.raises(DataError, match="at least two items to tell apart, got 1"):
        item_loss(kind, queries, keys, targets, 4)
    assert item_loss("full", queries, keys, targets, 4).item() == 0.0


@pytest.mark.parametrize("kind", ["bce", "sampled", "full"])
def test_the_row_of_no_item_never_moves(kind: item_losses.ItemLoss) -> None:
    queries, keys, targets = example()
    (grad,) = torch.autograd.grad(item_loss(kind, queries, keys, targets, 50), keys)
    assert not grad[0].any()
    assert grad[1:].any()
