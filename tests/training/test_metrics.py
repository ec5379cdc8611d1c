"""Metrics against scikit-learn, plain loops and numbers worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sk
from torch import Tensor

from recsys.errors import ConfigError, DataError
from recsys.training import metrics
from recsys.training.metrics import (
    EPS,
    auc,
    calibration,
    check,
    log_loss,
    mae,
    measure,
    normalised_entropy,
    per_user_auc,
    rmse,
    run_ends,
    user_auc,
)

Column = list[float]


@st.composite
def columns(draw: st.DrawFn, both: bool = True, users: int = 5) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Scores with many ties, hard labels, weights (some 0) and users."""
    n = draw(st.integers(2, 40))
    grid = st.integers(0, 8).map(lambda k: k / 8)
    scores = draw(st.lists(st.one_of(grid, st.floats(0, 1)), min_size=n, max_size=n))
    labels = draw(st.lists(st.integers(0, 1), min_size=n, max_size=n))
    weights = draw(st.lists(st.one_of(st.integers(0, 3), st.floats(0.1, 5)), min_size=n, max_size=n))
    if both:
        labels[:2], weights[:2] = [0, 1], [1, 2]
    groups = draw(st.lists(st.integers(-users, users), min_size=n, max_size=n))
    return f64(scores), f64(labels), f64([*weights[:-1], max(weights[-1], 1)]), torch.tensor(groups)


def f64(values: Any) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def close(actual: float, expected: float) -> bool:
    return actual == pytest.approx(expected, rel=1e-9, abs=1e-12, nan_ok=True)


def user_auc_loop(scores: Tensor, labels: Tensor, groups: Tensor, weights: Tensor) -> float:
    """The definition, one user at a time, with scikit-learn's AUC."""
    above = below = 0.0
    for user in set(groups.tolist()):
        rows = (groups == user) & (weights > 0)
        if len(set(labels[rows].tolist())) == 2:
            size = float(weights[rows].sum())
            above += size * sk.roc_auc_score(labels[rows], scores[rows], sample_weight=weights[rows])
            below += size
    return above / below if below else math.nan


@settings(deadline=None)
@given(columns())
def test_auc_is_scikit_learns(rows: tuple[Tensor, ...]) -> None:
    scores, labels, weights, _ = rows
    assert close(auc(scores, labels), sk.roc_auc_score(labels, scores))
    assert close(auc(scores, labels, weights), sk.roc_auc_score(labels, scores, sample_weight=weights))


@settings(deadline=None)
@given(columns())
def test_auc_is_the_share_of_pairs(rows: tuple[Tensor, ...]) -> None:
    scores, labels, weights, _ = rows
    mass = (weights * labels).unsqueeze(1) * (weights * (1 - labels))
    order = (scores.unsqueeze(1) - scores).sign()
    assert close(auc(scores, labels, weights), float((mass * (order + 1) / 2).sum() / mass.sum()))


@settings(deadline=None)
@given(columns())
def test_auc_depends_on_order_alone_and_turns_with_it(rows: tuple[Tensor, ...]) -> None:
    scores, labels, _, _ = rows
    assert auc(scores * 8, labels) == auc(scores, labels)
    assert close(auc(-scores, labels), 1 - auc(scores, labels))


def test_auc_counts_a_tie_half() -> None:
    assert auc(f64([0.1, 0.5, 0.5, 0.9]), f64([0, 0, 1, 1])) == 3.5 / 4
    assert auc(torch.full((6,), 0.3), f64([0, 1, 0, 1, 1, 1])) == 0.5


def test_auc_of_a_soft_label_splits_the_row() -> None:
    scores, soft = f64([0.2, 0.6, 0.7]), f64([0.25, 1.0, 0.5])
    twice, split = scores.repeat(2), torch.cat([torch.ones(3), torch.zeros(3)])
    assert close(auc(scores, soft), auc(twice, split, torch.cat([soft, 1 - soft])))


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_one_class_alone_has_no_auc_and_no_normalised_entropy(label: float) -> None:
    scores, labels = f64([0.2, 0.7, 0.7]), torch.full((3,), label)
    assert math.isnan(auc(scores, labels))
    assert math.isnan(user_auc(scores, labels, torch.tensor([0, 0, 1])))
    assert math.isnan(normalised_entropy(scores, labels))
    assert math.isfinite(log_loss(scores, labels))
    assert math.isnan(calibration(scores, labels)) == (label == 0)


