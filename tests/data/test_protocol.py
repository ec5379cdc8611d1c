"""A schema as the progressive protocol reads it: one table, no fitting."""

from __future__ import annotations

import pyarrow as pa
import pytest
import torch

from recsys.data.encoder import Encoder
from recsys.data.protocol import SHARED, hashed
from recsys.data.schema import (
    Bucketed,
    Categorical,
    Hashing,
    Label,
    LogSquare,
    MultiValued,
    Numeric,
    Quantiles,
    Schema,
    Sequence,
    Vocabulary,
)
from recsys.errors import SchemaError
from tests import toy

SCHEMA = Schema(
    group="user",
    time="when",
    labels=(Label(name="label", positive="yes"),),
    features=(
        Numeric(name="age", column="years", side="user", transform="log"),
        Bucketed(name="price", buckets=Quantiles(count=4), side="item"),
        Categorical(name="item", encoding=Vocabulary(min_count=3), side="item"),
        Categorical(name="city", encoding=Hashing(bits=3, table="places", seed=7)),
        Sequence(name="history", shares="item", max_length=2, separator=",", side="user"),
        MultiValued(name="tags", separator="|"),
    ),
)


def table(n: int, start: int = 0) -> pa.Table:
    at = range(start, start + n)
    return pa.table(
        {
            "label": ["yes" if i % 3 else "no" for i in at],
            "when": list(at),
            "years": [None if i % 5 == 0 else float(i) for i in at],
            "price": [i * 1.5 for i in at],
            "item": [f"i{i % 7}" for i in at],
            "city": [f"c{i % 4}" for i in at],
            "history": [f"i{i % 3},i{i % 5}" for i in at],
            "tags": ["a|b" if i % 2 else "" for i in at],
            "user": list(at),
        }
    )


def test_every_kind_of_feature_reads_the_one_table() -> None:
    found = hashed(SCHEMA, 10)
    assert found.numeric == ()
    assert {found.table(feature) for feature in found.id_features} == {SHARED}
    kinds = [type(feature) for feature in found.features]
    assert kinds == [Bucketed, Bucketed, Categorical, Categorical, Sequence, MultiValued]
    assert all(feature.buckets == LogSquare() for feature in found.features if isinstance(feature, Bucketed))
    for feature in found.id_features:
        assert found.owner(feature).encoding == Hashing(bits=10, table=SHARED, seed=42)


def test_all_else_stays() -> None:
    found = hashed(SCHEMA, 10)
    kept = {"group", "time", "labels"}
    assert found.model_dump(include=kept) == SCHEMA.model_dump(include=kept)
    for before, after in zip(SCHEMA.features, found.features, strict=True):
        assert (after.name, after.source, after.side) == (before.name, before.source, before.side)
    history = found.features[4]
    assert isinstance(history, Sequence)
    assert (history.shares, history.max_length, history.separator) == ("item", 2, ",")
    Schema.model_validate(found.model_dump())  # `model_copy` checks nothing; this does


def test_it_is_idempotent_and_takes_the_last_bits_and_seed() -> None:
    once = hashed(SCHEMA, 10)
    assert hashed(once, 10) == once
    assert hashed(hashed(SCHEMA, 4, seed=1), 10) == once


def test_nothing_is_learnt_from_rows() -> None:
    found = hashed(SCHEMA, 10)
    rows = table(50)
    encoders = [Encoder.fit(found, tables) for tables in ([rows], [table(3, start=1000)], [table(9)])]
    batches = [encoder.encode(rows) for encoder in encoders]
    assert encoders[0].inputs == encoders[1].inputs == encoders[2].inputs
    for batch in batches[1:]:
        assert torch.equal(batch.ids.values, batches[0].ids.values)
        assert torch.equal(batch.dense, batches[0].dense)
    assert batches[0].dense.shape == (50, 0)


def test_what_shares_a_feature_reads_its_rows() -> None:
    """The history's `i1` is the row of the item `i1`."""
    found = hashed(SCHEMA, 16)
    one = table(1).set_column(4, "item", pa.array(["i1"])).set_column(6, "history", pa.array(["i1"]))
    ids = Encoder.fit(found, [table(9)]).encode(one).ids
    assert ids.offsets is not None
    bags = {name: ids.values[ids.offsets[f] : ids.offsets[f + 1]].tolist() for f, name in enumerate(ids.features)}
    assert bags["history"] == bags["item"]
    assert bags["city"] != bags["item"]


def test_bits_bound_the_rows() -> None:
    values = Encoder.fit(hashed(SCHEMA, 3), [table(9)]).encode(table(200)).ids.values
    assert 0 <= int(values.min()) <= int(values.max()) < 8


def test_a_regression_is_refused() -> None:
    with pytest.raises(SchemaError, match="label `rating` is a regression"):
        hashed(toy.TWO_TASKS, 8)


def test_what_it_makes_is_a_schema_whatever_features_are_called() -> None:
    encoding = Hashing(bits=3)
    odd = Schema(
        labels=(Label(name="label"),),
        features=(
            Categorical(name=SHARED, encoding=encoding),
            Sequence(name="history", shares=SHARED, encoding=encoding),
        ),
    )
    found = hashed(odd, 5, hashes=2)
    assert Schema.parse(found.model_dump(mode="json"), "x") == found
    assert found.table(found.id_features[1]) == found.table(found.id_features[0]) == SHARED + "_"
