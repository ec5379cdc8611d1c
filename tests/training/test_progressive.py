"""Predict, then learn: no row's score knows its own label, and the pass is that of an obvious loop."""

from __future__ import annotations

import math

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import log_loss, roc_auc_score
from torch import Tensor

from recsys.data.batch import Batch
from recsys.data.encoder import Encoder
from recsys.data.protocol import hashed
from recsys.data.readers import Dataset
from recsys.data.schema import Label
from recsys.data.stream import Resident, encode_all
from recsys.errors import ConfigError, DataError
from recsys.models.base import RankingModel
from recsys.models.ranking.dcn2 import DCN2Config
from recsys.models.registry import build
from recsys.training.progressive import Progressive, in_order_of_time, progressive, window_aucs
from recsys.training.recipe import TrainingConfig
from recsys.training.steps import Steps
from tests import toy

SCHEMA = hashed(toy.SCHEMA, 8)
CONFIG = TrainingConfig(batch_size=32, learning_rate=0.01, seed=3)


def stream(n: int = 200, table: pa.Table | None = None) -> tuple[Encoder, Resident]:
    encoder = Encoder.fit(SCHEMA, [toy.rows(1)])
    return encoder, Resident(encode_all(encoder, toy.rows(n) if table is None else table))


def model_of(encoder: Encoder, dropout: float = 0.0) -> RankingModel:
    torch.manual_seed(0)
    return build(DCN2Config(name="dcn2", embedding_dim=4, hidden=(8,), dropout=dropout), encoder.inputs)


def passed(rows: Resident, encoder: Encoder, dropout: float = 0.0, window: int = 50) -> Progressive:
    return progressive(model_of(encoder, dropout), rows, CONFIG, window, show=False)


def relabelled(rows: Resident, start: int) -> Resident:
    """The same rows, but from `start` on each label is the other one."""
    batch = rows.batch.take(torch.arange(rows.rows))
    assert batch.labels is not None
    labels = batch.labels.clone()
    labels[start:] = 1 - labels[start:]
    return Resident(Batch(batch.dense, batch.ids, labels, batch.groups))


def by_hand(model: RankingModel, rows: Resident, config: TrainingConfig) -> Tensor:
    """The slow and obvious twin: score a batch in evaluation mode, then take a step in training mode."""
    steps, scores = Steps(model, config), []
    torch.manual_seed(config.seed)
    for start in range(0, rows.rows, config.batch_size):
        batch = rows.batch.slice(start, start + config.batch_size)
        model.eval()
        scores.append(model.predict(batch)[:, 0])
        model.train()
        steps.step(batch)
    return torch.cat(scores)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("start", [0, 32, 64, 70, 199])
