"""From columns to numbers and rows: worked out by hand, and against a slow reference."""

from __future__ import annotations

import contextlib
import json
import math
from typing import Any

import mmh3
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recsys.data.encoder import Counts, Encoder
from recsys.data.schema import (
    Bucketed,
    Categorical,
    Hashing,
    Label,
    MultiValued,
    Numeric,
    Quantiles,
    Schema,
    Sequence,
    Vocabulary,
)
from recsys.errors import CheckpointError, ConfigError, DataError, SchemaError
from tests.helpers import changed, tidy

UNKNOWN, MISSING = 0, 1


def schema(*features: Any, labels: tuple[Label, ...] = (Label(name="y"),), group: str | None = None) -> Schema:
    return Schema(features=features, labels=labels, group=group)


def table(**columns: Any) -> pa.Table:
    return pa.table(columns)


def ids(encoder: Encoder, rows: pa.Table, feature: int = 0) -> list[Any]:
    """The bags of one feature as lists; a categorical feature's as plain rows."""
    batch = encoder.encode(rows, labels=False)
    values, lengths, _ = batch.ids.feature(feature)
    if lengths is None or isinstance(encoder.schema.id_features[feature], Categorical):
        return values.tolist()
    return [part.tolist() for part in torch.split(values, lengths.tolist())]


def test_rows_of_a_vocabulary_are_ordered_by_count_then_text() -> None:
    encoder = Encoder.fit(schema(Categorical(name="c")), [table(c=["b", "a", "b", "c", "a", "b", None])])
    assert {n: v.to_list() for n, v in encoder.fitted.vocabularies.items()} == {"c": ["b", "a", "c"]}
    assert ids(encoder, table(c=["b", "a", "c", "never", None, ""])) == [2, 3, 4, UNKNOWN, MISSING, MISSING]


def test_rare_values_are_unknown() -> None:
    rare = Categorical(name="c", encoding=Vocabulary(min_count=2))
    encoder = Encoder.fit(schema(rare), [table(c=["a", "b"]), table(c=["a"])])
    assert {n: v.to_list() for n, v in encoder.fitted.vocabularies.items()} == {"c": ["a"]}
    assert ids(encoder, table(c=["a", "b"])) == [2, UNKNOWN]


def test_a_column_of_floats_meets_a_vocabulary_of_integers() -> None:
    encoder = Encoder.fit(schema(Categorical(name="c")), [table(c=[10, 20, 20])])
    frame = pa.Table.from_pandas(pd.DataFrame({"c": [10.0, np.nan, 20.0]}), preserve_index=False)
    assert ids(encoder, frame) == [3, MISSING, 2]


def test_hashing_is_murmur3_of_feature_and_value() -> None:
    hashed = Categorical(name="c", encoding=Hashing(bits=6, seed=7))
    encoder = Encoder.fit(schema(hashed), [table(c=["x"])])
    expected = [1 + mmh3.hash(f"c|{v}", 7, signed=False) % 63 for v in ("x", "new")]
    missing = 1 + mmh3.hash("c", 7, signed=False) % 63
    assert ids(encoder, table(c=["x", "new", None])) == [*expected, missing]
    assert encoder.inputs.ids[0].rows == 64


def test_every_hash_is_a_feature_of_its_own_with_a_table_of_its_own() -> None:
    hashed = Categorical(name="c", encoding=Hashing(bits=6, seed=7, hashes=3, table="t"))
    both = schema(hashed, Sequence(name="h", shares="c", max_length=2))
    encoder = Encoder.fit(both, [table(c=["x", None], h=[["x"], []])])
    assert [(part.name, part.table, part.shares) for part in encoder.inputs.ids] == [
        ("c", "t", None), ("c:2", "t:2", None), ("c:3", "t:3", None), ("h", "t", "c"), ("h:2", "t:2", "c:2"),
        ("h:3", "t:3", "c:3"),
    ]  # fmt: skip
    counts = Counts()
    batch = encoder.encode(table(c=["x", None], h=[["x", "y"], []]), labels=False, counts=counts)
    for f, name in enumerate(("c", "c:2", "c:3")):
        rows = {v: 1 + mmh3.hash(name if v is None else f"{name}|{v}", 7, signed=False) % 63 for v in ("x", "y", None)}
        assert batch.ids.feature(f)[0].tolist() == [rows["x"], rows[None]]
        assert batch.ids.feature(3 + f)[0].tolist() == [rows["x"], rows["y"]]
    assert counts.values == {"c": 2, "h": 2}
    assert Encoder.from_json(encoder.to_json(), "x").inputs == encoder.inputs


