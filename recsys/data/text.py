"""CSV and TSV files in parts: each starts and ends between two records, and every column is read as text.

Text has no types, and guessing them block by block gives one column several. So values stay text, dictionary-encoded;
`recsys.data.values` makes numbers or categories of them, the same ones that a typed column gives.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv

from recsys.data.formats import FORMATS, Named
from recsys.data.schema import Format
from recsys.data.values import NO_VALUE
from recsys.errors import DataError

__all__ = ["Dialect", "blocks", "dialect", "parse", "split"]

_HEAD = 1 << 16
_LONGEST = 1 << 26
"""Bytes without the end of a record after which lines are taken as they are: a lone quote inside a value hides it."""
_DELIMITERS = (",", "\t", ";", "|")
_TEXT = pa.dictionary(pa.int32(), pa.string())
_MARKERS = pa.array([marker for marker in NO_VALUE if marker], pa.string())
"""An empty value stays empty text: of a list it is the empty list, of all else it is missing."""
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


@dataclass(frozen=True)
class Dialect:
    """How a text file is laid out.

    Attributes:
        delimiter: Between values.
        columns: Names of the columns in the file.
        start: Byte where the records begin.
        quotes: Whether ``"`` encloses values.
        named: The format by name, or None.
    """

    delimiter: str
    columns: tuple[str, ...]
    start: int
    quotes: bool
    named: Named | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The columns that can be read: those of the file, and those made of others."""
        return (*self.columns, *(self.named.derived if self.named else ()))


def dialect(file: BinaryIO, path: Path, name: Format | None) -> Dialect:
    """Find out how a text file is laid out from its beginning.

    Raises:
        DataError: When it is no UTF-8 text, or its first line does not name columns.
    """
    head = file.read(_HEAD)
    if head.startswith(_UTF16) or b"\0" in head[:4096]:
        raise DataError(f"{path}: expected UTF-8 text or Parquet, got UTF-16 or binary data; save it as CSV in UTF-8")
    bom = 3 if head.startswith(b"\xef\xbb\xbf") else 0
    end = head.find(b"\n")
    if end < 0 and len(head) == _HEAD:
        raise DataError(f"{path}: its first line is longer than {_HEAD:,} bytes; is it a text file with lines?")
    stop = end if end >= 0 else len(head)
    try:
        line = head[bom:stop].decode().rstrip("\r")
    except UnicodeDecodeError:
        raise DataError(f"{path}: its first line is not UTF-8; convert it: iconv -f LATIN1 -t UTF-8") from None
    named = FORMATS[name] if name else None
    if named and named.columns:
        return Dialect(named.delimiter, _by_width(line, named, path), bom, False, named)
    delimiter = named.delimiter if named else max(_DELIMITERS, key=line.count)
    return Dialect(delimiter, _header(line, delimiter, path), min(stop + 1, len(head)), True, named)


def _by_width(line: str, named: Named, path: Path) -> tuple[str, ...]:
    """The format's columns; a file that is to be scored may lack the label, which stands first."""
    width = line.count(named.delimiter) + 1
    for columns in (named.columns, tuple(c for c in named.columns if c != named.label)):
        if len(columns) == width:
            return columns
    raise DataError(f"{path}: expected {len(named.columns)} values a line ({named.about}), got {width}")


def _header(line: str, delimiter: str, path: Path) -> tuple[str, ...]:
    names = [name.strip() for name in next(csv.reader([line], delimiter=delimiter), [])]
    first = next(filter(None, names), "0")
    if _is_number(first) or sum(map(_is_number, names)) * 2 > len(names):
        known = ", ".join(FORMATS)
        raise DataError(
            f"{path}: expected a first line that names the columns, got `{line[:80]}`; add one, "
            f"or name the format if it is one of: {known}"
        )
    return tuple(name or f"column{i}" for i, name in enumerate(names, start=1))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def split(file: BinaryIO, layout: Dialect, size: int) -> Iterator[tuple[int, int]]:
    """Where parts of about `size` bytes begin and end, so that none cuts a record."""
    start = layout.start
    for block in blocks(file, layout, start, None, size):
        yield start, start + len(block)
        start += len(block)


