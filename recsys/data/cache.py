"""The user's cache of prepared splits: a folder is there whole or not at all, and one that was altered is noticed.

A folder is written under a temporary name beside its place and renamed at the end, so a kill leaves nothing that looks
whole, and of several that prepare the same one at once the first to finish wins. Its name ends with the checksum of
the rows, so another version of recsys that expects other rows looks elsewhere.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import time
import uuid
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from recsys.errors import DataError
from recsys.files import read_json, sha256, write_json

__all__ = ["RECORD", "SPLITS", "flaw", "record", "root", "store"]

SPLITS = ("train", "valid", "test")
RECORD = "source.json"
_DAY = 86_400


def root() -> Path:
    """``$XDG_CACHE_HOME/recsys``, else ``~/.cache/recsys``; its standard says to ignore a relative `XDG_CACHE_HOME`.

    Raises:
        DataError: When there is no home folder either.
    """
    chosen = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        return (chosen if chosen.is_absolute() else Path.home() / ".cache") / "recsys"
    except RuntimeError:
        raise DataError("there is no home folder to keep data in: set XDG_CACHE_HOME to a folder") from None


def record(folder: Path) -> dict[str, Any]:
    """What `store` wrote beside the splits: origin, checksums, rows and positive share of each file.

    Raises:
        DataError: When it is absent or no such record.
    """
    try:
        found = read_json(folder / RECORD)
        return {"origin": str(found["origin"]), "files": {split: dict(found["files"][split]) for split in SPLITS}}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{folder / RECORD}: not the record of a prepared data set: {error!r}") from None


def flaw(folder: Path) -> str | None:
    """What is wrong with a folder: None when every file has the bytes that `store` wrote."""
    try:
        known = record(folder)["files"]
    except DataError as error:
        return str(error)
    for split in SPLITS:
        path = folder / f"{split}.parquet"
        try:
            if sha256(path) != known[split].get("sha256"):
                return f"{path} was altered after it was prepared"
        except OSError as error:
            return f"{path} cannot be read ({error.strerror or error})"
    return None


def store(folder: Path, splits: tuple[pa.Table, pa.Table, pa.Table], origin: str) -> None:
    """Write the splits and their record into `folder`; an unsound folder of that name is replaced, a sound one stays.

    Raises:
        DataError: When the disk refuses; nothing half-written stays behind.
    """
    temporary = _beside(folder)
    try:
        temporary.mkdir(parents=True)
        named = zip(SPLITS, splits, strict=True)
        files = {split: _write(temporary / f"{split}.parquet", rows) for split, rows in named}
        write_json(temporary / RECORD, {"origin": origin, "files": files})
        _publish(temporary, folder)
        _sweep(folder.parent)
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"{folder}: cannot be written: {reason}; XDG_CACHE_HOME chooses another cache") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _beside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.{uuid.uuid4().hex[:8]}.partial")


def _write(path: Path, rows: pa.Table) -> dict[str, Any]:
    pq.write_table(rows, path, compression="zstd")
    with path.open("rb+") as file:
        os.fsync(file.fileno())
    positive = pc.mean(rows["label"]).as_py() or 0.0
    return {"sha256": sha256(path), "rows": rows.num_rows, "positive": round(positive, 6)}


def _publish(temporary: Path, folder: Path) -> None:
    """Rename. Where a folder stands already that fails: a sound one is somebody's equal work, another goes aside."""
    for _ in range(100):
        try:
            temporary.rename(folder)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        if flaw(folder) is None:
            return
        _discard(folder)
    raise OSError(f"another process keeps putting a broken folder at {folder}")


def _discard(folder: Path) -> None:
    aside = _beside(folder)
    try:
        folder.rename(aside)
    except FileNotFoundError:  # another process put it aside first
        return
    shutil.rmtree(aside, ignore_errors=True)


def _sweep(parent: Path) -> None:
    """Remove what processes that were killed over a day ago left behind."""
    for left in parent.glob(".*.partial"):
        with contextlib.suppress(FileNotFoundError):  # its owner was quicker
            if time.time() - left.stat().st_mtime > _DAY:
                shutil.rmtree(left, ignore_errors=True)
