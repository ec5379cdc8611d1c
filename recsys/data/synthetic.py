"""Clicks with planted effects, and so with a known best possible AUC.

For a row with values x_f, numbers n_k and a history of items H, the logit is

    b + Σ_f w_f[x_f] + Σ_k a_k n_k + s Σ_{(f, g) in PAIRS} ⟨z_f[x_f], z_g[x_g]⟩
      + c mean_{h in H} ⟨z_item[h], z_item[x_item]⟩

and the label is 1 with the probability p = sigmoid(logit). Values are drawn independently, each field's by Zipf's law.
No scorer orders rows better than p does, so `best_auc` of p is what training can reach and not pass.

Rows come in chunks that are a function of the seed and the chunk's number alone: rows [a, b) are the same however many
are made. All randomness is taken from the raw bits of Philox, whose stream numpy keeps from version to version.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field
from scipy.special import expit, ndtri
from tqdm import tqdm

from recsys.config import Config, write_toml
from recsys.data.schema import Categorical, Feature, Label, Numeric, Schema, Sequence, Side
from recsys.errors import ConfigError
from recsys.files import make_folder, replacing, write_json

__all__ = ["CHUNK", "PAIRS", "STARTS", "Split", "Synthetic", "best_auc", "chunks", "schema", "write"]

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[Any]

CHUNK = 65_536
"""Rows that are drawn together, and rows of a file's row group."""

STARTS = {"train": 0, "valid": 1 << 40, "test": 1 << 41}
"""Each split's first row: far apart, so that more training rows leave the test rows as they are."""

PAIRS = (("user", "item"), ("device", "category"))
"""The pairs of fields whose values work together."""

_SIDES: dict[str, Side] = {
    "user": "user",
    "country": "user",
    "segment": "user",
    "item": "item",
    "category": "item",
    "brand": "item",
    "hour": "context",
    "device": "context",
}
_TEXT = "brand"
"""The field whose values are text; the others' are integers."""

_SLOTS = 1 << 16
"""A value's share of its column is a multiple of one in this many: 16 random bits choose it."""

_GRID = 1 << 20
"""Probabilities are multiples of one in this many, so that counting each sums up any number of rows exactly."""


@dataclass(frozen=True)
class Split:
    """What `write` wrote into one file."""

    rows: int
    positive: float
    """Share of positive rows."""
    best_auc: float | None
    """`best_auc` of the rows; None when it is undefined, as of one row."""
    drawn_auc: float | None
    """AUC of the true probabilities against the labels as they fell; None without both labels."""


class Synthetic(Config):
    """What the rows are like.

    The defaults are few values and strong effects, so that 300,000 rows teach them to every model that can learn pairs,
    and more than half of what there is to learn is beyond logistic regression.
    """

    seed: int = Field(0, ge=0, lt=2**31)
    """Of the effects and of the rows."""
    users: int = Field(60, ge=1, le=_SLOTS)
    """Values of `user`."""
    items: int = Field(40, ge=1, le=_SLOTS)
    """Values of `item`."""
    others: int = Field(12, ge=1, le=_SLOTS)
    """Values of each of the other six fields."""
    zipf: float = Field(1.2, ge=0, le=4)
    """The k-th most frequent value of a field is about k^-zipf as frequent as the first."""
    numbers: int = Field(2, ge=0, le=64)
    """How many numeric columns, each standard normal."""
    history: int = Field(3, ge=0, le=1000)
    """Items in each row's history; 0 leaves the column out."""
    rank: int = Field(2, ge=1, le=64)
    """Length of the vectors z."""
    bias: float = Field(-1.5, ge=-1000, le=1000)
    """The logit without any effect."""
    main: float = Field(0.3, ge=0, le=1000)
    """Standard deviation of w, the effects of single values."""
    pair: float = Field(1.2, ge=0, le=1000)
    """Standard deviation of the effect of a planted pair of fields."""
    match: float = Field(0.6, ge=0, le=1000)
    """Standard deviation of the effect of the history."""
    slope: float = Field(0.3, ge=0, le=1000)
    """Standard deviation of a, the effects of numbers."""


@dataclass(frozen=True)
class _World:
    """What the seed fixes for all rows."""

    choices: dict[str, npt.NDArray[np.intp]]
    """Field -> [65,536] the value that 16 random bits choose."""
    weights: dict[str, Floats]
    """Field -> w [values]."""
    vectors: dict[str, Floats]
    """Field -> z [rank, values]."""
    slopes: Floats
    """a [numbers]."""
    normals: Floats
    """[65,536] the number that 16 random bits choose."""