def test_values_collide_when_they_meet_in_every_hash() -> None:
    values = [f"v{i}" for i in range(60)]
    shares = [
        Encoder.fit(schema(Categorical(name="c", encoding=Hashing(bits=5, hashes=n))), [table(c=values)]).fitted.shares
        for n in (1, 2)
    ]
    assert shares[0]["c"].colliding > 0.6
    assert shares[1]["c"].colliding < 0.2


def test_one_value_and_a_batch_give_the_same_rows() -> None:
    hashed = Categorical(name="c", encoding=Hashing(bits=10))
    encoder = Encoder.fit(schema(hashed), [table(c=["x"])])
    values = [f"v{i % 50}" for i in range(200)]
    assert ids(encoder, table(c=values)) == [ids(encoder, table(c=[v]))[0] for v in values]


def test_a_history_shares_the_items_rows_and_counts_for_its_vocabulary() -> None:
    both = schema(Categorical(name="item"), Sequence(name="history", shares="item", max_length=2))
    rows = table(item=["a", "b"], history=[["b", "c", "b"], []])
    encoder = Encoder.fit(both, [rows])
    assert {n: v.to_list() for n, v in encoder.fitted.vocabularies.items()} == {"item": ["b", "a", "c"]}
    assert ids(encoder, rows, 0) == [3, 2]
    assert ids(encoder, rows, 1) == [[4, 2], []]


def test_lists_empty_null_and_with_null_elements() -> None:
    encoder = Encoder.fit(schema(MultiValued(name="m")), [table(m=[["a", "b"], ["a"]])])
    assert ids(encoder, table(m=[["b", None, "a"], [], None, ["zz"]])) == [[3, MISSING, 2], [], [MISSING], [UNKNOWN]]


def test_separated_text_is_a_list() -> None:
    encoder = Encoder.fit(schema(MultiValued(name="m", separator="|")), [table(m=["a|b", "a"])])
    # Blank and missing are both the list of nothing: text has no other, and pandas reads the one as the other.
    assert ids(encoder, table(m=["b | a", "a", None, "", " "])) == [[3, 2], [2], [], [], []]
    assert ids(encoder, table(m=pa.array(["b|a", "", None]).dictionary_encode())) == [[3, 2], [], []]
    for nothing in (pa.nulls(2), pa.array([math.nan, None])):
        assert ids(encoder, table(m=nothing)) == [[], []]
    assert ids(encoder, table(m=["a||b"])) == [[2, MISSING, 3]]


def test_a_sliced_table_and_chunks_encode_as_the_whole() -> None:
    rows = table(m=[["a"], ["b", "a"], [], None, ["b"]], c=["x", "y", None, "x", "y"])
    encoder = Encoder.fit(schema(MultiValued(name="m"), Categorical(name="c")), [rows])
    sliced = rows.slice(1, 3)
    assert ids(encoder, sliced, 0) == ids(encoder, rows, 0)[1:4]
    chunked = pa.concat_tables([rows.slice(0, 2), rows.slice(2)])
    assert ids(encoder, chunked, 0) == ids(encoder, rows, 0)
    assert ids(encoder, chunked, 1) == ids(encoder, rows, 1)


@pytest.mark.parametrize("kind", [pa.list_(pa.int64(), 2), pa.large_list(pa.int64()), pa.list_(pa.int32())])
def test_every_list_type_is_read(kind: pa.DataType) -> None:
    rows = table(m=pa.array([[1, 2], [2, 3]], kind))
    encoder = Encoder.fit(schema(MultiValued(name="m")), [rows])
    assert ids(encoder, rows) == [[3, 2], [2, 4]]


def test_numbers_are_standardised_and_missing_ones_become_the_mean() -> None:
    encoder = Encoder.fit(schema(Numeric(name="n")), [table(n=[1.0, 3.0]), table(n=[5.0, None])])
    counts = Counts()
    dense = encoder.encode(table(n=[3.0, math.nan, math.inf, None, 5.0]), labels=False, counts=counts).dense
    std = math.sqrt(8 / 3)
    assert dense.squeeze(1).tolist() == pytest.approx([0.0, 0.0, 0.0, 0.0, 2 / std])
    assert counts.missing == {"n": 3}


