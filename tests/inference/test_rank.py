"""Ranking candidates for a user gives what scoring n copies of the user gives, sorted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.data.schema import Categorical, Label, Numeric, Schema, Sequence
from recsys.errors import ConfigError, DataError
from recsys.inference.parts import from_checkpoint
from recsys.inference.session import InferenceSession
from recsys.models.checkpoint import Checkpoint, load
from recsys.training.run import train
from tests import toy
from tests.inference.test_session import eager

USER = {"user": 3, "age": 24.0, "history": ["i1", "i5", "i5"]}
ITEMS: list[dict[str, Any]] = [{"item": f"i{i}", "tags": [f"t{t}" for t in range(i % 3)]} for i in range(20)]


def copies(session: InferenceSession, user: dict[str, Any], items: list[dict[str, Any]]) -> np.ndarray:
    return session.predict([{**user, **item} for item in items])


@pytest.mark.parametrize("model", ["run", "din"])
@pytest.mark.parametrize("most", [7, 512])
def test_the_scores_are_those_of_n_copies(request: pytest.FixtureRequest, model: str, most: int) -> None:
    with eager(request.getfixturevalue(model), max_batch=most) as session:
        expected = copies(session, USER, ITEMS)
        found = session.rank(USER, ITEMS, 5)
        assert found.positions.tolist() == np.argsort(-expected, kind="stable")[:5].tolist()
        np.testing.assert_allclose(found.scores, expected[found.positions], atol=1e-6)
        table = pa.Table.from_pylist(ITEMS)
        for candidates in (table, table.to_pandas(), table.to_batches()[0], tuple(ITEMS)):
            again = session.rank(USER, candidates, 5)
            assert again.positions.tolist() == found.positions.tolist()
            np.testing.assert_allclose(again.scores, found.scores, atol=1e-6)


def test_all_come_where_k_is_larger_and_none_of_none(run: Path) -> None:
    with eager(run) as session:
        assert sorted(session.rank(USER, ITEMS, 99).positions.tolist()) == list(range(20))
        before = session.counts.rows
        empty: tuple[Any, ...] = ([], pa.table({"item": pa.array([], pa.string())}))
        for candidates in empty:
            nothing = session.rank(USER, candidates, 3)
            assert (nothing.positions.shape, nothing.scores.shape) == ((0,), (0,))
        assert session.counts.rows == before
        with pytest.raises(ConfigError, match="k of 1 or more, a whole number, got 0"):
            session.rank(USER, ITEMS, 0)


def test_many_candidates_are_shared_out_among_threads(din: Path) -> None:
    many = ITEMS * 30
    with eager(din) as alone, eager(din, threads=3) as session:
        expected, found = alone.rank(USER, many, 600), session.rank(USER, many, 600)
        np.testing.assert_allclose(found.scores, expected.scores, atol=1e-6)
        np.testing.assert_allclose(found.scores, copies(alone, USER, many)[found.positions], atol=1e-6)


def test_equal_scores_stay_in_order(run: Path) -> None:
    with eager(run) as session:
        assert session.rank(USER, [ITEMS[2]] * 6, 4).positions.tolist() == [0, 1, 2, 3]


@given(
    st.lists(
        st.fixed_dictionaries(
            {}, optional={"item": st.sampled_from(["i1", "i7", "new", None]), "tags": st.lists(st.just("t1"))}
        ),
        max_size=6,
    ),
    st.fixed_dictionaries({}, optional={"user": st.integers(0, 40), "history": st.lists(st.just("i3"), max_size=9)}),
)
def test_what_is_absent_is_missing_on_both_sides(
    shared: InferenceSession, items: list[dict[str, Any]], user: dict[str, Any]
) -> None:
    found = shared.rank(user, items, max(len(items), 1))
    expected = copies(shared, user, items)
    np.testing.assert_allclose(found.scores, expected[found.positions], atol=1e-6)


@pytest.fixture(scope="module")
def shared(din: Path) -> InferenceSession:
    return eager(din)


def test_columns_on_the_wrong_side_or_of_no_feature_are_refused(run: Path) -> None:
    with eager(run) as session:
        with pytest.raises(DataError, match="candidates: column `age` is the user's: give it in the user's row"):
            session.rank(USER, [{**ITEMS[0], "age": 3}], 1)
        with pytest.raises(DataError, match=r"candidates: unknown column `itm`: did you mean `item`\?"):
            session.rank(USER, [ITEMS[0], {"itm": "i1"}], 1)
        with pytest.raises(DataError, match=r"unknown column `usr`: did you mean `user`\?"):
            session.rank({"usr": 1}, ITEMS, 1)
        with pytest.raises(DataError, match="user: column `item` is an item's: give it with each candidate"):
            session.rank({"item": "i3"}, ITEMS, 1)
        with pytest.raises(DataError, match="expected the user as a mapping"):
            session.rank(None, ITEMS, 1)  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match="k of 1 or more"):
            session.rank(USER, ITEMS, 1.5)  # type: ignore[arg-type]


def test_without_candidates_columns_are_looked_at_all_the_same(run: Path) -> None:
    with eager(run) as session:
        with pytest.raises(DataError, match=r"unknown column `usr`: did you mean `user`\?"):
            session.rank({"usr": 1}, [], 1)
        with pytest.raises(DataError, match=r"candidates: unknown column `itm`: did you mean `item`\?"):
            session.rank(USER, pa.table({"itm": pa.array([], pa.string())}), 1)


def test_candidates_are_never_opened_as_files(run: Path, tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(ITEMS), tmp_path / "items.parquet")
    path = tmp_path / "items.parquet"
    with eager(run) as session:
        for odd, told in (
            (path, "PosixPath"),
            (str(path), "str"),
            ([path], "a list with PosixPath"),
            ([str(path)], "a list with str"),
            ([ITEMS[0], 3], "a list with int"),
        ):
            with pytest.raises(DataError, match=f"as dicts, an Arrow table or a DataFrame, got {told}$"):
                session.rank(USER, odd, 1)
        with pytest.raises(DataError, match=r"got Series$"):
            session.rank(USER, pd.Series(["i1"]), 1)


def test_a_label_must_be_named_where_there_are_several(two: Path) -> None:
    with eager(two) as session:
        expected = copies(session, USER, ITEMS)
        for column, task in enumerate(("label", "rating")):
            found = session.rank(USER, ITEMS, 3, task)
            np.testing.assert_allclose(found.scores, np.sort(expected[:, column])[::-1][:3], rtol=1e-5)
        with pytest.raises(ConfigError, match="one of label, rating, got None"):
            session.rank(USER, ITEMS, 3)


def test_what_was_met_is_counted(run: Path) -> None:
    with eager(run) as session:
        session.rank({"user": 3}, [{"item": "never seen"}, {"item": None}], 2)
        assert (session.counts.unknown["item"], session.counts.missing["item"]) == (1, 1)
        assert session.counts.missing["age"] == 1  # the user's, once
        assert session.counts.rows == 2


@pytest.fixture(scope="module")
def contextual(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    """Of a context there are a number and a category."""
    features = (
        Categorical(name="user", side="user"),
        Numeric(name="age", side="context"),
        Sequence(name="history", shares="item", max_length=5, side="context"),
        Categorical(name="item", side="item"),
    )
    schema = Schema(labels=(Label(name="label"),), features=features)
    return train(toy.recipe(tmp_path_factory.mktemp("context"), "din", schema, epochs=1), show=False)


@pytest.mark.parametrize("table", [False, True])
def test_a_context_is_the_users_or_each_candidates_own(contextual: Checkpoint, table: bool) -> None:
    with InferenceSession(from_checkpoint(contextual), backend="eager") as session:
        user = {"user": 4, "age": 30.0, "history": ["i2"]}
        alike = [{"item": f"i{i}"} for i in range(9)]
        mixed = [{"item": f"i{i}", "age": 20.0 + i} for i in range(9)]
        for items in (alike, mixed):
            expected = copies(session, user, items)
            found = session.rank(user, pa.Table.from_pylist(items) if table else items, 9)
            np.testing.assert_allclose(found.scores, expected[found.positions], atol=1e-6)


def test_what_a_table_of_candidates_lacks_is_missing_and_not_the_users(contextual: Checkpoint) -> None:
    with InferenceSession(from_checkpoint(contextual), backend="eager") as session:
        rows = [{"age": 20.0}, {"age": 30.0}]
        found = [session.rank({"user": 4}, items, 2) for items in (rows, pa.Table.from_pylist(rows))]
        np.testing.assert_allclose(found[0].scores, found[1].scores, atol=1e-6)
        with pytest.raises(DataError, match="its value cannot be read"):
            session.rank({"user": 4, "history": ["a", 1]}, pa.table({"item": ["i1"], "age": [1.0]}), 1)


def test_a_model_without_a_user_ranks_too(tmp_path: Path) -> None:
    features = (Categorical(name="item", side="item"), Numeric(name="age", side="item"))
    schema = Schema(labels=(Label(name="label"),), features=features)
    checkpoint = train(toy.recipe(tmp_path, "lr", schema, epochs=1), show=False)
    with InferenceSession(from_checkpoint(checkpoint), backend="eager") as session:
        items: list[dict[str, Any]] = [{"item": f"i{i}", "age": i} for i in range(4)]
        np.testing.assert_allclose(session.rank({}, items, 4).scores, np.sort(copies(session, {}, items))[::-1])


def test_the_trained_model_agrees(run: Path) -> None:
    table = pa.Table.from_pylist([{**USER, **item} for item in ITEMS])
    with eager(run) as session:
        found = session.rank(USER, ITEMS, 20)
    np.testing.assert_allclose(found.scores, load(run).predict(table)[found.positions], atol=1e-6)
