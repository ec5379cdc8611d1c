"""Rows as dicts give the batch that a table of them gives."""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable, Mapping
from collections.abc import Sequence as Listed
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from functools import cache
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.data import rows as module
from recsys.data.batch import Batch
from recsys.data.encoder import Counts, Encoder
from recsys.data.rows import RowEncoder
from recsys.data.schema import (
    Bucketed,
    Categorical,
    Feature,
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
from recsys.data.values import NO_VALUE
from recsys.errors import DataError

Rows = Listed[Mapping[str, Any]]
UNKNOWN, MISSING = 0, 1

FEATURES: tuple[Feature, ...] = (
    Numeric(name="plain", transform="none", side="user"),
    Categorical(name="word", side="item"),
    Numeric(name="scaled", side="item"),
    Categorical(name="rare", encoding=Vocabulary(min_count=2)),
    Sequence(name="words", shares="word", max_length=3, side="user"),
    Categorical(name="hashed", encoding=Hashing(bits=9, seed=7), side="item"),
    Categorical(name="tiny", encoding=Hashing(bits=1)),
    Bucketed(name="quantile", buckets=Quantiles(count=4)),
    Bucketed(name="hashed quantile", encoding=Hashing(bits=5), side="user"),
    Numeric(name="log", transform="log"),
    Categorical(name="thrice", encoding=Hashing(bits=8, hashes=3, table="t"), side="user"),
    MultiValued(name="tags", side="item"),
    MultiValued(name="parted", separator="|", encoding=Hashing(bits=7)),
    Bucketed(name="square", buckets=LogSquare(), side="user"),
    Bucketed(name="hashed square", buckets=LogSquare(), encoding=Hashing(bits=6, hashes=2)),
    Sequence(name="thrice each", shares="thrice", separator=", ", max_length=2),
    Numeric(name="again", column="plain", transform="log"),
)
NUMBERS = ("plain", "scaled", "quantile", "hashed quantile", "log", "square", "hashed square")
SINGLES = ("word", "rare", "hashed", "tiny", "thrice")
PARTED = {"parted": "|", "thrice each": ", "}

TEXTS = st.one_of(
    st.sampled_from(
        ["a", "b", "é", "5", " 5 ", "5.0", "-0", "-0.0", "05.00", "True", "TRUE", "tRUE", "1.50", "x" * 80]
    ),
    st.sampled_from([*NO_VALUE, " NaN\t", "?", " ", "\u3000a\u2003"]),
    st.text(max_size=4),
)
INTS = st.one_of(st.integers(-3, 12), st.integers(-(2**63), 2**63 - 1))
FLOATS = st.one_of(
    st.integers(-3, 9).map(float),
    st.sampled_from([-0.0, 1e-7, 1e-4, 0.1, 2.5, 1e10, 2.0**63, 1e100, 2e100]),
    st.floats(),
)
NUMERALS = st.one_of(
    st.sampled_from(
        ["", "?", "NaN", " 7", "007", "-.5", "5.", "1e3", "1e400", "inf", "true", "FALSE", "1_0", "٣", "0x1"]
    ),
    st.floats().map(repr),
    st.integers().map(str),
)


def columns(size: int, *kinds: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    """A column whose values are all of one kind, or missing; one of nothing else, too."""
    every = st.one_of(*(st.lists(st.one_of(kind, st.none()), min_size=size, max_size=size) for kind in kinds))
    return st.one_of(every, st.just([None] * size))


def lists(kind: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    return st.lists(st.one_of(kind, st.none()), max_size=5)


def joined(separator: str) -> st.SearchStrategy[str]:
    return st.lists(TEXTS, max_size=5).map(separator.join)


def column_of(name: str, size: int) -> st.SearchStrategy[list[Any]]:
    if name in NUMBERS:
        return columns(size, INTS, FLOATS, st.booleans(), NUMERALS)
    if name in SINGLES:
        return columns(size, INTS, FLOATS, st.booleans(), TEXTS)
    every = columns(size, lists(TEXTS), lists(INTS), lists(FLOATS), lists(st.booleans()))
    if name in PARTED:
        return st.one_of(columns(size, joined(PARTED[name]), INTS, FLOATS, st.booleans()), every)
    return every


def table(columns: Mapping[str, list[Any]]) -> pa.Table:
    return pa.table({name: pa.array(column) for name, column in columns.items()})


@cache
def fitted(names: frozenset[str]) -> Encoder:
    """An encoder of some of the features, always with those that others share."""
    features = tuple(feature for feature in FEATURES if feature.name in names | {"word", "thrice"})
    numbers = [0, 1, 2, 3, 5, 8, 13, None, 40, 2.5, -1.5, 1]
    words = ["a", "b", "5", "true", "1.5", "é", "a", None, "7", "0", "a|b", "5"]
    known: dict[str, list[Any]] = {
        feature.source: numbers if feature.source in NUMBERS else words for feature in features
    }
    known |= {name: [[word] for word in words] for name in known.keys() & {"words", "tags"}}
    return Encoder.fit(Schema(labels=(Label(name="y"),), features=features), [table(known)])


def encoder_of(*features: Any, **known: list[Any]) -> Encoder:
    """An encoder fitted to hand-written columns."""
    return Encoder.fit(Schema(labels=(Label(name="y"),), features=features), [table(known)])


def ids(encoder: Encoder, *values: Any) -> list[list[int]]:
    """What the first id feature reads for every value, each in a row of one request."""
    feature = encoder.schema.id_features[0]
    found, lengths, _ = RowEncoder(encoder).encode([{feature.source: value} for value in values]).ids.feature(0)
    return [part.tolist() for part in torch.split(found, [1] * len(values) if lengths is None else lengths.tolist())]


def same(found: Batch, expected: Batch) -> None:
    assert found.dense.dtype == expected.dense.dtype
    assert torch.equal(found.dense, expected.dense)
    assert found.ids.features == expected.ids.features
    assert found.ids.values.dtype == expected.ids.values.dtype
    assert torch.equal(found.ids.values, expected.ids.values)
    assert (found.ids.offsets is None) == (expected.ids.offsets is None)
    if found.ids.offsets is not None and expected.ids.offsets is not None:
        assert found.ids.offsets.dtype == expected.ids.offsets.dtype
        assert torch.equal(found.ids.offsets, expected.ids.offsets)
    assert (found.labels, found.groups, found.keys) == (None, None, None)


def agree(encode: Callable[[Counts], Batch], fast: RowEncoder, rows: Rows) -> None:
    """Twice, since what was seen before is remembered; where the one refuses, the other does in its own words."""
    counts = Counts()
    try:
        expected = encode(counts)
    except (DataError, pa.ArrowException, OverflowError):
        with pytest.raises(DataError):
            fast.encode(rows)
        return
    for _ in range(2):
        found = Counts()
        same(fast.encode(rows, found), expected)
        assert found == counts
    same(fast.encode(rows), expected)


@settings(max_examples=150)
@given(st.data())
def test_rows_give_what_a_table_of_them_gives(data: st.DataObject) -> None:
    names = data.draw(st.frozensets(st.sampled_from([feature.name for feature in FEATURES]), min_size=1, max_size=6))
    size = data.draw(st.integers(0, 5))
    sides: Any = data.draw(st.sampled_from([None, ("user",), ("item", "context"), ()]))
    encoder = fitted(names)
    wanted = {c: data.draw(column_of(c, size), label=c) for c in encoder.schema.columns}
    absent = data.draw(st.booleans())  # a missing value, or none at all
    rows = [{c: v[i] for c, v in wanted.items() if not absent or v[i] is not None} for i in range(size)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_MANY", data.draw(st.sampled_from([0, 2, 128])))
        patch.setattr(module, "_REMEMBERED", data.draw(st.sampled_from([1, 3, 1000])))
        fast = RowEncoder(encoder, sides)
        agree(lambda counts: encoder.encode(table(wanted), labels=False, counts=counts, sides=sides), fast, rows)


@settings(max_examples=60)
@given(st.data())
def test_a_column_of_mixed_types_gives_what_each_value_gives_alone(data: st.DataObject) -> None:
    names = data.draw(st.frozensets(st.sampled_from([feature.name for feature in FEATURES]), min_size=1, max_size=4))
    encoder = fitted(names)
    size = data.draw(st.integers(1, 5))
    plain = st.one_of(TEXTS, INTS, FLOATS, st.booleans(), st.none())
    odd = st.sampled_from(
        [Decimal("1.50"), Decimal(5), datetime.date(2020, 1, 2), np.float32(0.1), np.int8(5), np.True_]
    )
    kinds: dict[str, st.SearchStrategy[Any]] = {
        name: st.one_of(NUMERALS, INTS, FLOATS, st.booleans(), st.none()) for name in NUMBERS
    }
    kinds |= {name: st.one_of(plain, odd) for name in SINGLES} | dict.fromkeys(PARTED, plain)
    whole = [lists(TEXTS), lists(INTS), lists(FLOATS)]
    rows = [
        {name: data.draw(kinds.get(name, st.one_of(st.none(), *whole))) for name in encoder.schema.columns}
        for _ in range(size)
    ]

    def alone(counts: Counts) -> Batch:
        return Batch.concat([encoder.encode(pa.Table.from_pylist([row]), False, counts) for row in rows])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_MANY", data.draw(st.sampled_from([0, 128])))
        agree(alone, RowEncoder(encoder), rows)


VOCABULARY = ["5", "a", "b", "true", "0", "1.5", "0.00001"]  # rows 2, 3, ...
TEXT = {text: row for row, text in enumerate(VOCABULARY, 2)}


def vocabulary() -> Encoder:
    known = [text for n, text in enumerate(VOCABULARY) for _ in range(len(VOCABULARY) - n)]  # the first most often
    return encoder_of(Categorical(name="c"), c=known)


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ((5, 5.0, "5", " 5 ", "5.0", "5.000", "\t5\u3000"), "5"),
        ((True, "true", "True", "TRUE", " TRUE"), "true"),
        ((0, -0.0, 0.0, "0", "-0", "-0.0"), "0"),
        ((1.5, "1.5"), "1.5"),
        ((1e-05, "0.00001"), "0.00001"),
    ],
)
def test_one_category_has_one_row_however_it_is_written(values: tuple[Any, ...], text: str) -> None:
    assert ids(vocabulary(), *values, *values) == [[TEXT[text]]] * 2 * len(values)


def test_what_is_another_category_is_unknown() -> None:
    assert ids(vocabulary(), "tRUE", "1.50", "1e-05", 1, "1", 1.0, "05", math.inf, "a b") == [[UNKNOWN]] * 9


def test_what_is_missing_reads_one_row() -> None:
    nothing = [None, math.nan, " ", *NO_VALUE]
    assert ids(vocabulary(), *nothing) == [[MISSING]] * len(nothing)
    encoder = vocabulary()
    counts = Counts()
    RowEncoder(encoder).encode([{}, {"c": None}, {"c": "a"}, {"c": "never"}], counts)
    assert counts == Counts(rows=4, values={"c": 4}, missing={"c": 2}, unknown={"c": 1}, cut={"c": 0})


def test_a_boolean_is_no_integer_whichever_comes_first() -> None:
    encoder = encoder_of(Categorical(name="c"), c=["true", "true", "1", "0", "false"])
    for values in ([True, 1, False, 0], [1, True, 0, False], [1.0, True, 0.0, False]):
        alone = [ids(encoder, value)[0] for value in values]
        assert ids(encoder, *values) == alone
        assert len({row for bag in alone for row in bag}) == 4
    fast = RowEncoder(encoder)
    for value in (1, True, 1, 1.0, True):  # one after the other, remembered
        found = fast.encode([{"c": value}]).ids.values
        assert found.equal(RowEncoder(encoder).encode([{"c": value}]).ids.values)


def test_integers_of_64_bits_meet_their_texts_signed_or_not() -> None:
    ends = [-(2**63), 2**63 - 1, 2**63, 2**64 - 1]
    encoder = encoder_of(Categorical(name="c"), Numeric(name="n"), c=[str(n) for n in ends], n=[1, 2, 3, 4])
    assert sorted(ids(encoder, *ends)) == [[2], [3], [4], [5]]
    assert ids(encoder, *ends) == ids(encoder, *map(str, ends))
    fast = RowEncoder(encoder)
    for value, known in ((2**63, True), (2.0**63, False), (-(2**63), True), (-(2.0**63), False), (2**63, True)):
        found = fast.encode([{"c": value}]).ids.values  # a float of this size is 9.223372036854776e+18
        assert (int(found) != UNKNOWN) == known
    unsigned = pa.table({"c": pa.array(ends[1:], pa.uint64()), "n": pa.array(ends[1:], pa.uint64())})
    same(RowEncoder(encoder).encode([{"c": n, "n": n} for n in ends[1:]]), encoder.encode(unsigned, labels=False))


@pytest.mark.parametrize(("base", "power"), [(2, 64), (-3, 41), (10, 400), (10, 5000)])
def test_longer_integers_are_refused_in_one_sentence(base: int, power: int) -> None:
    value = base**power
    encoder = encoder_of(Categorical(name="c"), Numeric(name="n"), MultiValued(name="m"), c=["a"], n=[1], m=[["a"]])
    for row in ({"c": value}, {"n": value}, {"m": [value]}):
        with pytest.raises(DataError, match=rf"column `{next(iter(row))}`: an integer of \d+ bits; at most 64"):
            RowEncoder(encoder).encode([row])


def test_numbers_that_are_too_large_or_none_become_the_mean() -> None:
    encoder = encoder_of(Numeric(name="n", transform="none"), n=[1.0, 3.0])
    counts = Counts()
    values = [1e300, math.inf, -math.inf, math.nan, None, "?", "NaN", "inf", 1e100, 3, True, " 3.0", "TRUE"]
    found = RowEncoder(encoder).encode([{"n": value} for value in values], counts)
    assert found.dense.flatten().tolist() == [2.0] * 9 + [3.0, 1.0, 3.0, 1.0]
    assert counts.missing == {"n": 9}


def test_lists_empty_missing_and_with_missing_values() -> None:
    encoder = encoder_of(MultiValued(name="m"), m=[["a", "5"], ["a"]])
    assert ids(encoder, ["5", None, "a"], [], None, ["zz"], [5, 5.0, "a", True]) == [
        [3, MISSING, 2], [], [MISSING], [UNKNOWN], [3, 3, 2, UNKNOWN],
    ]  # fmt: skip


def test_separated_text_is_a_list() -> None:
    encoder = encoder_of(MultiValued(name="m", separator="|"), m=["a|5", "a"])
    assert ids(encoder, "5.0 | a", "a", None, "", math.nan, "NaN", "a||5", 5, ["a", None]) == [
        [3, 2], [2], [], [], [], [], [2, MISSING, 3], [3], [2, MISSING],
    ]  # fmt: skip


def test_the_last_values_of_a_sequence_stay_and_cuts_are_counted() -> None:
    encoder = encoder_of(Sequence(name="s", max_length=2), s=[["a", "a"], ["a", "b"], ["b", "c"]])
    counts = Counts()
    found = RowEncoder(encoder).encode([{"s": ["a", "b", "c"]}, {"s": ["a", "b"]}, {}], counts)
    assert found.ids.values.tolist() == [3, 4, 2, 3, MISSING]  # of b, c, a, b and None
    assert found.ids.offsets is not None
    assert found.ids.offsets.tolist() == [0, 2, 4, 5]
    assert (counts.cut, counts.values) == ({"s": 1}, {"s": 5})


def test_what_json_has_not_is_read_as_arrow_reads_it() -> None:
    encoder = encoder_of(
        Categorical(name="c"), Numeric(name="n"), c=["2020-01-02", "1.5", "5", "b", "true"], n=[1.0, 2.0, 3.0, 4.0, 5.0]
    )
    day = datetime.date(2020, 1, 2)
    columns: list[list[Any]] = [
        [day, None],
        [day, datetime.date(2021, 1, 1)],
        [Decimal("1.50"), Decimal(5)],
        [b"b", b"5"],
        [np.float32(1.5), np.float32(0.1)],
    ]
    for column in columns:
        wanted = pa.table({"c": pa.array(column), "n": pa.array([None, 1])})
        rows: list[dict[str, Any]] = [{"c": column[0]}, {"c": column[1], "n": np.int32(1)}]
        same(RowEncoder(encoder).encode(rows), encoder.encode(wanted, labels=False))
    assert ids(encoder, day, 0, None) == [ids(encoder, day)[0], [UNKNOWN], [MISSING]]  # day 0 is 1970-01-01
    mixed = [day, 5, b"b", np.float64(1.5), "5", Decimal("5.0"), True]
    assert ids(encoder, *mixed) == [ids(encoder, value)[0] for value in mixed]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"c": ["a"]}, "column `c`: expected one value a row, got list"),
        ({"c": {"a": 1}}, "column `c`: expected one value a row, got struct"),
        ({"c": "\ud800"}, "column `c`: its text cannot be read, is it Unicode"),
        ({"c": b"\xff"}, "column `c`: binary values cannot be read as text"),
        ({"c": object()}, "column `c`: a value cannot be read"),
        ({"n": "twelve"}, "column `n`: expected numbers.*twelve"),
        ({"n": "1_0"}, "column `n`: expected numbers.*1_0"),
        ({"n": "\ud800"}, "column `n`: its text cannot be read"),
        ({"n": [1]}, "column `n`: expected numbers, got list"),
        ({"q": "twelve"}, "column `q`: expected numbers.*twelve"),
        ({"m": "a"}, "column `m`: expected lists, got string; for text such as"),
        ({"m": [["a"]]}, "column `m`: expected one value a row, got list"),
        ({"m": [["a"], "a"]}, "column `m`: a value cannot be read"),
        ({"s": [["a"], None]}, "column `s`: expected one value a row, got list"),
        ({"cc": 1}, r"rows\[1\]: unknown column `cc`: did you mean `c`\?"),
        ({5: 1}, r"rows\[1\]: unknown column `5`: known: c, m, n, q, s, t, u, y"),
        ([1], r"rows\[1\]: expected a mapping of columns to values, got list"),
    ],
)
def test_what_cannot_be_read_is_named(row: Any, message: str) -> None:
    features = (
        Categorical(name="c"), Numeric(name="n"), MultiValued(name="m"), Bucketed(name="q"),
        Sequence(name="s", max_length=1),
    )  # fmt: skip
    schema = Schema(labels=(Label(name="y"),), features=features, group="u", time="t")
    encoder = Encoder.fit(schema, [table({"c": ["a"], "n": [1], "m": [["a"]], "q": [1], "s": [["a"]]})])
    good = {"c": 1, "n": 1, "m": [1], "q": 1, "s": [1]}
    for rows in ([good, row], [good, row, good]):
        with pytest.raises(DataError, match=message):
            RowEncoder(encoder).encode(rows)


