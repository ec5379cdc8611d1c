"""A schema from rows: what is taken for what, what is left out, and that every table gives one that loads."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import stats  # noqa: F401  (loaded before tests are timed)

from recsys.data.columns import label as read_label
from recsys.data.describe import Description, Finding, describe
from recsys.data.encoder import Encoder
from recsys.data.readers import read
from recsys.data.schema import Categorical, Hashing, Label, MultiValued, Numeric, Schema, Sequence, Vocabulary
from recsys.errors import DataError, SchemaError

N = 400
RNG = np.random.default_rng(0)
CLICK = (np.arange(N) % 3 == 0).astype(int)


def clicks(**columns: Any) -> pa.Table:
    """A label and some columns."""
    return pa.table({"click": CLICK, **columns})


def of(found: Description, name: str) -> Finding:
    return next(finding for finding in found.findings if finding.column.name == name)


def loaded(found: Description, folder: Path) -> Schema:
    path = folder / "schema.toml"
    path.write_text(found.toml("rows.csv"), encoding="utf-8")
    return Schema.load(path)


def some(values: list[Any]) -> list[Any]:
    return [values[i] for i in np.random.default_rng(len(values)).integers(0, len(values), N)]


RICH = {
    "user_id": some(list(range(40))),
    "item_id": some([f"i{i}" for i in range(30)]),
    "price": np.exp(2 * RNG.standard_normal(N)),
    "temperature": RNG.standard_normal(N),
    "level": some([1, 2, 3]),
    "count": some(list(range(50))),
    "steps": some(list(range(100, 150))),
    "steps_few": some([1, 2, 3]),
    "zip": some([f"{i:05}" for i in range(50)]),
    "member": some([True, False]),
    "history": [[f"i{i}" for i in row] for row in RNG.integers(0, 30, (N, 4))],
    "genres": some(["Action|Comedy", "Comedy|Drama", "Drama", "Action"]),
    "created": [datetime.datetime(2024, 1, 1) + datetime.timedelta(hours=i) for i in range(N)],
    "gone": pa.nulls(N),
    "same": ["x"] * N,
    "row": [f"r{i}" for i in range(N)],
    "leak": np.where(CLICK == 1, "bought", "left"),
    "label_next_day": some([0, 1]),
    "vector": [[0.25, 1.5, -0.125]] * N,
    "nested": [{"a": 1}] * N,
}


def test_each_column_is_taken_for_what_it_holds(tmp_path: Path) -> None:
    found = describe(clicks(**RICH))
    expected = Schema(
        labels=(Label(name="click"),),
        group="user_id",
        time="created",
        features=(
            Categorical(name="user_id", side="user"),
            Categorical(name="item_id", side="item"),
            Numeric(name="price", side="item", transform="log"),
            Numeric(name="temperature"),
            Categorical(name="level"),
            Numeric(name="count"),
            Numeric(name="steps"),
            Categorical(name="steps_few"),
            Categorical(name="zip", side="user"),
            Categorical(name="member", side="user"),
            Sequence(name="history", side="user", shares="item_id"),
            MultiValued(name="genres", side="item", separator="|"),
        ),
    )
    assert found.schema == expected
    assert loaded(found, tmp_path) == expected
    json.dumps(found.to_json(), allow_nan=False)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("gone", "all values are missing"),
        ("same", "constant: always `x`"),
        ("row", "like an id of the row: 400 values in 400 rows"),
        ("leak", "alone it predicts the label (AUC 1.0000)"),
        ("label_next_day", "named like a label"),
        ("vector", "embedding"),
        ("nested", "nested values"),
    ],
)
def test_what_is_left_out_is_said_with_its_reason(name: str, told: str) -> None:
    found = describe(clicks(**RICH))
    assert of(found, name).role == "left out"
    assert told in of(found, name).note
    assert told in found.toml()


def test_a_block_that_is_taken_in_again_loads(tmp_path: Path) -> None:
    path = tmp_path / "schema.toml"
    lines = describe(clicks(**RICH)).toml().splitlines()
    path.write_text("\n".join(line[1:] if line.startswith("#") and line[1] not in " #" else line for line in lines))
    names = [feature.name for feature in Schema.load(path).features]
    assert {"gone", "same", "row", "leak", "label_next_day"} < set(names)


def test_what_predicts_well_stays_in_with_a_warning() -> None:
    flipped = np.where(np.arange(N) % 60 == 0, 1 - CLICK, CLICK)
    finding = of(describe(clicks(hint=flipped, a=some([1, 2]))), "hint")
    assert (finding.role, finding.note[:8]) == ("feature", "check it")


def test_codes_of_many_values_are_hashed_and_of_some_are_cut() -> None:
    n = 150_000
    many = pa.table(
        {"click": np.arange(2 * n) % 2, "site_id": np.arange(2 * n) % n, "shop_id": np.arange(2 * n) % 1001}
    )
    encodings = {f.name: f.encoding for f in describe(many).schema.id_features}
    assert encodings == {"site_id": Hashing(bits=19), "shop_id": Vocabulary(min_count=2)}


def test_a_colon_in_a_name_stays_in_the_column() -> None:
    features = describe(clicks(**{"age:float": some([1.5, 2.5]), "age_float": some(["a", "b"])})).schema.features
    assert [(f.name, f.source) for f in features] == [("age_float", "age:float"), ("age_float_2", "age_float")]


@pytest.mark.parametrize(
    ("name", "values", "time"),
    [
        ("timestamp", list(range(N)), True),
        ("ts", [1_700_000_000 + i for i in range(N)], True),
        ("hour", [14102100 + i % 24 for i in range(N)], True),
        ("day", [20240501 + i % 28 for i in range(N)], True),
        ("when", [f"2024-05-{1 + i % 28:02} 10:00" for i in range(N)], True),
        ("hour", some(list(range(24))), False),
        ("amount", [1_700_000_000 + i for i in range(N)], False),
    ],
)
def test_times_are_told_by_form_and_name(name: str, values: list[Any], time: bool) -> None:
    found = describe(clicks(**{name: values, "other": some(["a", "b"])})).schema
    assert (found.time == name) is time
    assert (name in found.columns) is not time


@pytest.mark.parametrize(
    ("values", "expected", "told"),
    [
        ([0, 1, 0], Label(name="y"), "1 in 33.33%"),
        ([True, False, False], Label(name="y"), "1 in 33.33%"),
        ([1, 2, 1], Label(name="y", positive="2"), "`2` is 1 (33.33% of the rows), `1` is 0"),
        ([-1, 1, 1], Label(name="y", positive="1"), "`1` is 1"),
        (["<=50K", ">50K", "<=50K"], Label(name="y", positive=">50K"), "`>50K` is 1 (33.33% of the rows)"),
        (["yes", "yes", "no"], Label(name="y", positive="yes"), "`yes` is 1 (66.67% of the rows)"),
        (["True", "True", "False"], Label(name="y"), "1 in 66.67%"),
        ([1, 5, 3], Label(name="y", kind="regression"), "add a column that is 1"),
        ([0.5, 0.25, 7.0], Label(name="y", kind="regression"), "numbers from 0.25 to 7"),
    ],
)
def test_labels(values: list[Any], expected: Label, told: str, tmp_path: Path) -> None:
    rows = pa.table({"y": values * 40, "a": ["u", "v", "v", "u"] * 30})
    found = describe(rows)
    assert loaded(found, tmp_path).labels == (expected,)
    assert told in of(found, "y").note
    assert np.isfinite(read_label(rows, found.schema.labels[0])).all()


def test_rows_without_a_label_are_counted() -> None:
    note = of(describe(pa.table({"y": [0, 1, None] * 5, "a": ["u", "v", "v"] * 5})), "y").note
    assert "5 rows have none" in note


@pytest.mark.parametrize(
    ("columns", "label", "told"),
    [
        ({"a": [0, 1], "b": [1, 2]}, None, "columns of two values: a, b"),
        ({"a": [1, 2, 3], "b": ["x", "y", "z"]}, None, "columns in the data: a, b"),
        ({"click": [0, 1], "rating": [1, 2]}, None, "columns named like labels: click, rating"),
        ({"1 2 3": ["4 5 6"]}, None, "one column only, `1 2 3`"),
        ({"a": [0, 1], "clik": [0, 1]}, "click", "no label column `click`: did you mean `clik`?"),
        ({"y": [1, 1], "a": [1, 2]}, None, "every row has the value `1`"),
        ({"y": pa.nulls(2), "a": [1, 2]}, None, "every row has no value"),
        ({"y": ["a", "b", "c"], "a": [1, 2, 3]}, None, "expected numbers or two values, got 3 texts such as `a`"),
        ({"y": [[1], [2]], "a": [1, 2]}, None, "got lists"),
        ({"y": ["2024-01-01", "2024-01-02"], "a": [1, 2]}, None, "got dates"),
        ({"y": [0, 1], "a": [1, 1]}, None, "nothing is left to predict `y` from: `a`: constant: always `1`"),
        ({"a": [0, 1]}, "a", "nothing is left to predict `a` from: there is no other column"),
    ],
)
def test_what_cannot_be_described_is_said(columns: dict[str, Any], label: str | None, told: str) -> None:
    with pytest.raises(DataError) as error:
        describe(pa.table(columns), label)
    assert told in str(error.value)


def test_a_format_names_the_label_and_stands_in_the_schema(tmp_path: Path) -> None:
    path = tmp_path / "rows.tsv"
    line = ["{label}", *("{i}" for _ in range(13)), *("c{c}" for _ in range(26))]
    rows = ["\t".join(line).format(label=i % 2, i=i % 30, c=i % 7) for i in range(100)]
    path.write_text("\n".join(rows) + "\n")
    schema = describe(path, format="criteo").schema
    assert (schema.format, schema.labels[0].name) == ("criteo", "label")
    assert {type(feature) for feature in schema.features} == {Numeric, Categorical}


def test_equal_rows_give_equal_text() -> None:
    assert describe(clicks(**RICH)).toml("a") == describe(clicks(**RICH)).toml("a")


def test_a_frame_and_its_csv_file_give_one_schema(tmp_path: Path) -> None:
    names = ("user_id", "item_id", "price", "temperature", "level", "count", "genres", "created", "same", "leak")
    frame = pd.DataFrame({"click": CLICK, **{name: RICH[name] for name in names}})
    frame.to_csv(tmp_path / "rows.csv", index=False)
    assert describe(tmp_path / "rows.csv").schema == describe(frame).schema


NAMES = st.sampled_from(
    [
        "user_id",
        "item",
        "ts",
        "history",
        "label",
        "click",
        "a:b",
        "a_b",
        "price",
        "年",
        'q"uote\\',
        "new\nline",
        "",
        "x y",
    ]
)
VALUES = st.one_of(
    st.lists(st.none() | st.integers(-3, 2**40), min_size=12, max_size=12),
    st.lists(st.none() | st.floats(-1e100, 1e100) | st.just(float("inf")), min_size=12, max_size=12),
    st.lists(st.none() | st.text(max_size=6), min_size=12, max_size=12),
    st.lists(st.none() | st.booleans(), min_size=12, max_size=12),
    st.lists(
        st.sampled_from(["a|b", "b|c", "a", "", "NA", "1", "1.50", "2024-01-01", "[1, 2]"]), min_size=12, max_size=12
    ),
    st.lists(st.none() | st.lists(st.none() | st.integers(0, 5), max_size=3), min_size=12, max_size=12),
    st.lists(st.none() | st.binary(max_size=2), min_size=12, max_size=12),
    st.lists(st.none() | st.datetimes(), min_size=12, max_size=12),
    st.lists(st.none() | st.decimals(-9, 9, places=2), min_size=12, max_size=12),
    st.just([{"a": [1]}] * 12),
)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(columns=st.dictionaries(NAMES, VALUES, max_size=5), twice=st.integers(1, 12), data=st.data())
def test_any_table_gives_a_schema_that_loads_and_fits_or_one_error(
    columns: dict[str, list[Any]], twice: int, data: st.DataObject, tmp_path: Path
) -> None:
    rows = pa.table({name: pa.array(values * twice) for name, values in columns.items()})
    chosen = data.draw(st.none() | st.sampled_from([*columns, "absent"]))
    try:
        found = describe(rows, chosen)
    except (DataError, SchemaError):
        return
    schema = loaded(found, tmp_path)
    assert schema == found.schema
    json.dumps(found.to_json(), allow_nan=False)
    labelled = rows.filter(pa.array(np.isfinite(_finite(rows, schema.labels[0]))))
    if labelled.num_rows:
        Encoder.fit(schema, [labelled]).encode(labelled)


def _finite(rows: pa.Table, task: Label) -> np.ndarray[Any, Any]:
    """The labels, NaN where training would refuse the row."""
    found = []
    for i in range(rows.num_rows):
        try:
            found.append(float(read_label(rows.slice(i, 1), task)[0]))
        except DataError:
            found.append(float("nan"))
    return np.array(found)


def test_reading_in_pieces_gives_what_reading_at_once_gives(tmp_path: Path) -> None:
    rows = clicks(**{name: RICH[name] for name in ("user_id", "genres", "price")})
    for part in range(2):
        frame = rows.slice(part * N // 2, N // 2).to_pandas()
        frame.to_csv(tmp_path / f"part{part}.csv", index=False)
    assert read(tmp_path).num_rows == N
    assert describe(tmp_path).schema == describe(rows).schema


def test_whole_numbers_that_count_up_without_a_gap_are_codes() -> None:
    n = 3000
    rng = np.random.default_rng(0)
    rows = pa.table(
        {
            "click": np.arange(n) % 2,
            "s": np.arange(n) % 1200 + 1,
            "d": (np.arange(n) % 1200) * 7,
            "n": np.exp(rng.standard_normal(n) * 2 + 4).astype(int),
        }
    )
    found = describe(rows, "click")
    assert {f.name: f.kind for f in found.schema.features} == {"s": "categorical", "d": "numeric", "n": "numeric"}
