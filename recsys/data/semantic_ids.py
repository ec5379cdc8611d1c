"""Semantic ids: an item as a short tuple of codes, coarse to fine, so that items that are alike begin alike.

Rajput et al. 2023, "Recommender Systems with Generative Retrieval" (TIGER, NeurIPS, arXiv 2305.05065): the codes are a
residual quantisation of what the item's text says, and one more level tells apart the items that share a tuple.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from recsys.errors import DataError
from recsys.files import make_folder, replacing

__all__ = ["MOST_LEVELS", "SemanticIds", "Usage", "read_published"]

Codes = npt.NDArray[np.int32]
Ints = npt.NDArray[np.int64]

MOST_LEVELS = 64
"""Most codes of an item."""

_LARGEST = 2**31 - 1
_FORMAT = "recsys semantic ids 1"
_TOKEN = re.compile(r"<([a-z])_(0|[1-9][0-9]{0,7})>")
_ENTRY = 1024
"""Most bytes of an item in a published file: 26 levels of `<z_99999999>` with quotes and commas take 420."""


@dataclass(frozen=True)
class Usage:
    """How the codes of one level are used.

    Attributes:
        size: Codes there are.
        used: Codes that some item has.
        perplexity: ``exp(-Σ_c p_c ln p_c)``, p_c being the share of items with code c: how many codes, used equally
            often, would spread the items as evenly. From 1 to `used`.
    """

    size: int
    used: int
    perplexity: float


@dataclass(frozen=True, eq=False)
class SemanticIds:
    """The codes of every item of a catalogue. Items are numbered from 1: item i has ``codes[i - 1]``.

    Attributes:
        codes: [I, levels] int32, a read-only view of what was given.
        sizes: [levels] how many codes each level has: level l has codes 0 … sizes[l] - 1.

    Raises:
        DataError: When the codes are no such table, or one of them is out of range.
    """

    codes: Codes
    sizes: tuple[int, ...]

    def __post_init__(self) -> None:
        _check(self.codes, self.sizes)
        frozen = self.codes.view()
        frozen.flags.writeable = False
        object.__setattr__(self, "codes", frozen)

    def __len__(self) -> int:
        """How many items there are."""
        return len(self.codes)

    @property
    def levels(self) -> int:
        """Codes of an item."""
        return len(self.sizes)

    def collisions(self) -> list[Ints]:
        """The items, numbered from 1, of each tuple that several share; groups in the order of their first item."""
        order, begins = self._groups()
        starts = np.append(np.flatnonzero(begins), len(order))
        shared = np.flatnonzero(np.diff(starts) > 1)
        groups = [order[starts[group] : starts[group + 1]] + 1 for group in shared]
        return sorted(groups, key=lambda group: int(group[0]))

    def distinct(self, limit: int | None = None) -> SemanticIds:
        """The same with one more level, by which no two items share a tuple: TIGER's collision token.

        It is 0 for an item that is alone; items that share a tuple are numbered 0, 1, … in the order of the
        catalogue. The level is as large as the largest group, which is 1 where no items share a tuple.

        Args:
            limit: Most codes of the level.

        Raises:
            DataError: When more items share a tuple than `limit`, or there are `MOST_LEVELS` levels already.
        """
        order, begins = self._groups()
        places = np.arange(len(order))
        rank = np.empty(len(order), dtype=np.int32)
        rank[order] = places - np.maximum.accumulate(np.where(begins, places, 0))
        size = int(rank.max()) + 1
        if limit is not None and size > limit:
            raise DataError(f"{size} items share a tuple; expected {limit} at most: use more levels, or larger ones")
        return SemanticIds(np.column_stack([self.codes, rank]), (*self.sizes, size))

    def usage(self) -> tuple[Usage, ...]:
        """How the codes of each level are used."""
        return tuple(_usage(self.codes[:, level], size) for level, size in enumerate(self.sizes))

    def fingerprint(self) -> str:
        """SHA-256 of sizes and codes: equal for equal ids."""
        shape = json.dumps([len(self), list(self.sizes)]).encode()
        return hashlib.sha256(shape + self.codes.astype("<i4").tobytes()).hexdigest()

    def save(self, path: Path) -> None:
        """Write a safetensors file, whole or not at all: the tensor `codes`; sizes and fingerprint in its metadata.

        Raises:
            DataError: When the disk refuses.
        """
        make_folder(path.parent)
        meta = {"format": _FORMAT, "sizes": json.dumps(self.sizes), "fingerprint": self.fingerprint()}
        try:
            with replacing(path) as temporary:
                temporary.touch()
                mode = temporary.stat().st_mode  # safetensors would leave a file that its owner alone may read
                save_file({"codes": np.ascontiguousarray(self.codes)}, temporary, metadata=meta)
                temporary.chmod(mode)
        except SafetensorError as error:
            raise DataError(f"{path}: cannot be written: {error}") from None

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            DataError: When the file is absent, altered, or holds something else.
        """
        meta, codes = _read(path)
        try:
            found = cls(codes, tuple(json.loads(meta.get("sizes", ""))))
        except (DataError, ValueError, TypeError, RecursionError) as error:
            raise DataError(f"{path}: not a file of semantic ids: {error}") from None
        if meta.get("fingerprint") != found.fingerprint():
            raise DataError(f"{path}: the file was altered after it was written; make the ids again")
        return found

    def _groups(self) -> tuple[Ints, npt.NDArray[np.bool_]]:
        """Rows ordered by tuple and then by item, [I]; and where in that order a tuple begins, [I]."""
        order = np.lexsort(self.codes.T[::-1])
        ordered = self.codes[order]
        return order, np.append(True, (ordered[1:] != ordered[:-1]).any(axis=1))