def test_labels_users_times_and_other_sides_may_stand_in_a_row() -> None:
    features = (Categorical(name="c", side="user"), Numeric(name="n", column="number", side="item"))
    schema = Schema(labels=(Label(name="y", column="click"),), features=features, group="who", time="when")
    encoder = Encoder.fit(schema, [table({"c": ["a", "b"], "number": [1, 2], "who": [1, 2]})])
    row = {"c": "a", "number": 2, "click": "?", "who": object(), "when": None}
    frozen = [MappingProxyType(row)]
    user, item = RowEncoder(encoder, ("user",)).encode(frozen), RowEncoder(encoder, ("item",)).encode(frozen)
    assert (user.ids.features, user.ids.values.tolist(), tuple(user.dense.shape)) == (("c",), [2], (1, 0))
    assert (item.ids.features, len(item), item.dense.tolist()) == ((), 1, [[1.0]])
    assert RowEncoder(encoder, ("user",)).encode([{"number": "not read"}]).ids.values.tolist() == [MISSING]
    with pytest.raises(DataError, match="unknown column `numbr`: did you mean `number`"):
        RowEncoder(encoder, ("user",)).encode([{"numbr": 1}])


@pytest.mark.parametrize("size", [0, 1, 700])
@pytest.mark.parametrize("sides", [None, ("user",), ("context",), ()])
def test_any_number_of_rows_has_its_batch(size: int, sides: Any) -> None:
    encoder = fitted(frozenset(feature.name for feature in FEATURES if feature.side != "context"))
    rows = [{"word": f"w{i % 90}", "plain": i / 8 if i % 3 else i, "tags": [i % 7] * (i % 3)} for i in range(size)]
    wanted = table({c: [row.get(c) for row in rows] for c in encoder.schema.columns})
    counts, expected = Counts(), Counts()
    found = RowEncoder(encoder, sides).encode(rows, counts)
    assert len(found) == size
    same(found, encoder.encode(wanted, labels=False, counts=expected, sides=sides))
    assert counts == expected


