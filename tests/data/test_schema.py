"""What a schema accepts, and how it says no."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.data.schema import Categorical, Hashing, Label, MultiValued, Numeric, Schema, Sequence
from recsys.errors import ConfigError, SchemaError


def schema(*features: Any, labels: tuple[Label, ...] = (Label(name="y"),), **rest: Any) -> Schema:
    return Schema(features=features, labels=labels, **rest)


def test_columns_default_to_names_and_stand_once() -> None:
    made = schema(Numeric(name="a"), Categorical(name="b", column="a"), Categorical(name="c"))
    assert made.columns == ("a", "c")


def test_a_shared_feature_reads_its_owners_table() -> None:
    made = schema(Sequence(name="history", shares="item"), Categorical(name="item", encoding=Hashing(bits=4)))
    assert [made.table(feature) for feature in made.id_features] == ["item", "item"]
    assert made.owner(made.id_features[0]).name == "item"


def test_hashed_features_may_share_a_table() -> None:
    shared = Hashing(bits=8, table="all")
    made = schema(Categorical(name="a", encoding=shared), Categorical(name="b", encoding=shared))
    assert {made.table(feature) for feature in made.id_features} == {"all"}


@pytest.mark.parametrize(
    ("features", "told"),
    [
        ([Categorical(name="a"), Numeric(name="a")], "two features are named `a`"),
        ([Numeric(name="a", column="y")], "both a label and a feature"),
        ([Sequence(name="h", shares="item")], "shares `item`, which is no id feature"),
        ([Sequence(name="h", shares="n"), Numeric(name="n")], "shares `n`, which is no id feature"),
        (
            [Categorical(name="a"), Categorical(name="b", shares="a"), Categorical(name="c", shares="b")],
            "must share `a` itself",
        ),
        (
            [Categorical(name="a"), Categorical(name="b", shares="a", encoding=Hashing(bits=3))],
            "has no encoding of its own",
        ),
        (
            [
                Categorical(name="a", encoding=Hashing(bits=3, table="t")),
                Categorical(name="b", encoding=Hashing(bits=4, table="t")),
            ],
            "table `t` is used with two encodings",
        ),
        ([Categorical(name="a", encoding=Hashing(bits=3, table="b")), Categorical(name="b")], "table `b`"),
    ],
)
def test_contradictions_are_named(features: list[Any], told: str) -> None:
    with pytest.raises(SchemaError, match=told):
        Schema.parse({"features": features, "labels": [{"name": "y"}]}, "here")


def test_a_misspelt_key_names_the_nearest(tmp_path: Path) -> None:
    path = tmp_path / "schema.toml"
    path.write_text('grup = "user"\n[[labels]]\nname = "y"\n[[features]]\nname = "a"\nkind = "numeric"\n')
    with pytest.raises(SchemaError, match=r"schema\.toml: unknown key `grup`: did you mean `group`\?"):
        Schema.load(path)


def test_a_misspelt_key_of_a_feature_names_the_nearest() -> None:
    feature = {"name": "a", "kind": "categorical", "encodin": {"kind": "hash", "bits": 3}}
    with pytest.raises(SchemaError, match=r"encodin`: did you mean `encoding`\?"):
        Schema.parse({"features": [feature], "labels": [{"name": "y"}]}, "here")


@pytest.mark.parametrize(
    "feature", [{"name": "a:first"}, {"name": "a", "encoding": {"kind": "hash", "bits": 2, "table": "b:c"}}]
)
def test_a_colon_in_a_name_is_refused(feature: dict[str, Any]) -> None:
    with pytest.raises(SchemaError, match="should match pattern"):
        Schema.parse({"features": [{"kind": "categorical", **feature}], "labels": [{"name": "y"}]}, "here")


def test_no_features_and_no_labels_are_errors() -> None:
    with pytest.raises(SchemaError, match="features"):
        Schema.parse({"features": [], "labels": [{"name": "y"}]}, "here")
    with pytest.raises(SchemaError, match="missing key `labels`"):
        Schema.parse({"features": [{"kind": "numeric", "name": "a"}]}, "here")


def test_a_file_that_is_no_toml_says_where(tmp_path: Path) -> None:
    path = tmp_path / "schema.toml"
    path.write_text("a = \n")
    with pytest.raises(ConfigError, match="line 1"):
        Schema.load(path)


def test_toml_round_trip(tmp_path: Path) -> None:
    made = schema(
        Numeric(name="n", transform="log"),
        MultiValued(name="m", separator="|", side="item"),
        Categorical(name="c", encoding=Hashing(bits=5)),
        group="u",
    )
    path = tmp_path / "schema.toml"
    path.write_text(made.toml())
    assert Schema.load(path) == made


def test_bundled_schemas_load() -> None:
    from recsys.shelves import shelf

    paths = sorted((shelf("data") / "schemas").glob("*.toml"))
    assert {path.stem for path in paths} >= {"movielens-100k", "adult"}
    assert all(Schema.load(path).features for path in paths)


NAMES = st.sampled_from(["a", "b", "c", "a:b", ""])
ENCODINGS = st.one_of(
    st.fixed_dictionaries({"kind": st.just("vocabulary")}, optional={"min_count": st.integers(0, 3)}),
    st.fixed_dictionaries(
        {"kind": st.just("hash"), "bits": st.integers(0, 32)}, optional={"table": NAMES, "seed": st.integers(-1, 2**32)}
    ),
)
FEATURES = st.fixed_dictionaries(
    {
        "name": NAMES,
        "kind": st.sampled_from(["numeric", "categorical", "bucketed", "multi-valued", "sequence", "other"]),
    },
    optional={
        "column": NAMES,
        "side": st.sampled_from(["user", "item", "nobody"]),
        "encoding": ENCODINGS,
        "shares": NAMES,
        "buckets": st.sampled_from([{"kind": "quantiles", "count": 3}, {"kind": "log-square"}, {"kind": "none"}]),
        "max_length": st.integers(-1, 3),
        "separator": st.sampled_from(["|", ""]),
        "transform": st.sampled_from(["log", "cube"]),
    },
)
LABELS = st.fixed_dictionaries(
    {"name": NAMES},
    optional={
        "kind": st.sampled_from(["binary", "regression"]),
        "column": NAMES,
        "positive": st.sampled_from(["1", ""]),
    },
)


@given(
    st.lists(LABELS, max_size=2), st.lists(FEATURES, max_size=3), st.sampled_from([None, "criteo", "excel"]),
    st.sampled_from([None, "u"]),
)  # fmt: skip
def test_any_schema_is_refused_in_one_line_or_comes_back_from_its_toml(
    labels: list[dict[str, Any]], features: list[dict[str, Any]], format: str | None, group: str | None
) -> None:
    values: dict[str, Any] = {"labels": labels, "features": features}
    values |= {key: value for key, value in (("format", format), ("group", group)) if value}
    refused = ""
    try:
        made = Schema.parse(values, "here")
    except (ConfigError, SchemaError) as error:
        refused = str(error)
    if refused:
        assert refused.startswith("here: ")
        assert "\n" not in refused
        return
    assert Schema.parse(tomllib.loads(made.toml()), "there") == made