def chunks(config: Synthetic, rows: int, start: int = 0) -> Iterator[pa.Table]:
    """Rows [start, start + rows), as tables that end where a chunk ends.

    Beside the columns of `schema` there is `probability`, the label's true one, which no schema names.

    Args:
        config: What the rows are like.
        rows: How many.
        start: The first row's number.

    Raises:
        ConfigError: When `rows` or `start` is negative.
    """
    if rows < 0 or start < 0:
        raise ConfigError(f"expected rows and start of at least 0, got {rows} and {start}")
    world, stop = _world(config), start + rows
    while start < stop:
        number, first = divmod(start, CHUNK)
        end = min(stop, (number + 1) * CHUNK)
        yield _chunk(config, world, number).slice(first, end - start)
        start = end


def schema(config: Synthetic) -> Schema:
    """What the columns of `chunks` mean; `probability` is left out, it would give the answer away."""
    features: list[Feature] = [Categorical(name=name, side=side) for name, side in _SIDES.items()]
    if config.history:
        features.append(Sequence(name="history", side="user", shares="item", max_length=config.history))
    features += [Numeric(name=f"number_{k}", transform="none") for k in range(config.numbers)]
    return Schema(labels=(Label(name="label"),), features=tuple(features), group="user")


def best_auc(probabilities: npt.NDArray[np.floating[Any]]) -> float:
    """The AUC that no scorer of these rows can pass in expectation over their labels: that of the true probabilities.

    ``Σ_{i≠j} p_i (1 - p_j) ([p_i > p_j] + [p_i = p_j] / 2) / Σ_{i≠j} p_i (1 - p_j)``, the expected number of pairs in
    order over the expected number of pairs; row i is above row j at best when p_i (1 - p_j) > p_j (1 - p_i), which is
    p_i > p_j. In O(n log n) from the probabilities alone; nan when no pair is possible.

    Args:
        probabilities: [n] in [0, 1].
    """
    values, counts = np.unique(np.asarray(probabilities, dtype=np.float64), return_counts=True)
    return _best(values, counts)


def write(config: Synthetic, folder: Path, rows: Mapping[str, int], show: bool = True) -> dict[str, Split]:
    """Write ``SPLIT.parquet`` for each split with rows, ``schema.toml``, and what was made as ``synthetic.json``.

    Each file appears whole or not at all. Memory does not grow with the rows.

    Args:
        config: What the rows are like.
        folder: Where to; files of these names are replaced.
        rows: Split (a key of `STARTS`) -> how many rows; splits of 0 rows are left out.
        show: A progress bar on standard error.

    Raises:
        ConfigError: For an unknown split or a number of rows that cannot be.
        DataError: When the disk refuses.
    """
    for split, n in rows.items():
        if split not in STARTS or not 0 <= n <= STARTS["valid"]:
            raise ConfigError(f"expected 0 to {STARTS['valid']:,} rows of {', '.join(STARTS)}, got {n:,} of {split}")
    make_folder(folder)
    bar = tqdm(total=sum(rows.values()), desc="write", unit=" rows", unit_scale=True, disable=None if show else True)
    with bar:
        written = {split: _write(config, folder / f"{split}.parquet", split, n, bar) for split, n in rows.items() if n}
    with replacing(folder / "schema.toml") as temporary:
        write_toml(temporary, schema(config))
    account = {split: asdict(summary) for split, summary in written.items()}
    write_json(folder / "synthetic.json", {"config": config.model_dump(), "splits": account})
    return written


def _write(config: Synthetic, path: Path, split: str, rows: int, bar: tqdm[Any]) -> Split:
    counts, positives = np.zeros(_GRID + 1, np.int64), np.zeros(_GRID + 1, np.int64)
    tables = chunks(config, rows, STARTS[split])
    first = next(tables)
    with replacing(path) as temporary, pq.ParquetWriter(temporary, first.schema, compression="zstd") as writer:
        for table in itertools.chain([first], tables):
            writer.write_table(table)
            steps = (table["probability"].to_numpy() * _GRID).astype(np.int64)
            counts += np.bincount(steps, minlength=_GRID + 1)
            positives += np.bincount(steps[table["label"].to_numpy() == 1], minlength=_GRID + 1)
            bar.update(table.num_rows)
    best = _best(np.arange(_GRID + 1) / _GRID, counts)
    drawn = _area(positives, counts - positives)
    return Split(rows, float(positives.sum()) / rows, _defined(best), _defined(drawn))


def _best(values: npt.NDArray[np.float64], counts: Ints) -> float:
    """`best_auc` of rows of which `counts` have each of the ascending `values`."""
    return _area(counts * values, counts * (1 - values), float((counts * values * (1 - values)).sum()))


def _area(positive: Ints, negative: Ints, selves: float = 0.0) -> float:
    """AUC of both classes' weights at each score, in ascending order; `selves`, of rows against themselves, is none."""
    ordered = float((positive * (np.cumsum(negative) - negative / 2)).sum()) - selves / 2
    pairs = float(positive.sum()) * float(negative.sum()) - selves
    return ordered / pairs if pairs > 0 else math.nan