def test_log_keeps_the_sign() -> None:
    encoder = Encoder.fit(schema(Numeric(name="n", transform="log")), [table(n=[-10.0, 10.0])])
    assert encoder.encode(table(n=[-10.0, 0.0, 10.0]), labels=False).dense.squeeze(1).tolist() == pytest.approx(
        [-1, 0, 1]
    )


def test_none_leaves_numbers_alone_and_fills_the_mean() -> None:
    encoder = Encoder.fit(schema(Numeric(name="n", transform="none")), [table(n=[2.0, 4.0])])
    assert encoder.encode(table(n=[7.0, None]), labels=False).dense.squeeze(1).tolist() == [7.0, 3.0]


@pytest.mark.parametrize("value", [2.0, 0.1, 0.3, 1 / 3, 99.9, 0.0])
def test_a_constant_number_is_zero_not_infinite(value: float) -> None:
    encoder = Encoder.fit(schema(Numeric(name="n")), [table(n=[value] * 65_536), table(n=[value] * 37)])
    assert encoder.encode(table(n=[value, value + 1]), labels=False).dense.squeeze(1).tolist() == pytest.approx([0, 1])


@pytest.mark.parametrize("value", [1e300, -1e300, 1e38, 2.0**64])
def test_a_number_that_would_overflow_is_missing_and_counted(value: float) -> None:
    encoder, counts = Encoder.fit(schema(Numeric(name="n")), [table(n=[1.0, 3.0])]), Counts()
    assert encoder.encode(table(n=[value]), labels=False, counts=counts).dense.item() == 0.0
    assert counts.missing == {"n": 1}


def test_labels_keep_their_digits() -> None:
    regression = schema(Categorical(name="c"), labels=(Label(name="r", kind="regression"),))
    rows = table(c=["a", "b"], r=[1.7e9, 1.7e9 + 1])
    encoder = Encoder.fit(regression, [rows])
    labels = encoder.encode(rows).labels
    assert labels is not None
    assert labels.squeeze(1).tolist() == [1.7e9, 1.7e9 + 1]
    task = encoder.inputs.tasks[0]
    assert ((labels.squeeze(1) - task.shift) / task.scale).tolist() == pytest.approx([-1, 1])


def test_keys_are_passed_on() -> None:
    encoder = Encoder.fit(schema(Categorical(name="c")), [table(c=["a"])])
    batch = encoder.encode(table(c=["a"], k=[7]), labels=False, keys=["k"])
    assert batch.keys is not None
    assert batch.keys.to_pydict() == {"k": [7]}


@given(st.lists(st.lists(st.floats(-1e6, 1e6), max_size=6), min_size=1, max_size=5))
def test_moments_over_batches_are_those_of_the_whole(parts: list[list[float]]) -> None:
    values = [v for part in parts for v in part]
    if not values:
        return
    encoder = Encoder.fit(schema(Numeric(name="n")), [table(n=pa.array(part, pa.float64())) for part in parts])
    assert encoder.fitted.normalisers["n"].fill == pytest.approx(np.mean(values), rel=1e-9, abs=1e-6)
    if np.std(values) > 1e-3:
        assert encoder.fitted.normalisers["n"].scale == pytest.approx(np.std(values), rel=1e-6)


def test_unknown_and_missing_values_are_counted() -> None:
    encoder = Encoder.fit(schema(Categorical(name="c")), [table(c=["a"])])
    counts = Counts()
    encoder.encode(table(c=["a", "zz", None]), labels=False, counts=counts)
    assert counts.sentences() == ["c: 1 unknown (33.3%), 1 missing (33.3%) of 3 values"]
    assert counts.rows == 3


def test_labels_and_groups() -> None:
    both = schema(Categorical(name="c"), labels=(Label(name="y"), Label(name="r", kind="regression")), group="u")
    rows = table(c=["a", "a", "a"], y=[0, 1, 0], r=[1.0, 5.0, 3.0], u=[7, 8, 7])
    batch = Encoder.fit(both, [rows]).encode(rows)
    assert batch.labels is not None
    assert batch.groups is not None
    assert batch.labels.tolist() == [[0, 1], [1, 5], [0, 3]]
    assert batch.groups[0] == batch.groups[2] != batch.groups[1]


