"""The items that a recommender may recommend, numbered 1 … I, with a text for each if there is one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recsys.data.digest import digest
from recsys.data.parquet import open_parquet
from recsys.data.readers import Rows, read
from recsys.data.values import canonical, dictionary, whole
from recsys.data.vocabulary import Vocabulary
from recsys.errors import DataError
from recsys.files import replacing

__all__ = ["Catalogue"]


@dataclass(frozen=True)
class Catalogue:
    """Items by number: item i is ``names[i - 1]``, and 0 is no item (padding, or one that is not known).

    Attributes:
        names: [I] canonical text, as `recsys.data.values.canonical` makes it, each once.
        texts: [I] a title or a description, null where an item has none; or None when no item has one.

    Raises:
        DataError: When names are missing, stand twice or are not canonical, or texts are not as many.
    """

    names: pa.LargeStringArray
    texts: pa.Array | None = None

    def __post_init__(self) -> None:
        if not _is_text(self.names) or self.names.null_count:
            raise DataError(f"expected a text for each item's name, got {self.names.type} with missing ones or none")
        plain = canonical(self.names, "item")
        if not plain.equals(pc.cast(self.names, pa.large_string())):
            raise DataError("expected names of items in canonical form; make them with `recsys.data.values.canonical`")
        if twice := len(self.names) - pc.count_distinct(self.names).as_py():
            raise DataError(f"expected each item once, but {twice} names stand again; the first is `{_again(plain)}`")
        if self.texts is not None and (len(self.texts) != len(self.names) or not _is_text(self.texts)):
            raise DataError(f"expected {len(self.names)} texts, one an item, got {len(self.texts)} {self.texts.type}")

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def of(cls, rows: Rows, item: str, text: str | None = None) -> Self:
        """The items of a table, in its order.

        Args:
            rows: One row an item.
            item: Column that names the item.
            text: Column with its title or description; a blank one is none.

        Raises:
            DataError: When a column is absent, or a name is missing or stands twice.
        """
        table = read(rows, [item, *([] if text is None else [text])])
        names, codes = dictionary(whole(table[item]), item)
        if missing := int((codes < 0).sum()):
            raise DataError(f"column `{item}`: {missing} of {len(codes)} items have no name")
        return cls(names.take(pa.array(codes)), None if text is None else _texts(table, text))

    def described(self, rows: Rows, item: str, text: str) -> Self:
        """The same items with the texts that a table has for them; null where it has none.

        Items of the table that are not in the catalogue do not count; of rows with one item, the first counts.

        Raises:
            DataError: When a column is absent.
        """
        table = read(rows, [item, text])
        numbers = self.indices(whole(table[item]))
        known, first = np.unique(numbers, return_index=True)
        places = np.full(len(self) + 1, -1, dtype=np.int64)
        places[known] = first
        found = pa.array(places[1:], mask=places[1:] < 0)
        return replace(self, texts=_texts(table, text).take(found))

    def indices(self, names: pa.Array) -> npt.NDArray[np.int32]:
        """The numbers of items, [n] 1 … I; 0 for what is missing or not in the catalogue.

        Args:
            names: [n] of any type; the integer 5 and the text "5" are one item.

        Raises:
            DataError: When they cannot be read as text.
        """
        texts, codes = dictionary(names, "item")
        found = np.append(self._vocabulary.positions(texts) + 1, 0)  # the last is what is missing, whose code is -1
        return found[codes].astype(np.int32)

    @cached_property
    def _vocabulary(self) -> Vocabulary:
        return Vocabulary(self.names)

    def fingerprint(self) -> str:
        """SHA-256 of the names in their order; texts do not count."""
        return digest([pa.table({"item": self.names})])

    def save(self, path: Path) -> None:
        """Write a Parquet file with the columns `item` and `text`, whole or not at all."""
        texts = pa.nulls(len(self)) if self.texts is None else self.texts
        with replacing(path) as temporary:
            pq.write_table(pa.table({"item": self.names, "text": texts}), temporary)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read what `save` wrote.

        Raises:
            DataError: When the file is absent, broken, or holds no catalogue.
        """
        with open_parquet(path) as file:
            columns = {field.name: field.type for field in file.schema_arrow}
        if set(columns) != {"item", "text"}:
            raise DataError(f"{path}: expected a catalogue's columns `item` and `text`, got {', '.join(columns)}")
        try:
            return cls.of(path, "item", None if pa.types.is_null(columns["text"]) else "text")
        except DataError as error:
            raise DataError(f"{path}: {error}") from None


def _texts(table: pa.Table, column: str) -> pa.Array:
    array = whole(table[column])
    if not _is_text(array):
        raise DataError(f"column `{column}`: expected text, got {array.type}")
    try:
        array.validate(full=True)
    except (pa.ArrowException, UnicodeDecodeError) as error:
        raise DataError(f"column `{column}`: its text cannot be read, is it UTF-8? ({error})") from None
    return pc.if_else(pc.equal(pc.utf8_trim_whitespace(array), ""), pa.scalar(None, array.type), array)


def _is_text(array: pa.Array) -> bool:
    return bool(pa.types.is_string(array.type) or pa.types.is_large_string(array.type))


def _again(names: pa.LargeStringArray) -> str:
    """The first name that stood before."""
    first = np.unique(dictionary(names, "item")[1], return_index=True)[1]
    later = np.setdiff1d(np.arange(len(names)), first)
    return str(names[int(later[0])])
