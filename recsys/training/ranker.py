"""The rankers as a scikit-learn classifier: grid search, cross-validation and pipelines over DataFrames."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.metrics import roc_auc_score
from sklearn.utils import check_random_state, column_or_1d
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import check_consistent_length, check_is_fitted

from recsys.config import override
from recsys.data.describe import Finding, describe
from recsys.data.readers import Dataset
from recsys.data.schema import Label, Numeric, Schema
from recsys.data.values import canonical
from recsys.errors import ConfigError, DataError, SchemaError
from recsys.models.checkpoint import Checkpoint
from recsys.training.recipe import Recipe, find_recipe
from recsys.training.run import train_rows

__all__ = ["Ranker"]

Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]


_STEPS, _LEAST = 50, 16
"""Steps of an epoch at least, unless its batches would be smaller than this."""


class RankerDataError(DataError, ValueError):
    """Rows that cannot be learnt from or predicted: a `DataError` that scikit-learn's tools know as ValueError."""


class Ranker(ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """A ranker as a scikit-learn classifier of two classes.

    What is not given comes from the model's default recipe, so ``Ranker("dcn2")`` trains as ``recsys train dcn2`` does.
    `fit` holds some rows out to see when to stop, and keeps the best epoch.

    Args:
        model: A model's name, or the path of a recipe (TOML), of which model and training count.
        schema: What the columns mean; its label gives the name only, the values come from `y`. None: drafted from the
            columns as `recsys.describe` does, but what looks like a leak stays in.
        model_options: Arguments of the model, such as ``{"embedding_dim": 8}``.
        epochs: Most passes over the rows.
        batch_size: Rows a step; by default the recipe's, or of few rows so many that an epoch has about 50 steps.
        learning_rate: Of the network, and of the tables if `training_options` says nothing else.
        training_options: Other fields of `TrainingConfig`, such as ``{"patience": 5}``.
        valid_share: Share of the rows of each class that are held out.
        random_state: Of held-out rows, start values, order and dropout. An integer gives the same model every time.
        show: Progress bars on standard error.

    Attributes:
        classes_: The two classes, sorted; the second is what the checkpoint's score is the probability of.
        checkpoint_: What was fitted, as `recsys.train` returns it: saved, it serves like any run.
        n_features_in_: Number of columns of `X`.
        feature_names_in_: Their names; absent after an array, whose columns are called x0, x1, and so on.
    """

    def __init__(
        self,
        model: str = "dcn2",
        *,
        schema: Schema | None = None,
        model_options: Mapping[str, Any] | None = None,
        epochs: int | None = None,
        batch_size: int | None = None,
        learning_rate: float | None = None,
        training_options: Mapping[str, Any] | None = None,
        valid_share: float = 0.1,
        random_state: int | np.random.RandomState | None = None,
        show: bool = False,
    ) -> None:
        self.model = model
        self.schema = schema
        self.model_options = model_options
        self.epochs = epochs
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.training_options = training_options
        self.valid_share = valid_share
        self.random_state = random_state
        self.show = show

    def __sklearn_tags__(self) -> Any:
        """Two classes; text, categories and missing values are welcome."""
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        tags.input_tags.string = tags.input_tags.categorical = tags.input_tags.allow_nan = True
        return tags

    def fit(self, X: Any, y: Any) -> Self:
        """Train on rows.

        Args:
            X: A DataFrame or an Arrow table, read by the columns' names, or an array [n, columns].
            y: [n], two classes of any type.

        Raises:
            ConfigError: When an argument of the constructor is wrong.
            DataError: When the rows cannot be learnt from; it is a ValueError too.
            SchemaError: When `schema` has several labels or no binary one, or cannot feed the model.
        """
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        with _value_errors():
            table = _table(X)
            classes, ones = _two_classes(X, y)
            recipe = self._recipe(seed, len(ones))
            label = _label(classes, table.column_names, y, self.schema)
            schema = _draft(table, label, ones) if self.schema is None else self.schema
            schema = schema.model_copy(update={"labels": (label,)})
            held, rows = _held_out(ones, self.valid_share, seed), _labelled(table, label, classes, ones)
            train, valid = (rows.filter(pa.array(mask)) for mask in (~held, held))
            self.checkpoint_: Checkpoint = train_rows(
                recipe.model, recipe.training, schema, train, valid, show=self.show
            )
        self.classes_ = classes
        self._remember(X, table.column_names)
        return self

    def predict_proba(self, X: Any) -> Floats:
        """[n, 2]: the probability of each class, in the order of `classes_`.

        Raises:
            DataError: When a column is missing or not as it was in `fit`; it is a ValueError too.
        """
        check_is_fitted(self)
        with _value_errors():
            rows = X if _is_frame(X) else self._named(_array(X))
            positive = self.checkpoint_.predict(rows).astype(np.float64)
        return np.column_stack([1 - positive, positive])

    def predict(self, X: Any) -> npt.NDArray[Any]:
        """[n]: the likelier class of each row; see `predict_proba`."""
        likelier = self.predict_proba(X).argmax(axis=1)
        found: npt.NDArray[Any] = self.classes_[likelier]
        return found

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """ROC AUC: where few rows are clicks, accuracy says nothing."""
        return float(roc_auc_score(column_or_1d(y), self.predict_proba(X)[:, 1], sample_weight=sample_weight))

    def _recipe(self, seed: int, rows: int) -> Recipe:
        """The default recipe with what was given in its place."""
        if not 0 < self.valid_share < 1:
            raise ConfigError(f"Ranker: expected a valid_share between 0 and 1, got {self.valid_share}")
        given = {"epochs": self.epochs, "batch_size": self.batch_size, "learning_rate": self.learning_rate}
        training = {**(self.training_options or {}), **{k: v for k, v in given.items() if v is not None}}
        changes = {f"model.{name}": value for name, value in (self.model_options or {}).items()}
        changes |= {f"training.{name}": value for name, value in ({"seed": seed} | training).items()}
        recipe = find_recipe(self.model)
        few = {"training.batch_size": min(recipe.training.batch_size, max(rows // _STEPS, _LEAST))}
        changed: Recipe = override(recipe, few | changes, "Ranker")
        return changed

    def _named(self, array: npt.NDArray[Any]) -> Any:
        """Columns of an array by their position among those of `fit`."""
        got, expected = array.shape[1], self.n_features_in_
        if got != expected:
            raise DataError(f"X has {got} features, but Ranker is expecting {expected} features as input")
        return _framed(array, getattr(self, "feature_names_in_", None))

    def _remember(self, X: Any, names: Sequence[str]) -> None:
        """Keep the names of the columns, if they had any."""
        self.n_features_in_ = len(names)
        if _is_frame(X):
            self.feature_names_in_ = np.array(names, dtype=object)
        elif hasattr(self, "feature_names_in_"):
            del self.feature_names_in_


@contextlib.contextmanager
def _value_errors() -> Iterator[None]:
    """What is wrong with rows is a ValueError to scikit-learn."""
    try:
        yield
    except DataError as error:
        raise RankerDataError(str(error)) from error


def _is_frame(X: Any) -> bool:
    return hasattr(X, "__arrow_c_stream__") and len(getattr(X, "shape", (0, 0))) == 2


def _table(X: Any) -> pa.Table:
    """All rows of a frame or an array.

    Raises:
        DataError: When it is neither, a column stands twice, or there is none.
    """
    data = Dataset(X if _is_frame(X) else _framed(_array(X)))
    data.need(data.schema.names)
    if not data.schema.names:
        raise DataError(f"X: 0 feature(s) (shape=({data.rows}, 0)) while a minimum of 1 is required.")
    parts = [table for table, _ in data.read()]
    return pa.concat_tables(parts) if parts else data.schema.empty_table()


def _framed(array: npt.NDArray[Any], names: Sequence[str] | None = None) -> Any:
    """The columns of an array under these names, or as x0, x1, and so on."""
    import pandas as pd

    return pd.DataFrame(array, columns=[f"x{i}" for i in range(array.shape[1])] if names is None else list(names))


def _array(X: Any) -> npt.NDArray[Any]:
    """An array of two dimensions.

    Raises:
        DataError: When it has others, or cannot be features.
        TypeError: When it is sparse.
    """
    if hasattr(X, "tocsr"):
        raise TypeError("Ranker reads no sparse matrices: expected a DataFrame or a dense array; try `X.toarray()`")
    array = np.asarray(X)
    if array.ndim != 2:
        raise DataError(
            f"X: expected rows and columns, got the shape {array.shape}. Reshape your data: X.reshape(-1, 1)"
        )
    if array.dtype.kind == "c":
        raise DataError("Complex data not supported: expected numbers, text or categories")
    return array


def _two_classes(X: Any, y: Any) -> tuple[npt.NDArray[Any], Bools]:
    """The classes, and which rows are of the second.

    Raises:
        DataError: When there are not two.
    """
    import pandas as pd

    labels = column_or_1d(y, warn=True)
    check_consistent_length(X, labels)
    if pd.isna(labels).any():
        raise DataError(f"y: {int(pd.isna(labels).sum())} of {len(labels)} rows have no class; leave them out")
    check_classification_targets(labels)
    classes, codes = np.unique(labels, return_inverse=True)
    if len(classes) > 2:
        raise DataError(
            "Only binary classification is supported. The type of the target is "
            f"{type_of_target(labels)}: {len(classes)} classes; make y 0 and 1, or train one Ranker a class"
        )
    counts = np.bincount(codes)
    if len(classes) < 2 or counts.min() < 2:
        told = ", ".join(f"`{one}` of {count}" for one, count in zip(classes, counts, strict=True))
        raise DataError(
            "y: expected two classes of at least 2 rows each, one to learn from and one held out; got "
            f"{len(classes)} class{'es' * (len(classes) != 1)}{told and ': '}{told}"
        )
    return classes, codes == 1


def _label(classes: npt.NDArray[Any], columns: Sequence[str], y: Any, schema: Schema | None) -> Label:
    """The label, with a name that no column has; what its values mean holds for other data than `y`, too."""
    texts = _texts(classes)
    positive = None if texts in (["0", "1"], ["false", "true"]) else texts[1]
    if schema is not None:
        if len(schema.labels) > 1 or schema.labels[0].kind != "binary":
            raise SchemaError("Ranker: expected a schema with one binary label; train several with `recsys.train`")
        return schema.labels[0].model_copy(update={"positive": positive})
    name = getattr(y, "name", None)
    name = name if isinstance(name, str) and name else "label"
    while name in columns:
        name += "_"
    return Label(name=name, positive=positive)


def _texts(classes: npt.NDArray[Any]) -> list[str]:
    """The classes as text in the form that recsys compares; 0 and 1 for those that it takes for one or for missing."""
    texts: list[str | None] = canonical(pa.array([str(one) for one in classes]), "y").to_pylist()
    low, high = texts
    return ["0", "1"] if low is None or high is None or low == high else [low, high]


def _labelled(table: pa.Table, label: Label, classes: npt.NDArray[Any], ones: Bools) -> pa.Table:
    """The table with the labels; a column of that name makes way."""
    values = pa.array(_texts(classes) if label.positive else [0, 1]).take(pa.array(ones.astype(np.int8)))
    fields = [field.with_type(_selectable(field.type)) for field in table.schema if field.name != label.source]
    schema = pa.schema(fields)
    return table.select(schema.names).cast(schema).append_column(label.source, values)


def _selectable(kind: pa.DataType) -> pa.DataType:
    """A type whose rows pyarrow can select: the same, but for string views, which polars has."""
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        inner = _selectable(kind.value_type)
        return kind if inner == kind.value_type else pa.large_list(inner)
    return pa.large_string() if pa.types.is_string_view(kind) else kind


def _draft(table: pa.Table, label: Label, ones: Bools) -> Schema:
    """What `describe` makes of the columns, with those that look like leaks.

    Who passes columns beside `y` knows them beforehand, and on an easy problem the best feature looks like a leak. So
    the labels that `describe` sees are in random order, which nothing predicts.
    """
    mixed = np.random.RandomState(0).permutation(ones).astype(np.int8)
    found = describe(table.append_column(label.source, pa.array(mixed)), label.source)
    others = [finding for finding in found.findings if finding.role != "label"]
    _warn([finding for finding in others if not _wanted(finding) and finding.column.distinct > 1])
    features = tuple(finding.feature for finding in others if finding.feature is not None and _wanted(finding))
    return Schema(labels=(label,), features=features, group=found.schema.group)


def _wanted(finding: Finding) -> bool:
    """A feature; and what is named like a label, or numbers of which few are alike, as in any small sample."""
    if finding.role == "feature":
        return True
    plausible = isinstance(finding.feature, Numeric) or finding.note.startswith("named like a label")
    return plausible and finding.column.distinct > 1


def _warn(left_out: Sequence[Finding]) -> None:
    if left_out:
        told = "; ".join(f"`{finding.column.name}`: {finding.note}" for finding in left_out)
        warnings.warn(f"Ranker leaves out {told}. Give a `schema` to take it in", stacklevel=4)


def _held_out(ones: Bools, share: float, seed: int) -> Bools:
    """Rows that say when to stop: of each class the same share, but at least one, and at least one stays."""
    random, held = np.random.RandomState(seed), np.zeros(len(ones), dtype=np.bool_)
    for rows in (np.flatnonzero(~ones), np.flatnonzero(ones)):
        count = min(max(round(share * len(rows)), 1), len(rows) - 1)
        held[random.permutation(rows)[:count]] = True
    return held
