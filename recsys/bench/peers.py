"""How others turn the same Parquet file into numbers and ids, each as its users would, and each at its best.

`stock` is the library as its manual shows it, the whole file at once. `tuned` is the best way found to use it: a row
group at a time, and Python work or a hash once for each distinct value. Ids end as one int64 array [26, B] and numbers
as one float32 array [B, 13], but FuxiCTR's, whose own columns are left as they are.

What no peer does and recsys does: keep a row for unknown values apart from missing ones, read " 5", "5.0" and 5 as
one value, count what was missing or unknown, standardise after the logarithm, refuse labels that are none.

=========================  =====  =============================================================================
``pandas-hash``            stock  ``pandas.util.hash_array`` modulo 2^bits
``pandas-hash-distinct``   tuned  the same of the values that ``factorize`` found in a row group
``scikit-learn-hasher``    stock  ``FeatureHasher`` over `SAMPLE` rows, since it is slow; one sparse table for all
                                  features, with signs, and the numbers as they are left out
``polars-hash``            stock  ``Expr.hash`` modulo 2^bits; its manual promises equal hashes within one version only
``polars-hash-groups``     tuned  the same, a row group at a time
``pandas-factorize``       stock  codes by first occurrence: learnt from this file and good for no other
``pandas-index-distinct``  tuned  ``Index.get_indexer`` of a vocabulary, of the distinct values of a row group
``fuxictr``                stock  ``FeatureProcessor.transform`` by 100,000 rows, as its ``build_dataset`` calls it;
                                  without Ray's copies and the Parquet file that it writes; numbers standardised only
``fuxictr-distinct``       tuned  its tokenizers and normalisers, of the distinct values of 100,000 rows
``polars-enum``            stock  a cast to ``Enum``, what is no member becomes 0
``polars-enum-groups``     tuned  the same, a row group at a time
=========================  =====  =============================================================================
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recsys.bench.criteo import CATEGORIES, CHUNK, NUMBERS
from recsys.bench.timing import Job, Rate, once

__all__ = ["BLOCK", "SAMPLE", "Absent", "Peer", "fuxictr_processor", "hashing", "vocabulary"]

SAMPLE = 20_000
BLOCK = 100_000
"""Rows that FuxiCTR transforms at a time."""

Made = tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]
Class = Literal["stock", "tuned"]


@dataclass(frozen=True)
class Peer:
    """A job of another library.

    Attributes:
        job: What is timed.
        kind: As the module describes them.
        fit: What it took to learn the vocabularies, where that is the library's own work.
    """

    job: Job
    kind: Class
    fit: Rate | None = None


class Absent(NamedTuple):
    """A peer that cannot run here, and what to install."""

    name: str
    install: str


def hashing(path: Path, bits: int) -> tuple[list[Peer], list[Absent]]:
    """The peers that hash every value to one of 2^bits rows."""
    rows = pq.read_metadata(path).num_rows
    found = [
        _peer("pandas-hash", "stock", rows, partial(_pandas_hash, path, bits)),
        _peer("pandas-hash-distinct", "tuned", rows, partial(_pandas_hash_distinct, path, bits)),
        _hasher(path, min(rows, SAMPLE), bits),
    ]
    if _has("polars"):
        import polars as pl

        hashed = {name: (pl.col(name).hash(42) % (1 << bits)).cast(pl.Int64) for name in CATEGORIES}
        return found + _polars("polars-hash", path, rows, hashed), []
    return found, [Absent("polars-hash", "polars")]


def vocabulary(path: Path, min_count: int, folder: Path) -> tuple[list[Peer], list[Absent]]:
    """The peers that give every value its place in a vocabulary, learnt here from the file and not timed with them.

    Args:
        path: The file.
        min_count: Rarer values are unknown.
        folder: For what FuxiCTR writes.
    """
    rows = pq.read_metadata(path).num_rows
    known = _frequent(path, min_count)
    found = [
        _peer("pandas-factorize", "stock", rows, partial(_pandas_factorize, path)),
        _peer("pandas-index-distinct", "tuned", rows, partial(_pandas_index, path, _indexes(known))),
    ]
    absent: list[Absent] = []
    if _has("fuxictr"):
        found += _fuxictr(path, rows, min_count, folder)
    else:
        absent.append(Absent("fuxictr", "recsys[parity]"))
    if _has("polars"):
        import polars as pl

        kinds = {name: pl.Enum(pl.Series(values)) for name, values in known.items()}
        places = {name: pl.col(name).cast(kind, strict=False).to_physical() for name, kind in kinds.items()}
        known_ids = {name: place.cast(pl.Int64).fill_null(0) for name, place in places.items()}
        found += _polars("polars-enum", path, rows, known_ids)
    else:
        absent.append(Absent("polars-enum", "polars"))
    return found, absent


def _peer(name: str, kind: Class, rows: int, run: Callable[[], object]) -> Peer:
    return Peer(Job(name, rows, run), kind)


def _has(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _frequent(path: Path, min_count: int) -> dict[str, pa.Array]:
    """The values of each category column that occur often enough."""
    found = {}
    for name in CATEGORIES:
        counted = pc.value_counts(pq.read_table(path, columns=[name])[name].drop_null())
        found[name] = counted.field("values").filter(pc.greater_equal(counted.field("counts"), min_count))
    return found


# --- pandas


def _groups(path: Path, size: int = CHUNK) -> Iterator[pa.RecordBatch]:
    yield from pq.ParquetFile(path).iter_batches(batch_size=size)


def _numbers(frame: pd.DataFrame) -> npt.NDArray[np.float32]:
    """ln(1 + v), 0 where v is missing or negative."""
    columns = [np.log1p(frame[name].fillna(0).clip(lower=0).to_numpy(np.float32)) for name in NUMBERS]
    return np.stack(columns, axis=1)


def _pandas_hash(path: Path, bits: int) -> Made:
    frame = pd.read_parquet(path)
    ids = [pd.util.hash_array(frame[name].array) % (1 << bits) for name in CATEGORIES]
    return _numbers(frame), np.stack(ids).astype(np.int64)


def _pandas_hash_distinct(path: Path, bits: int) -> None:
    def hashed(name: str, values: Any) -> npt.NDArray[Any]:
        hashes = pd.util.hash_array(values.to_numpy(object), categorize=False)
        return (hashes % (1 << bits)).astype(np.int64)

    _by_distinct(path, hashed)


def _pandas_factorize(path: Path) -> Made:
    frame = pd.read_parquet(path)
    return _numbers(frame), np.stack([pd.factorize(frame[name])[0] for name in CATEGORIES])


def _indexes(known: Mapping[str, pa.Array]) -> dict[str, pd.Index[Any]]:
    """Vocabularies of pandas, whose tables are made now, by a first look-up."""
    found = {name: pd.Index(values.to_pandas()) for name, values in known.items()}
    for index in found.values():
        index.get_indexer(index[:1])
    return found


def _pandas_index(path: Path, indexes: Mapping[str, pd.Index[Any]]) -> None:
    _by_distinct(path, lambda name, values: indexes[name].get_indexer(values))


def _by_distinct(path: Path, ids: Callable[[str, Any], npt.NDArray[Any]]) -> None:
    """Ask for the ids of the distinct values of a row group, and hand them to its rows."""
    for batch in _groups(path):
        frame = batch.to_pandas()
        out = np.empty((len(CATEGORIES), len(frame)), dtype=np.int64)
        for k, name in enumerate(CATEGORIES):
            codes, values = pd.factorize(frame[name])
            out[k] = np.append(ids(name, values), 0)[codes]  # a missing value's code is -1
        _numbers(frame)


# --- scikit-learn


def _hasher(path: Path, rows: int, bits: int) -> Peer:
    from sklearn.feature_extraction import FeatureHasher

    hasher = FeatureHasher(1 << bits, input_type="string")

    def run() -> object:
        frame = next(_groups(path, rows)).to_pandas()
        names = list(CATEGORIES)
        return hasher.transform(
            [f"{name}={value}" for name, value in zip(names, row, strict=True)]
            for row in frame[names].itertuples(index=False)
        )

    return _peer("scikit-learn-hasher", "stock", rows, run)


# --- polars


def _polars(name: str, path: Path, rows: int, ids: Mapping[str, Any]) -> list[Peer]:
    import polars as pl

    numbers = [pl.col(n).fill_null(0).clip(lower_bound=0).log1p().cast(pl.Float32) for n in NUMBERS]
    wanted = pl.scan_parquet(path).select("label", *numbers, *ids.values())

    def run(size: int) -> None:
        for start in range(0, rows, size):
            frame = wanted.slice(start, size).collect()
            frame.select(list(NUMBERS)).to_numpy()
            np.stack([frame[name].to_numpy() for name in CATEGORIES])

    return [
        _peer(name, "stock", rows, partial(run, rows)),
        _peer(f"{name}-groups", "tuned", rows, partial(run, CHUNK)),
    ]


# --- FuxiCTR


def fuxictr_processor(path: Path, folder: Path) -> tuple[Any, Callable[[], Any]]:
    """FuxiCTR's `FeatureProcessor` of Criteo's columns, and what reads the file for it.

    Args:
        path: The file.
        folder: For what FuxiCTR writes.
    """
    from fuxictr.preprocess import FeatureProcessor

    numbers = {"name": list(NUMBERS), "active": True, "dtype": "float", "type": "numeric"}
    categories = {"name": list(CATEGORIES), "active": True, "dtype": "str", "type": "categorical"}
    processor = FeatureProcessor(
        feature_cols=[numbers | {"normalizer": "StandardScaler"}, categories],
        label_col={"name": "label", "dtype": "float"},
        dataset_id="criteo",
        data_root=str(folder),
    )
    return processor, lambda: processor.preprocess(processor.read_data(str(path), data_format="parquet"))


def _fuxictr(path: Path, rows: int, min_count: int, folder: Path) -> list[Peer]:
    processor, frame = fuxictr_processor(path, folder)

    def run() -> None:
        table = frame().collect().to_arrow()
        for start in range(0, rows, BLOCK):
            part = table.slice(start, BLOCK)
            processor.transform({name: part[name].to_numpy() for name in part.column_names})

    fit = once(Job("fit", rows, lambda: processor.fit(frame(), min_categr_count=min_count)))
    return [
        Peer(Job("fuxictr", rows, run), "stock", fit),
        _peer("fuxictr-distinct", "tuned", rows, partial(_fuxictr_distinct, path, processor.processor_dict)),
    ]


def _fuxictr_distinct(path: Path, parts: Mapping[str, Any]) -> None:
    for batch in _groups(path, BLOCK):
        for name in NUMBERS:
            values = pc.fill_null(batch[name], 0).to_numpy().astype(np.float64)
            parts[f"{name}::normalizer"].transform(values)
        for name in CATEGORIES:
            coded = batch[name].dictionary_encode()
            ids = parts[f"{name}::tokenizer"].encode_category([*coded.dictionary.to_pylist(), ""])
            np.asarray(ids)[pc.fill_null(coded.indices, -1).to_numpy()]