def test_groups_are_the_same_in_every_batch() -> None:
    grouped = schema(Categorical(name="c"), group="u")
    rows = table(c=["a", "b", "c"], y=[0, 1, 0], u=["x", "y", "x"])
    encoder = Encoder.fit(grouped, [rows])
    whole, last = encoder.encode(rows).groups, encoder.encode(rows.slice(1)).groups
    assert whole is not None
    assert last is not None
    assert torch.equal(whole[1:], last)


def test_rows_without_a_user_are_users_of_their_own_and_counted() -> None:
    grouped = schema(Categorical(name="c"), group="u")
    rows = table(c=["a", "b", "c"], y=[0, 1, 0], u=[None, "y", None])
    encoder, counts = Encoder.fit(grouped, [rows]), Counts()
    parts = [encoder.encode(rows, counts=counts).groups for _ in range(2)]
    codes = [code for part in parts if part is not None for code in part.tolist()]
    assert codes[1] == codes[4]
    assert len(set(codes)) == 5
    assert counts.missing["u (group)"] == 4


@pytest.mark.parametrize(
    ("label", "told"),
    [
        ([0.0, 2.0], r"label `y`: expected values in \[0, 1\], got 0 … 2"),
        ([0.0, -1.0], r"got -1 … 0"),
        ([0.0, None], "1 of 2 rows have no finite value"),
        ([math.inf, 0.0], "1 of 2 rows have no finite value"),
        (["yes", "no"], "column `y`: expected numbers"),
    ],
)
def test_bad_labels_are_named(label: list[Any], told: str) -> None:
    rows = table(c=["a", "b"], y=label)
    encoder = Encoder.fit(schema(Categorical(name="c")), [rows.drop(["y"])])
    with pytest.raises(DataError, match=told):
        encoder.encode(rows)
    with pytest.raises(DataError, match=told):
        Encoder.fit(schema(Categorical(name="c")), [rows])


def test_a_table_to_be_scored_needs_no_label() -> None:
    encoder = Encoder.fit(schema(Categorical(name="c")), [table(c=["a"])])
    assert encoder.encode(table(c=["a"]), labels=False).labels is None
    with pytest.raises(DataError, match="missing column `y`; the data has: c"):
        encoder.encode(table(c=["a"]))


def test_wrong_columns_are_named() -> None:
    encoder = Encoder.fit(schema(MultiValued(name="m")), [table(m=[["a"]])])
    with pytest.raises(DataError, match="missing column `m`"):
        encoder.encode(table(c=["a"]), labels=False)
    with pytest.raises(DataError, match="column `m`: expected lists, got string"):
        encoder.encode(table(m=["a"]), labels=False)
    twice = pa.Table.from_arrays([pa.array([["a"]]), pa.array([["b"]])], names=["m", "m"])
    with pytest.raises(DataError, match="column `m` stands twice"):
        encoder.encode(twice, labels=False)


def test_no_rows_to_fit_is_an_error_and_no_rows_to_encode_is_not() -> None:
    made = schema(Numeric(name="n"), Categorical(name="c"), MultiValued(name="m"))
    empty = table(n=pa.array([], pa.float64()), c=pa.array([], pa.string()), m=pa.array([], pa.list_(pa.string())))
    with pytest.raises(DataError, match="no rows"):
        Encoder.fit(made, [empty])
    encoder = Encoder.fit(made, [table(n=[1.0], c=["a"], m=[["x"]])])
    assert len(encoder.encode(empty, labels=False)) == 0


ANY = st.one_of(st.none(), st.text(max_size=4), st.integers(-5, 5).map(str))


