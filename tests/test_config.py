"""Configuration: what it says about what cannot be, and that TOML gives back what went in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field, ValidationError, model_validator

from recsys.config import Config, nearest, override, read_toml, write_toml
from recsys.errors import ConfigError


class Hashing(Config):
    """One member of a union that is told by `kind`."""

    kind: Literal["hashing"] = "hashing"
    buckets: int = Field(16, ge=1)


class Vocabulary(Config):
    """Another, with a union of its own inside."""

    kind: Literal["vocabulary"] = "vocabulary"
    rows: int = 100
    spare: Annotated[Hashing | Table, Field(discriminator="kind")] = Hashing()


class Table(Config):
    """A third."""

    kind: Literal["table"] = "table"
    path: Path = Path("table.csv")


class Training(Config):
    """A plain inner table."""

    epochs: int = 3
    learning_rate: float = 0.1
    note: str = ""
    decay: float | None = None


class Recipe(Config):
    """The whole."""

    encoding: Annotated[Hashing | Vocabulary, Field(discriminator="kind")] = Hashing()
    features: tuple[Annotated[Hashing | Vocabulary, Field(discriminator="kind")], ...] = ()
    training: Training = Training()
    resume: Training | None = None
    tables: dict[str, Training] = Field(default_factory=dict)
    names: tuple[str, ...] = ()
    shuffle: bool = True

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.training.epochs == 13:
            raise ValueError("13 epochs bring bad luck")
        return self


Vocabulary.model_rebuild()


def problem(values: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        Recipe.parse(values, "recipe.toml")
    told = str(caught.value)
    assert "\n" not in told
    assert told.startswith("recipe.toml: ")
    return told.removeprefix("recipe.toml: ")


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"trainin": {}}, "unknown key `trainin`: did you mean `training`?"),
        (
            {"xyz": 1},
            "unknown key `xyz`: known: encoding, features, names, resume, shuffle, tables, training",
        ),
        ({"training": {"epoch": 1}}, "unknown key `training.epoch`: did you mean `epochs`?"),
        ({"resume": {"epoch": 1}}, "unknown key `resume.epoch`: did you mean `epochs`?"),
        ({"tables": {"epoch": {"epoch": 1}}}, "unknown key `tables.epoch.epoch`: did you mean `epochs`?"),
        ({"encoding": {"kind": "hashing", "bucket": 1}}, "unknown key `encoding.bucket`: did you mean `buckets`?"),
        ({"encoding": {"kind": "hashing", "rows": 1}}, "unknown key `encoding.rows`: known: buckets, kind"),
        (
            {"encoding": {"kind": "vocabulary", "spare": {"kind": "table", "paht": "x"}}},
            "unknown key `encoding.spare.paht`: did you mean `path`?",
        ),
        (
            {"features": [{"kind": "hashing"}, {"kind": "vocabulary", "row": 1}]},
            "unknown key `features.1.row`: did you mean `rows`?",
        ),
    ],
)
def test_an_unknown_key_names_the_nearest(values: dict[str, Any], told: str) -> None:
    assert problem(values) == told


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (
            {"encoding": {"kind": "hash"}},
            "unknown value `hash` of `encoding.kind`: did you mean `hashing`?",
        ),
        ({"encoding": {"kind": "x"}}, "unknown value `x` of `encoding.kind`: known: hashing, vocabulary"),
        ({"encoding": {"kind": 3}}, "unknown value `3` of `encoding.kind`: known: hashing, vocabulary"),
        ({"encoding": {"rows": 3}}, "missing key `encoding.kind`"),
        ({"features": [{"kind": "hashing"}, {}]}, "missing key `features.1.kind`"),
    ],
)
def test_the_key_that_chooses_a_class(values: dict[str, Any], told: str) -> None:
    assert problem(values) == told


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"features": [{"kind": "hashing", "buckets": 0}]}, "features.0.buckets: input should be greater than"),
        ({"training": {"epochs": "many"}}, "training.epochs: input should be a valid integer"),
        ({"training": {"epochs": "a\nb"}}, r"got 'a\nb'"),
        ({"training": {"learning_rate": float("nan")}}, "training.learning_rate: input should be a finite number"),
        ({"training": {"learning_rate": float("inf")}}, "got inf"),
        ({"training": 3}, "training: input should be a valid dictionary"),
        ({"names": "abc"}, "names: input should be a valid tuple, got 'abc'"),
        ({"names": ["a", 1]}, "names.1: input should be a valid string, got 1"),
        ({"training": {"epochs": 13}}, "13 epochs bring bad luck"),
    ],
)
def test_a_value_that_does_not_fit(values: dict[str, Any], told: str) -> None:
    assert told in problem(values)


class Strict(Config):
    """Has no defaults."""

    rows: int
    training: Training


def test_missing_keys_and_many_problems_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        Strict.parse({"row": 1, "training": {"epochs": "x", "notes": ""}}, "s")
    first, *rest = str(caught.value).split("; ")
    assert first == "s: missing key `rows`"
    assert rest[0].startswith("training.epochs: ")
    assert rest[1:] == ["unknown key `training.notes`: did you mean `note`?", "unknown key `row`: did you mean `rows`?"]


def test_a_configuration_does_not_change() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Training().epochs = 4  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "known", "told"),
    [
        ("row", ["rows", "columns"], "did you mean `rows`?"),
        ("x", ["b", "a"], "known: a, b"),
        ("x", [], "known: none"),
    ],
)
def test_nearest(name: str, known: list[str], told: str) -> None:
    assert nearest(name, known) == told


# --- overrides


def test_dotted_keys_change_a_copy() -> None:
    before = Recipe(tables={"a": Training()})
    after = override(
        before,
        {
            "training.epochs": 9,
            "shuffle": False,
            "tables.a.epochs": 5,
            "tables.b.epochs": 6,
            "names": ["x"],
            "encoding.kind": "hashing",
            "encoding.buckets": 4,
            "resume.epochs": 2,
        },
    )
    assert after == Recipe(
        training=Training(epochs=9),
        shuffle=False,
        tables={"a": Training(epochs=5), "b": Training(epochs=6)},
        names=("x",),
        encoding=Hashing(buckets=4),
        resume=Training(epochs=2),
    )
    assert before == Recipe(tables={"a": Training()})
    assert override(before, {}) == before


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"training.epoch": 1}, "override: unknown key `training.epoch`: did you mean `epochs`?"),
        ({"trainin.epochs": 1}, "override: unknown key `trainin`: did you mean `training`?"),
        ({"training.epochs": "x"}, "override: training.epochs: input should be a valid integer"),
        ({"training.epochs.first": 1}, "override: `training.epochs.first`: `epochs` holds a value, not a table"),
        ({"features.0.rows": 1}, "override: `features.0.rows`: `features` holds a value, not a table"),
        ({"resume.epoch": 1}, "override: unknown key `resume.epoch`: did you mean `epochs`?"),
        ({"": 1}, "override: unknown key ``: known: "),
        ({"training.": 1}, "override: unknown key `training.`: known: "),
        ({"encoding.kind": "vocabulary"}, "override: unknown key `encoding.buckets`: known: kind, rows, spare"),
    ],
)
def test_an_override_that_cannot_be(changes: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError) as caught:
        override(Recipe(), changes)
    assert str(caught.value).startswith(told)


def test_an_override_says_where_it_comes_from() -> None:
    with pytest.raises(ConfigError, match=r"^--set: unknown key"):
        override(Recipe(), {"x": 1}, "--set")


# --- TOML


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"rows = 1\nrows = 2\n", "line 2"),
        (b"[training]\nepochs = \n", "line 2"),
        (b"a = 1\n\xff = 2", "utf-8"),
    ],
)
def test_a_file_that_is_not_toml(tmp_path: Path, content: bytes, told: str) -> None:
    file = tmp_path / "recipe.toml"
    file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_toml(file)
    assert str(caught.value).startswith(f"{file}: not a readable TOML file: ")
    assert told in str(caught.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: no such file"):
        read_toml(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="not a readable TOML file"):
        read_toml(tmp_path)


TEXT = st.text()
TRAININGS = st.builds(
    Training,
    epochs=st.integers().filter(lambda n: n != 13),
    learning_rate=st.floats(allow_nan=False, allow_infinity=False),
    note=TEXT,
    decay=st.none() | st.floats(allow_nan=False, allow_infinity=False),
)
HASHINGS = st.builds(Hashing, buckets=st.integers(1))
TABLES = st.builds(Table, path=st.just(Path("a b/ü.csv")))
VOCABULARIES = st.builds(Vocabulary, rows=st.integers(), spare=HASHINGS | TABLES)
RECIPES = st.builds(
    Recipe,
    encoding=HASHINGS | VOCABULARIES,
    features=st.lists(HASHINGS | VOCABULARIES, max_size=3).map(tuple),
    training=TRAININGS,
    resume=st.none() | TRAININGS,
    tables=st.dictionaries(TEXT, TRAININGS, max_size=3),
    names=st.lists(TEXT, max_size=3).map(tuple),
    shuffle=st.booleans(),
)


@settings(deadline=None)
@given(RECIPES)
def test_toml_gives_back_what_went_in(tmp_path_factory: pytest.TempPathFactory, recipe: Recipe) -> None:
    file = tmp_path_factory.mktemp("toml") / "recipe.toml"
    write_toml(file, recipe)
    assert Recipe.parse(read_toml(file), "again") == recipe


def test_what_is_none_is_left_out() -> None:
    assert "resume" not in Recipe().toml()
    assert "decay" not in Recipe().toml()