def _defined(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _world(config: Synthetic) -> _World:
    """Draw the effects.

    Weighted by how frequent the values are, w and each column of z have mean 0, and each column of z has variance 1: a
    planted pair says nothing that single values could say.
    """
    draw = np.random.RandomState(config.seed).standard_normal
    sizes = dict.fromkeys(_SIDES, config.others) | {"user": config.users, "item": config.items}
    choices = {name: _choices(n, config.zipf) for name, n in sizes.items()}
    weights = {name: config.main * _standard(draw((1, n)), choices[name])[0] for name, n in sizes.items()}
    vectors = {name: _standard(draw((config.rank, n)), choices[name]) for name, n in sizes.items()}
    slopes = config.slope * draw(config.numbers).astype(np.float32)
    return _World(choices, weights, vectors, slopes, ndtri((np.arange(_SLOTS) + 0.5) / _SLOTS).astype(np.float32))


def _choices(values: int, exponent: float) -> npt.NDArray[np.intp]:
    """Zipf's law in 65,536 slots: every value has one, and a share of the rest by its rank."""
    shares = np.cumsum(np.arange(1, values + 1) ** -exponent)
    ends = np.arange(1, values + 1) + np.floor(shares / shares[-1] * (_SLOTS - values))
    return np.searchsorted(ends, np.arange(_SLOTS), side="right")


def _standard(drawn: npt.NDArray[np.float64], choices: npt.NDArray[np.intp]) -> Floats:
    """Rows of `drawn` [k, values] with mean 0 and variance 1 over the slots; one value alone has no effect."""
    shares = np.bincount(choices, minlength=drawn.shape[1]) / _SLOTS
    centred = drawn - (drawn @ shares)[:, None]
    spread = np.sqrt(centred**2 @ shares)[:, None]
    return np.divide(centred, spread, out=np.zeros_like(drawn), where=spread > 0).astype(np.float32)


def _chunk(config: Synthetic, world: _World, number: int) -> pa.Table:
    """Chunk `number`, all of its rows: a column of 16 random bits for each value, and two for the label."""
    width = len(_SIDES) + config.numbers + config.history + 2
    stream = np.random.Philox(key=np.array([config.seed, number], np.uint64)).random_raw(width * CHUNK // 4)
    bits = stream.astype("<u8", copy=False).view("<u2").reshape(width, CHUNK)
    parts = np.split(bits, np.cumsum([len(_SIDES), config.numbers, config.history]))
    values = {name: world.choices[name][row] for name, row in zip(_SIDES, parts[0], strict=True)}
    numbers = world.normals[parts[1]]
    history = world.choices["item"][parts[2]]
    steps = _steps(_logits(config, world, values, numbers, history))
    label = (parts[3][0].astype(np.uint32) << 4 | parts[3][1] >> 12) < steps
    return _table(config, values, numbers, history, label, steps)


def _logits(
    config: Synthetic, world: _World, values: dict[str, npt.NDArray[np.intp]], numbers: Floats, history: Ints
) -> Floats:
    """The formula of the module's docstring, [CHUNK]."""
    logits = world.slopes @ numbers + np.float32(config.bias)
    for name, chosen in values.items():
        logits += world.weights[name][chosen]
    pair = config.pair / math.sqrt(config.rank)
    match = config.match / math.sqrt(config.rank * max(config.history, 1))  # a sum of so many has variance 1
    for k in range(config.rank):
        z = {name: world.vectors[name][k][chosen] for name, chosen in values.items()}
        for a, b in PAIRS:
            logits += pair * z[a] * z[b]
        if config.history:
            logits += match * world.vectors["item"][k][history].sum(axis=0) * z["item"]
    return logits


def _steps(logits: Floats) -> npt.NDArray[np.uint32]:
    """sigmoid(logits) in steps of the grid."""
    return np.rint(_GRID * expit(logits.astype(np.float64))).astype(np.uint32)


def _table(
    config: Synthetic,
    values: dict[str, npt.NDArray[np.intp]],
    numbers: Floats,
    history: Ints,
    label: npt.NDArray[np.bool_],
    steps: npt.NDArray[np.uint32],
) -> pa.Table:
    columns: dict[str, pa.Array] = {"label": pa.array(label.astype(np.int8))}
    columns |= {name: pa.array(chosen.astype(np.int32)) for name, chosen in values.items()}
    columns[_TEXT] = pa.array([f"{_TEXT}-{k}" for k in range(config.others)]).take(columns[_TEXT])
    if config.history:
        offsets = pa.array(np.arange(CHUNK + 1, dtype=np.int32) * config.history)
        columns["history"] = pa.ListArray.from_arrays(offsets, pa.array(history.T.astype(np.int32).ravel()))
    columns |= {f"number_{k}": pa.array(column) for k, column in enumerate(numbers)}
    columns["probability"] = pa.array((steps / _GRID).astype(np.float32))
    return pa.table(columns)