def test_no_score_knows_its_own_label_or_a_later_one(start: int, dropout: float) -> None:
    encoder, rows = stream()
    scores, others = (passed(r, encoder, dropout).scores for r in (rows, relabelled(rows, start)))
    batch_end = min(start // 32 * 32 + 32, 200)
    assert torch.equal(scores[:batch_end], others[:batch_end])
    if batch_end < 200:
        assert not torch.equal(scores[batch_end:], others[batch_end:])


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_it_is_the_obvious_loop_bit_for_bit(dropout: float) -> None:
    encoder, rows = stream()
    fast, slow = model_of(encoder, dropout), model_of(encoder, dropout)
    found = progressive(fast, rows, CONFIG, 50, show=False)
    torch.testing.assert_close(found.scores, by_hand(slow, rows, CONFIG), rtol=0, atol=0)
    assert all(torch.equal(a, b) for a, b in zip(fast.parameters(), slow.parameters(), strict=True))
    assert rows.batch.labels is not None
    assert torch.equal(found.labels, rows.batch.labels[:, 0])
    assert not fast.training


def test_the_metrics_are_those_of_sklearn() -> None:
    encoder, rows = stream(230)
    found = passed(rows, encoder)
    scores, labels = found.scores.double().numpy(), found.labels.numpy()
    windows = [roc_auc_score(labels[s : s + 50], scores[s : s + 50]) for s in (0, 50, 100, 150)]
    assert found.aucs == pytest.approx(windows)
    assert found.auc == pytest.approx(roc_auc_score(labels, scores))
    assert found.log_loss == pytest.approx(log_loss(labels, scores), rel=1e-5)
    told = {"mean": np.mean(windows), "median": np.median(windows), "min": min(windows), "max": max(windows)}
    told |= {"std": np.std(windows), "auc": found.auc, "log_loss": found.log_loss}
    assert found.summary() == pytest.approx(told)


@given(st.integers(2, 40), st.integers(0, 120), st.integers(0, 2**20))
def test_windows_are_whole_and_each_is_its_own(window: int, n: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores, labels = torch.rand(n, generator=generator), torch.randint(2, (n,), generator=generator).double()
    aucs = window_aucs(scores, labels, window)
    assert len(aucs) == n // window
    for number, value in enumerate(aucs):
        part = slice(number * window, (number + 1) * window)
        if len(set(labels[part].tolist())) == 2:
            assert value == pytest.approx(roc_auc_score(labels[part].numpy(), scores[part].numpy()))
        else:
            assert math.isnan(value)


def test_a_window_of_one_class_is_left_out() -> None:
    table = toy.rows(200)
    label = table["label"].to_numpy().copy()
    label[:50] = 1
    found = passed(stream(table=table.set_column(0, "label", pa.array(label)))[1], Encoder.fit(SCHEMA, [toy.rows(1)]))
    assert math.isnan(found.aucs[0])
    assert found.summary()["mean"] == pytest.approx(np.mean(found.aucs[1:]))


def test_rows_are_read_in_order_of_time_and_ties_keep_theirs() -> None:
    table = toy.rows(120)
    when = np.random.default_rng(0).integers(0, 10, 120)
    schema = SCHEMA.model_copy(update={"time": "when"})
    encoder, rows = in_order_of_time(schema, Dataset(table.append_column("when", pa.array(when))))
    assert isinstance(rows, Resident)
    order = np.argsort(when, kind="stable")
    expected = encode_all(encoder, table.take(pa.array(order)))
    assert torch.equal(rows.batch.ids.values, expected.ids.values)
    assert rows.batch.labels is not None
    assert expected.labels is not None
    assert torch.equal(rows.batch.labels, expected.labels)
    _, unsorted = in_order_of_time(SCHEMA, Dataset(table))
    assert isinstance(unsorted, Resident)
    assert torch.equal(unsorted.batch.ids.values, encode_all(encoder, table).ids.values)


def test_times_may_be_text() -> None:
    table = toy.rows(60)
    days = np.random.default_rng(1).permutation(60)
    schema = SCHEMA.model_copy(update={"time": "when"})
    text = pa.array([f"2024-{1 + day // 28:02}-{1 + day % 28:02}" for day in days])
    batches = []
    for column in (text, pa.array(days)):
        _, rows = in_order_of_time(schema, Dataset(table.append_column("when", column)))
        assert isinstance(rows, Resident)
        batches.append(rows.batch.ids.values)
    assert torch.equal(*batches)
    with pytest.raises(DataError, match="1 rows have no time"):
        in_order_of_time(schema, Dataset(table.append_column("when", pa.array([None, *days[1:].tolist()]))))


def test_global_random_state_is_left_alone() -> None:
    encoder, rows = stream()
    model = model_of(encoder, 0.3)
    before = torch.random.get_rng_state()
    progressive(model, rows, CONFIG, 50, show=False)
    assert torch.equal(before, torch.random.get_rng_state())


def test_what_cannot_be_measured_is_one_clear_line() -> None:
    encoder, rows = stream()
    with pytest.raises(ConfigError, match="at least 2 rows, got 1"):
        passed(rows, encoder, window=1)
    with pytest.raises(DataError, match="at least one window of 201 rows, got 200 rows"):
        passed(rows, encoder, window=201)
    table = toy.rows(200)
    with pytest.raises(DataError, match="no window of 50 rows holds both classes"):
        passed(stream(table=table.set_column(0, "label", pa.array([0] * 200)))[1], encoder)
    wild = TrainingConfig(batch_size=32, learning_rate=1e30)
    with pytest.raises(ConfigError, match="lower the learning rate"):
        progressive(model_of(encoder), rows, wild, 50, show=False)


@pytest.mark.parametrize(
    "labels", [(Label(name="label"), Label(name="more", column="rating")), (Label(name="rating", kind="regression"),)]
)
def test_one_binary_label_only(labels: tuple[Label, ...]) -> None:
    schema = toy.SCHEMA.model_copy(update={"labels": labels})
    table = toy.rows(100)
    table = table.set_column(1, "rating", pa.array((table["rating"].to_numpy() > 2).astype(float)))
    encoder = Encoder.fit(schema, [table])
    with pytest.raises(DataError, match="one binary label"):
        passed(Resident(encode_all(encoder, table)), encoder)
