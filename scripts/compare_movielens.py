"""Our recipes beside a DCNv2 of FuxiCTR's layers on MovieLens-100K: the same rows, dims, seeds and most epochs.

    python scripts/peer_fuxictr.py SPLITS PEER     # in a venv with fuxictr; `recsys data fetch` prints SPLITS
    python scripts/compare_movielens.py PEER       # in recsys's

Prints the test AUC of every seed, and the paired difference of the means over seeds, with a 95 % interval from a
bootstrap over users: what is resampled are the users; the models of all seeds see the same resamples.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from torch import Tensor

from recsys.config import override
from recsys.data.encoder import Encoder
from recsys.data.readers import read
from recsys.data.schema import Schema
from recsys.data.sources import fetch
from recsys.data.stream import encode_all
from recsys.training.bootstrap import multiplicities, replicate_metrics
from recsys.training.metrics import auc, check
from recsys.training.recipe import find_recipe
from recsys.training.run import train
from recsys.training.trainer import predict


def main() -> None:
    """Train, compare, print; the last line is JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", type=Path)
    parser.add_argument("--models", nargs="+", default=["dcn2", "dcnv2"])
    parser.add_argument("--replicates", type=int, default=2000)
    args = parser.parse_args()
    files = sorted(args.peer.glob("seed-*.parquet"))
    peer = [torch.from_numpy(pq.read_table(file)["score"].to_numpy().copy()) for file in files]
    results = {"fuxictr dcnv2": peer}
    for name in args.models:
        results[name] = [_scores(name, seed) for seed in range(len(files))]
    labels, groups = _truth()
    replicated = {name: _mean_auc(scores, labels, groups, args.replicates) for name, scores in results.items()}
    rows: list[dict[str, Any]] = []
    for name, scores in results.items():
        values = [float(auc(s, labels)) for s in scores]
        row = {"model": name, "auc": values, "mean": statistics.mean(values), "std": statistics.stdev(values)}
        told = f"{name:14} AUC {row['mean']:.4f} ± {row['std']:.4f}  ({', '.join(f'{v:.4f}' for v in values)})"
        if scores is not peer:
            difference = replicated[name] - replicated["fuxictr dcnv2"]
            low, high = torch.quantile(difference, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
            row |= {"difference": row["mean"] - rows[0]["mean"], "low": low, "high": high}
            told += f"  minus the peer {row['difference']:+.4f} ({low:+.4f} to {high:+.4f})"
        print(told, flush=True)
        rows.append(row)
    print(json.dumps({"bench": "movielens-100k", "split": "user-time", "rows": rows}))


def _scores(name: str, seed: int) -> Tensor:
    recipe = override(find_recipe(name), {"training.seed": seed})
    checkpoint = train(recipe, show=False)
    return predict(checkpoint.model, encode_all(checkpoint.encoder, fetch("movielens-100k").test))[:, 0]


def _truth() -> tuple[Tensor, Tensor]:
    """Labels and users of the test rows."""
    source = fetch("movielens-100k")
    test = read(source.test)
    batch = Encoder.fit(Schema.load(source.schema), [test]).encode(test)
    assert batch.labels is not None
    assert batch.groups is not None
    return batch.labels[:, 0], batch.groups


def _mean_auc(scores: list[Tensor], labels: Tensor, groups: Tensor, replicates: int) -> Tensor:
    """[R] mean AUC over seeds in every replicate; equal generators draw equal resamples."""
    columns = [check(s, labels, groups=groups) for s in scores]
    drawn = multiplicities(len(torch.unique(groups)), replicates, torch.Generator().manual_seed(0))
    return torch.stack([replicate_metrics(c, drawn)["auc"] for c in columns]).mean(dim=0)


if __name__ == "__main__":
    main()
