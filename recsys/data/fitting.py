"""What the encoder learns in one pass over training data: scales, vocabularies, quantiles, and what collides."""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from recsys.data.collisions import Collisions, Shares
from recsys.data.columns import column, groups, label, transformed, values
from recsys.data.hashing import hash_rows
from recsys.data.inputs import Counts
from recsys.data.schema import Bucketed, Hashing, IdFeature, Label, Quantiles, Schema
from recsys.data.values import dictionary, numbers
from recsys.data.vocabulary import Tally, Vocabulary
from recsys.errors import DataError

__all__ = ["Fitted", "Fitting", "Normaliser", "fit", "target_name"]

Floats = npt.NDArray[np.float64]
_SAMPLE = 1 << 17
"""Values that quantiles are taken of; their ranks are then off by about 0.1 % of the rows."""


@dataclass(frozen=True)
class Normaliser:
    """``(v - shift) / scale`` after the feature's transform; `fill`, the training mean, stands in for a missing v."""

    shift: float
    scale: float
    fill: float


@dataclass
class Fitted:
    """What was learnt: all that an encoder needs beside its schema, and what its report tells.

    Attributes:
        normalisers: Of numeric features and of regression labels, by name.
        vocabularies: Known values, by feature.
        edges: Of quantile buckets, by feature.
        shares: Distinct values and the share of them that collide, by hashed feature.
        counts: What was missing in the training data, and what was too rare for a vocabulary.
    """

    normalisers: dict[str, Normaliser] = field(default_factory=dict)
    vocabularies: dict[str, Vocabulary] = field(default_factory=dict)
    edges: dict[str, Floats] = field(default_factory=dict)
    shares: dict[str, Shares] = field(default_factory=dict)
    counts: Counts = field(default_factory=Counts)


def fit(schema: Schema, tables: Iterable[pa.Table]) -> Fitted:
    """Learn in one pass; memory grows with the distinct values of vocabularies, and with nothing else.

    Raises:
        DataError: When a column is missing or mistyped, or there are no rows.
    """
    fitting = Fitting(schema)
    for table in tables:
        fitting.add(table)
    return fitting.learnt()


def target_name(label: Label) -> str:
    """The name under which a label's scale is kept; no feature can have it, for its colon."""
    return f"label:{label.name}"


