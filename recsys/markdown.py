"""Tables as cells of text, and sections of a markdown file that people write too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from recsys.errors import DataError
from recsys.files import replacing

__all__ = ["Cells", "check_section", "table", "write_section"]


@dataclass(frozen=True)
class Cells:
    """A table; its first `left` columns are text, the others numbers."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    left: int = 1


def table(cells: Cells, level: int) -> list[str]:
    """The lines of a markdown table under a heading of `level`."""
    rule = ["---" if column < cells.left else "---:" for column in range(len(cells.header))]
    lines = [_line(cells.header), _line(rule), *map(_line, cells.rows)]
    return [f"{'#' * level} {cells.title}", "", *lines, ""]


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("*", "\\*") for cell in cells) + " |"


def check_section(file: Path, name: str) -> None:
    """Refuse what `write_section` would refuse, before the work for it is done.

    Raises:
        DataError: When one marker lacks the other, or the file is no text.
    """
    _around(_text(file), name, file)


def write_section(file: Path, name: str, section: str) -> None:
    """Put a section between ``<!-- NAME -->`` and ``<!-- /NAME -->`` of a markdown file.

    All else in it stays byte for byte; where it has no such section, or there is no file, one is added at its end.

    Args:
        file: Of markdown; in a folder that is there.
        name: What the markers say, such as `study: dcn2`.
        section: Whole lines.

    Raises:
        DataError: When one marker lacks the other, the file is no text, or the disk refuses.
    """
    text = _text(file)
    before, after = _around(text, name, file)
    begin, end = _markers(name)
    written = f"{begin}\n{section}{end}"
    if "\r\n" in text:
        written = written.replace("\n", "\r\n")
    with replacing(file) as temporary:
        temporary.write_bytes(f"{before}{written}{after}".encode())


def _markers(name: str) -> tuple[str, str]:
    return f"<!-- {name} -->", f"<!-- /{name} -->"


def _text(file: Path) -> str:
    try:
        return file.read_bytes().decode() if file.exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{file}: cannot be read as text: {error}") from None


def _around(text: str, name: str, file: Path) -> tuple[str, str]:
    """What stands before and after the section."""
    begin, end = _markers(name)
    if begin not in text and end not in text:
        gap = "" if not text else "\n" if text.endswith("\n") else "\n\n"
        return text + gap, "\n"
    before, _, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if text.count(begin) != 1 or text.count(end) != 1 or not closed:
        raise DataError(f"{file}: expected `{begin}` once and `{end}` once after it; mend the markers by hand")
    return before, after