@given(st.lists(st.tuples(ANY, st.one_of(st.none(), st.lists(ANY, max_size=4))), min_size=1, max_size=30), st.data())
def test_encoding_agrees_with_a_slow_reference(rows: list[tuple[Any, Any]], data: st.DataObject) -> None:
    minimum, longest = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
    made = schema(
        Categorical(name="c", encoding=Vocabulary(min_count=minimum)),
        Sequence(name="s", encoding=Vocabulary(min_count=minimum), max_length=longest),
        MultiValued(name="h", column="s", encoding=Hashing(bits=5)),
    )
    source = table(
        c=pa.array([r[0] for r in rows], pa.string()), s=pa.array([r[1] for r in rows], pa.list_(pa.string()))
    )
    encoder = Encoder.fit(made, [source])
    rows = [(tidy(one), None if many is None else [tidy(v) for v in many]) for one, many in rows]
    assert ids(encoder, source, 0) == slow_rows([r[0] for r in rows], [r[0] for r in rows], minimum)
    # A fit sees what a model will see: the last `longest` of each list.
    cut: list[list[str | None]] = [[None] if r[1] is None else r[1][-longest:] for r in rows]
    flat = [v for bag in cut for v in bag]
    assert ids(encoder, source, 1) == [slow_rows(bag, flat, minimum) for bag in cut]
    bags = [[None] if r[1] is None else r[1] for r in rows]
    assert ids(encoder, source, 2) == [[slow_hash(v) for v in bag] for bag in bags]


def slow_rows(values: list[str | None], training: list[str | None], minimum: int) -> list[int]:
    counts: dict[str, int] = {}
    for value in training:
        if value:
            counts[value] = counts.get(value, 0) + 1
    known = sorted((v for v in counts if counts[v] >= minimum), key=lambda v: (-counts[v], v))
    return [MISSING if not v else known.index(v) + 2 if v in known else UNKNOWN for v in values]


def slow_hash(value: str | None) -> int:
    return 1 + mmh3.hash(f"h|{value}" if value else "h", 42, signed=False) % 31


def test_json_round_trip_encodes_the_same() -> None:
    made = schema(
        Numeric(name="n", transform="log"), Categorical(name="c"), MultiValued(name="m", encoding=Hashing(bits=4))
    )
    rows = table(n=[1.0, None, 3.5], c=["a", "b", None], m=[["x"], None, []])
    encoder = Encoder.fit(made, [rows])
    again = Encoder.from_json(json.loads(json.dumps(encoder.to_json())), "here")
    one, two = encoder.encode(rows, labels=False), again.encode(rows, labels=False)
    assert torch.equal(one.dense, two.dense)
    assert torch.equal(one.ids.values, two.ids.values)
    assert again.inputs == encoder.inputs


@pytest.mark.parametrize("drop", ["normalisers", "vocabularies"])
def test_state_that_does_not_fit_is_refused(drop: str) -> None:
    encoder = Encoder.fit(schema(Numeric(name="n"), Categorical(name="c")), [table(n=[1.0], c=["a"])])
    state = encoder.to_json()
    with pytest.raises(CheckpointError, match="does not fit its schema"):
        Encoder.from_json({k: v for k, v in state.items() if k != drop}, "here")
    with pytest.raises(CheckpointError, match="does not fit its schema"):
        Encoder.from_json(state | {drop: {}}, "here")


def a_state() -> dict[str, Any]:
    made = schema(
        Numeric(name="n"),
        Categorical(name="c"),
        MultiValued(name="m", encoding=Hashing(bits=4)),
        Bucketed(name="b", buckets=Quantiles(count=3)),
        labels=(Label(name="y"), Label(name="r", kind="regression")),
    )
    rows = table(
        n=[1.0, 2.0, 3.0], c=["a", "b", "a"], m=[["x"], ["y"], []], b=[1.0, 2.0, 3.0], y=[0, 1, 0], r=[1, 2, 3]
    )
    return json.loads(json.dumps(Encoder.fit(made, [rows]).to_json()))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "part",
    [
        {"edges": []}, {"edges": {}}, {"edges": {"b": 1}}, {"edges": {"b": [[1.0]]}}, {"edges": {"b": [2.0, 1.0]}},
        {"shares": 1}, {"shares": {"m": [math.inf, 0]}}, {"normalisers": None}, {"normalisers": {"n": [10**400, 1, 1]}},
        {"vocabularies": True}, {"vocabularies": {"c": "ab"}}, {"vocabularies": {"c": ["a", "a"]}},
    ],
)  # fmt: skip
def test_state_of_another_shape_is_refused(part: dict[str, Any]) -> None:
    Encoder.from_json(a_state(), "here")
    with pytest.raises(CheckpointError, match="here: the encoder's state does not fit its schema"):
        Encoder.from_json(a_state() | part, "here")


@pytest.mark.parametrize("state", [None, [], "x", 1])
def test_what_is_no_state_at_all_is_refused(state: Any) -> None:
    with pytest.raises(SchemaError, match="here"):
        Encoder.from_json(state, "here")


STATE = a_state()


