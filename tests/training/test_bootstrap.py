"""Intervals: the fast bootstrap against a slow one, and what intervals promise."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recsys.errors import ConfigError, DataError
from recsys.training import bootstrap
from recsys.training.bootstrap import (
    Interval,
    compare,
    evaluate,
    means,
    multiplicities,
    replicate_metrics,
    replicate_metrics_reference,
)
from recsys.training.metrics import Kind, auc, check, measure

SHIFT = 1.0
TRUE_AUC = 0.5 * (1 + math.erf(SHIFT / 2))
"""Of normal scores with means `SHIFT` apart: Φ(SHIFT / √2)."""


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def clicks(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Probabilities and labels, 40 % clicks, with `TRUE_AUC`."""
    generator = rng(seed)
    labels = (torch.rand(n, generator=generator) < 0.4).double()
    return (torch.randn(n, generator=generator) + SHIFT * labels).sigmoid(), labels


def users(n: int, count: int, seed: int = 9) -> Tensor:
    return torch.randint(count, (n,), generator=rng(seed))


def width(interval: Interval) -> float:
    return interval.high - interval.low


@pytest.mark.parametrize("kind", ["binary", "regression"])
@pytest.mark.parametrize("grouped", [True, False])
@pytest.mark.parametrize("grid", [None, 10, 1])
@pytest.mark.parametrize("tile", [1, 50, 2**14])
def test_fast_is_the_reference(
    kind: Kind, grouped: bool, grid: int | None, tile: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bootstrap, "_TILE", tile)
    scores, labels = clicks(150)
    if grid is not None:
        scores = (scores * grid).round() / grid  # ties that reach over tiles
    columns = check(scores, labels, groups=users(150, 20) if grouped else None, kind=kind)
    drawn = multiplicities(20 if grouped else 150, 12, rng(3))
    same(replicate_metrics(columns, drawn, kind), replicate_metrics_reference(columns, drawn, kind))


def same(fast: dict[str, Tensor], slow: dict[str, Tensor]) -> None:
    assert fast.keys() == slow.keys()
    for name, values in slow.items():
        torch.testing.assert_close(fast[name], values, rtol=1e-10, atol=1e-12, equal_nan=True)


@settings(deadline=None)
@given(st.integers(1, 25), st.integers(1, 6), st.integers(0, 2**20), st.sampled_from([0.0, 0.2, 1.0]))
def test_fast_is_the_reference_on_small_and_lopsided_data(n: int, count: int, seed: int, rate: float) -> None:
    generator = rng(seed)
    scores = torch.randint(6, (n,), generator=generator) / 5
    labels = (torch.rand(n, generator=generator) < rate).double()
    columns = check(scores, labels, groups=torch.randint(count, (n,), generator=generator))
    assert columns.groups is not None
    drawn = multiplicities(int(columns.groups.max()) + 1, 5, generator)
    same(replicate_metrics(columns, drawn), replicate_metrics_reference(columns, drawn))


def test_fast_is_the_reference_on_soft_labels() -> None:
    scores, labels = clicks(60)
    columns = check(scores, labels * 0.7 + 0.1, groups=users(60, 9))
    drawn = multiplicities(9, 8, rng())
    same(replicate_metrics(columns, drawn), replicate_metrics_reference(columns, drawn))


def test_drawing_everyone_once_gives_the_value() -> None:
    scores, labels = clicks(200)
    columns = check(scores, labels, groups=users(200, 30))
    replicated = replicate_metrics(columns, torch.ones(30, 1, dtype=torch.float64))
    assert {name: float(v) for name, v in replicated.items()} == pytest.approx(measure(columns), rel=1e-12)


def test_each_replicate_draws_as_many_as_there_are() -> None:
    drawn = multiplicities(40, 300, rng())
    assert drawn.shape == (40, 300)
    assert bool((drawn.sum(dim=0) == 40).all())
    assert float(drawn.var()) == pytest.approx(1 - 1 / 40, rel=0.05)  # multinomial: each is binomial(40, 1/40)


def test_blocks_do_not_change_the_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    scores, labels = clicks(120)
    whole = evaluate(scores, labels, replicates=40)
    monkeypatch.setattr(bootstrap, "_BLOCK", 7 * 120)
    monkeypatch.setattr(bootstrap, "_TILE", 64)
    for name, interval in evaluate(scores, labels, replicates=40).items():
        assert interval.to_json() == pytest.approx(whole[name].to_json(), rel=1e-12)