def _check(codes: Codes, sizes: tuple[int, ...]) -> None:
    if codes.ndim != 2 or codes.dtype != np.int32:
        raise DataError(f"expected codes [items, levels] of int32, got {list(codes.shape)} of {codes.dtype}")
    if not len(codes) or not 1 <= codes.shape[1] <= MOST_LEVELS:
        raise DataError(f"expected items with 1 to {MOST_LEVELS} codes each, got {list(codes.shape)}")
    if len(sizes) != codes.shape[1] or not all(type(n) is int and 0 < n <= _LARGEST for n in sizes):
        raise DataError(f"expected a size from 1 to {_LARGEST} for each of {codes.shape[1]} levels, got {sizes}")
    for level, size in enumerate(sizes):
        column = codes[:, level]
        if bad := int(((column < 0) | (column >= size)).sum()):
            raise DataError(f"level {level}: {bad} of {len(codes)} codes are outside 0 … {size - 1}")


def _read(path: Path) -> tuple[dict[str, str], Codes]:
    """What a safetensors file of semantic ids holds: metadata and codes, unchecked."""
    try:
        with safe_open(path, "np") as file:
            meta = file.metadata() or {}
            if meta.get("format") != _FORMAT or list(file.keys()) != ["codes"]:
                raise DataError(f"{path}: expected a file of semantic ids, got another safetensors file")
            return meta, file.get_tensor("codes")
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise DataError(f"{path}: not a file of semantic ids, or damaged: {error}") from None


def read_published(path: Path, items: int) -> SemanticIds:
    """Read ids as they are often published: ``{"0": ["<a_183>", "<b_70>"], "1": …}``, keyed by item - 1.

    The letter says the level, from a. Such a file does not say how many codes a level has: one more than the greatest
    that occurs is taken.

    Args:
        path: A JSON file.
        items: How many items there are.

    Raises:
        DataError: When it is no such file, an item is missing or one too many, an entry is no list of tokens, or
            items have different numbers of them.
    """
    entries = _entries(path, items)
    rows = [_row(path, i, entries.get(str(i))) for i in range(items)]
    if len(entries) > items:
        known = set(map(str, range(items)))
        more = next(key for key in entries if key not in known)
        raise DataError(f'{path}: expected the items "0" … "{items - 1}", got {more[:40]!r} too')
    if odd := next((i for i, row in enumerate(rows) if len(row) != len(rows[0])), None):
        raise DataError(f"{path}: item {odd} has {len(rows[odd])} codes, item 0 has {len(rows[0])}; expected as many")
    codes = np.array(rows, dtype=np.int32).reshape(items, -1)
    return SemanticIds(codes, tuple(int(code) + 1 for code in codes.max(axis=0)))


def _entries(path: Path, items: int) -> dict[str, Any]:
    """The JSON object of a file that is not larger than so many items can make it."""
    if items < 1:
        raise DataError(f"expected a catalogue of one item or more, got {items}")
    try:
        with path.open("rb") as file:
            text = file.read(_ENTRY * (items + 1) + 1)
        if len(text) > _ENTRY * (items + 1):
            raise DataError(f"{path}: larger than the ids of {items} items can be")
        found = json.loads(text, object_pairs_hook=_once)
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: not a readable JSON file: {error}") from None
    if not isinstance(found, dict):
        raise DataError(f'{path}: expected an object such as {{"0": ["<a_183>", "<b_70>"]}}, got another value')
    return found


def _once(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object no key of which stands twice."""
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"the key {key[:40]!r} stands twice")
        found[key] = value
    return found


def _row(path: Path, item: int, tokens: Any) -> list[int]:
    """The codes of one entry."""
    if tokens is None:
        raise DataError(f'{path}: item "{item}" is missing')
    if not isinstance(tokens, list) or not 1 <= len(tokens) <= 26:
        raise DataError(f'{path}: item "{item}": expected a list of 1 to 26 tokens, got {str(tokens)[:40]}')
    return [_code(path, item, level, token) for level, token in enumerate(tokens)]


def _code(path: Path, item: int, level: int, token: Any) -> int:
    letter = chr(ord("a") + level)
    found = _TOKEN.fullmatch(token) if isinstance(token, str) else None
    if found is None or found[1] != letter:
        raise DataError(f'{path}: item "{item}": expected a token such as <{letter}_70>, got {str(token)[:40]!r}')
    return int(found[2])


def _usage(codes: Codes, size: int) -> Usage:
    counts = np.unique(codes, return_counts=True)[1]
    shares = counts / len(codes)
    return Usage(size, len(counts), float(np.exp(-(shares * np.log(shares)).sum())))
