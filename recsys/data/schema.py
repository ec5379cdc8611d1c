"""What the columns of a data set mean: features, labels, and the columns that name a user and a time.

A schema is plain configuration (TOML or Python). What is learnt from data, such as vocabularies, lives in the encoder.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from recsys.config import Config, explain, read_toml
from recsys.errors import SchemaError

__all__ = [
    "Bucketed",
    "Categorical",
    "Feature",
    "Format",
    "Hashing",
    "IdFeature",
    "Label",
    "LogSquare",
    "MultiValued",
    "Numeric",
    "Quantiles",
    "Schema",
    "Sequence",
    "Side",
    "Vocabulary",
    "part_name",
]

Side = Literal["user", "item", "context"]
Format = Literal["criteo", "avazu"]
"""Text files whose columns are known by the format's name; `recsys.data.formats` describes them."""


class Vocabulary(Config):
    """One row for every value that the training data showed often enough."""

    kind: Literal["vocabulary"] = "vocabulary"
    min_count: int = Field(1, ge=1)
    """Values seen less often than this in training read row 0, "unknown"."""


class Hashing(Config):
    """The row is a murmur3 hash of ``feature|value``: bounded memory, no fitting, collisions."""

    kind: Literal["hash"] = "hash"
    bits: int = Field(ge=1, le=31)
    """The table has 2^bits rows."""
    table: str | None = Field(None, min_length=1, pattern="^[^:]*$")
    """A table that several hashed features share; by default each has its own."""
    seed: int = Field(42, ge=0, lt=2**32)
    """Seed of the hash."""
    hashes: int = Field(1, ge=1, le=8)
    """How many rows a value reads, by as many hashes from as many tables. Each has embedding_dim / hashes columns and
    they stand side by side: as many bytes as one (collision weights, one a row, apart), and two values seldom meet in
    all of them."""


Encoding = Annotated[Vocabulary | Hashing, Field(discriminator="kind")]


class _Feature(Config):
    name: str = Field(min_length=1, pattern="^[^:]*$")
    """The feature's name; without a colon, which names what belongs to a feature, such as its first-order table."""
    column: str | None = None
    """The column that holds it; by default the feature's name."""
    side: Side = "context"
    """Whose it is: `user`, `item` or `context`. A session computes a user once for many candidates."""

    @property
    def source(self) -> str:
        """The column that holds the feature."""
        return self.column or self.name


class Numeric(_Feature):
    """One number. What is missing, NaN or infinite becomes the training mean, and is counted."""

    kind: Literal["numeric"] = "numeric"
    transform: Literal["standard", "log", "none"] = "standard"
    """`standard`: zero mean, unit variance; `log`: sign(v)·ln(1+|v|), then standard; `none`: as it is."""


class _IdFeature(_Feature):
    encoding: Encoding = Vocabulary()
    """How a value becomes a row of a table."""
    shares: str | None = None
    """Another feature whose values these are, as a history of items shares `item`: same encoding, same rows."""


class Categorical(_IdFeature):
    """Exactly one value a row; missing is a value of its own."""

    kind: Literal["categorical"] = "categorical"


class Quantiles(Config):
    """Buckets that the training values fill equally; a value that is very frequent takes the place of several."""

    kind: Literal["quantiles"] = "quantiles"
    count: int = Field(32, ge=2, le=4096)
    """Most buckets."""


class LogSquare(Config):
    """``floor(ln(v)²)`` for v > 2, and v itself otherwise: the buckets of the DCN² protocol.

    Some small values share a bucket with a larger one, as 1 and 3 do; so they do in the protocol.
    """

    kind: Literal["log-square"] = "log-square"


class Bucketed(_IdFeature):
    """One number, looked up by its bucket as a category is; missing, NaN and infinite are a value of their own."""

    kind: Literal["bucketed"] = "bucketed"
    buckets: Annotated[Quantiles | LogSquare, Field(discriminator="kind")] = Quantiles()
    """How a number becomes a bucket."""


class MultiValued(_IdFeature):
    """Any number of values a row, pooled into one embedding; an empty list pools to zeros."""

    kind: Literal["multi-valued"] = "multi-valued"
    separator: str | None = Field(None, min_length=1)
    """Splits text columns, where blank and missing are the empty list; list columns need none."""


class Sequence(_IdFeature):
    """Values in order, oldest first; a model may attend over them or pool them."""

    kind: Literal["sequence"] = "sequence"
    separator: str | None = Field(None, min_length=1)
    """Splits text columns, where blank and missing are the empty list; list columns need none."""
    max_length: int = Field(50, ge=1)
    """Only the last this many are kept."""


IdFeature = Categorical | Bucketed | MultiValued | Sequence
Feature = Annotated[Numeric | Categorical | Bucketed | MultiValued | Sequence, Field(discriminator="kind")]


