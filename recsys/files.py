"""Write files so that a kill never leaves half of one under its name."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from recsys.errors import DataError

__all__ = [
    "locked",
    "make_folder",
    "move",
    "read_json",
    "replacing",
    "scratch",
    "sha256",
    "sweep",
    "write_json",
    "write_text",
]


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` to write to; on success it is synced and takes the name of `path` in one step.

    A symbolic link is followed; what is no regular file, such as a device or a pipe, is refused.

    Raises:
        DataError: When the disk refuses (full, read-only, no such folder); what `path` held before stays.
    """
    path = path.resolve()
    if path.exists() and not path.is_file():
        raise DataError(f"{path}: expected the name of a file to write, got a folder or a device")
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.partial")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise DataError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def move(path: Path, target: Path) -> None:
    """Give a finished file its name in one step; a link of that name is followed.

    Raises:
        DataError: When the disk refuses.
    """
    target = target.resolve()
    try:
        path.replace(target)
        _sync_folder(target.parent)
    except OSError as error:
        raise DataError(f"{target}: cannot be written: {error.strerror or error}") from error


def _sync_folder(folder: Path) -> None:
    """Make a rename survive a loss of power."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sweep(folder: Path) -> None:
    """Remove what a killed `replacing` or `scratch` left behind in a folder that nobody else writes to."""
    for left in folder.glob(".*.partial"):
        left.unlink(missing_ok=True)
    _sweep_scratches(folder)


@contextlib.contextmanager
def scratch(folder: Path) -> Iterator[Path]:
    """A new hidden folder in `folder` to work in, removed at the end, as are those that killed processes left there.

    A lock beside it is taken before it is made: if somebody else can take that, its owner is gone.

    Raises:
        DataError: When the disk refuses.
    """
    _sweep_scratches(folder)
    place = folder / f"{_SCRATCH}{uuid.uuid4().hex[:8]}"
    with locked(place.with_suffix(".lock")):
        try:
            make_folder(place)
            yield place
        finally:
            shutil.rmtree(place, ignore_errors=True)


_SCRATCH = ".scratch-"


def _sweep_scratches(folder: Path) -> None:
    for left in {path.with_suffix("") for path in folder.glob(f"{_SCRATCH}*")}:
        with contextlib.suppress(DataError), locked(left.with_suffix(".lock")):  # refused: it has an owner
            shutil.rmtree(left, ignore_errors=True)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file `path`; the kernel lets go of it when the process ends, however it ends.

    Raises:
        DataError: When another process holds it.
    """
    make_folder(path.parent)
    while True:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise DataError(f"{path}: cannot be written: {error.strerror or error}") from None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(handle, 32, 0).decode(errors="replace").strip() or "unknown"
            os.close(handle)
            raise DataError(
                f"{path}: another process (number {owner}) is writing there; wait for it, or name another output"
            ) from None
        except OSError as error:
            os.close(handle)
            raise DataError(f"{path}: this file system has no locks: {error.strerror or error}") from None
        if _still_named(handle, path):  # else its last owner removed it between our two calls
            break
        os.close(handle)
    try:
        with contextlib.suppress(OSError):  # on a full disk; it is only for the message above
            os.truncate(handle, 0)
            os.pwrite(handle, str(os.getpid()).encode(), 0)
        yield
    finally:
        try:
            path.unlink(missing_ok=True)
        finally:
            os.close(handle)


def _still_named(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def make_folder(folder: Path) -> None:
    """Make a folder and its parents if they are not there.

    Raises:
        DataError: When a file is in the way, or the disk refuses.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{folder}: cannot be made: {error.strerror or error}") from error


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file, whole or not at all."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file; raises ValueError or OSError for the caller to explain."""
    return json.loads(path.read_text(encoding="utf-8"))


def sha256(path: Path) -> str:
    """The checksum of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