@given(st.data())
def test_any_change_of_a_state_gives_an_encoder_or_one_sentence(data: st.DataObject) -> None:
    values = st.none() | st.booleans() | st.integers() | st.just(10**400) | st.floats() | st.text(max_size=3)
    anything = st.recursive(
        values, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    )
    state = changed(STATE, data, anything)
    with contextlib.suppress(CheckpointError, SchemaError):
        assert Encoder.from_json(state, "here").to_json().keys() == STATE.keys()


def test_rows_that_stand_for_no_value_are_told_to_models_and_start_as_zeros() -> None:
    from recsys.models.registry import build, config_class

    made = schema(Categorical(name="v"), Categorical(name="h", encoding=Hashing(bits=4)))
    encoder = Encoder.fit(made, [table(v=["a", "b"], h=["x", "y"])])
    assert [feature.reserved for feature in encoder.inputs.ids] == [2, 1]
    tables = build(config_class("dcnv2")(), encoder.inputs).tables  # type: ignore[arg-type]
    for name, zeros in (("v", 2), ("h", 1)):
        rows = tables.table(name)[0]
        assert not rows[:zeros].any()
        assert rows[zeros:].any(dim=1).all()


def test_tables_that_no_memory_holds_are_refused_with_the_sum() -> None:
    from recsys.models.registry import build, config_class

    encoder = Encoder.fit(schema(Categorical(name="c", encoding=Hashing(bits=31))), [table(c=["a"])])
    config = config_class("dcnv2")(embedding_dim=10_000)
    with pytest.raises(ConfigError, match=r"the tables need 85899\.3 GB.*`c`, 2,147,483,648 rows of 10000"):
        build(config, encoder.inputs)  # type: ignore[arg-type]


@pytest.mark.parametrize("encoding", [Vocabulary(min_count=2), Hashing(bits=4), Vocabulary()])
def test_a_shared_encoding_survives_json(encoding: Any) -> None:
    made = schema(Categorical(name="item", encoding=encoding), Sequence(name="h", shares="item", separator="|"))
    rows = table(item=["a", "b", "a"], h=["a|b", "b", ""], y=[0, 1, 0])
    encoder = Encoder.fit(made, [rows])
    again = Encoder.from_json(json.loads(json.dumps(encoder.to_json())), "here")
    assert again.schema == made
    assert again.encode(rows).ids.values.equal(encoder.encode(rows).ids.values)


def test_features_of_some_sides_are_encoded_as_if_there_were_no_others() -> None:
    user, item = (
        Categorical(name="u", side="user", encoding=Hashing(bits=4, hashes=2)),
        Categorical(name="i", side="item"),
    )
    age, price = Numeric(name="age", side="user"), Numeric(name="price", side="item")
    rows = table(u=["a", None], i=["x", "y"], age=[1, 2], price=[3.0, None], h=[["x"], []])
    made = schema(item, age, Sequence(name="h", shares="i", side="user"), price, user)
    encoder = Encoder.fit(made, [rows])
    whole, counts = encoder.encode(rows, labels=False), Counts()
    assert whole.ids.features == ("i", "h", "u", "u:2")
    part = encoder.encode(rows.select(["u", "age", "h"]), labels=False, counts=counts, sides=("user",))
    assert part.ids.features == ("h", "u", "u:2")
    assert part.dense.equal(whole.dense[:, :1])
    for f in range(3):
        assert part.ids.feature(f)[0].equal(whole.ids.feature(f + 1)[0])
    assert (set(counts.values), counts.rows) == ({"age", "h", "u"}, 2)
    nothing = encoder.encode(rows, labels=False, sides=("context",))
    assert (len(nothing), nothing.ids.features, tuple(nothing.dense.shape)) == (2, (), (2, 0))
    everything = encoder.encode(rows, labels=False, sides=("item", "user", "context"))
    assert everything.ids.features == whole.ids.features
    with pytest.raises(DataError, match="missing column `i`"):
        encoder.encode(rows.select(["price"]), labels=False, sides=("item",))


def test_a_mean_beyond_all_bounds_fills_nothing_infinite() -> None:
    rows = table(n=[-1.0, 0.0, 1e99, None])
    encoder = Encoder.fit(schema(Numeric(name="n", transform="none")), [rows])
    assert torch.isfinite(encoder.encode(rows, labels=False).dense).all()