def blocks(file: BinaryIO, layout: Dialect, start: int, stop: int | None, size: int) -> Iterator[bytes]:
    """The bytes from `start` to `stop` in blocks of whole records of about `size` bytes."""
    file.seek(start)
    rest = b""
    left = float("inf") if stop is None else stop - start
    while left > 0:
        read = file.read(int(min(size, left)))
        left -= len(read)
        if not read:
            break
        rest += read
        end = _last_record_end(rest, layout.quotes)
        if not end and len(rest) >= _LONGEST:
            end = _last_record_end(rest, False)
        if left > 0 and end:
            yield rest[:end]
            rest = rest[end:]
    if rest:
        yield rest


def _last_record_end(data: bytes, quotes: bool) -> int:
    """One past the last line end outside quotes, with an even number of quotes before it; 0 if there is none."""
    end = data.rfind(b"\n") + 1
    if not quotes:
        return end
    odd = data.count(b'"', 0, end) % 2
    while end and odd:
        before = data.rfind(b"\n", 0, end - 1) + 1
        odd ^= data.count(b'"', before, end) % 2
        end = before
    return end


def parse(data: bytes, layout: Dialect, columns: Sequence[str]) -> pa.Table:
    """The wanted columns of a block of whole records, as dictionary-encoded text.

    Raises:
        DataError: Without the file's name; for a line with too many or too few values, or bytes that are not UTF-8.
    """
    derived = layout.named.derived if layout.named else {}
    needed = list(dict.fromkeys(derived[name][0] if name in derived else name for name in columns))
    try:
        table = _parsed(data, layout, needed)
    except (pa.ArrowInvalid, pa.ArrowKeyError) as error:
        raise DataError(_explained(str(error), layout)) from None
    made = {name: _with_missing(table[name].combine_chunks()) for name in needed}
    wanted = {name: derived[name][1](made[derived[name][0]]) if name in derived else made[name] for name in columns}
    return pa.table(wanted)


def _parsed(data: bytes, layout: Dialect, needed: list[str]) -> pa.Table:
    if len(set(layout.columns)) < len(layout.columns):
        needed = [name for name in needed if layout.columns.count(name) == 1]
    return pacsv.read_csv(
        io.BytesIO(data),
        pacsv.ReadOptions(
            column_names=_unique(layout.columns), use_threads=False, block_size=max(len(data) + 1, 1 << 16)
        ),
        pacsv.ParseOptions(
            delimiter=layout.delimiter,
            quote_char='"' if layout.quotes else False,
            newlines_in_values=layout.quotes,
        ),
        pacsv.ConvertOptions(
            column_types=dict.fromkeys(needed, _TEXT),
            include_columns=needed,
            null_values=[],
            strings_can_be_null=False,
        ),
    )


def _unique(names: Sequence[str]) -> list[str]:
    """Names for the parser, which wants each once; `Dataset` refuses to read a column that stands twice."""
    return [name if names.index(name) == i else f"{name}\0{i}" for i, name in enumerate(names)]


def _with_missing(column: pa.DictionaryArray) -> pa.DictionaryArray:
    """What says "missing" in words becomes null."""
    column = pa.concat_arrays(column.chunks) if isinstance(column, pa.ChunkedArray) else column
    marked = pc.is_in(pc.utf8_trim_whitespace(column.dictionary), value_set=_MARKERS)
    if not pc.any(marked).as_py():
        return column
    indices = pc.if_else(marked.take(column.indices), pa.scalar(None, pa.int32()), column.indices)
    return pa.DictionaryArray.from_arrays(indices, column.dictionary)


def _explained(told: str, layout: Dialect) -> str:
    if "UTF8" in told or "UTF-8" in told:
        number = re.search(r"column #(\d+)", told)
        where = f"column `{layout.columns[int(number[1])]}`" if number else "a value"
        return f"{where} holds bytes that are not UTF-8; convert the file: iconv -f LATIN1 -t UTF-8"
    wrong = re.search(r"Expected (\d+) columns, got (\d+): (.*)", told, re.DOTALL)
    if wrong:
        line = wrong[3].splitlines()[0][:120] if wrong[3] else ""
        return f"expected {wrong[1]} values a line, got {wrong[2]} in `{line}`"
    return f"cannot be read as text with columns: {told.splitlines()[0][:200]}"
