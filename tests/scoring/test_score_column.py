"""A column of the input that is named as the output's own is never taken for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recsys.data.schema import Numeric
from recsys.scoring.local import score
from recsys.training.run import train
from tests import toy


def test_scores_can_be_scored_again_and_a_feature_may_be_named_score(tmp_path: Path) -> None:
    features = (*(f for f in toy.SCHEMA.features if f.name in ("user", "item")), Numeric(name="score", column="age"))
    schema = toy.SCHEMA.model_copy(update={"features": features})
    checkpoint = train(toy.recipe(tmp_path / "toy", schema=schema, epochs=1), show=False)
    rows = toy.rows(200, 4).append_column("score", pa.array(np.arange(200.0)))
    pq.write_table(rows, tmp_path / "in.parquet")
    score(checkpoint, tmp_path / "in.parquet", tmp_path / "out.parquet", ["user"], show=False)
    out = pq.read_table(tmp_path / "out.parquet")
    assert out.column_names == ["user", "score"]
    assert np.allclose(out["score"].to_numpy(), checkpoint.predict(rows), atol=1e-6)
