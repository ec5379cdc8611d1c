"""Lists of recommendations for the users of a file, as Parquet: `user`, `items` and `scores`, the best first."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tqdm import tqdm

from recsys.data.histories import Histories, Interactions
from recsys.errors import DataError
from recsys.files import make_folder, replacing
from recsys.models.generative.lists import Given, best
from recsys.models.generative.recommender import Recommender

__all__ = ["Listed", "list_items"]

SCHEMA = pa.schema(
    [("user", pa.large_string()), ("items", pa.list_(pa.large_string())), ("scores", pa.list_(pa.float32()))]
)
_BATCH = 512
"""Users at a time."""


@dataclass(frozen=True)
class Listed:
    """What a job has done."""

    users: int
    seconds: float
    unknown: int
    """Events of items that the catalogue does not have; they were left out."""
    missing: dict[str, int]
    """Column -> rows that lacked it and were left out."""


def list_items(
    recommender: Recommender,
    found: Interactions,
    target: Path,
    k: int = 10,
    seen: Literal["kept", "left out"] = "left out",
    show: bool = True,
) -> Listed:
    """Write the k best next items of every user.

    Users keep their order. The file appears whole or not at all.

    Args:
        recommender: From `recsys.load`.
        found: Histories by its catalogue's numbers, as `HistoryData.open(recommender.catalogue)` gives them.
        target: Parquet file to write.
        k: Items of each list; fewer where fewer are left.
        seen: Whether items of the history may be recommended again.
        show: A progress bar on standard error.

    Raises:
        ConfigError: When `k` is not within 1 … I.
        DataError: When nobody is there, or the disk refuses.
    """
    histories, began = found.histories, time.monotonic()
    if not len(histories):
        raise DataError("expected users to recommend to, got none")
    make_folder(target.resolve().parent)
    bar = tqdm(total=len(histories), desc="recommend", unit=" users", disable=None if show else True)
    with replacing(target) as temporary, bar, pq.ParquetWriter(temporary, SCHEMA) as writer:
        for start in range(0, len(histories), _BATCH):
            stop = min(start + _BATCH, len(histories))
            writer.write_table(_part(recommender, histories, start, stop, k, seen == "left out"))
            bar.update(stop - start)
    return Listed(len(histories), time.monotonic() - began, found.unknown, dict(found.missing))


def _part(recommender: Recommender, histories: Histories, start: int, stop: int, k: int, unseen: bool) -> pa.Table:
    """Rows of users from `start` to `stop`."""
    bounds = histories.offsets[start : stop + 1]
    items = torch.from_numpy(histories.items[bounds[0] : bounds[-1]].astype(np.int64))
    offsets = torch.from_numpy(bounds - bounds[0])
    scores = recommender.scores(items, offsets).float()
    numbers, values = best(scores, k, None, Given(items, offsets, 0) if unseen else None)
    there = (numbers > 0).cpu()
    ends = pa.array(np.append(0, there.sum(dim=1).cumsum(0).numpy()).astype(np.int32))
    names = recommender.catalogue.names.take(pa.array(numbers.cpu()[there].numpy() - 1)).cast(pa.large_string())
    lists = [pa.ListArray.from_arrays(ends, part) for part in (names, pa.array(values.cpu()[there].numpy()))]
    return pa.table([histories.users.slice(start, stop - start), *lists], schema=SCHEMA)
