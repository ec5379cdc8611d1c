"""Take features, labels and users out of a table as flat arrays."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence as Listed

import mmh3
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from recsys.data.inputs import Counts
from recsys.data.schema import Bucketed, Categorical, IdFeature, Label, LogSquare, Numeric, Sequence
from recsys.data.values import Ints, canonical, dictionary, numbers, text_of, whole
from recsys.errors import DataError

__all__ = ["bucket_of", "bucketed", "column", "groups", "label", "labels", "transformed", "values"]

Floats = npt.NDArray[np.float64]
LARGEST = 1e100


def column(table: pa.Table, name: str) -> pa.Array:
    """A column as one array.

    Raises:
        DataError: When it is absent, or stands twice.
    """
    position = table.schema.get_field_index(name)
    if position >= 0:
        return whole(table.column(position))
    if name in table.column_names:
        raise DataError(f"column `{name}` stands twice in the data; rename one")
    raise DataError(f"missing column `{name}`; the data has: {', '.join(table.column_names) or 'no columns'}")


def transformed(table: pa.Table, feature: Numeric) -> Floats:
    """A number after its transform, NaN where it is missing, infinite or so large that its square has no number."""
    found = numbers(column(table, feature.source), feature.source)
    found = np.where(np.abs(found) <= LARGEST, found, np.nan)
    if feature.transform == "log":
        return np.asarray(np.sign(found) * np.log1p(np.abs(found)), dtype=np.float64)
    return found


def bucketed(found: Floats, feature: Bucketed, edges: Floats | None) -> pa.Array:
    """The bucket of every number, null where it is missing.

    Args:
        found: The numbers.
        feature: How they are bucketed.
        edges: Of quantiles: bucket i holds ``edges[i-1] <= v < edges[i]``.
    """
    missing = ~np.isfinite(found)
    if isinstance(feature.buckets, LogSquare):
        large = np.floor(np.square(np.log(np.maximum(found, 1.0))))
        buckets = np.where(found > 2, large, found)
    else:
        assert edges is not None
        buckets = np.searchsorted(edges, found, side="right").astype(np.float64)
    return pa.array(buckets, mask=missing)


def bucket_of(number: float, feature: Bucketed, edges: Listed[float] | None) -> str | None:
    """`bucketed` of one number, as the canonical text of its bucket."""
    if not math.isfinite(number):
        return None
    if isinstance(feature.buckets, LogSquare):
        # numpy's logarithm and the C library's may differ in the last bit, and so at the border of two buckets.
        return text_of(number, feature.source) if number <= 2 else str(int(np.square(np.log(number))))
    assert edges is not None
    return str(bisect_right(edges, number))


def values(table: pa.Table, feature: IdFeature, edges: Floats | None) -> tuple[pa.Array, Ints | None, int]:
    """The values of an id feature one after the other, how many each row has (None: one), and how many were cut."""
    array = column(table, feature.source)
    if isinstance(feature, Categorical):
        return array, None, 0
    if isinstance(feature, Bucketed):
        return bucketed(numbers(array, feature.source), feature, edges), None, 0
    lists = _lists(array, feature.source, feature.separator)
    lengths = pc.list_value_length(lists)
    null = lists.is_null().to_numpy(zero_copy_only=False)
    counted = np.array(pc.fill_null(pc.cast(lengths, pa.int64()), 1))
    flat = lists.flatten()
    if null.any():
        # A null list is one missing value; an empty list is none.
        keep = np.full(int(counted.sum()), -1, dtype=np.int64)
        present = np.repeat(~null, counted)
        keep[present] = np.arange(len(flat))
        flat = flat.take(pa.array(keep, mask=keep < 0))
    if isinstance(feature, Sequence):
        return _last(flat, counted, feature.max_length)
    return flat, counted, 0


def _lists(array: pa.Array, name: str, separator: str | None) -> pa.Array:
    kind = array.type
    if pa.types.is_null(kind):
        lists = pa.nulls(len(array), pa.large_list(pa.large_string()))
        return lists if separator is None else pc.fill_null(lists, pa.array([[]], lists.type)[0])
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return array
    if pa.types.is_fixed_size_list(kind) or pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind):
        return pc.cast(array, pa.large_list(kind.value_type))
    if separator is None:
        raise DataError(f"column `{name}`: expected lists, got {kind}; for text such as `a|b` set the separator")
    plain = array.dictionary_decode() if pa.types.is_dictionary(kind) else array
    lists = pc.split_pattern(canonical(plain, name), separator)
    # Text has no other way to write a list of nothing than to be blank, and pandas reads a blank as missing.
    return pc.fill_null(lists, pa.array([[]], lists.type)[0])


def _last(flat: pa.Array, lengths: Ints, most: int) -> tuple[pa.Array, Ints, int]:
    """The last `most` values of each list."""
    kept = np.minimum(lengths, most)
    cut = int((kept < lengths).sum())
    if not cut:
        return flat, lengths, 0
    ends = np.cumsum(lengths)
    starts = np.repeat(ends - kept - (np.cumsum(kept) - kept), kept)
    return flat.take(pa.array(starts + np.arange(int(kept.sum())))), kept, cut


def labels(table: pa.Table, tasks: tuple[Label, ...]) -> Floats:
    """[B, tasks] labels.

    Raises:
        DataError: When one is missing, or out of range.
    """
    return np.stack([label(table, task) for task in tasks], axis=1)


def label(table: pa.Table, task: Label) -> Floats:
    """[B] labels of one task."""
    array = column(table, task.source)
    found = numbers(array, task.source) if task.positive is None else _is(array, task.positive, task.source)
    bad = ~np.isfinite(found)
    if bad.any():
        raise DataError(f"label `{task.source}`: {int(bad.sum())} of {found.size} rows have no finite value")
    if task.kind == "binary" and found.size and (found.min() < 0 or found.max() > 1):
        raise DataError(
            f"label `{task.source}`: expected values in [0, 1], got {found.min():g} … {found.max():g}; "
            'make it 0/1, set `positive` to the value that counts as 1, or set kind = "regression"'
        )
    return found


def _is(array: pa.Array, positive: str, name: str) -> Floats:
    """1 where the value is `positive`, however its type writes it, 0 where it is another, NaN where it is missing."""
    texts, codes = dictionary(array, name)
    hits = pc.equal(texts, canonical(pa.array([positive]), name)[0]).to_numpy(zero_copy_only=False)
    return np.append(hits.astype(np.float64), np.nan)[codes]


def groups(table: pa.Table, name: str, counts: Counts) -> Ints:
    """Codes of users that are the same in every batch: 64 bits of murmur3 of the value's text.

    A row without a user is a user of its own, numbered from -1 down.
    """
    texts, codes = dictionary(column(table, name), name)
    missing = codes < 0
    if missing.any():
        counts.add(f"{name} (group)", codes.size, int(missing.sum()))
    hashed = np.array([mmh3.hash64(text)[0] for text in texts.to_pylist()], dtype=np.int64)
    alone = -1 - np.arange(counts.rows - codes.size, counts.rows)
    return np.where(missing, alone, hashed[codes] if hashed.size else 0)
