"""The seal of a folder: one JSON file that vouches for the others, removed first and written last.

A folder whose seal is missing was not finished; one whose files differ from what the seal says was altered. Neither
loads.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Self

import recsys
from recsys.config import Config
from recsys.errors import CheckpointError, ConfigError
from recsys.files import read_json, sha256, write_json

__all__ = ["Sealed", "SealedFile", "vouch"]


class SealedFile(Config):
    """What a file must be."""

    bytes: int
    sha256: str


class Sealed(Config):
    """What a seal holds; a kind of folder adds what it needs."""

    sha256: str = ""
    """Of all the rest of it."""
    format: int
    recsys: str
    """The version that wrote it."""
    files: dict[str, SealedFile]

    def digest(self) -> str:
        """The checksum of everything but the checksum."""
        values = self.model_dump(mode="json", exclude={"sha256"})
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()

    def write(self, path: Path) -> None:
        """Write the seal, with which its folder loads."""
        write_json(path, self.model_copy(update={"sha256": self.digest()}).model_dump(mode="json"))

    @classmethod
    def read(cls, path: Path, version: int, what: str) -> Self:
        """Read a seal.

        Args:
            path: Of the seal.
            version: The format that this version of recsys reads.
            what: Kind of folder, for errors.

        Raises:
            CheckpointError: When it is no seal of that kind, altered, or of another format.
        """
        try:
            values = read_json(path)
            found = values["format"]
        except (ValueError, OSError, KeyError, TypeError, RecursionError) as error:
            raise CheckpointError(f"{path}: not the seal of {what} ({error!r})") from None
        if found != version:
            made = values.get("recsys", "?")
            raise CheckpointError(f"{path}: format {found}, made by recsys {made}; this is recsys {recsys.__version__}")
        try:
            seal = cls.parse(values, str(path))
        except ConfigError as error:
            raise CheckpointError(f"not the seal of {what}: {error}") from None
        if seal.sha256 != seal.digest():
            raise CheckpointError(f"{path}: its contents differ from their checksum: altered")
        return seal

    def check(self, folder: Path, needs: Iterable[str], unread: Collection[str] = ()) -> None:
        """Hold the folder's files against the seal.

        Args:
            folder: Where they are.
            needs: Files that it must vouch for.
            unread: Those of which only the size is looked at.

        Raises:
            CheckpointError: When one is missing, altered or outside the folder.
        """
        for name in needs:
            if name not in self.files:
                raise CheckpointError(f"{folder}: its seal does not vouch for `{name}`")
        for name, expected in self.files.items():
            _check_file(folder, name, expected, name not in unread)


def _check_file(folder: Path, name: str, expected: SealedFile, whole: bool) -> None:
    path = folder / name
    if Path(name).name != name:
        raise CheckpointError(f"{folder}: its seal names `{name}`, which lies outside the folder")
    try:
        if not path.is_file():
            raise CheckpointError(f"{folder}: {name} is missing")
        size = path.stat().st_size
        if size != expected.bytes:
            raise CheckpointError(f"{path}: {size:,} bytes, expected {expected.bytes:,}: altered or cut off")
        if whole and sha256(path) != expected.sha256:
            raise CheckpointError(f"{path}: its checksum differs from the seal's: altered")
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from None


def vouch(folder: Path, names: Iterable[str]) -> dict[str, SealedFile]:
    """What the files of a folder are now."""
    return {name: SealedFile(bytes=(folder / name).stat().st_size, sha256=sha256(folder / name)) for name in names}
