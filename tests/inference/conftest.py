"""Small trained models, their folders and an export; what is built for them goes to a cache of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from recsys.inference.convert import convert
from recsys.models.checkpoint import Checkpoint, save
from recsys.training.run import train
from tests import toy


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder / "recsys"


def _run(folder: Path, model: str, two: bool = False) -> Path:
    schema = toy.TWO_TASKS if two else toy.SCHEMA
    save(train(toy.recipe(folder / "toy", model, schema, epochs=1), show=False), folder / "run")
    return folder / "run"


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`dcn2`, with collision weights."""
    return _run(tmp_path_factory.mktemp("dcn2"), "dcn2")


@pytest.fixture(scope="session")
def din(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`din`, whose history stays unpooled."""
    return _run(tmp_path_factory.mktemp("din"), "din")


@pytest.fixture(scope="session")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`dcnv2` with a binary label and a regression."""
    return _run(tmp_path_factory.mktemp("two"), "dcnv2", two=True)


@pytest.fixture(scope="session")
def export(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "dcn2"
    convert(run, folder, show=False)
    return folder


@pytest.fixture(scope="session")
def trained(run: Path) -> Checkpoint:
    from recsys.models.checkpoint import load

    return load(run)