@settings(deadline=None)
@given(columns(both=False))
def test_user_auc_is_a_loop_over_users(rows: tuple[Tensor, ...]) -> None:
    scores, labels, weights, groups = rows
    assert close(user_auc(scores, labels, groups), user_auc_loop(scores, labels, groups, torch.ones_like(weights)))
    assert close(user_auc(scores, labels, groups, weights), user_auc_loop(scores, labels, groups, weights))


def test_user_auc_by_hand() -> None:
    scores = f64([0.9, 0.1, 0.4, 0.6, 0.2, 0.8, 0.5])
    labels = f64([1, 0, 1, 0, 0, 1, 1])
    groups = torch.tensor([7, 7, -3, -3, -3, 5, 5])  # AUC 1 of two rows, 1/2 of three, and a user with clicks only
    assert close(user_auc(scores, labels, groups), (2 * 1 + 3 * 0.5) / 5)


def test_user_auc_of_one_user_is_auc() -> None:
    scores, labels = torch.rand(50, generator=torch.Generator().manual_seed(1)), torch.arange(50) % 2
    assert close(user_auc(scores, labels, torch.full((50,), 9)), auc(scores, labels))


def test_per_user_auc_says_which_users_have_one() -> None:
    columns = check(f64([0.9, 0.1, 0.5]), f64([1, 0, 1]), groups=torch.tensor([4, 4, 2]))
    values, rows = per_user_auc(columns)
    assert values.isnan().tolist() == [True, False]
    assert float(values[1]) == 1
    assert rows.tolist() == [1, 2]


@settings(deadline=None)
@given(columns())
def test_log_loss_is_scikit_learns(rows: tuple[Tensor, ...]) -> None:
    scores, labels, weights, _ = rows
    clipped = scores.clamp(EPS, 1 - EPS)
    assert close(log_loss(scores, labels), sk.log_loss(labels, clipped, labels=[0, 1]))
    assert close(log_loss(scores, labels, weights), sk.log_loss(labels, clipped, sample_weight=weights, labels=[0, 1]))


def test_log_loss_of_certainty_is_clipped() -> None:
    assert close(log_loss(f64([1.0]), f64([0.0])), -math.log(EPS))
    assert close(log_loss(f64([0.0]), f64([0.0])), -math.log1p(-EPS))


def test_log_loss_of_soft_labels() -> None:
    expected = -(0.25 * math.log(0.4) + 0.75 * math.log(0.6))
    assert close(log_loss(f64([0.4]), f64([0.25])), expected)


def test_normalised_entropy_by_hand() -> None:
    labels = f64([1, 0, 0, 0])
    entropy = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    loss = -(math.log(0.5) + 2 * math.log(0.8) + math.log(0.9)) / 4
    assert close(normalised_entropy(f64([0.5, 0.2, 0.2, 0.1]), labels), loss / entropy)
    assert close(normalised_entropy(torch.full((4,), 0.25), labels), 1.0)


def test_calibration_by_hand() -> None:
    assert close(calibration(f64([0.5, 0.25, 0.75]), f64([1, 0, 0])), 1.5)
    assert close(calibration(f64([0.5, 0.25, 0.75]), f64([1, 0, 0]), f64([2, 4, 0])), 1.0)


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6), st.floats(0.1, 9)), min_size=1, max_size=30))
def test_rmse_and_mae_are_scikit_learns(rows: list[tuple[float, float, float]]) -> None:
    scores, labels, weights = f64(rows).unbind(dim=1)
    for ours, theirs in ((rmse, sk.root_mean_squared_error), (mae, sk.mean_absolute_error)):
        assert close(ours(scores, labels), theirs(labels, scores))
        assert close(ours(scores, labels, weights), theirs(labels, scores, sample_weight=weights))


