"""A seal vouches for a folder: what is missing, altered or outside of it is named."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from recsys.errors import CheckpointError
from recsys.seals import Sealed, vouch


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a.bin").write_bytes(b"abc")
    (tmp_path / "b.bin").write_bytes(b"def")
    Sealed(format=3, recsys="1.2", files=vouch(tmp_path, ["a.bin", "b.bin"])).write(tmp_path / "seal.json")
    return tmp_path


def read(folder: Path) -> Sealed:
    return Sealed.read(folder / "seal.json", 3, "a test")


def test_a_whole_folder_is_fine(folder: Path) -> None:
    seal = read(folder)
    seal.check(folder, ["a.bin"])
    assert seal.sha256 == seal.digest()
    assert seal.files["a.bin"].bytes == 3


def test_an_altered_file_is_found_unless_it_is_not_to_be_read(folder: Path) -> None:
    (folder / "b.bin").write_bytes(b"dex")
    with pytest.raises(CheckpointError, match=r"b\.bin: its checksum differs from the seal's: altered"):
        read(folder).check(folder, [])
    read(folder).check(folder, [], unread=["b.bin"])
    (folder / "b.bin").write_bytes(b"de")
    with pytest.raises(CheckpointError, match=r"b\.bin: 2 bytes, expected 3: altered or cut off"):
        read(folder).check(folder, [], unread=["b.bin"])
    (folder / "b.bin").unlink()
    with pytest.raises(CheckpointError, match=r"b\.bin is missing"):
        read(folder).check(folder, [])


def test_a_file_that_it_does_not_vouch_for_is_found(folder: Path) -> None:
    with pytest.raises(CheckpointError, match=r"does not vouch for `c\.bin`"):
        read(folder).check(folder, ["a.bin", "c.bin"])


@pytest.mark.parametrize("name", ["../a.bin", "/etc/passwd", "x/../a.bin"])
def test_a_name_outside_the_folder_is_refused(folder: Path, name: str) -> None:
    seal = read(folder)
    outside = seal.model_copy(update={"files": {name: seal.files["a.bin"]}})
    with pytest.raises(CheckpointError, match="lies outside the folder"):
        outside.check(folder, [])


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "not the seal of a test"),
        ("[]", "not the seal of a test"),
        ("{}", "not the seal of a test"),
        ('{"format": 4, "recsys": "9"}', "format 4, made by recsys 9; this is recsys"),
        ('{"format": 3}', "not the seal of a test: .*missing key `recsys`"),
        ('{"format": 3, "recsys": "1", "files": {}, "sha256": ""}', "differ from their checksum: altered"),
    ],
)
def test_what_is_no_seal_is_one_sentence(folder: Path, content: str, told: str) -> None:
    (folder / "seal.json").write_text(content)
    with pytest.raises(CheckpointError, match=told):
        read(folder)


def test_any_change_is_noticed(folder: Path) -> None:
    values = json.loads((folder / "seal.json").read_text())
    values["recsys"] = "1.3"
    (folder / "seal.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match="altered"):
        read(folder)
