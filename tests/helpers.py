"""Small ids, inputs and batches, and the slow way to read them."""

from __future__ import annotations

import copy
import re
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from recsys.data.batch import Batch, JaggedIds
from recsys.data.encoder import IdInput, Inputs, Task
from recsys.data.values import NO_VALUE
from recsys.layers.tables import EmbeddingTables

Bags = list[list[list[int]]]
"""Ids as plain lists: `bags[f][b]` is the bag of feature f in example b."""
Scales = list[list[list[float]]]
"""Weights of the ids, laid out like `Bags`."""


def jagged(
    features: Sequence[str], bags: Bags, weights: Scales | None = None, dtype: torch.dtype = torch.int64
) -> JaggedIds:
    """Pack plain lists."""
    offsets = [0, *accumulate(len(bag) for feature in bags for bag in feature)]
    flat = [row for feature in bags for bag in feature for row in bag]
    scale = None if weights is None else torch.tensor([w for feature in weights for bag in feature for w in bag])
    return JaggedIds(tuple(features), torch.tensor(flat, dtype=dtype), torch.tensor(offsets), scale)


def single(features: Sequence[str], rows: Sequence[Sequence[int]]) -> JaggedIds:
    """Pack `rows[f][b]`, exactly one id a bag, without offsets."""
    return JaggedIds(tuple(features), torch.tensor(rows, dtype=torch.int64).flatten())


def unpack(ids: JaggedIds) -> Bags:
    """The ids as plain lists."""
    return _unpack(ids, ids.values)


def unpack_weights(ids: JaggedIds) -> Scales:
    """The weights as plain lists; 1 where there are none."""
    return _unpack(ids, torch.ones(ids.values.numel()) if ids.weights is None else ids.weights)


def _unpack(ids: JaggedIds, values: Tensor) -> list[list[list[Any]]]:
    offsets = list(range(values.numel() + 1)) if ids.offsets is None else ids.offsets.tolist()
    size = (len(offsets) - 1) // len(ids.features) if ids.features else 0
    cut = [values.tolist()[start:stop] for start, stop in pairwise(offsets)]
    return [cut[f * size : (f + 1) * size] for f in range(len(ids.features))]


@st.composite
def jagged_ids(
    draw: st.DrawFn, features: int | None = None, low: int = 0, high: int = 9, weighted: bool | None = None
) -> JaggedIds:
    """Random ids of 1–4 features and 0–4 examples: one each or many, with or without weights, of both widths."""
    names = tuple(f"f{f}" for f in range(features or draw(st.integers(1, 4))))
    size = draw(st.integers(0, 4))
    dtype = draw(st.sampled_from([torch.int32, torch.int64]))
    ragged = draw(st.booleans())
    longest = draw(st.integers(0, 5))
    lengths = [[draw(st.integers(0, longest)) if ragged else 1 for _ in range(size)] for _ in names]
    bags = [[[draw(st.integers(low, high)) for _ in range(n)] for n in feature] for feature in lengths]
    scales = [[[draw(st.sampled_from([-1.5, 0.0, 0.5, 2.0])) for _ in bag] for bag in feature] for feature in bags]
    ids = jagged(names, bags, scales if (draw(st.booleans()) if weighted is None else weighted) else None, dtype)
    return ids if ragged else JaggedIds(ids.features, ids.values, None, ids.weights)


USER = IdInput("user", "user", 8, "categorical", "user")
ITEM = IdInput("item", "item", 10, "categorical", "item")
HISTORY = IdInput("history", "item", 10, "sequence", "user", shares="item")
TAGS = IdInput("tags", "tags", 5, "multi-valued", "item")
CLICK = Task("click")
RATING = Task("rating", "regression", shift=3.5, scale=1.25)


def inputs(
    dense: int = 2, ids: Sequence[IdInput] = (USER, ITEM, HISTORY, TAGS), tasks: Sequence[Task] = (CLICK,)
) -> Inputs:
    """What a model must know of a small data set; every part can be left out."""
    return Inputs(tuple(f"n{i}" for i in range(dense)), tuple(ids), tuple(tasks))


def batch_of(what: Inputs, size: int, seed: int = 0) -> Batch:
    """Random examples: numbers, known and unknown ids, and empty bags."""
    generator = torch.Generator().manual_seed(seed)

    def rows(feature: IdInput, n: int) -> list[int]:
        drawn: list[int] = torch.randint(-1, feature.rows + 1, (n,), generator=generator).tolist()
        return drawn

    drawn = torch.randint(0, 4, (len(what.ids), size), generator=generator).tolist()
    lengths = {feature.feature: drawn[f] for f, feature in enumerate(what.ids)}  # the same of all hashes of a feature
    bags = [
        [rows(feature, 1 if feature.kind == "categorical" else n) for n in lengths[feature.feature]]
        for feature in what.ids
    ]
    return Batch(torch.randn(size, len(what.dense), generator=generator), jagged([f.name for f in what.ids], bags))


def randomise(module: nn.Module, seed: int = 0, std: float = 0.5) -> None:
    """Fill every weight with noise, so that no term is zero or neutral by its start value."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(0.0, std, generator=generator)


def write_table(tables: EmbeddingTables, name: str, rows: Tensor) -> None:
    """Set the rows of one table."""
    with torch.no_grad():
        tables.table(name)[0].copy_(rows)


def tidy(value: str | None) -> str | None:
    """The canonical text of one value: `recsys.data.values.canonical`, said another way."""
    text = (value or "").strip()
    if text in NO_VALUE:
        return None
    if text.lower() in ("true", "false") and text in (text.title(), text.upper()):
        return text.lower()
    number, dot, zeros = text.rpartition(".")
    whole_number = dot and re.fullmatch("-?[0-9]+", number) and re.fullmatch("0+", zeros)
    found = number if whole_number else text
    return "0" if found == "-0" else found


def changed(value: Any, data: st.DataObject, replacements: st.SearchStrategy[Any]) -> Any:
    """A copy of a JSON value, one place of which is another value or away."""
    value = copy.deepcopy(value)
    inner: Any = value
    while True:
        keys = list(inner) if isinstance(inner, dict) else list(range(len(inner)))
        key = data.draw(st.sampled_from(keys))
        if not isinstance(inner[key], dict | list) or not inner[key] or data.draw(st.integers(0, 9)) == 0:
            break
        inner = inner[key]
    if data.draw(st.integers(0, 4)) == 0:
        del inner[key]
    else:
        inner[key] = data.draw(replacements)
    return value
