"""Named sources: prepared once, whole or not at all, checked on every use, and never over the network unasked."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tomli_w

from recsys.data import cache, downloads, movielens, sources
from recsys.data.digest import digest
from recsys.data.encoder import Encoder
from recsys.data.schema import Schema
from recsys.data.splits import user_time
from recsys.errors import ConfigError, DataError
from recsys.files import sha256
from recsys.shelves import shelf
from tests.data.tiny import write_archive, write_wheel

REAL_SHELF = shelf("data")

needs_pip = pytest.mark.skipif(not list(metadata.distributions(name="pip")), reason="needs pip in this environment")
"""Asked so since `find_spec("pip")` makes setuptools, which Inductor imports, fail from then on."""


class Shelf:
    """A data shelf with one source, `tiny`, that can be had from a file:// address and from a package."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.server, self.index = folder / "server", folder / "index"
        self.server.mkdir()
        self.index.mkdir()
        self.archive, self.wheel = write_archive(self.server), write_wheel(self.index)
        splits = user_time(movielens.rows(movielens.read_archive(self.archive)), "user", "timestamp")
        self.url: dict[str, Any] = {
            "kind": "url",
            "where": self.archive.as_uri(),
            "sha256": sha256(self.archive),
            "size": self.archive.stat().st_size,
            "reader": "movielens-archive",
        }
        self.package: dict[str, Any] = {
            "kind": "package",
            "where": "recbole==1.2.1",
            "sha256": sha256(self.wheel),
            "size": self.wheel.stat().st_size,
            "reader": "movielens-wheel",
        }
        self.manifest: dict[str, Any] = {
            **dict.fromkeys(("about", "licence", "citation", "home", "split"), "-"),
            "terms": "be kind",
            "schema_file": "schemas/movielens-100k.toml",
            "rows": [split.num_rows for split in splits],
            "digest": digest(splits),
            "origins": [self.url, self.package],
        }
        self.write()

    def write(self) -> None:
        (self.folder / "sources.toml").write_text(tomli_w.dumps({"source": {"tiny": self.manifest}}), encoding="utf-8")


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "recsys" / "sources"


@pytest.fixture
def tiny(tmp_path: Path, cached: Path, monkeypatch: pytest.MonkeyPatch) -> Shelf:
    """The shelf of `tiny`, an empty cache, and a pip that knows only the shelf's own index."""
    (tmp_path / "shelf").mkdir()
    made = Shelf(tmp_path / "shelf")
    monkeypatch.setattr(sources, "shelf", lambda _: made.folder)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(made.index))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return made


def fetch(name: str = "tiny", file: Path | None = None) -> tuple[sources.Source, list[str]]:
    said: list[str] = []
    return sources.fetch(name, file, say=said.append), said


def contents(source: sources.Source) -> str:
    return digest(pq.read_table(source.file(split)) for split in cache.SPLITS)


def test_fetch_prepares_three_files_and_says_the_terms(tiny: Shelf, cached: Path) -> None:
    source, said = fetch()
    assert said == ["tiny: be kind", f"tiny: reading {tiny.url['where']}"]
    assert source.folder.parent == cached
    assert [pq.read_metadata(path).num_rows for path in (source.train, source.valid, source.test)] == [5, 1, 0]
    assert contents(source) == tiny.manifest["digest"]
    assert source.record["files"]["train"] | {"sha256": "-"} == {"sha256": "-", "rows": 5, "positive": 0.8}
    assert source.schema == tiny.folder / "schemas" / "movielens-100k.toml"


def test_a_second_fetch_needs_no_origin(tiny: Shelf) -> None:
    first, _ = fetch()
    tiny.archive.unlink()
    tiny.wheel.unlink()
    again, said = fetch()
    assert again == first == sources.load("tiny")
    assert said == []


def test_by_default_fetch_talks_on_standard_error(tiny: Shelf, capsys: pytest.CaptureFixture[str]) -> None:
    sources.fetch("tiny")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("tiny: be kind\n")


@needs_pip
def test_pip_is_asked_when_the_server_does_not_answer(tiny: Shelf) -> None:
    tiny.archive.unlink()
    source, said = fetch()
    assert "cannot be downloaded: [Errno 2]" in said[2]
    assert source.record["origin"] == "recbole==1.2.1"
    assert contents(source) == tiny.manifest["digest"]


