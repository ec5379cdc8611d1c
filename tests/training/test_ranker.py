"""The rankers as a scikit-learn classifier."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import recsys
from recsys.data.adult import rows
from recsys.data.schema import Categorical, Label, Numeric, Schema
from recsys.errors import ConfigError, DataError, SchemaError
from recsys.models.checkpoint import save
from recsys.shelves import shelf
from recsys.training.ranker import _held_out
from recsys.training.recipe import find_recipe
from recsys.training.run import train_rows

Data = tuple[pd.DataFrame, pd.Series]


@pytest.fixture(scope="module")
def adult() -> Data:
    frame = rows(shelf("data") / "adult" / "adult.parquet").to_pandas().sample(2000, random_state=0)
    return frame.drop(columns="label").reset_index(drop=True), frame["label"].reset_index(drop=True)


@pytest.fixture(scope="module")
def few(adult: Data) -> Data:
    return adult[0][:300], adult[1][:300]


def quick(**changes: Any) -> recsys.Ranker:
    given: dict[str, Any] = {"model": "lr", "epochs": 2, "batch_size": 64, "random_state": 0}
    return recsys.Ranker(**given | changes)


@parametrize_with_checks([recsys.Ranker(batch_size=16, learning_rate=0.01)])  # type: ignore[untyped-decorator]
@pytest.mark.filterwarnings("ignore:invalid value encountered in cast:RuntimeWarning")  # scikit-learn's own, for inf
def test_scikit_learns_own_checks_pass(estimator: recsys.Ranker, check: Callable[[recsys.Ranker], None]) -> None:
    check(estimator)


def test_it_learns_and_its_checkpoint_says_the_same(adult: Data) -> None:
    frame, y = adult
    ranker = recsys.Ranker(batch_size=64, learning_rate=0.005, random_state=0).fit(frame[:1500], y[:1500])
    found = ranker.predict_proba(frame[1500:])
    assert found.shape == (500, 2)
    assert np.allclose(found.sum(axis=1), 1)
    assert np.array_equal(found[:, 1], ranker.checkpoint_.predict(frame[1500:]))
    assert np.array_equal(ranker.predict(frame[1500:]), (found[:, 1] > 0.5).astype(int))
    assert ranker.score(frame[1500:], y[1500:]) == roc_auc_score(y[1500:], found[:, 1]) > 0.85


def test_score_weighs_rows(few: Data) -> None:
    frame, y = few
    ranker, weights = quick().fit(frame, y), np.arange(len(y))
    scores = ranker.predict_proba(frame)[:, 1]
    assert ranker.score(frame, y, weights) == roc_auc_score(y, scores, sample_weight=weights) != ranker.score(frame, y)


def test_what_is_not_given_is_the_recipes(few: Data) -> None:
    recipe = find_recipe("dcn2")
    ranker = recsys.Ranker("dcn2", epochs=1, training_options={"patience": 7}, random_state=0).fit(*few)
    kept = ranker.checkpoint_.training["recipe"]["training"]
    changed = {"epochs": 1, "patience": 7, "seed": kept["seed"], "batch_size": 16}  # few rows: more steps an epoch
    assert ranker.checkpoint_.config == recipe.model
    assert kept == recipe.training.model_dump(mode="json", exclude_none=True) | changed


def test_options_of_the_model_and_a_recipe_file(few: Data, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('[model]\nname = "lr"\nembedding_std = 0.5\n[data]\nsource = "adult"\n[training]\nepochs = 1\n')
    ranker = recsys.Ranker(str(path), model_options={"dropout": 0.25}, random_state=0).fit(*few)
    assert ranker.checkpoint_.config.model_dump() == find_recipe("lr").model.model_dump() | {
        "embedding_std": 0.5,
        "dropout": 0.25,
    }
    assert ranker.checkpoint_.training["epochs"] == 1


def test_a_clone_and_a_pickled_copy_have_its_parameters() -> None:
    schema = Schema(labels=(Label(name="y"),), features=(Numeric(name="age"),))
    ranker = quick(schema=schema, model_options={"dropout": 0.5}, training_options={"patience": 3})
    for copy in (clone(ranker), pickle.loads(pickle.dumps(ranker))):
        assert copy.get_params() == ranker.get_params()
    assert ranker.get_params()["model_options"] == {"dropout": 0.5}
    assert "patience" in repr(ranker)


def test_a_grid_is_searched(few: Data) -> None:
    grid = {"learning_rate": [1e-6, 0.05], "model": ["lr", "deepfm"]}
    search = GridSearchCV(quick(epochs=4), grid, scoring="roc_auc", cv=2, error_score="raise").fit(*few)
    assert len(search.cv_results_["params"]) == 4
    assert search.best_params_["learning_rate"] == 0.05
    assert search.best_estimator_.checkpoint_.config.name == search.best_params_["model"]
    assert search.score(*few) > 0.8


def test_a_pipeline_prepares_its_columns(few: Data) -> None:
    frame, y = few
    columns = [("scaled", StandardScaler(), ["age"]), ("kept", "passthrough", ["occupation", "marital-status"])]
    pipe = Pipeline(
        [
            ("older", FunctionTransformer(lambda given: given.assign(age=given["age"] + 1))),
            ("columns", ColumnTransformer(columns).set_output(transform="pandas")),
            ("ranker", quick(epochs=8)),
        ]
    ).fit(frame, y)
    assert pipe.score(frame, y) > 0.75
    schema = pipe["ranker"].checkpoint_.encoder.schema
    assert {f.name: f.kind for f in schema.features} == {
        "scaled__age": "numeric",
        "kept__occupation": "categorical",
        "kept__marital-status": "categorical",
    }


@pytest.mark.parametrize(
    ("classes", "positive"),
    [
        ((0, 1), None),
        ((False, True), None),
        ((-1, 1), "1"),
        (("no", "yes"), "yes"),
        (("<=50K", ">50K"), ">50K"),
        (("NA", "yes"), None),  # a text for "missing" cannot be a label's value
        (("1", "1.0"), None),  # one value to a schema
    ],
)
def test_any_two_classes(few: Data, classes: tuple[Any, Any], positive: str | None) -> None:
    frame, y = few
    ranker = quick().fit(frame, y.map(dict(enumerate(classes))))
    assert tuple(ranker.classes_) == classes
    assert set(ranker.predict(frame)) <= set(classes)
    assert ranker.checkpoint_.encoder.schema.labels == (Label(name="label", positive=positive),)
    assert np.array_equal(ranker.predict_proba(frame), quick().fit(frame, y).predict_proba(frame))


def test_the_checkpoint_serves_like_any_run(few: Data, tmp_path: Path) -> None:
    frame, y = few
    ranker = quick().fit(frame, y.map({0: "stays", 1: "goes"}).rename("answer"))
    save(ranker.checkpoint_, tmp_path / "run")
    loaded = recsys.load(tmp_path / "run")
    assert isinstance(loaded, recsys.Checkpoint)
    assert np.array_equal(loaded.predict(frame), ranker.predict_proba(frame)[:, 1])
    assert "trained on rows in memory" in (tmp_path / "run" / "README.md").read_text()
    labelled = frame.assign(answer=y.map({0: "stays", 1: "goes"}))
    measured = recsys.evaluate_on(loaded, labelled)["auc"].value
    assert measured == pytest.approx(roc_auc_score(1 - y, loaded.predict(frame)))  # sorted, "stays" is the second class


def as_array(frame: pd.DataFrame) -> npt.NDArray[Any]:
    return frame.to_numpy()


LISTS: list[Any] = [["a", "b"], ["c"], []]
FRAMES: Mapping[str, Callable[[pd.DataFrame], Any]] = {
    "polars": pl.from_pandas,
    "arrow": pa.Table.from_pandas,
    "batch": pa.RecordBatch.from_pandas,
    "category": lambda frame: frame.astype({"occupation": "category"}),
    "polars category": lambda frame: pl.from_pandas(frame).cast({"occupation": pl.Categorical}),
}


@pytest.mark.parametrize("kind", FRAMES)
def test_every_kind_of_frame_gives_the_same(few: Data, kind: str) -> None:
    frame, y = few
    frame = frame.assign(tags=pd.Series(LISTS * 100))
    expected = quick().fit(frame, y).predict_proba(frame)
    given = FRAMES[kind](frame)
    assert np.array_equal(quick().fit(given, y).predict_proba(given), expected)


@pytest.mark.parametrize("kind", [pl.Series, pa.array, list, np.asarray])
def test_every_kind_of_labels_gives_the_same(few: Data, kind: Callable[[Any], Any]) -> None:
    frame, y = few
    assert np.array_equal(quick().fit(frame, kind(y.to_numpy())).predict(frame), quick().fit(frame, y).predict(frame))


def test_columns_are_read_by_name_and_those_of_arrays_by_place(few: Data) -> None:
    frame, y = few
    ranker = quick().fit(frame, y)
    expected = ranker.predict_proba(frame)
    assert list(ranker.feature_names_in_) == list(frame.columns)
    assert np.array_equal(ranker.predict_proba(frame[frame.columns[::-1]].assign(other=1)), expected)
    assert np.array_equal(ranker.predict_proba(as_array(frame)), expected)
    with pytest.raises(ValueError, match="missing column `age`"):
        ranker.predict(frame.drop(columns="age"))
    with pytest.raises(DataError, match="X has 3 features, but Ranker is expecting 14"):
        ranker.predict(as_array(frame)[:, :3])
    ranker.fit(as_array(frame), y)
    assert not hasattr(ranker, "feature_names_in_")
    assert ranker.n_features_in_ == 14
    assert ranker.checkpoint_.encoder.schema.columns[0] == "x0"


def test_no_rows_have_no_predictions(few: Data) -> None:
    assert quick().fit(*few).predict_proba(few[0][:0]).shape == (0, 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda X, y: (X, y * 0), "at least 2 rows each.*got 1 class: `0` of 300"),
        (lambda X, y: (X, np.arange(len(y)) == 3), "`False` of 299, `True` of 1"),
        (lambda X, y: (X, np.arange(len(y)) % 3), "multiclass: 3 classes"),
        (lambda X, y: (X, y + 0.5 * (np.arange(len(y)) % 3)), "Unknown label type: continuous"),
        (lambda X, y: (X, y.where(y == 1)), "of 300 rows have no class"),
        (lambda X, y: (X, y[:7]), "inconsistent numbers of samples"),
        (lambda X, y: (X["age"], y), "Reshape your data"),
        (lambda X, y: (X[["age"]].astype(complex).to_numpy(), y), "Complex data not supported"),
        (lambda X, y: (X[[]], y), "0 feature"),
        (lambda X, y: (X[["age"]] * 0, y), "nothing is left to predict `label` from: `age`: constant"),
        (lambda X, y: (pd.concat([X, X], axis=1), y), "stands twice"),
    ],
)
def test_what_is_wrong_with_rows_is_a_value_error(
    few: Data, change: Callable[[Any, Any], tuple[Any, Any]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        quick().fit(*change(*few))


def test_sparse_matrices_are_refused() -> None:
    from scipy.sparse import csr_array

    with pytest.raises(TypeError, match=r"no sparse matrices.*toarray"):
        quick().fit(csr_array(np.eye(4)), [0, 1, 0, 1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "dcn"}, "did you mean `dcn2`"),
        ({"model_options": {"embeding_dim": 4}}, "Ranker: unknown key `model.embeding_dim`: did you mean"),
        ({"training_options": {"patiense": 4}}, "Ranker: unknown key `training.patiense`: did you mean"),
        ({"epochs": 0}, "Ranker: training.epochs"),
        ({"valid_share": 1}, "valid_share between 0 and 1, got 1"),
    ],
)
def test_wrong_arguments_are_told_in_fit(few: Data, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        quick(**changes).fit(*few)


def test_an_integer_gives_the_same_model_and_none_follows_numpy(few: Data) -> None:
    frame, y = few

    def scores(state: Any) -> list[float]:
        found: list[float] = quick(random_state=state).fit(frame, y).predict_proba(frame)[:, 1].tolist()
        return found

    assert scores(1) == scores(1) != scores(2)
    np.random.seed(3)
    drawn, other = scores(None), scores(None)
    np.random.seed(3)
    assert scores(None) == drawn != other
    assert scores(np.random.RandomState(1)) == scores(1)


@given(zeros=st.integers(2, 60), ones=st.integers(2, 60), share=st.floats(0.001, 0.999), seed=st.integers(0, 9))
def test_rows_of_both_classes_are_held_out_and_stay(zeros: int, ones: int, share: float, seed: int) -> None:
    y = np.random.RandomState(seed).permutation(np.repeat([False, True], [zeros, ones]))
    held = _held_out(y, share, seed)
    for one in (False, True):
        of_class = held[y == one]
        assert 0 < of_class.sum() < len(of_class)
        assert abs(of_class.sum() - share * len(of_class)) <= 1


def test_a_draft_keeps_what_looks_like_a_leak_or_a_label(few: Data) -> None:
    frame, y = few
    frame = frame[["age"]].assign(answer=y.map({0: "a", 1: "b"}), rating=y, distance=np.arange(300))
    names = [feature.name for feature in quick().fit(frame, y).checkpoint_.encoder.schema.features]
    assert names == ["age", "answer", "rating", "distance"]


def test_a_draft_says_what_it_leaves_out(few: Data) -> None:
    frame, y = few
    frame = frame[["age"]].assign(ticket=[f"t{i}" for i in range(300)], constant=1)
    with pytest.warns(UserWarning, match="leaves out `ticket`: like an id of the row.*Give a `schema`") as caught:
        ranker = quick().fit(frame, y)
    assert "constant" not in str(caught[0].message)
    assert caught[0].filename == __file__
    assert ranker.checkpoint_.encoder.schema.columns == ("age",)


def test_a_drafts_label_has_a_name_of_its_own(few: Data) -> None:
    frame, y = few
    frame = frame[["age"]].assign(clicked=frame["education"])
    label = quick().fit(frame, y.rename("clicked")).checkpoint_.encoder.schema.labels[0]
    assert label.name == "clicked_"


SCHEMA = Schema(labels=(Label(name="rich", column="income", weight=2.0),), features=(Categorical(name="occupation"),))


def test_a_schema_says_what_columns_mean_and_y_what_is_true(few: Data) -> None:
    frame, y = few
    ranker = quick(schema=SCHEMA).fit(frame.assign(income="?"), y.map({0: "low", 1: "rich"}))
    schema = ranker.checkpoint_.encoder.schema
    assert schema.features == SCHEMA.features
    assert schema.labels[0] == SCHEMA.labels[0].model_copy(update={"positive": "rich"})
    assert ranker.score(frame[["occupation"]], y) > 0.6


def test_a_schema_must_have_one_binary_label(few: Data) -> None:
    for labels in ((Label(name="a"), Label(name="b")), (Label(name="a", kind="regression"),)):
        with pytest.raises(SchemaError, match="one binary label"):
            quick(schema=SCHEMA.model_copy(update={"labels": labels})).fit(*few)


def test_rows_in_memory_train_what_the_ranker_trains(few: Data) -> None:
    frame, y = few
    ranker = quick(valid_share=0.2).fit(frame, y)
    kept = ranker.checkpoint_.training["recipe"]
    held = _held_out(y.to_numpy() == 1, 0.2, kept["training"]["seed"])
    table = frame.assign(label=y)
    recipe = recsys.Recipe.parse(kept, "kept")
    schema = ranker.checkpoint_.encoder.schema
    again = train_rows(recipe.model, recipe.training, schema, table[~held], table[held], show=False)
    assert again.fingerprint() == ranker.checkpoint_.fingerprint()
    with pytest.raises(DataError, match="missing column `label`"):
        train_rows(recipe.model, recipe.training, schema, table, frame, show=False)


@pytest.mark.slow
def test_folds_are_fitted_in_processes(few: Data) -> None:
    alone, together = (cross_val_score(quick(), *few, cv=2, scoring="roc_auc", n_jobs=jobs) for jobs in (1, 2))
    assert np.allclose(alone, together)
