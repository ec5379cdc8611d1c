"""Planted clicks: rows that do not depend on how they are asked for, and a best AUC that is what it says."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import OneHotEncoder

from recsys.data.digest import digest
from recsys.data.encoder import Encoder
from recsys.data.schema import Schema
from recsys.data.synthetic import CHUNK, PAIRS, STARTS, Synthetic, best_auc, chunks, schema, write
from recsys.errors import ConfigError, DataError
from recsys.training.metrics import auc

SMALL = Synthetic(users=30, items=20, others=5)
FIELDS = ["user", "country", "segment", "item", "category", "brand", "hour", "device"]


def rows(config: Synthetic, n: int, start: int = 0) -> pa.Table:
    return pa.concat_tables(chunks(config, n, start)).combine_chunks()


def measured(table: pa.Table, scores: npt.NDArray[Any]) -> float:
    return auc(torch.tensor(scores), torch.tensor(table["label"].to_numpy()))


@pytest.fixture(scope="module")
def table() -> pa.Table:
    return rows(SMALL, 2 * CHUNK)


def test_rows_do_not_depend_on_how_many_are_made(table: pa.Table) -> None:
    for start, n in ((0, 10), (5, 1), (CHUNK - 3, 7), (CHUNK, CHUNK), (1, CHUNK)):
        assert rows(SMALL, n, start).equals(table.slice(start, n))
    assert [part.num_rows for part in chunks(SMALL, 7, CHUNK - 3)] == [3, 4]
    assert list(chunks(SMALL, 0)) == []


def test_another_seed_gives_other_rows_and_effects(table: pa.Table) -> None:
    other = rows(SMALL.model_copy(update={"seed": 1}), 1000)
    assert not any(other[name].equals(table[name].slice(0, 1000)) for name in ("user", "label", "number_0"))


def test_equal_options_give_these_rows_for_ever() -> None:
    exact = rows(SMALL, 1000).select([*FIELDS, "history"])  # no sum of floats, whose last bit machines differ in
    assert digest([exact]) == "7fd7202f825650bb261cc930d715a228b70a4a59deb298dc1eedb8d3b27017d3"


@given(st.lists(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9, 1.0]) | st.floats(0.001, 0.999), max_size=12))
def test_best_auc_is_what_its_formula_says(values: list[float]) -> None:
    ordered = pairs = 0.0
    for i, p in enumerate(values):
        for j, q in enumerate(values):
            if i != j:
                ordered += p * (1 - q) * ((p > q) + (p == q) / 2)
                pairs += p * (1 - q)
    found = best_auc(np.array(values))
    assert math.isnan(found) if pairs == 0 else found == pytest.approx(ordered / pairs, abs=1e-9)


@given(st.lists(st.floats(0.01, 0.99), min_size=2, max_size=6), st.randoms(use_true_random=False))
def test_no_order_beats_that_of_the_probabilities(values: list[float], random: Any) -> None:
    order = random.sample(range(len(values)), len(values))
    pairs = [
        (p, q, a > b) for p, a in zip(values, order, strict=True) for q, b in zip(values, order, strict=True) if a != b
    ]
    reached = sum(p * (1 - q) for p, q, above in pairs if above) / sum(p * (1 - q) for p, q, _ in pairs)
    assert reached <= best_auc(np.array(values)) + 1e-9


def test_the_drawn_auc_of_the_probabilities_is_near_the_best(table: pa.Table) -> None:
    p = table["probability"].to_numpy()
    assert measured(table, p) == pytest.approx(best_auc(p), abs=0.006)  # four standard errors of 131,072 rows
    assert 0.7 < best_auc(p) < 0.95


def test_labels_are_drawn_from_the_probabilities(table: pa.Table) -> None:
    p, label = table["probability"].to_numpy().astype(np.float64), table["label"].to_numpy()
    for low, high in ((0.0, 0.1), (0.1, 0.3), (0.3, 0.6), (0.6, 1.0)):
        inside = (p >= low) & (p < high)
        error = math.sqrt((p * (1 - p))[inside].sum())
        assert abs(label[inside].sum() - p[inside].sum()) < 4 * error
        assert inside.sum() > 1000


def test_a_certain_row_is_certain() -> None:
    for bias, label in ((-1e3, 0), (1e3, 1)):
        made = rows(SMALL.model_copy(update={"bias": bias}), 1000)
        assert made["probability"].unique().to_pylist() == [label]
        assert made["label"].unique().to_pylist() == [label]


def test_values_follow_zipfs_law_and_all_occur(table: pa.Table) -> None:
    shares = np.bincount(table["user"].to_numpy(), minlength=30) / table.num_rows
    law = np.arange(1, 31) ** -SMALL.zipf
    assert shares == pytest.approx(law / law.sum(), abs=0.005)
    assert len(rows(Synthetic(users=CHUNK, history=0), CHUNK)["user"].unique()) > 0.6 * CHUNK


def test_numbers_are_standard_normal(table: pa.Table) -> None:
    numbers = np.stack([table[f"number_{k}"].to_numpy() for k in range(2)])
    assert numbers.mean(axis=1) == pytest.approx([0, 0], abs=0.02)
    assert np.cov(numbers) == pytest.approx(np.eye(2), abs=0.02)


def test_single_values_do_not_say_what_planted_pairs_say(table: pa.Table) -> None:
    fitted, held = table.slice(0, 20_000), table.slice(CHUNK, CHUNK)
    encoder = OneHotEncoder(handle_unknown="ignore").fit(fitted.select(FIELDS).to_pandas().to_numpy(dtype=object))
    x, y = (encoder.transform(part.select(FIELDS).to_pandas().to_numpy(dtype=object)) for part in (fitted, held))
    model = LogisticRegression(max_iter=500).fit(x, fitted["label"].to_numpy())
    assert measured(held, model.predict_proba(y)[:, 1]) < best_auc(held["probability"].to_numpy()) - 0.03


def test_without_pairs_and_match_single_values_say_all() -> None:
    made = rows(SMALL.model_copy(update={"pair": 0.0, "match": 0.0, "slope": 0.0}), 40_000)
    p = made["probability"].to_numpy().astype(np.float64)
    one_hot = (
        OneHotEncoder(drop="first").fit_transform(made.select(FIELDS).to_pandas().to_numpy(dtype=object)).toarray()
    )
    design = np.column_stack([np.ones(len(p)), one_hot])
    logit = np.log(p / (1 - p))
    solved = np.linalg.lstsq(design, logit, rcond=None)[0]
    assert design @ solved == pytest.approx(logit, abs=1e-3)  # probabilities are rounded


def test_the_history_moves_the_probability() -> None:
    alone = SMALL.model_copy(update={"main": 0.0, "pair": 0.0, "slope": 0.0})
    assert len(rows(alone, 1000)["probability"].unique()) > 500
    assert len(rows(alone.model_copy(update={"match": 0.0}), 1000)["probability"].unique()) == 1


def test_the_schema_reads_the_rows_and_not_the_answer(table: pa.Table) -> None:
    read = schema(SMALL)
    assert {name for pair in PAIRS for name in pair} <= set(read.columns)
    assert set(table.column_names) - set(read.columns) == {"label", "probability"}
    assert table.schema.field("brand").type == pa.string()
    encoder = Encoder.fit(read, [table])
    batch = encoder.encode(table.slice(0, 100))
    assert batch.dense.shape == (100, 2)
    assert {feature.name: feature.rows for feature in encoder.inputs.ids}["user"] == 30 + 2
    assert {feature.table for feature in encoder.inputs.ids if feature.name in ("item", "history")} == {"item"}


def test_without_history_and_numbers(table: pa.Table) -> None:
    bare = SMALL.model_copy(update={"history": 0, "numbers": 0})
    assert rows(bare, 3).column_names == ["label", *FIELDS, "probability"]
    assert schema(bare).columns == tuple(FIELDS)


def test_one_value_a_field_has_no_effect() -> None:
    bare = Synthetic(users=1, items=1, others=1, numbers=0)
    assert len(rows(bare, 100)["probability"].unique()) == 1


def test_write_makes_files_that_fit_their_account(tmp_path: Path) -> None:
    splits = write(SMALL, tmp_path, {"train": CHUNK + 5, "valid": 100, "test": 0}, show=False)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "schema.toml", "synthetic.json", "train.parquet", "valid.parquet",
    ]  # fmt: skip
    file = pq.ParquetFile(tmp_path / "train.parquet")
    assert [file.metadata.row_group(g).num_rows for g in range(file.num_row_groups)] == [CHUNK, 5]
    for split, found in splits.items():
        made = pq.read_table(tmp_path / f"{split}.parquet")
        assert made.equals(rows(SMALL, found.rows, STARTS[split]))
        p = made["probability"].to_numpy()
        assert found.best_auc == pytest.approx(best_auc(p), abs=1e-12)
        assert found.drawn_auc == pytest.approx(measured(made, p), abs=1e-12)
        assert found.positive == pytest.approx(made["label"].to_numpy().mean())
    assert Schema.load(tmp_path / "schema.toml") == schema(SMALL)
    account = json.loads((tmp_path / "synthetic.json").read_text())
    assert account["config"] == SMALL.model_dump()
    assert account["splits"]["train"]["best_auc"] == splits["train"].best_auc


def test_an_undefined_auc_is_none(tmp_path: Path) -> None:
    (split,) = write(SMALL, tmp_path, {"test": 1}, show=False).values()
    assert (split.best_auc, split.drawn_auc) == (None, None)


def test_what_cannot_be_is_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="rows and start of at least 0, got -1 and 0"):
        list(chunks(SMALL, -1))
    with pytest.raises(ConfigError, match="rows of train, valid, test, got -1 of train"):
        write(SMALL, tmp_path, {"train": -1})
    with pytest.raises(ConfigError, match="got 5 of tset"):
        write(SMALL, tmp_path, {"tset": 5})
    with pytest.raises(ConfigError, match="users: input should be greater than or equal to 1"):
        Synthetic.parse({"users": 0}, "x")
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot be made"):
        write(SMALL, tmp_path / "file", {"train": 1})