@needs_pip
def test_offline_the_error_says_what_was_tried_and_what_to_do(tiny: Shelf, cached: Path) -> None:
    tiny.archive.unlink()
    tiny.wheel.unlink()
    with pytest.raises(DataError) as caught:
        fetch()
    message = str(caught.value)
    assert message.startswith("tiny could not be fetched. Tried: (1) file://")
    assert "(2) pip cannot download recbole==1.2.1: ERROR: No matching distribution found" in message
    assert message.endswith("on another machine and run: recsys data fetch tiny --file FILE")
    assert "\n" not in message
    assert not cached.exists()


def test_a_python_without_pip(tiny: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny.archive.unlink()
    done = subprocess.CompletedProcess([], 1, "", f"{sys.executable}: No module named pip\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    with pytest.raises(DataError, match=r"pip cannot download recbole==1.2.1: .*: No module named pip"):
        fetch()


def test_a_pip_that_hangs(tiny: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(command: list[str], timeout: float, **_: Any) -> None:
        raise subprocess.TimeoutExpired("pip", timeout)

    monkeypatch.setattr(subprocess, "run", hang)
    with pytest.raises(DataError, match=r"pip cannot download x==1: .*timed out after 300"):
        downloads.from_package("x==1", tiny.folder, "0" * 64)


def test_what_pip_is_told(tiny: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        told.extend(command)
        return subprocess.CompletedProcess(command, 1, "", "")

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(DataError, match="it said nothing"):
        downloads.from_package("x==1", tiny.folder, "0" * 64)
    assert told[:4] == [sys.executable, "-m", "pip", "download"]
    assert {"--no-deps", "--only-binary=:all:", "x==1"} <= set(told)


@pytest.mark.parametrize(
    ("size", "told"),
    [
        (0, "is not the file that was expected: SHA-256 "),
        (-1, "it sends more than the expected "),
        (1, "the connection broke off 1 bytes before the end"),
    ],
)
def test_a_download_of_other_bytes_is_not_read(tiny: Shelf, cached: Path, size: int, told: str) -> None:
    tiny.url |= {"sha256": "0" * 64, "size": tiny.url["size"] + size}
    tiny.manifest["origins"] = [tiny.url]
    tiny.write()
    with pytest.raises(DataError, match=told):
        fetch()
    assert not cached.exists()


def test_a_download_that_drips_is_given_up(tiny: Shelf, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "_PATIENCE_SECONDS", -1.0)
    with pytest.raises(DataError, match=r"ml-100k\.zip cannot be downloaded: not done after"):
        downloads.from_url(tiny.url["where"], tiny.folder, tiny.url["sha256"], tiny.url["size"])


@needs_pip
def test_a_wheel_of_other_bytes_is_not_read(tiny: Shelf) -> None:
    tiny.manifest["origins"] = [tiny.package | {"sha256": "0" * 64}]
    tiny.write()
    with pytest.raises(DataError, match=r"recbole-1\.2\.1-py3-none-any\.whl is not the file that was expected"):
        fetch()


def test_rows_that_are_not_those_expected_are_not_kept(tiny: Shelf, cached: Path) -> None:
    tiny.manifest["digest"] = "1" * 64
    tiny.write()
    with pytest.raises(DataError, match="gives other rows than expected"):
        fetch()
    assert not cached.exists()


def test_a_file_had_by_other_means(tiny: Shelf, tmp_path: Path) -> None:
    for given in (tiny.archive, tiny.wheel):
        file = given.rename(tmp_path / "renamed")
        source, said = fetch(file=file)
        assert said == ["tiny: be kind"]
        assert contents(source) == tiny.manifest["digest"]
        for path in source.folder.iterdir():
            path.unlink()
        source.folder.rmdir()


def test_a_file_of_something_else(tiny: Shelf, tmp_path: Path) -> None:
    other = tmp_path / "other.zip"
    with pytest.raises(DataError, match=r"other\.zip: no such file"):
        fetch(file=other)
    other.write_bytes(b"other")
    with pytest.raises(
        DataError, match=r"other\.zip: not a file of tiny: its SHA-256 is .* expected .*recbole==1\.2\.1"
    ):
        fetch(file=other)


def test_load_never_fetches(tiny: Shelf, cached: Path) -> None:
    with pytest.raises(DataError, match="not on this machine yet; fetch it: recsys data fetch tiny"):
        sources.load("tiny")
    assert sources.state("tiny") == "not fetched"
    assert not cached.exists()


def alter(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (lambda folder: alter(folder / "test.parquet"), "test.parquet was altered after it was prepared"),
        (lambda folder: (folder / "valid.parquet").unlink(), "valid.parquet cannot be read"),
        (lambda folder: (folder / "source.json").unlink(), "source.json: not the record"),
        (lambda folder: (folder / "source.json").write_text("[]"), "source.json: not the record"),
    ],
)
def test_an_altered_cache_is_said_and_fetch_mends_it(tiny: Shelf, harm: Any, told: str) -> None:
    source, _ = fetch()
    harm(source.folder)
    assert sources.state("tiny") == "altered"
    with pytest.raises(DataError, match=f"{told}.*; prepare it again: recsys data fetch tiny"):
        sources.load("tiny")
    again, said = fetch()
    assert told in said[0]
    assert said[0].endswith("; preparing it again")
    assert contents(again) == tiny.manifest["digest"]
    assert sources.state("tiny") == "ready"
    assert [path.name for path in source.folder.parent.iterdir()] == [source.folder.name]


def test_another_version_of_the_rows_lies_elsewhere(tiny: Shelf) -> None:
    fetch()
    tiny.manifest["digest"] = "2" * 64
    tiny.write()
    assert sources.state("tiny") == "not fetched"


KILLED = """
import os, sys
from pathlib import Path
from recsys.data import cache, sources
sources.shelf = lambda _: Path(sys.argv[1])
cache._publish = lambda temporary, folder: os._exit(9)
sources.fetch("tiny")
"""


def test_a_kill_before_the_rename_leaves_nothing_that_looks_whole(tiny: Shelf, cached: Path) -> None:
    assert subprocess.run([sys.executable, "-c", KILLED, str(tiny.folder)], check=False).returncode == 9
    (left,) = cached.iterdir()
    assert len(list(left.iterdir())) == 4
    assert left.name.endswith(".partial")
    assert sources.state("tiny") == "not fetched"
    long_ago = time.time() - 2 * 86_400
    os.utime(left, (long_ago, long_ago))
    source, _ = fetch()
    assert list(cached.iterdir()) == [source.folder]


def test_what_another_process_is_writing_is_left_alone(tiny: Shelf, cached: Path) -> None:
    busy = cached / ".tiny-0123.abcd.partial"
    busy.mkdir(parents=True)
    fetch()
    assert busy.exists()


@pytest.mark.parametrize("altered", [False, True])
def test_of_several_at_once_all_get_the_same(
    tiny: Shelf, cached: Path, monkeypatch: pytest.MonkeyPatch, altered: bool
) -> None:
    if altered:
        alter(fetch()[0].train)
    barrier, publish = threading.Barrier(4), cache._publish

    def together(temporary: Path, folder: Path) -> None:
        barrier.wait(30)
        publish(temporary, folder)

    monkeypatch.setattr(cache, "_publish", together)
    with ThreadPoolExecutor(4) as pool:
        found = {source for source, _ in pool.map(lambda _: fetch(), range(4))}
    (source,) = found
    assert cache.flaw(source.folder) is None
    assert list(cached.iterdir()) == [source.folder]


def test_a_disk_that_refuses(tiny: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(DataError, match="cannot be written: Not a directory; XDG_CACHE_HOME chooses another cache"):
        fetch()


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for value in ("", "relative/folder"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert cache.root() == tmp_path / ".cache" / "recsys"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "x"))
    assert cache.root() == tmp_path / "x" / "recsys"


def test_resolve_reads_a_path_or_a_split(tiny: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, _ = fetch()
    assert sources.resolve("tiny:test") == source.test
    assert sources.resolve("tiny:train") == source.train
    monkeypatch.chdir(tmp_path)
    for name in ("mine.parquet", "tiny:test"):
        Path(name).touch()
        assert sources.resolve(f"./{name}") == Path(name)
    assert sources.resolve("tiny:test") == source.test
    assert sources.resolve(str(tmp_path / "mine.parquet")) == tmp_path / "mine.parquet"


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("tiny:test", "the data set `tiny` is not on this machine yet; fetch it: recsys data fetch tiny"),
        ("tiny:tset", "`tiny:tset`: no such split: did you mean `test`?"),
        ("tiny:", "`tiny:`: no such split: known: test, train, valid"),
        ("tny:test", "no such data source as `tny`: did you mean `tiny`?"),
        ("tiny", "tiny: no such file; of the data source give a split, such as tiny:test"),
        ("no/where.parquet", "no/where.parquet: no such file"),
        ("C:\\rows.parquet", "C:\\rows.parquet: no such file"),
        ("../tiny:test", "../tiny:test: no such file"),
    ],
)
def test_resolve_says_what_is_wrong(tiny: Shelf, spec: str, told: str) -> None:
    with pytest.raises(DataError) as caught:
        sources.resolve(spec)
    assert str(caught.value) == told


def test_a_manifest_with_a_misspelt_key(tiny: Shelf) -> None:
    tiny.manifest["licens"] = "-"
    tiny.write()
    with pytest.raises(ConfigError, match=r"unknown key `source\.tiny\.licens`: did you mean `licence`"):
        sources.names()


def test_the_shipped_manifests_are_sound() -> None:
    assert sources.names() == ["movielens-100k", "adult", "wikipedia"]
    for name in sources.names():
        manifest = sources.describe(name)
        assert Schema.load(REAL_SHELF / manifest.schema_file).labels[0].name == "label"
        for origin in manifest.origins:
            assert origin.kind != "url" or origin.where.startswith("https://")


def test_two_tasks_differ_from_one_in_the_labels_only() -> None:
    one, two = (Schema.load(REAL_SHELF / "schemas" / f"movielens-100k{task}.toml") for task in ("", "-two-task"))
    assert two.features == one.features
    assert (two.group, two.time) == (one.group, one.time)
    assert [(label.name, label.kind) for label in two.labels] == [("label", "binary"), ("rating", "regression")]


def test_the_movielens_schemas_fit_the_rows(tiny: Shelf) -> None:
    source, _ = fetch()
    for task in ("", "-two-task"):
        schema = Schema.load(REAL_SHELF / "schemas" / f"movielens-100k{task}.toml")
        rows = pq.read_table(source.train)
        assert Encoder.fit(schema, [rows]).encode(rows).dense.shape == (5, len(schema.numeric))


def adult() -> pa.Table:
    return pa.concat_tables([pq.read_table(sources.load("adult").file(split)) for split in cache.SPLITS])


def test_adult_is_bundled(cached: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "from_url", None)
    monkeypatch.setattr(downloads, "from_package", None)
    assert sources.state("adult") == "bundled"
    source, manifest, rows = sources.load("adult"), sources.describe("adult"), adult()
    assert sources.state("adult") == "ready"
    assert fetch("adult") == (source, [])
    assert tuple(pq.read_metadata(source.file(split)).num_rows for split in cache.SPLITS) == manifest.rows
    assert contents(source) == manifest.digest
    assert rows.schema.field("label").type == pa.int8()
    assert rows["label"].value_counts().to_pylist() == [{"values": 0, "counts": 37155}, {"values": 1, "counts": 11687}]
    assert "income" not in rows.column_names
    assert rows["workclass"].null_count == 2799
    schema = Schema.load(source.schema)
    assert Encoder.fit(schema, [rows]).encode(rows.slice(0, 9)).dense.shape == (9, 5)
    assert set(rows.column_names) - set(schema.columns) == {"label", "fnlwgt"}


def test_adult_that_was_damaged(tmp_path: Path, cached: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "adult").mkdir()
    (tmp_path / "sources.toml").write_bytes((REAL_SHELF / "sources.toml").read_bytes())
    (tmp_path / "adult" / "adult.parquet").write_bytes(b"PAR1")
    monkeypatch.setattr(sources, "shelf", lambda _: tmp_path)
    with pytest.raises(DataError, match=r"adult\.parquet is not the file that was expected"):
        sources.load("adult")
