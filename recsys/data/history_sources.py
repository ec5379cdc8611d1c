"""Histories of known data: a line a user, MovieLens-100K, Wikipedia's edits.

`read_lines` reads the format in which Amazon's reviews and the LightGCN data sets are passed on: one user a line, first
the user and then what they did, oldest first, between spaces.

    1 1 2 3 4 5
    2 6 7 8 9 10 4 11
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recsys.config import nearest
from recsys.data import cache, sources, wikipedia
from recsys.data.catalogue import Catalogue
from recsys.data.histories import Interactions, collected, from_events
from recsys.data.names import Names
from recsys.data.readers import DataFile, read
from recsys.data.values import Ints
from recsys.errors import DataError

__all__ = ["HISTORY_SOURCES", "histories_of", "movielens_histories", "read_lines", "wikipedia_histories"]

_TOKENS = 1 << 16
"""Names that are read at a time."""


def histories_of(name: str, catalogue: Catalogue | None = None) -> Interactions:
    """The histories of a data source that is on this machine.

    Args:
        name: Of the source.
        catalogue: The items to number by; by default those of the source.

    Raises:
        DataError: When there are no histories of that name, or the source is not fetched yet.
    """
    if name not in HISTORY_SOURCES:
        raise DataError(f"no histories of `{name}`: {nearest(name, list(HISTORY_SOURCES))}")
    return HISTORY_SOURCES[name](catalogue)


def movielens_histories(catalogue: Catalogue | None = None) -> Interactions:
    """All ratings of MovieLens-100K, high or low, by time; an item's text is its title and year.

    Raises:
        DataError: When it is not fetched yet.
    """
    source = sources.load("movielens-100k")
    files = [source.file(split) for split in cache.SPLITS]
    made = from_events(files, "user", "item", "timestamp", catalogue)
    if catalogue is not None:
        return made
    films = read(files, ["item", "title", "year"])
    year = pc.cast(pc.cast(films["year"], pa.int32()), pa.string())
    titled = pc.binary_join_element_wise(films["title"], pc.binary_join_element_wise(" (", year, ")", ""), "")
    texts = pa.table({"item": films["item"], "text": pc.coalesce(titled, films["title"])})
    catalogue = made.catalogue.described(texts, "item", "text")
    return Interactions(made.histories, catalogue, made.rows, made.missing)


def wikipedia_histories(catalogue: Catalogue | None = None) -> Interactions:
    """All edits of the bundled Wikipedia data, in order and without times.

    Four in five repeat the page before; `Histories.collapsed` makes a run of edits one visit.
    """
    return from_events(wikipedia.events(), "user", "page", catalogue=catalogue)


HISTORY_SOURCES: dict[str, Callable[[Catalogue | None], Interactions]] = {
    "movielens-100k": movielens_histories,
    "wikipedia": wikipedia_histories,
}
"""By name."""


def read_lines(path: Path, catalogue: Catalogue | None = None) -> Interactions:
    """Histories from lines ``user item item …``, oldest first; names and their order as in `from_events`.

    Blank lines are skipped; a user who did nothing is left out.

    Args:
        path: A text file in UTF-8.
        catalogue: The items to number by; by default those of the file.

    Raises:
        DataError: When the file is absent or empty, or a line is not UTF-8, holds what stands for a missing value, or
            has a user again; the message has the line's number.
    """
    file = DataFile.of(path)
    users, items = Names("user"), Names("item")
    sizes: list[int] = []
    numbers: list[int] = []
    for block in _blocks(path):
        _add(users, [tokens[0] for _, tokens in block])
        _add(items, [token for _, tokens in block for token in tokens[1:]])
        sizes += [len(tokens) - 1 for _, tokens in block]
        numbers += [number for number, _ in block]
    file.check()
    lines, owners = np.array(numbers, dtype=np.int64), np.repeat(np.arange(len(sizes)), sizes)
    _refuse_missing(users, lines, path)
    _refuse_missing(items, lines[owners], path)
    _refuse_again(users, lines, path)
    return collected(users.at(owners), items, np.arange(len(owners)), {}, catalogue=catalogue)


def _blocks(path: Path) -> Iterator[list[tuple[int, list[str]]]]:
    """Lines as their number and their names, in lists of some `_TOKENS` names."""
    block: list[tuple[int, list[str]]] = []
    size = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if tokens := _tokens(line, number, path):
                block.append((number, tokens))
                size += len(tokens)
            if size >= _TOKENS:
                yield block
                block, size = [], 0
    yield block


def _tokens(line: bytes, number: int, path: Path) -> list[str]:
    try:
        return (line.removeprefix(codecs.BOM_UTF8) if number == 1 else line).decode().split()
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: line {number}: expected text in UTF-8: {error}") from None


def _add(names: Names, texts: list[str]) -> None:
    names.add(pa.array(texts, pa.large_string()))


def _refuse_missing(names: Names, lines: Ints, path: Path) -> None:
    """Lines [n] of the names."""
    absent = np.flatnonzero(~names.present())
    if absent.size:
        raise DataError(
            f"{path}: line {lines[absent[0]]}: expected `user item item …`, got a name of the {names.column} that "
            "stands for a missing value, such as NA or null"
        )


def _refuse_again(users: Names, lines: Ints, path: Path) -> None:
    texts, owners = users.settle(np.arange(len(users)))
    order = np.argsort(owners, kind="stable")
    again = np.flatnonzero(np.diff(owners[order]) == 0)
    if again.size:
        first, second = lines[order[again[0]]], lines[order[again[0] + 1]]
        user = texts[int(owners[order[again[0]]])]
        raise DataError(f"{path}: line {second}: user `{user}` stands on line {first} already; join the two lines")