def test_many_rows_of_mixed_types_give_what_each_gives_alone() -> None:
    encoder = vocabulary()
    for some in (["5", 5, 5.0, True, None, "a", 1.5, -0.0], [1.5, True, None, 0.0]):
        assert ids(encoder, *some * 200) == [ids(encoder, value)[0] for value in some] * 200


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_REMEMBERED", 10)
    encoder = encoder_of(Categorical(name="c", encoding=Hashing(bits=20)), c=["a"])
    fast = RowEncoder(encoder)
    kept = fast._ids[0]._table._seen
    for n in range(60):
        values = [f"{'x' * (n % 80)}{n}", n, n / 2, n % 2 == 0, None]
        fast.encode([{"c": value} for value in values])
        assert len(kept) <= 10
        assert all(len(text) <= 64 for text in kept if isinstance(text, str))
    fast.encode([{"c": n} for n in range(50)])
    assert len(kept) == 10


def test_threads_share_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_REMEMBERED", 20)
    encoder = fitted(frozenset({"hashed", "log", "tags"}))
    words: list[Any] = [*VOCABULARY, None, True, 1, *(f"w{n}" for n in range(40))]
    requests = [
        [{"word": words[(r * 7 + i) % len(words)], "hashed": r + i, "log": i, "tags": [words[i], r]} for i in range(4)]
        for r in range(50)
    ]
    expected = [RowEncoder(encoder).encode(rows) for rows in requests]
    fast = RowEncoder(encoder)

    def work(start: int) -> list[Batch]:
        return [fast.encode(requests[(start + r) % 50]) for r in range(50)]

    with ThreadPoolExecutor(4) as pool:
        for start, batches in enumerate(pool.map(work, range(4))):
            for r, batch in enumerate(batches):
                same(batch, expected[(start + r) % 50])
