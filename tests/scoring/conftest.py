"""Two small models and 1000 rows to score."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from recsys.models.checkpoint import Checkpoint
from recsys.training.run import train
from tests import toy


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return train(toy.recipe(tmp_path_factory.mktemp("toy"), epochs=1), show=False)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.parquet"
    table = toy.rows(1000, 4).drop_columns(["label", "rating"])
    pq.write_table(table.append_column("row", [list(range(1000))]), path, row_group_size=300)
    return path


@pytest.fixture(scope="module")
def flat(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    features = tuple(f for f in toy.SCHEMA.features if f.name in ("user", "item", "age"))
    schema = toy.SCHEMA.model_copy(update={"features": features})
    return train(toy.recipe(tmp_path_factory.mktemp("flat"), schema=schema, epochs=1), show=False)