def test_values_are_the_metrics_and_lie_within() -> None:
    scores, labels = clicks(500)
    groups = users(500, 60)
    results = evaluate(scores, labels, groups)
    assert list(results) == ["auc", "log_loss", "normalised_entropy", "calibration", "user_auc"]
    assert {name: i.value for name, i in results.items()} == measure(check(scores, labels, groups=groups))
    assert all(i.low < i.value < i.high for i in results.values())
    assert "user_auc" not in evaluate(scores, labels, replicates=5)


def test_regression_has_its_own_metrics() -> None:
    scores, labels = torch.randn(2, 100, generator=rng())
    results = evaluate(scores, labels, users(100, 30), kind="regression")
    assert list(results) == ["rmse", "mae"]
    assert all(i.low < i.value < i.high for i in results.values())


def test_intervals_cover_the_truth() -> None:
    covered = 0
    for seed in range(100):
        interval = evaluate(*clicks(300, seed), replicates=200, seed=seed)["auc"]
        covered += interval.low <= TRUE_AUC <= interval.high
    assert 85 <= covered <= 99


def test_a_higher_level_is_wider() -> None:
    rows = clicks(300)
    assert width(evaluate(*rows, level=0.99)["auc"]) > width(evaluate(*rows, level=0.5)["auc"])


def test_copies_of_rows_tell_nothing_new() -> None:
    scores, labels = clicks(200)
    copies = [column.repeat_interleave(9) for column in (scores, labels, torch.arange(200))]
    once, clustered, naive = evaluate(scores, labels), evaluate(*copies), evaluate(copies[0], copies[1])
    for name in once:
        assert width(clustered[name]) == pytest.approx(width(once[name]), rel=1e-9)
        assert width(clustered[name]) > 2.4 * width(naive[name])  # √9, give or take the replicates


def test_the_same_seed_is_the_same_and_global_state_is_left_alone() -> None:
    scores, labels = clicks(300)
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first = evaluate(scores, labels, users(300, 50), seed=1)
    assert torch.equal(before, torch.random.get_rng_state())
    torch.rand(3)
    assert evaluate(scores, labels, users(300, 50), seed=1) == first
    assert evaluate(scores, labels, users(300, 50), seed=2) != first


def test_users_ids_are_names_only() -> None:
    scores, labels = clicks(200)
    groups = users(200, 20)
    assert evaluate(scores, labels, groups) == evaluate(scores, labels, groups * 10**12 - 7)


def test_comparing_a_model_with_itself_is_zero() -> None:
    scores, labels = clicks(300)
    assert set(compare(scores, scores.clone(), labels, users(300, 40)).values()) == {Interval(0.0, 0.0, 0.0)}
    assert set(compare(scores, scores, labels, kind="regression").values()) == {Interval(0.0, 0.0, 0.0)}


def test_paired_differences_are_narrower() -> None:
    scores, labels = clicks(600)
    other = (scores.logit() + 0.3 * torch.randn(600, generator=rng(4)).double()).sigmoid()
    groups = users(600, 80)
    ours, theirs, difference = (
        evaluate(scores, labels, groups),
        evaluate(other, labels, groups),
        compare(scores, other, labels, groups),
    )
    assert list(difference) == list(ours)
    for name, interval in difference.items():
        assert interval.value == ours[name].value - theirs[name].value
        assert width(interval) < min(width(ours[name]), width(theirs[name]))


def test_turning_a_comparison_round_turns_its_sign() -> None:
    scores, labels = clicks(200)
    other = scores.square()
    for name, there in compare(scores, other, labels).items():
        back = compare(other, scores, labels)[name]
        assert (back.value, back.low, back.high) == pytest.approx((-there.value, -there.high, -there.low))


def test_one_class_only() -> None:
    scores, _ = clicks(50)
    results = evaluate(scores, torch.zeros(50), users(50, 10))
    for name in ("auc", "user_auc", "normalised_entropy", "calibration"):
        assert results[name].to_json() == {"value": None, "low": None, "high": None}
    assert results["log_loss"].low < results["log_loss"].value < results["log_loss"].high