class Label(Config):
    """What a task predicts."""

    name: str = Field(min_length=1)
    """The task's name."""
    column: str | None = None
    """The column that holds it; by default the task's name."""
    kind: Literal["binary", "regression"] = "binary"
    """`binary`: a probability, labels in [0, 1]; `regression`: any finite number."""
    positive: str | None = Field(None, min_length=1)
    """The value that counts as 1, of a binary label that is no 0 and 1, such as `>50K`; every other counts as 0."""
    weight: float = Field(1.0, gt=0)
    """Weight of the task's loss."""

    @model_validator(mode="after")
    def _binary_if_positive(self) -> Self:
        if self.positive is not None and self.kind != "binary":
            raise ValueError(f"label `{self.name}`: `positive` names a value that counts as 1; a regression has none")
        return self

    @property
    def source(self) -> str:
        """The column that holds the label."""
        return self.column or self.name


class Schema(Config):
    """Features, labels and the columns that name a user and a time.

    The order of the features is the order of the model's input.
    """

    labels: tuple[Label, ...] = Field(min_length=1)
    """What is predicted; more than one makes a multi-task model."""
    features: tuple[Feature, ...] = Field(min_length=1)
    """What it is predicted from."""
    group: str | None = None
    """The column that names the user: per-user metrics, and intervals clustered by user."""
    time: str | None = None
    """The column that orders the rows in time."""
    format: Format | None = None
    """Names the columns of text files that have no header or come as a known contest's; Parquet needs no name."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = [feature.name for feature in self.features]
        _unique("feature", names)
        _unique("label", [label.name for label in self.labels])
        columns = {feature.source for feature in self.features}
        for label in self.labels:
            if label.source in columns:
                raise ValueError(
                    f"column `{label.source}` is both a label and a feature: the model would read the answer"
                )
        for feature in self.id_features:
            self._check_share(feature)
        self._check_tables()
        return self

    def _check_share(self, feature: IdFeature) -> None:
        if feature.shares is None:
            return
        target = next((other for other in self.id_features if other.name == feature.shares), None)
        if isinstance(feature, Bucketed) or isinstance(target, Bucketed):
            raise ValueError(f"feature `{feature.name}` cannot share `{feature.shares}`: buckets are nobody else's")
        if target is None:
            raise ValueError(
                f"feature `{feature.name}` shares `{feature.shares}`, which is no id feature of this schema"
            )
        if target.shares is not None:
            raise ValueError(f"feature `{feature.name}` must share `{target.shares}` itself, not `{target.name}`")
        if feature.encoding not in (Vocabulary(), target.encoding):
            raise ValueError(f"feature `{feature.name}` shares `{target.name}` and so has no encoding of its own")

    def _check_tables(self) -> None:
        seen: dict[str, Vocabulary | Hashing] = {}
        for feature in self.id_features:
            table, encoding = self.table(feature), self.owner(feature).encoding
            known = seen.setdefault(table, encoding)
            if known != encoding:
                raise ValueError(f"table `{table}` is used with two encodings; features that share one must agree")
            if table != self.owner(feature).name and any(table == other.name for other in self.id_features):
                raise ValueError(f"table `{table}` of feature `{feature.name}` has the name of another feature")

    @property
    def numeric(self) -> tuple[Numeric, ...]:
        """The numbers, in order."""
        return tuple(feature for feature in self.features if isinstance(feature, Numeric))

    @property
    def id_features(self) -> tuple[IdFeature, ...]:
        """The features that look up rows, in order."""
        return tuple(feature for feature in self.features if not isinstance(feature, Numeric))

    def owner(self, feature: IdFeature) -> IdFeature:
        """The feature whose encoding `feature` uses: itself, or the one that it shares."""
        return next(other for other in self.id_features if other.name == (feature.shares or feature.name))

    def table(self, feature: IdFeature) -> str:
        """The name of the table that `feature` reads."""
        owner = self.owner(feature)
        return (owner.encoding.table if isinstance(owner.encoding, Hashing) else None) or owner.name

    def parts(self, feature: IdFeature) -> tuple[str, ...]:
        """Names of the ids of a feature: its own, and for each further hash one such as `item:2`."""
        encoding = self.owner(feature).encoding
        more = encoding.hashes if isinstance(encoding, Hashing) else 1
        return tuple(part_name(feature.name, part) for part in range(1, more + 1))

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that the features need, each once."""
        return tuple(dict.fromkeys(feature.source for feature in self.features))

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a schema from a TOML file.

        Raises:
            ConfigError: When the file is not readable TOML, or has unknown keys.
            SchemaError: When the schema contradicts itself.
        """
        return cls.parse(read_toml(path), str(path))

    @classmethod
    def parse(cls, values: Any, where: str) -> Self:
        """As `Config.parse`, with `SchemaError` for what does not hold together."""
        from pydantic import ValidationError

        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise SchemaError(f"{where}: {explain(cls, error)}") from None


def part_name(name: str, part: int) -> str:
    """What belongs to the `part`-th hash of the feature or table `name`; the first has no mark."""
    return name if part == 1 else f"{name}:{part}"


def _unique(what: str, names: list[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two {what}s are named `{name}`")
