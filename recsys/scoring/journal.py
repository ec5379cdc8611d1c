"""What a job has finished, one JSON record a line: appended and synced, so that a kill loses the last line at most."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from recsys.errors import DataError
from recsys.files import write_text

__all__ = ["Journal"]

Record = dict[str, Any]


class Journal:
    """The records of one job; its first line, the header, says which job it is.

    Args:
        path: The file; it is made when it is not there.
        header: What must be the same for a job to go on.

    Raises:
        DataError: When the file belongs to another job, or the disk refuses.
    """

    def __init__(self, path: Path, header: Record) -> None:
        self.path = path
        found = self._read()
        if len(found) > 1 and found[0] != header:
            changed = ", ".join(key for key in header if found[0].get(key) != header[key])
            raise DataError(
                f"{path.parent}: holds the unfinished work of another job ({changed} changed); "
                "give its command again to finish it, name another output, or say overwrite to discard it"
            )
        self.records = found[1:]
        if not self.records:  # what holds no work is anybody's
            write_text(path, _line(header))

    def append(self, record: Record) -> None:
        """Add a record; when this returns, a kill or a loss of power does not undo it.

        Raises:
            DataError: When the disk refuses.
        """
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(_line(record))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise DataError(f"{self.path}: cannot be written: {error.strerror or error}") from error
        self.records.append(record)

    def _read(self) -> list[Record]:
        """Whole records; what a kill left of a line at the end is cut off."""
        try:
            content = self.path.read_bytes()
            end = content.rfind(b"\n") + 1
            if end < len(content):
                os.truncate(self.path, end)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read: {error.strerror or error}") from error
        try:
            return [json.loads(line) for line in content[:end].splitlines()]
        except ValueError:
            raise DataError(f"{self.path}: was altered; say overwrite to start again") from None


def _line(record: Record) -> str:
    return json.dumps(record, allow_nan=False) + "\n"
