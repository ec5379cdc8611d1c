"""The shelves are found beside the package in a checkout, and inside it where it is installed."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

import pytest

from recsys import shelves
from recsys.errors import ConfigError
from recsys.shelves import shelf

Name = Literal["models", "dataflow", "data"]
NAMES: tuple[Name, ...] = get_args(Name)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty package folder in the place of recsys's own."""
    folder = tmp_path / "somewhere" / "recsys"
    folder.mkdir(parents=True)
    monkeypatch.setattr(shelves, "_PACKAGE", folder)
    return folder


@pytest.mark.parametrize(
    ("name", "file"), [("models", "dcn2.toml"), ("data", "sources.toml"), ("dataflow", "README.md")]
)
def test_this_package_has_them(name: Name, file: str) -> None:
    assert (shelf(name) / file).is_file()


@pytest.mark.parametrize("name", NAMES)
def test_a_checkout_has_them_beside_the_package(package: Path, name: Name) -> None:
    (package.parent / "pyproject.toml").touch()
    (package.parent / name).mkdir()
    assert shelf(name) == package.parent / name


@pytest.mark.parametrize("name", NAMES)
def test_an_installed_package_has_them_inside(package: Path, name: Name) -> None:
    (package / "_shelves" / name).mkdir(parents=True)
    (package.parent / name).mkdir()
    (package.parent / "pyproject.toml").touch()
    assert shelf(name) == package / "_shelves" / name


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_beside_an_installed_package_is_somebody_elses(package: Path, name: Name) -> None:
    (package.parent / name).mkdir()
    with pytest.raises(ConfigError, match=f"the folder `{name}/` of recsys is in neither .*: install recsys again"):
        shelf(name)


def test_a_file_is_no_shelf(package: Path) -> None:
    (package.parent / "pyproject.toml").touch()
    (package.parent / "models").touch()
    with pytest.raises(ConfigError, match="models"):
        shelf("models")
