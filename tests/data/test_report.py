"""The report of features: cardinality, what is unknown, and what collides."""

from __future__ import annotations

import pyarrow as pa
import pytest

from recsys.data.collisions import expected_share
from recsys.data.encoder import Counts, Encoder
from recsys.data.report import report
from recsys.data.schema import Bucketed, Categorical, Hashing, Label, LogSquare, Numeric, Quantiles, Schema, Vocabulary

SHARED = Hashing(bits=6, table="shared")
SCHEMA = Schema(
    labels=(Label(name="y"),),
    features=(
        Numeric(name="n"),
        Categorical(name="v", encoding=Vocabulary(min_count=2)),
        Categorical(name="h", encoding=SHARED),
        Bucketed(name="b", column="n", buckets=LogSquare(), encoding=SHARED),
        Bucketed(name="q", column="n", buckets=Quantiles(count=4)),
    ),
)
TRAIN = pa.table(
    {"y": [0, 1] * 50, "n": [None, *range(99)], "v": [*"aabbc", *[None] * 95], "h": [str(i) for i in range(100)]}
)


def test_every_feature_has_its_line() -> None:
    encoder = Encoder.fit(SCHEMA, [TRAIN])
    counts = Counts()
    encoder.encode(pa.table({"y": [0, 1], "n": [1, 2], "v": ["a", "z"], "h": ["1", "new"]}), counts=counts)
    n, v, h, b, q = report(encoder, encoder.fitted.counts, counts)
    assert (n.name, n.missing, n.table) == ("n", 0.01, None)
    assert (v.rows, v.distinct, v.unknown, v.missing) == (4, 2, 0.5, 0.95)
    assert encoder.fitted.counts.unknown["v"] == 1  # c, seen once
    buckets = b.distinct or 0
    assert (h.table, h.rows, h.distinct) == ("shared", 64, 100)
    assert h.expected == b.expected == pytest.approx(expected_share(100 + buckets, 63), abs=1e-6)
    rows = [encoder.encode(TRAIN).ids.feature(f)[0] for f in (1, 2)]
    readers: dict[int, set[str]] = {}
    for name, found, values in (("h", rows[0], TRAIN["h"]), ("b", rows[1], encoder_texts())):
        for row, text in zip(found.tolist(), values if isinstance(values, list) else values.to_pylist(), strict=True):
            if text is not None:
                readers.setdefault(row, set()).add(f"{name}|{text}")
    crowded = sum(len([i for i in ids if i.startswith("h|")]) for ids in readers.values() if len(ids) > 1)
    assert h.colliding == pytest.approx(crowded / 100, abs=1e-6)
    assert (q.rows, q.distinct) == (6, 4)
    assert "colliding" not in v.to_json()


def encoder_texts() -> list[str | None]:
    """The buckets of n = None, 0 … 98, by hand: floor(ln(n)²) above 2."""
    import math

    return [None, *(str(n if n <= 2 else math.floor(math.log(n) ** 2)) for n in range(99))]


def test_quantile_buckets_are_filled_equally_and_known_beforehand() -> None:
    encoder = Encoder.fit(SCHEMA, [TRAIN])
    ids = encoder.encode(TRAIN).ids.feature(3)[0]
    assert ids[0] == 1  # missing
    counts = ids[1:].bincount().tolist()[2:]
    assert sum(counts) == 99
    assert max(counts) - min(counts) <= 1
    extremes = pa.table({"y": [0, 0, 0], "n": [-1e9, 1e9, float("inf")], "v": ["a"] * 3, "h": ["a"] * 3})
    assert encoder.encode(extremes).ids.feature(3)[0].tolist() == [ids[1], ids[-1], 1]


def test_the_state_of_buckets_and_shares_round_trips() -> None:
    encoder = Encoder.fit(SCHEMA, [TRAIN])
    again = Encoder.from_json(encoder.to_json(), "here")
    assert again.encode(TRAIN).ids.values.equal(encoder.encode(TRAIN).ids.values)
    assert again.fitted.shares == encoder.fitted.shares


def test_a_constant_number_has_one_bucket() -> None:
    schema = SCHEMA.model_copy(update={"features": (Bucketed(name="q"),)})
    encoder = Encoder.fit(schema, [pa.table({"y": [0, 1, 1], "q": [5.0, 5.0, None]})])
    assert encoder.encode(pa.table({"y": [0, 0], "q": [5.0, 7.0]})).ids.values.tolist() == [2, 2]
