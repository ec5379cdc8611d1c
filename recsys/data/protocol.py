"""Any schema as the DCN² paper reads its data: nothing is learnt from rows, every value is hashed into one table."""

from __future__ import annotations

from recsys.data.schema import Bucketed, Feature, Hashing, LogSquare, Numeric, Schema, Vocabulary
from recsys.errors import SchemaError

__all__ = ["SHARED", "hashed"]

SHARED = "shared"
"""Name of the one table, but where a feature has it."""


def hashed(schema: Schema, bits: int, hashes: int = 1, seed: int = 42) -> Schema:
    """The schema under which rows can be predicted before any was seen.

    A number v is looked up by ``floor(ln(v)²)``, or by itself up to 2, as a category is; ``feature|value`` is hashed
    by murmur3 into one table of 2^bits rows for all features; no value is rare or unknown (arXiv 2506.21624, section
    4, as its first author's published preparation of Criteo's data has it, with seed 42).

    Args:
        schema: Features with any encoding.
        bits: The table has 2^bits rows.
        hashes: How many hashes a value has, of as many tables, each as much narrower; the paper has one.
        seed: Of the hash.

    Raises:
        ConfigError: When there cannot be a table of so many rows.
        SchemaError: When a label is a regression's, whose scale only rows can tell.
    """
    for label in schema.labels:
        if label.kind != "binary":
            raise SchemaError(f"label `{label.name}` is a regression: the progressive protocol predicts binary labels")
    taken = {feature.name for feature in schema.features}
    name = next(name for name in (SHARED + "_" * n for n in range(len(taken) + 1)) if name not in taken)
    encoding = Hashing.parse({"bits": bits, "table": name, "seed": seed, "hashes": hashes}, "the table of all values")
    return schema.model_copy(update={"features": tuple(_hashed(feature, encoding) for feature in schema.features)})


def _hashed(feature: Feature, encoding: Hashing) -> Feature:
    if isinstance(feature, (Numeric, Bucketed)):
        return Bucketed(
            name=feature.name, column=feature.column, side=feature.side, buckets=LogSquare(), encoding=encoding
        )
    return feature.model_copy(update={"encoding": Vocabulary() if feature.shares else encoding})