class Fitting:
    """Learning under way: `add` every table, then take what was `learnt`."""

    def __init__(self, schema: Schema) -> None:
        self.schema, self.counts = schema, Counts()
        self.ones: dict[str, float] = {}
        named = {feature.name: feature for feature in schema.id_features}
        self.owners = {name: named[feature.shares or name] for name, feature in named.items()}
        self.tables = {name: schema.table(feature) for name, feature in named.items()}
        self.numeric, self.id_features = schema.numeric, schema.id_features
        self.moments = {f.name: _Moments() for f in schema.numeric}
        self.targets = {target_name(t): _Moments() for t in schema.labels if t.kind == "regression"}
        self.samples = {f.name: _Sample(f.name) for f in schema.id_features if _quantiles(f)}
        own = [f for f in schema.id_features if f.shares is None and not _quantiles(f)]
        self.tallies = {f.name: Tally() for f in own if not isinstance(f.encoding, Hashing)}
        self.collisions = {schema.table(f): Collisions() for f in schema.id_features if _hashed(schema, f)}

    def add(self, table: pa.Table) -> None:
        """Learn from the rows of a table.

        Raises:
            DataError: When a column is missing or mistyped, or a label is missing or out of range.
        """
        self.counts.rows += table.num_rows
        for task in self.schema.labels:
            if task.kind == "regression":
                self.targets[target_name(task)].add(label(table, task))
            elif task.source in table.column_names:  # fitting needs none, but a bad one is better said now than later
                self.ones[task.name] = self.ones.get(task.name, 0.0) + float(label(table, task).sum())
        for number in self.numeric:
            found = transformed(table, number)
            self.moments[number.name].add(found)
            self.counts.add(number.name, found.size, int((~np.isfinite(found)).sum()))
        for feature in self.id_features:
            if feature.name in self.samples:
                found = numbers(column(table, feature.source), feature.source)
                self.samples[feature.name].add(found)
                self.counts.add(feature.name, found.size, int((~np.isfinite(found)).sum()))
            else:
                self._count(table, feature)
        if self.schema.group in table.column_names:
            assert self.schema.group is not None
            groups(table, self.schema.group, self.counts)

    def _count(self, table: pa.Table, feature: IdFeature) -> None:
        owner = self.owners[feature.name]
        array, _, cut = values(table, feature, None)
        texts, codes = dictionary(array, feature.source)
        self.counts.add(feature.name, codes.size, int((codes < 0).sum()), 0, cut)
        if isinstance(owner.encoding, Hashing):
            self._collide(texts, owner, owner.encoding)
        else:
            self.tallies[owner.name].add(texts, codes)

    def _collide(self, texts: pa.LargeStringArray, owner: IdFeature, how: Hashing) -> None:
        """Collect the rows that texts read: of several hashes all of them, as digits of one number."""
        rows = np.zeros(len(texts), dtype=np.int64)
        for part, name in enumerate(self.schema.parts(owner)[: 62 // how.bits]):
            rows |= hash_rows(texts, name, how.bits, how.seed) << (part * how.bits)
        self.collisions[self.tables[owner.name]].add(owner.name, texts, rows)

    def learnt(self) -> Fitted:
        """What an encoder needs.

        Raises:
            DataError: When there were no rows, or none with the value that a label calls positive.
        """
        if not self.counts.rows:
            raise DataError("the training data has no rows")
        for task in self.schema.labels:
            if task.positive is not None and self.ones.get(task.name) == 0:
                raise DataError(f"label `{task.source}`: no row has the value `{task.positive}` that counts as 1")
        found = Fitted(
            normalisers={f.name: self.moments[f.name].normaliser(f.transform != "none") for f in self.schema.numeric}
            | {name: moments.normaliser(True) for name, moments in self.targets.items()},
            edges={f.name: self._edges(f) for f in self.schema.id_features if f.name in self.samples},
            counts=self.counts,
        )
        for feature in self.schema.id_features:
            if feature.name in self.tallies:
                assert not isinstance(feature.encoding, Hashing)
                frequent, rare = self.tallies[feature.name].most_frequent(feature.encoding.min_count)
                found.vocabularies[feature.name] = Vocabulary(frequent)
                self.counts.add(feature.name, 0, 0, rare)
            elif feature.name in self.samples:
                self._all_buckets(feature, found)
        for collisions in self.collisions.values():
            found.shares |= collisions.shares()
        return found

    def _edges(self, feature: IdFeature) -> Floats:
        assert isinstance(feature, Bucketed)
        assert isinstance(feature.buckets, Quantiles)
        return self.samples[feature.name].edges(feature.buckets.count)

    def _all_buckets(self, feature: IdFeature, found: Fitted) -> None:
        """Buckets of quantiles are known without counting them."""
        assert isinstance(feature, Bucketed)
        texts, _ = dictionary(pa.array(np.arange(found.edges[feature.name].size + 1)), feature.source)
        if isinstance(feature.encoding, Hashing):
            self._collide(texts, feature, feature.encoding)
        else:
            found.vocabularies[feature.name] = Vocabulary(texts)


def _quantiles(feature: IdFeature) -> bool:
    return isinstance(feature, Bucketed) and isinstance(feature.buckets, Quantiles)


def _hashed(schema: Schema, feature: IdFeature) -> bool:
    return isinstance(schema.owner(feature).encoding, Hashing)


class _Moments:
    """Count, mean and sum of squared deviations, merged batch by batch (Chan et al. 1979), which stays exact."""

    def __init__(self) -> None:
        self.n, self.mean, self.squares = 0, 0.0, 0.0

    def add(self, found: Floats) -> None:
        found = found[np.isfinite(found)]
        if not found.size:
            return
        mean = float(found.mean())
        delta, together = mean - self.mean, self.n + found.size
        self.squares += float(np.square(found - mean).sum()) + delta**2 * self.n * found.size / together
        self.mean += delta * found.size / together
        self.n = together

    def normaliser(self, standardise: bool) -> Normaliser:
        if not standardise:
            return Normaliser(0.0, 1.0, self.mean)
        std = (self.squares / self.n) ** 0.5 if self.n else 0.0
        # Of a constant column only rounding is left: 0.1 everywhere has a "deviation" of 1e-17.
        varies = np.isfinite(std) and std > 1e-12 * max(abs(self.mean), 1e-30)
        return Normaliser(self.mean, std if varies else 1.0, self.mean)


class _Sample:
    """A uniform sample of all values seen: each draws a random number, and the smallest numbers stay."""

    def __init__(self, name: str) -> None:
        self._draw = np.random.default_rng(zlib.crc32(name.encode()))
        self._ranks, self._values = np.zeros(0), np.zeros(0)

    def add(self, found: Floats) -> None:
        found = found[np.isfinite(found)]
        ranks = np.append(self._ranks, self._draw.random(found.size))
        kept = np.append(self._values, found)
        if ranks.size > _SAMPLE:
            smallest = np.argpartition(ranks, _SAMPLE)[:_SAMPLE]
            ranks, kept = ranks[smallest], kept[smallest]
        self._ranks, self._values = ranks, kept

    def edges(self, buckets: int) -> Floats:
        """Where buckets begin, at most ``buckets - 1`` of them; the least value begins none."""
        if not self._values.size:
            return np.zeros(0)
        cuts = np.quantile(self._values, np.arange(1, buckets) / buckets, method="higher")
        edges = np.unique(cuts)
        return np.asarray(edges[edges > self._values.min()], dtype=np.float64)
