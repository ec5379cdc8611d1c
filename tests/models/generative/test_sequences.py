"""What holds for every sequence model."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from recsys.errors import ConfigError, DataError
from recsys.models.generative.base import Places, SequenceModel
from recsys.models.generative.hstu import HSTU, HSTUConfig
from recsys.models.generative.sasrec import SASRec, SASRecConfig

ITEMS = 9
KINDS = [(SASRec, SASRecConfig), (HSTU, HSTUConfig)]


@pytest.fixture(params=["sasrec", "hstu", "sasrec-cosine", "hstu-cosine"])
def model(request: pytest.FixtureRequest) -> SequenceModel:
    return build(request.param)


def build(name: str, dropout: float = 0.0) -> SequenceModel:
    kind, _, cosine = name.partition("-")
    sizes = {"context": 6, "width": 8, "dropout": dropout, "temperature": 0.1 if cosine else None}
    torch.manual_seed(3)
    made: SequenceModel
    if kind == "sasrec":
        made = SASRec(ITEMS, SASRecConfig.parse(sizes, "here"))
    else:
        made = HSTU(ITEMS, HSTUConfig.parse(sizes, "here"))
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.3)
        made.items.weight[0] = 0.0
    return made.eval()


def histories() -> Tensor:
    return torch.tensor([[3, 1, 4, 1, 5, 9], [2, 6, 0, 0, 0, 0], [5, 0, 0, 0, 0, 0]])


def test_shapes(model: SequenceModel) -> None:
    h = model.hidden(histories())
    assert h.shape == (3, 6, 8)
    assert model.score(h).shape == (3, 6, ITEMS + 1)
    assert model.next_scores(histories(), torch.tensor([6, 2, 1])).shape == (3, ITEMS + 1)


def test_an_event_changes_nothing_before_it_and_something_from_it_on(model: SequenceModel) -> None:
    before = model.hidden(histories())
    changed = histories()
    changed[0, 3] = 7
    after = model.hidden(changed)
    torch.testing.assert_close(after[0, :3], before[0, :3])
    assert ((after[0, 3:] - before[0, 3:]).abs().amax(dim=1) > 1e-4).all()
    torch.testing.assert_close(after[1:], before[1:])


def test_neither_padding_nor_neighbours_change_a_score(model: SequenceModel) -> None:
    together = model.next_scores(histories(), torch.tensor([6, 2, 1]))
    for row, alone in enumerate(([3, 1, 4, 1, 5, 9], [2, 6], [5])):
        torch.testing.assert_close(
            model.next_scores(torch.tensor([alone]), torch.tensor([len(alone)])), together[row : row + 1]
        )


def test_the_order_of_events_matters(model: SequenceModel) -> None:
    rows = torch.tensor([[1, 2, 3], [2, 1, 3]])
    one, two = model.hidden(rows)[:, -1]
    assert (one - two).abs().max() > 1e-3


def test_no_item_is_never_recommended_and_all_others_may_be(model: SequenceModel) -> None:
    scores = model.score(model.hidden(histories()))
    assert (scores[..., 0] == -torch.inf).all()
    assert scores[..., 1:].isfinite().all()


def test_next_scores_are_those_after_the_newest_event(model: SequenceModel) -> None:
    every = model.score(model.hidden(histories()))
    expected = torch.stack([every[0, 5], every[1, 1], every[2, 0]])
    torch.testing.assert_close(model.next_scores(histories(), torch.tensor([6, 2, 1])), expected)


def test_histories_without_events_have_one_finite_answer(model: SequenceModel) -> None:
    rows = torch.tensor([[0, 0, 0], [1, 2, 3], [0, 0, 0]])
    scores = model.next_scores(rows, torch.tensor([0, 3, 0]))
    assert scores[:, 1:].isfinite().all()
    torch.testing.assert_close(scores[0], scores[2])
    torch.testing.assert_close(model.next_scores(torch.tensor([[0]]), torch.tensor([0]))[0], scores[0])
    assert model.next_scores(torch.zeros(0, 1, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)).shape == (0, 10)


def test_scores_are_inner_products_with_the_items_or_cosines_over_the_temperature() -> None:
    plain, cosine = build("sasrec"), build("sasrec-cosine")
    h = torch.tensor([[3.0, 4.0, 0, 0, 0, 0, 0, 0]])
    with torch.no_grad():
        for one in (plain, cosine):
            one.items.weight[1] = torch.tensor([0.0, 2.0, 0, 0, 0, 0, 0, 0])
    assert plain.score(h)[0, 1].item() == pytest.approx(8.0)
    assert cosine.score(h)[0, 1].item() == pytest.approx(0.8 / 0.1)


def test_every_weight_learns_but_the_padding(model: SequenceModel) -> None:
    model.train()
    scores = model.score(model.hidden(histories()))
    scores[..., 1:].square().sum().backward()  # type: ignore[no-untyped-call]
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name
    assert model.items.weight.grad is not None
    assert not model.items.weight.grad[0].any()


def test_dropout_is_for_training_only() -> None:
    for name in ("sasrec", "hstu"):
        model = build(name, dropout=0.5)
        assert torch.equal(model.hidden(histories()), model.hidden(histories()))
        model.train()
        assert not torch.equal(model.hidden(histories()), model.hidden(histories()))


@pytest.mark.parametrize("name", ["sasrec", "hstu"])
def test_rows_that_are_let_go_of_after_a_block_equal_rows_that_are_hidden(name: str) -> None:
    model, rows = build(name), histories()
    keep, gone = [0, 3, 5], [1, 2, 4]
    whole = Places.causal(6, rows.device)
    visible = whole.visible.clone()
    visible[:, :, gone] = False
    kept = Places(whole.positions[:, keep], whole.visible[:, keep][:, :, keep])
    first = model.blocks[0](model.embed(rows, whole), whole)
    short = model.blocks[1](first[:, keep], kept)
    torch.testing.assert_close(short, model.blocks[1](first, Places(whole.positions, visible))[:, keep])
    assert (short - model.blocks[1](first, whole)[:, keep]).abs().max() > 1e-4


def test_what_cannot_be_is_said(model: SequenceModel) -> None:
    with pytest.raises(DataError, match=r"at most 6 events, the model's context, got 7"):
        model.hidden(torch.ones(1, 7, dtype=torch.int64))
    with pytest.raises(ConfigError, match="at least one item, got 0"):
        SASRec(0, SASRecConfig())
    with pytest.raises(ConfigError, match="expected a `width` that `heads` divides, got 10 and 4"):
        HSTUConfig.parse({"width": 10, "heads": 4}, "here")