@settings(deadline=None)
@given(columns(both=False), st.data())
def test_weights_are_copies(rows: tuple[Tensor, ...], data: st.DataObject) -> None:
    scores, labels, _, groups = rows
    n = len(scores)
    times = torch.tensor([*data.draw(st.lists(st.integers(0, 3), min_size=n - 1, max_size=n - 1)), 1])
    copied = [column.repeat_interleave(times) for column in (scores, labels, groups)]
    weighted = measure(check(scores, labels, times, groups))
    plain = measure(check(copied[0], copied[1], groups=copied[2]))
    assert all(close(weighted[name], plain[name]) for name in plain)


def test_float32_is_summed_in_float64() -> None:
    scores = torch.full((3_000_000,), 0.1)
    assert close(mae(scores, torch.zeros_like(scores)), float(np.float32(0.1)))


def test_measure_names_what_the_task_has() -> None:
    scores, labels = f64([0.2, 0.6, 0.7]), f64([0, 1, 0])
    alone = ["auc", "log_loss", "normalised_entropy", "calibration"]
    assert list(measure(check(scores, labels))) == alone
    assert list(measure(check(scores, labels, groups=torch.tensor([0, 0, 1])))) == [*alone, "user_auc"]
    assert list(measure(check(scores, labels, kind="regression"), "regression")) == ["rmse", "mae"]


def test_tensors_that_train_or_count_are_welcome() -> None:
    scores = torch.tensor([0.2, 0.6, 0.7], requires_grad=True)
    assert auc(scores, torch.tensor([False, True, True])) == 1.0
    assert auc(torch.tensor([1, 2, 3], dtype=torch.int32), torch.tensor([0, 0, 1])) == 1.0


def test_run_ends() -> None:
    assert run_ends(torch.tensor([1, 1, 2, 2]), torch.tensor([5, 6, 6, 6])).tolist() == [0, 1, 3]
    assert run_ends(torch.tensor([1])).tolist() == [0]


def test_all_is_there() -> None:
    assert all(hasattr(metrics, name) for name in metrics.__all__)


NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        ([0.1, 0.2], [1.0], r"columns of one length.*scores \[2\], labels \[1\]"),
        ([[0.1], [0.2]], [[1.0], [0.0]], r"columns of one length.*scores \[2, 1\]"),
        ([], [], "expected rows to measure, got none"),
        ([0.1, NAN, INF], [0.0, 1.0, 1.0], "2 of 3 scores are NaN or infinite"),
        ([0.1, 0.2, 0.3], [0.0, 2.0, 1.0], r"1 of 3 labels is outside \[0, 1\]"),
        ([0.1, 0.2], [NAN, -1.0], r"2 of 2 labels are outside \[0, 1\]"),
        ([-0.1, 3.0], [1.0, 0.0], r"2 of 2 scores are outside \[0, 1\]; pass probabilities, not logits"),
    ],
)
def test_bad_input_is_one_clear_line(scores: Column, labels: Column, message: str) -> None:
    with pytest.raises(DataError, match=message) as error:
        log_loss(f64(scores), f64(labels))
    assert "\n" not in str(error.value)


def test_bad_labels_of_a_regression() -> None:
    with pytest.raises(DataError, match="1 of 2 labels is NaN or infinite"):
        rmse(f64([5, 6]), f64([5, NAN]))
    assert close(rmse(f64([5, 6]), f64([5, 7])), math.sqrt(0.5))


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0], r"weights \[1\]"),
        ([1.0, -1.0], "1 of 2 weights is negative"),
        ([1.0, NAN], "NaN"),
        ([0.0, 0.0], "zeros only"),
    ],
)
def test_bad_weights(weights: Column, message: str) -> None:
    with pytest.raises(DataError, match=message):
        auc(f64([0.1, 0.2]), f64([0, 1]), f64(weights))


def test_bad_groups() -> None:
    with pytest.raises(DataError, match=r"groups \[3\]"):
        user_auc(f64([0.1, 0.2]), f64([0, 1]), torch.tensor([1, 2, 3]))
    with pytest.raises(DataError, match=r"integers, got torch\.float32"):
        user_auc(f64([0.1, 0.2]), f64([0, 1]), torch.tensor([1.0, 2.0]))


def test_a_kind_that_is_none() -> None:
    with pytest.raises(ConfigError, match="binary"):
        check(f64([0.1]), f64([1]), kind="ranking")  # type: ignore[arg-type]
