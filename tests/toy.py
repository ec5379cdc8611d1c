"""A small data set with an interaction to learn, for tests of training, checkpoints and scoring."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.data.schema import Categorical, Label, MultiValued, Numeric, Schema, Sequence
from recsys.training.recipe import Recipe

SCHEMA = Schema(
    group="user",
    labels=(Label(name="label"),),
    features=(
        Categorical(name="user", side="user"),
        Categorical(name="item", side="item"),
        Sequence(name="history", shares="item", max_length=5, side="user"),
        MultiValued(name="tags", side="item"),
        Numeric(name="age", side="user"),
    ),
)

TWO_TASKS = SCHEMA.model_copy(update={"labels": (Label(name="label"), Label(name="rating", kind="regression"))})


def rows(n: int, seed: int = 0) -> pa.Table:
    """Rows whose label depends on whether user and item are of the same parity, with some noise."""
    rng = np.random.default_rng(seed)
    user, item = rng.integers(0, 30, n), rng.integers(0, 20, n)
    label = ((user + item) % 2 == 0) ^ (rng.random(n) < 0.1)
    history = [rng.integers(0, 20, rng.integers(0, 8)).tolist() for _ in range(n)]
    tags = [[f"t{t}" for t in rng.integers(0, 4, rng.integers(0, 3))] for _ in range(n)]
    age = np.where(rng.random(n) < 0.05, np.nan, 20.0 + user)
    return pa.table(
        {
            "label": label.astype(np.int8),
            "rating": 1.0 + 4.0 * label,
            "user": user,
            "item": [f"i{i}" for i in item],
            "history": [[f"i{i}" for i in h] for h in history],
            "tags": pa.array(tags, pa.list_(pa.string())),
            "age": age,
        }
    )


def files(folder: Path, n: int = 1500, schema: Schema = SCHEMA) -> dict[str, Path]:
    """Train, valid and test Parquet files and the schema, under `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {split: folder / f"{split}.parquet" for split in ("train", "valid", "test")}
    for seed, path in enumerate(paths.values()):
        pq.write_table(rows(n if seed == 0 else n // 4, seed), path)
    paths["schema"] = folder / "schema.toml"
    paths["schema"].write_text(schema.toml())
    return paths


def recipe(folder: Path, model: str = "dcn2", schema: Schema = SCHEMA, **training: object) -> Recipe:
    """A recipe on the toy files."""
    paths = files(folder, schema=schema)
    small: dict[str, object] = {"name": model, "embedding_dim": 4}
    if model != "lr":
        small |= {"hidden": [8], "dropout": 0.1}
    return Recipe.parse(
        {
            "model": small,
            "data": {"schema_file": paths["schema"], "train": paths["train"], "valid": paths["valid"]},
            "training": {"batch_size": 128, "epochs": 3, "learning_rate": 0.01, "patience": 5} | training,
        },
        "toy",
    )
