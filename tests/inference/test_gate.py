"""The gate lets pass what loses nothing that matters, and says why it stops the rest."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from recsys.errors import ConfigError, DataError
from recsys.inference.gate import _verdict, verify
from recsys.inference.parts import from_checkpoint
from recsys.inference.session import InferenceSession
from recsys.inference.tolerance import Tolerance
from recsys.models.checkpoint import Checkpoint, load
from recsys.training.bootstrap import Interval
from tests import toy
from tests.inference.test_session import eager


def spoilt(run: Path, noise: float) -> InferenceSession:
    """A session of the same model with noise in its network."""
    checkpoint = load(run)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in checkpoint.model.named_parameters():
            if not name.startswith("tables."):
                weight.add_(noise * torch.randn(weight.shape, generator=generator))
    return InferenceSession(from_checkpoint(checkpoint), backend="eager")


def test_the_same_model_passes_with_no_difference(run: Path, trained: Checkpoint) -> None:
    with eager(run) as session:
        found = verify(trained, session, toy.rows(500, 4), Tolerance(auc=0, normalised_entropy=1e-6), show=False)
    task = found.tasks["label"]
    assert found.passed
    assert (found.rows, found.precision, found.reasons) == (500, "fp32", "")
    assert task.largest < 1e-6
    assert task.rank_correlation == pytest.approx(1)


def test_figures_are_those_of_others(run: Path, trained: Checkpoint) -> None:
    table = toy.rows(500, 4)
    labels = table["label"].to_numpy()
    with spoilt(run, 0.05) as session:
        ours, theirs = session.predict(table.select(session.columns)), trained.predict(table)
        task = verify(trained, session, table, show=False).tasks["label"]
    assert task.largest == pytest.approx(np.abs(ours - theirs).max(), abs=1e-6)
    assert task.mean == pytest.approx(np.abs(ours - theirs).mean(), abs=1e-6)
    assert task.rank_correlation == pytest.approx(spearmanr(ours, theirs).statistic, abs=1e-6)
    expected = roc_auc_score(labels, ours) - roc_auc_score(labels, theirs)
    assert task.metrics["auc"].value == pytest.approx(expected, abs=1e-6)
    assert task.metrics["auc"].low <= expected <= task.metrics["auc"].high


def test_a_spoilt_model_does_not_pass_and_each_reason_is_told(run: Path, trained: Checkpoint) -> None:
    with spoilt(run, 0.5) as session:
        found = verify(trained, session, toy.rows(500, 4), show=False)
    assert not found.passed
    assert "label: rank correlation" in found.reasons
    assert "auc may be worse by" in found.reasons
    assert "normalised_entropy may be worse by" in found.reasons
    told = found.to_json()
    assert told["passed"] is False
    assert "in the mean, more than 0.01" in found.reasons
    assert len(told["tasks"]["label"]["reasons"]) == 4
    generous = Tolerance(auc=1, normalised_entropy=10, rank_correlation=-1, mean_difference=1)
    with spoilt(run, 0.5) as session:
        assert verify(trained, session, toy.rows(500, 4), generous, show=False).passed


def test_few_rows_do_not_pass_by_luck(run: Path, trained: Checkpoint) -> None:
    """It is the bad end of the interval that counts: a tolerance that many rows pass, few do not."""
    table = toy.rows(4000, 4)
    with spoilt(run, 0.02) as session:
        many = verify(trained, session, table, Tolerance(auc=1), show=False).tasks["label"].metrics["auc"]
        allowed = Tolerance(auc=-many.low + 1e-6, normalised_entropy=10, rank_correlation=-1, mean_difference=1)
        assert verify(trained, session, table, allowed, show=False).passed
        few = verify(trained, session, table.slice(0, 60), allowed, show=False)
    assert few.reasons.startswith("label: auc may be worse by")


def test_scores_that_rank_alike_but_are_not_calibrated_do_not_pass() -> None:
    theirs = np.random.default_rng(0).random(500)
    found = _verdict(theirs**3, theirs, {}, Tolerance(), 1.0)
    assert found.rank_correlation == 1
    assert found.reasons[0].startswith("scores differ by")


def test_what_cannot_be_measured_passes_only_where_scores_are_the_same() -> None:
    theirs, undefined = np.random.default_rng(0).random(50), Interval(math.nan, math.nan, math.nan)
    constant = _verdict(np.full(50, 0.5), theirs, {}, Tolerance(mean_difference=1), 1.0)
    assert constant.reasons == ("rank correlation nan, below 0.999",)
    off = _verdict(theirs + 1e-3, theirs, {"auc": undefined}, Tolerance(), 1.0)
    assert off.reasons == ("auc may be worse by nan, more than 0.001",)
    assert not _verdict(theirs + 1e-7, theirs, {"auc": undefined}, Tolerance(), 1.0).reasons


def test_some_labels_without_the_others_or_the_users_are_an_error(two: Path) -> None:
    checkpoint, table = load(two), toy.rows(50, 4)
    for name in ("rating", "user"):
        with eager(two) as session, pytest.raises(DataError, match=f"missing column `{name}`"):
            verify(checkpoint, session, table.drop_columns([name]), show=False)


def test_a_regression_is_held_against_its_spread(two: Path) -> None:
    checkpoint, table = load(two), toy.rows(300, 4)
    with eager(two) as session:
        assert verify(checkpoint, session, table, show=False).passed
    with spoilt(two, 0.3) as session:
        task = verify(checkpoint, session, table, show=False).tasks["rating"]
    assert set(task.metrics) == {"rmse"}
    assert any(reason.startswith("rmse may be worse by") for reason in task.reasons)


def test_without_labels_scores_alone_are_compared(run: Path, trained: Checkpoint, tmp_path: Path) -> None:
    pq.write_table(toy.rows(50).drop_columns(["label", "rating"]), tmp_path / "rows.parquet")
    with eager(run) as session:
        task = verify(trained, session, tmp_path / "rows.parquet", show=False).tasks["label"]
    assert task.metrics == {}
    assert not task.reasons


@pytest.mark.parametrize("n", [1, 2])
def test_what_is_undefined_is_none(run: Path, trained: Checkpoint, n: int) -> None:
    with eager(run) as session:
        found = verify(trained, session, toy.rows(500).slice(0, 1).take([0] * n), show=False)
    assert math.isnan(found.tasks["label"].rank_correlation)
    told: dict[str, Any] = found.to_json()["tasks"]["label"]
    assert told["rank_correlation"] is None
    assert told["metrics"]["auc"]["value"] is None
    assert found.passed


def test_no_rows_are_an_error(run: Path, trained: Checkpoint) -> None:
    with eager(run) as session, pytest.raises(DataError, match="no rows to compare"):
        verify(trained, session, toy.rows(0), show=False)


def test_a_tolerance_cannot_be_negative() -> None:
    with pytest.raises(ConfigError, match="auc: input should be greater than or equal to 0"):
        Tolerance.parse({"auc": -1}, "here")


def test_a_regressions_differences_are_a_share_of_the_labels_spread_and_without_labels_of_the_scores(two: Path) -> None:
    checkpoint, table = load(two), toy.rows(300, 4)
    theirs = checkpoint.predict(table)[:, 1]
    for rows, spread in (
        (table, table["rating"].to_numpy().std()),
        (table.drop_columns(["label", "rating"]), theirs.std()),
    ):
        with spoilt(two, 0.3) as session:
            task = verify(checkpoint, session, rows, show=False).tasks["rating"]
        assert any(f"scores differ by {task.mean / spread:.5f} in the mean" in reason for reason in task.reasons)