def test_replicates_without_a_class_are_left_out() -> None:
    labels = torch.zeros(30)
    labels[0] = 1  # about a third of the replicates draw no click
    interval = evaluate(torch.linspace(0.9, 0.1, 30), labels, replicates=100)["auc"]
    assert (interval.value, interval.low, interval.high) == (1.0, 1.0, 1.0)


def test_a_single_user_has_values_and_no_intervals() -> None:
    scores, labels = clicks(50)
    one = torch.full((50,), 3)
    for results in (evaluate(scores, labels, one), compare(scores, scores, labels, one)):
        assert all(math.isfinite(i.value) and math.isnan(i.low) and math.isnan(i.high) for i in results.values())
    assert evaluate(scores, labels, one)["user_auc"].value == pytest.approx(auc(scores, labels))
    assert list(evaluate(scores[:1], labels[:1])) == ["auc", "log_loss", "normalised_entropy", "calibration"]


def test_no_replicates_give_values_only() -> None:
    scores, labels = clicks(50)
    results = evaluate(scores, labels, replicates=0)
    assert results["auc"].to_json() == {"value": auc(scores, labels), "low": None, "high": None}


def test_json_holds_no_nan() -> None:
    results = [*evaluate(*clicks(20)).values(), Interval(math.nan, -math.inf, math.inf), Interval(0.5, 0.4, 0.6)]
    text = json.dumps([interval.to_json() for interval in results], allow_nan=False)
    assert json.loads(text)[-2:] == [
        {"value": None, "low": None, "high": None},
        {"value": 0.5, "low": 0.4, "high": 0.6},
    ]


def test_bad_input_is_one_clear_line() -> None:
    scores, labels = clicks(10)
    with pytest.raises(DataError, match=r"scores \[10\], labels \[9\]"):
        evaluate(scores, labels[:9])
    with pytest.raises(DataError, match=r"scores \[4\], labels \[10\]"):
        compare(scores, scores[:4], labels)
    with pytest.raises(DataError, match="10 of 10 scores are NaN or infinite"):
        evaluate(scores * math.nan, labels)
    with pytest.raises(DataError, match="not logits"):
        evaluate(scores * 9, labels)
    with pytest.raises(DataError, match="got none"):
        evaluate(scores[:0], labels[:0])


@pytest.mark.parametrize(
    ("replicates", "level", "message"),
    [(-1, 0.95, "replicates"), (10, 95.0, "between 0 and 1"), (10, 0.0, "between 0 and 1")],
)
def test_bad_options(replicates: int, level: float, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        evaluate(*clicks(10), replicates=replicates, level=level)


def test_all_is_there() -> None:
    assert all(hasattr(bootstrap, name) for name in bootstrap.__all__)


@pytest.mark.slow
def test_millions_of_rows() -> None:
    scores, labels = clicks(5_000_000)
    interval = evaluate(scores, labels, users(5_000_000, 200_000), replicates=10)["auc"]
    assert interval.low < TRUE_AUC < interval.high
    assert width(interval) < 0.002


def test_means_resample_users_with_all_of_their_rows() -> None:
    """A fast mean is the mean of the rows that a replicate drew, copied."""
    values, groups = torch.rand(40, generator=rng(), dtype=torch.float64), users(40, 7)
    found = means({"x": values, "twice": 2 * values}, groups, replicates=60, seed=3)
    drawn = multiplicities(7, 60, torch.Generator().manual_seed(3))
    replicated = torch.stack([values.repeat_interleave(column[groups].long()).mean() for column in drawn.t()])
    expected = torch.quantile(replicated, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    assert [found["x"].low, found["x"].high] == pytest.approx(expected)
    assert found["x"].value == pytest.approx(float(values.mean()))
    assert found["twice"].low == pytest.approx(2 * found["x"].low)


def test_means_of_rows_without_users_and_of_one_alone() -> None:
    values = torch.tensor([0.0, 1.0, 1.0, 0.0])
    found = means({"x": values}, replicates=300)["x"]
    assert (found.value, found.low, found.high) == (0.5, 0.0, 1.0)
    alone = means({"x": values}, torch.zeros(4, dtype=torch.int64))["x"]
    assert alone.value == 0.5
    assert math.isnan(alone.low)
    with pytest.raises(DataError, match="1 of 2 scores is NaN or infinite"):
        means({"x": torch.tensor([0.0, math.nan])})
