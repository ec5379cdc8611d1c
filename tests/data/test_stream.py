"""Rows in windows: each once an epoch, in an order that seed and epoch fix, from any step on."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recsys.data import parquet, readers
from recsys.data.batch import Batch
from recsys.data.encoder import Counts, Encoder
from recsys.data.readers import Dataset, tables
from recsys.data.schema import Categorical, Label, Numeric, Schema, Sequence
from recsys.data.stream import Resident, Streamed, encode_all, encoded
from recsys.errors import DataError
from recsys.training.prepare import prepare

SCHEMA = Schema(
    labels=(Label(name="y", kind="regression"),),
    features=(Numeric(name="n", transform="none"), Categorical(name="c"), Sequence(name="s", separator=" ")),
)


def rows(n: int, first: int = 0) -> pa.Table:
    numbers = list(range(first, first + n))
    return pa.table(
        {
            "y": numbers,
            "n": numbers,
            "c": [f"c{i % 7}" for i in numbers],
            "s": [" ".join("ab" * (i % 3)) for i in numbers],
        }
    )


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """500 rows in many pieces: two Parquet files and a text file."""
    monkeypatch.setattr(parquet, "_LEAST", 1)
    monkeypatch.setattr(readers, "_BLOCK", 400)
    paths = [tmp_path / name for name in ("a.parquet", "b.csv", "c.parquet")]
    pq.write_table(rows(200), paths[0], row_group_size=30)
    pacsv.write_csv(rows(200, 200), paths[1])
    pq.write_table(rows(100, 400), paths[2], row_group_size=70)
    return paths


def opened(files: list[Path], shuffle_rows: int) -> Streamed:
    data = Dataset(files)
    made = prepare(SCHEMA, data, data, shuffle_rows, None, show=False)
    assert isinstance(made.train, Streamed)
    assert isinstance(made.valid, Streamed)
    assert made.train.rows == made.valid.rows == 500
    return made.train


def numbers(batch: Batch) -> list[int]:
    """Which rows a batch holds; their other features must be theirs."""
    found = [int(n) for n in batch.dense[:, 0]]
    assert batch.labels is not None
    assert [int(y) for y in batch.labels[:, 0]] == found
    assert batch.ids.lengths()[1].tolist() == [2 * (n % 3) or 0 for n in found]
    return found


@pytest.mark.parametrize(("shuffle_rows", "batch_size"), [(64, 16), (100, 30), (10, 16), (499, 499)])
def test_an_epoch_has_every_row_once_and_another_epoch_another_order(
    files: list[Path], shuffle_rows: int, batch_size: int
) -> None:
    stream = opened(files, shuffle_rows)
    epochs = [[numbers(batch) for batch in stream.shuffled(epoch, 0, batch_size)] for epoch in (0, 0, 1)]
    for epoch in epochs:
        assert sorted(n for batch in epoch for n in batch) == list(range(500))
        assert [len(batch) for batch in epoch[:-1]] == [batch_size] * (len(epoch) - 1)
    assert epochs[0] == epochs[1] != epochs[2]
    firsts = [n for batch in epochs[0] for n in batch][:50]
    assert firsts != sorted(firsts)


def test_any_step_can_be_returned_to(files: list[Path]) -> None:
    stream = opened(files, 64)
    straight = [numbers(batch) for batch in stream.shuffled(3, 7, 16)]
    for step in range(len(straight) + 1):
        assert [numbers(batch) for batch in stream.shuffled(3, 7, 16, step)] == straight[step:]


def test_measuring_reads_in_order(files: list[Path]) -> None:
    assert [n for batch in opened(files, 64).in_order(9) for n in numbers(batch)] == list(range(500))


def test_what_fits_into_memory_stays_there(files: list[Path]) -> None:
    data = Dataset(files)
    made = prepare(SCHEMA, data, data, 500, None, show=False)
    assert isinstance(made.train, Resident)
    assert isinstance(made.valid, Resident)
    for path in files:
        path.unlink()
    assert sorted(n for batch in made.train.shuffled(0, 0, 100) for n in numbers(batch)) == list(range(500))


def test_a_window_is_the_most_that_is_held(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    most, concat = 0, Batch.concat

    def measured(parts: list[Batch]) -> Batch:
        nonlocal most
        most = max(most, sum(len(part) for part in parts))
        return concat(parts)

    stream = opened(files, 64)
    monkeypatch.setattr(Batch, "concat", measured)
    list(stream.shuffled(0, 0, 16))
    assert most == 64


@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 5), st.integers(0, 3))
def test_resident_rows_are_permuted_the_same_from_any_step(n: int, batch_size: int, skip: int, seed: int) -> None:
    resident = Resident(Batch(torch.arange(n).float()[:, None], encode_all(ENCODER, rows(n)).ids))
    straight = [batch.dense[:, 0].tolist() for batch in resident.shuffled(1, seed, batch_size)]
    assert [batch.dense[:, 0].tolist() for batch in resident.shuffled(1, seed, batch_size, skip)] == straight[skip:]
    assert sorted(v for batch in straight for v in batch) == list(range(n))


ENCODER = Encoder.fit(SCHEMA, [rows(60)])


def test_the_file_of_a_bad_row_is_named(files: list[Path]) -> None:
    pq.write_table(pa.table({"y": ["x"], "n": [1], "c": ["a"], "s": [""]}), files[2])
    data = Dataset(files)
    for reading in (
        lambda: prepare(SCHEMA, data, data, 10, None, show=False),
        lambda: list(encoded(data, ENCODER)),
        lambda: encode_all(ENCODER, files),
    ):
        with pytest.raises(DataError, match=r"^[^:]*c\.parquet: column `y`: expected numbers"):
            reading()


def test_a_file_that_changes_between_epochs_stops_training(files: list[Path]) -> None:
    stream = opened(files, 64)
    pq.write_table(rows(100), files[0], row_group_size=30)
    with pytest.raises(DataError, match=r"a\.parquet: was changed while it was being read"):
        list(stream.shuffled(0, 0, 16))


def test_the_encoder_is_learnt_once_and_again_when_the_data_changes(files: list[Path], tmp_path: Path) -> None:
    first = prepare(SCHEMA, Dataset(files), Dataset(files), 64, tmp_path, show=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("recsys.training.prepare._fit", None)
        again = prepare(SCHEMA, Dataset(files), Dataset(files), 64, tmp_path, show=False)
    assert again.encoder.to_json() == first.encoder.to_json()
    assert again.encoder.fitted.counts == first.encoder.fitted.counts
    assert isinstance(again.train, Streamed)
    assert isinstance(first.train, Streamed)
    assert again.train.pieces == first.train.pieces
    pq.write_table(rows(100, 1000), files[2])
    changed = prepare(SCHEMA, Dataset(files), Dataset(files), 64, tmp_path, show=False)
    assert changed.encoder.to_json() != first.encoder.to_json()


def test_what_training_shows_is_counted_while_fitting(files: list[Path]) -> None:
    counts = Counts()
    for _ in encoded(Dataset(files), ENCODER, counts):
        pass
    fitted = Encoder.fit(SCHEMA, tables(files)).fitted.counts
    assert (fitted.rows, fitted.values, fitted.missing) == (counts.rows, counts.values, counts.missing)


def test_by_default_a_window_holds_so_many_values(files: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recsys.training.prepare._VALUES", 53 * 64)  # a row has 3 features, one of up to 50 values
    data = Dataset(files)
    made = prepare(SCHEMA, data, data, None, None, show=False)
    assert isinstance(made.train, Streamed)
    assert made.train.shuffle_rows == 64
