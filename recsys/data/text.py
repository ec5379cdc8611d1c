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

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.csv as pacsv

from recsys.data.formats import FORMATS, Named
from recsys.data.schema import Format
from recsys.data.values import Ints
from recsys.errors import DataError

__all__ = ["Dialect", "blocks", "dialect", "parse", "split"]

_HEAD = 1 << 16
_LONGEST = 1 << 26
"""The most bytes of one record: a quote that never closes makes one of the rest of the file."""
_DELIMITERS = (",", "\t", ";", "|")
_TEXT = pa.dictionary(pa.int32(), pa.string())
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
    if head[:1] in (b"{", b"["):
        raise DataError(f"{path}: expected CSV, TSV or Parquet, got JSON; convert it first")
    bom = 3 if head.startswith(b"\xef\xbb\xbf") else 0
    quotes = not (name and FORMATS[name].columns)
    while (stop := _first_record_end(head, quotes)) < 0 and len(head) < _LONGEST and (more := file.read(_HEAD)):
        head += more
    stop = len(head) if stop < 0 else stop
    try:
        line = head[bom:stop].decode().rstrip("\r")
    except UnicodeDecodeError:
        raise DataError(f"{path}: its first line is not UTF-8; convert it: iconv -f LATIN1 -t UTF-8") from None
    if "\r" in line and "\n" not in line:
        raise DataError(f"{path}: its lines end in CR alone; convert it: tr '\\r' '\\n'")
    if line.startswith("sep="):
        raise DataError(f"{path}: its first line is `{line[:20]}`, a hint for Excel; remove it")
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
    names = [" ".join(name.split()) for name in next(csv.reader([line], delimiter=delimiter), [])]
    numbers = [name for name in names if re.fullmatch(r"[-+]?\d+(\.\d*)?", name)]
    counted = numbers == [str(i) for i in range(len(numbers))] and len(numbers) < len(names)  # as pandas names columns
    if not any(names) or (next(filter(None, names)) in numbers and not counted):
        known = ", ".join(FORMATS)
        raise DataError(
            f"{path}: expected a first line that names the columns, got `{line[:80]}`; add one, "
            f"or name the format if it is one of: {known}"
        )
    return tuple(name or f"column{i}" for i, name in enumerate(names, start=1))


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
    while left > 0 and (read := file.read(int(min(size, left)))):
        left -= len(read)
        rest += read
        end = _last_record_end(rest, layout)
        if not end and len(rest) >= _LONGEST:
            raise _unclosed(rest, layout)
        if left > 0 and end:
            yield rest[:end]
            rest = rest[end:]
    if rest:
        if layout.quotes and _inside(_toggles(rest, layout.delimiter), len(rest)):
            raise _unclosed(rest, layout)
        yield rest


def _unclosed(data: bytes, layout: Dialect) -> DataError:
    toggles = _toggles(data, layout.delimiter)
    opened = int(toggles[-1]) if toggles.size % 2 else 0
    told = data[opened : opened + 40].decode(errors="replace").splitlines()[0]
    return DataError(f"a quoted value begins with `{told}` and does not end; close its quote")


def _first_record_end(head: bytes, quotes: bool) -> int:
    """Where the first line ends, outside quotes, or -1."""
    end = head.find(b"\n")
    if quotes and b'"' in head[: max(end, 0)]:
        delimiter = max(_DELIMITERS, key=head[:end].decode(errors="replace").count)
        toggles = _toggles(head, delimiter)
        while end >= 0 and _inside(toggles, end):
            end = head.find(b"\n", end + 1)
    return end


def _last_record_end(data: bytes, layout: Dialect) -> int:
    """One past the last line end outside quotes; 0 if there is none."""
    end = data.rfind(b"\n") + 1
    if not layout.quotes or b'"' not in data:
        return end
    toggles = _toggles(data, layout.delimiter)
    while end and _inside(toggles, end - 1):
        opened = int(toggles[np.searchsorted(toggles, end - 1, side="right") - 1])
        end = data.rfind(b"\n", 0, opened) + 1
    return end


def _inside(toggles: Ints, position: int) -> bool:
    return bool(np.searchsorted(toggles, position, side="right") % 2)


def _toggles(data: bytes, delimiter: str) -> Ints:
    """Where quoting begins and ends, in turns. A quote that does not begin a value, as in ``5" disk``, is text.

    A doubled quote inside quotes ends and begins at once. Nearly all files have no other quotes than these; of others
    the quotes are walked through one by one, as Arrow's parser does.
    """
    content = np.frombuffer(data, dtype=np.uint8)
    quotes = np.flatnonzero(content == ord('"'))
    opening = quotes[::2]
    before = np.where(opening > 0, content[opening - 1], ord("\n"))
    begins = np.isin(before, [ord(delimiter), ord("\n"), ord("\r")])
    doubled = np.append(False, opening[1:] - 1 == quotes[1::2][: opening.size - 1]) if opening.size else begins
    return quotes if (begins | doubled).all() else _walked(content, quotes, ord(delimiter))


def _walked(content: npt.NDArray[np.uint8], quotes: Ints, delimiter: int) -> Ints:
    toggles: list[int] = []
    starts = (delimiter, 10, 13)
    for at in quotes.tolist():
        inside = len(toggles) % 2 == 1
        doubled = not inside and bool(toggles) and toggles[-1] == at - 1
        if inside or doubled or at == 0 or content[at - 1] in starts:
            toggles.append(at)
    return np.asarray(toggles, dtype=np.int64)


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
    made = {name: _one(table[name]) for name in needed}
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
            ignore_empty_lines=len(layout.columns) > 1,  # of one column, an empty line is a missing value
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
    if len(set(names)) == len(names):
        return list(names)
    return [name if names.index(name) == i else f"{name}\0{i}" for i, name in enumerate(names)]


def _one(column: pa.ChunkedArray) -> pa.Array:
    found = column.combine_chunks()
    return pa.concat_arrays(found.chunks) if isinstance(found, pa.ChunkedArray) else found


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
