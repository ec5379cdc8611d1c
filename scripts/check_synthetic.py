"""Does every interaction model reach the best possible AUC of the synthetic data, and does `lr` stay clearly below it?

    python scripts/check_synthetic.py              # some ten minutes on two cores
    python scripts/check_synthetic.py --folder runs/synthetic --models dcn2 lr

All models are trained alike: one dim, dropout, batch size and learning rate for all, the rest as the models have it.
Exits with 1 when an interaction model ends more than 0.005 AUC below the best, or `lr` does not.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from recsys.data.synthetic import Split, Synthetic, write
from recsys.training.recipe import Recipe
from recsys.training.run import evaluate_on, train

MODELS = ("dcn2", "dcnv2", "deepfm", "dlrm", "din", "lr")
ROWS = {"train": 300_000, "valid": 50_000, "test": 200_000}
NEAR = 0.005
MODEL = {"embedding_dim": 8, "dropout": 0.1}
TRAINING = {"epochs": 15, "batch_size": 1024, "learning_rate": 1e-3, "patience": 2}


def main() -> int:
    """Make the data, train, measure, print; the last line is JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where the data go; by default a temporary folder")
    parser.add_argument("--models", nargs="+", default=MODELS, choices=MODELS)
    parser.add_argument("--seed", type=int, default=0, help="of the data and of the training")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="recsys-") as temporary:
        folder = args.folder or Path(temporary)
        test = write(Synthetic(seed=args.seed), folder, ROWS)["test"]
        print(f"test: {test.rows:,} rows, {test.positive:.1%} positive, true probabilities score {test.drawn_auc:.4f}")
        rows = [_row(name, folder, test, args.seed) for name in args.models]
    print(json.dumps({"bench": "synthetic", "best_auc": test.best_auc, "near": NEAR, "rows": rows}))
    return 0 if all((row["gap"] <= NEAR) == (row["model"] != "lr") for row in rows) else 1


def _row(name: str, folder: Path, test: Split, seed: int) -> dict[str, Any]:
    """Train one model and print its line."""
    files = {
        "schema_file": folder / "schema.toml",
        "train": folder / "train.parquet",
        "valid": folder / "valid.parquet",
    }
    recipe = Recipe.parse({"model": {"name": name} | MODEL, "data": files, "training": TRAINING | {"seed": seed}}, name)
    checkpoint = train(recipe, show=False)
    auc = evaluate_on(checkpoint, folder / "test.parquet", replicates=0)["auc"].value
    assert test.best_auc is not None
    row = {"model": name, "auc": auc, "gap": test.best_auc - auc}
    row |= {key: checkpoint.training[key] for key in ("epochs", "best_epoch", "seconds", "samples_per_second")}
    print(
        f"{name:8} AUC {auc:.4f}  best {test.best_auc:.4f}  gap {row['gap']:.4f}  "
        f"epochs {row['epochs']} (best {row['best_epoch']})  {row['samples_per_second']:,} rows/s",
        flush=True,
    )
    return row


if __name__ == "__main__":
    sys.exit(main())
