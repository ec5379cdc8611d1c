"""Models against the best possible AUC: what learns pairs comes near it, what does not stays away."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from recsys.data.synthetic import Synthetic, write
from recsys.training.recipe import Recipe
from recsys.training.run import evaluate_on, train

SCRIPT = Path(__file__).parents[2] / "scripts" / "check_synthetic.py"


def test_a_model_of_pairs_comes_near_the_best_auc_and_lr_does_not(tmp_path: Path) -> None:
    config = Synthetic(users=12, items=8, others=4, history=0, pair=1.6)
    best = write(config, tmp_path, {"train": 40_000, "valid": 5_000, "test": 20_000}, show=False)["test"].best_auc
    assert best is not None
    data = {"schema_file": tmp_path / "schema.toml", **{s: tmp_path / f"{s}.parquet" for s in ("train", "valid")}}
    training = {"epochs": 8, "batch_size": 256, "learning_rate": 3e-3, "patience": 2}
    gaps = {}
    for model in ("dcn2", "lr"):
        small = {"name": model, "embedding_dim": 8} | ({"hidden": [64], "dropout": 0.0} if model != "lr" else {})
        checkpoint = train(Recipe.parse({"model": small, "data": data, "training": training}, "here"), show=False)
        gaps[model] = best - evaluate_on(checkpoint, tmp_path / "test.parquet", replicates=0)["auc"].value
    assert -0.005 < gaps["dcn2"] < 0.01
    assert gaps["lr"] > 0.05


@pytest.mark.slow
def test_every_interaction_model_comes_within_five_thousandths() -> None:
    done = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
