"""What the encoder made of each feature: cardinality, what is unknown or missing, and which ids collide."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from recsys.data.collisions import expected_share
from recsys.data.encoder import Counts, Encoder
from recsys.data.schema import Hashing, IdFeature

__all__ = ["FeatureReport", "report"]


@dataclass(frozen=True)
class FeatureReport:
    """One feature.

    Attributes:
        name: The feature.
        kind: As the schema says.
        table: The table that it reads, None for a number.
        rows: Of the table.
        distinct: Different values in training (an estimate beyond some millions of hashed ones; of a vocabulary those
            that have a row), None for a number.
        missing: Share of the training values that are missing.
        unknown: Share of the validation values that training did not show (often enough).
        cut: Share of the training rows whose list was longer than `max_length`.
        colliding: Share of a hashed feature's ids whose row (of several hashes: all of whose rows) another id of the
            table reads too.
        expected: That share if ids fell into rows at random, ``1 - (1 - 1/m)^(n - 1)``.
    """

    name: str
    kind: str
    table: str | None = None
    rows: int | None = None
    distinct: int | None = None
    missing: float = 0.0
    unknown: float = 0.0
    cut: float = 0.0
    colliding: float | None = None
    expected: float | None = None

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values, without what does not apply."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def report(encoder: Encoder, train: Counts, valid: Counts) -> list[FeatureReport]:
    """A line for every feature, in the schema's order."""
    lines = {f.name: _of_ids(encoder, f, train, valid) for f in encoder.schema.id_features}
    lines |= {
        f.name: FeatureReport(f.name, f.kind, missing=_share(train, train.missing, f.name))
        for f in encoder.schema.numeric
    }
    return [lines[feature.name] for feature in encoder.schema.features]


def _of_ids(encoder: Encoder, feature: IdFeature, train: Counts, valid: Counts) -> FeatureReport:
    owner, table = encoder.schema.owner(feature), encoder.schema.table(feature)
    shares = encoder.fitted.shares.get(owner.name)
    hashed = isinstance(owner.encoding, Hashing) and shares is not None
    return FeatureReport(
        feature.name,
        feature.kind,
        table,
        encoder.rows(feature),
        shares.distinct if shares else len(encoder.fitted.vocabularies[owner.name]),
        _share(train, train.missing, feature.name),
        _share(valid, valid.unknown, feature.name),
        round(train.cut.get(feature.name, 0) / max(train.rows, 1), 6),
        round(shares.colliding, 6) if shares else None,
        round(expected_share(_ids_of(encoder, table), _places(encoder, feature)), 6) if hashed else None,
    )


def _places(encoder: Encoder, feature: IdFeature) -> int:
    """Different rows that an id may read; of several hashes, combinations of rows."""
    return int((encoder.rows(feature) - 1) ** len(encoder.schema.parts(feature)))


def _ids_of(encoder: Encoder, table: str) -> int:
    """Distinct ids of all features that share a hashed table."""
    schema = encoder.schema
    owners = {schema.owner(f).name for f in schema.id_features if schema.table(f) == table}
    return sum(encoder.fitted.shares[name].distinct for name in owners)


def _share(counts: Counts, part: dict[str, int], name: str) -> float:
    return round(part.get(name, 0) / max(counts.values.get(name, 0), 1), 6)
