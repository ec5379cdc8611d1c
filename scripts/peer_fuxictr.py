"""Train a DCNv2 made of FuxiCTR's layers, with FuxiCTR's own training loop, on the splits of a recsys source.

The peer of `scripts/compare_movielens.py`. It needs a venv of its own (`pip install torch fuxictr pyarrow`) and none of
recsys:

    python scripts/peer_fuxictr.py SPLITS OUT [--seeds 3]

SPLITS is the folder with train, valid and test.parquet that `recsys data fetch movielens-100k` prints. For every
seed it writes `OUT/seed-K.parquet` with the test rows' scores. FuxiCTR's wheel holds no plain DCNv2, so its
`FeatureEmbedding`, `CrossNetV2` and `MLP_Block` are put together as its model zoo does. The regulariser and the
dropout, which FuxiCTR tunes for every data set, are chosen here on the validation rows with seed 0.
"""

from __future__ import annotations

import argparse
import json
import logging
import tempfile
import time
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from fuxictr.features import FeatureMap
from fuxictr.pytorch.layers import CrossNetV2, FeatureEmbedding, MLP_Block
from fuxictr.pytorch.models import BaseModel
from fuxictr.pytorch.torch_utils import seed_everything

CATEGORICAL = ("user", "gender", "occupation", "zip_prefix", "item", "hour", "weekday")
LISTS = {"history": ("item", 20), "genres": (None, 8)}
NUMERIC = ("age", "year")
Columns = dict[str, torch.Tensor]


class DCNv2(BaseModel):  # type: ignore[misc]
    """Cross network and MLP side by side."""

    def __init__(self, feature_map: FeatureMap, dim: int, hidden: list[int], dropout: float, **kwargs: Any) -> None:
        super().__init__(feature_map, model_id="dcnv2", gpu=-1, metrics=["AUC", "logloss"], verbose=0, **kwargs)
        self.embedding = FeatureEmbedding(feature_map, dim)
        width = feature_map.sum_emb_out_dim()
        self.cross = CrossNetV2(width, 3)
        self.deep = MLP_Block(width, hidden, "ReLU", None, None, dropout)
        self.head = torch.nn.Linear(width + hidden[-1], 1)
        self.compile("adam", "binary_crossentropy", 1e-3)
        self.reset_parameters()

    def forward(self, inputs: Columns) -> dict[str, torch.Tensor]:
        """Probabilities."""
        x = self.embedding(self.get_inputs(inputs), flatten_emb=True)
        top = torch.cat([self.cross(x), self.deep(x)], dim=1)
        return {"y_pred": self.output_activation(self.head(top))}


class Loader:
    """Batches of columns in memory, shuffled anew every epoch."""

    def __init__(self, columns: Columns, batch: int, shuffle: bool) -> None:
        self.columns, self.batch, self.shuffle = columns, batch, shuffle
        self.rows = len(columns["label"])

    def __len__(self) -> int:
        return -(-self.rows // self.batch)

    def __iter__(self) -> Iterator[Columns]:
        order = torch.randperm(self.rows) if self.shuffle else torch.arange(self.rows)
        for start in range(0, self.rows, self.batch):
            part = order[start : start + self.batch]
            yield {name: column[part] for name, column in self.columns.items()}


def main() -> None:
    """Choose regulariser and dropout, train every seed, write scores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("splits", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--dim", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--batch", type=int, default=1024)
    args = parser.parse_args()
    logging.disable(logging.CRITICAL)
    args.out.mkdir(parents=True, exist_ok=True)
    tables = {split: pq.read_table(args.splits / f"{split}.parquet") for split in ("train", "valid", "test")}
    feature_map, data = encode(tables, args.dim)
    grid = [(reg, dropout) for reg in (0.0, 1e-5, 1e-4, 1e-3, 1e-2, 3e-2, 1e-1) for dropout in (0.0, 0.2)]
    tried = {choice: train(feature_map, data, args, 0, *choice)[1] for choice in grid}
    for choice, auc in tried.items():
        print(f"embedding_regularizer {choice[0]:g}  dropout {choice[1]}  valid AUC {auc:.4f}", flush=True)
    best = max(grid, key=tried.__getitem__)
    for seed in range(args.seeds):
        scores, valid, seconds = train(feature_map, data, args, seed, *best)
        pq.write_table(pa.table({"score": scores}), args.out / f"seed-{seed}.parquet")
        print(f"seed {seed}  valid AUC {valid:.4f}  {seconds:.1f} s", flush=True)
    print(json.dumps({"embedding_regularizer": best[0], "dropout": best[1], "out": str(args.out)}))


def train(
    feature_map: FeatureMap, data: dict[str, Columns], args: argparse.Namespace, seed: int, reg: float, dropout: float
) -> tuple[np.ndarray[Any, Any], float, float]:
    """Test scores, validation AUC and seconds of one training."""
    seed_everything(seed)
    with tempfile.TemporaryDirectory() as folder:
        model = DCNv2(feature_map, args.dim, [150, 150], dropout, model_root=folder, embedding_regularizer=reg or None)
        Path(model.model_dir).mkdir(parents=True, exist_ok=True)
        valid = Loader(data["valid"], 8192, False)
        started = time.monotonic()
        model.fit(Loader(data["train"], args.batch, True), epochs=args.epochs, validation_data=valid)
        seconds = time.monotonic() - started
    model.eval()
    with torch.no_grad():
        scores = torch.cat([model(batch)["y_pred"] for batch in Loader(data["test"], 8192, False)]).view(-1).numpy()
    return scores, float(model.evaluate(valid)["AUC"]), seconds


def encode(tables: dict[str, pa.Table], dim: int) -> tuple[FeatureMap, dict[str, Columns]]:
    """Columns as FuxiCTR's own preprocessing makes them: 0 pads, the last row is for what training never showed."""
    specs: OrderedDict[str, dict[str, Any]] = OrderedDict()
    data: dict[str, Columns] = {split: {} for split in tables}
    for name in NUMERIC:
        train = tables["train"][name].to_pandas().astype(float)
        mean, std = train.mean(), train.std()
        for split, table in tables.items():
            values = ((table[name].to_pandas().astype(float) - mean) / std).fillna(0.0)
            data[split][name] = torch.tensor(values.to_numpy(), dtype=torch.float32)
        specs[name] = {"source": "", "type": "numeric"}
    vocabularies = {name: vocabulary(tables["train"][name].to_pylist()) for name in CATEGORICAL}
    vocabularies["genres"] = vocabulary([v for row in tables["train"]["genres"].to_pylist() for v in row or []])
    for name in CATEGORICAL:
        known = vocabularies[name]
        for split, table in tables.items():
            data[split][name] = torch.tensor([known.get(v, len(known) + 1) for v in table[name].to_pylist()])
        specs[name] = {"source": "", "type": "categorical", "vocab_size": len(known) + 2, "padding_idx": 0}
    for name, (shares, length) in LISTS.items():
        known = vocabularies[shares or name]
        for split, table in tables.items():
            rows = np.zeros((table.num_rows, length), dtype=np.int64)
            for i, row in enumerate(table[name].to_pylist()):
                kept = [known.get(v, len(known) + 1) for v in (row or [])[-length:]]
                rows[i, : len(kept)] = kept
            data[split][name] = torch.from_numpy(rows)
        specs[name] = {"source": "", "type": "sequence", "vocab_size": len(known) + 2, "padding_idx": 0,
                       "max_len": length, "feature_encoder": "layers.MaskedAveragePooling()"}  # fmt: skip
        if shares:
            specs[name]["share_embedding"] = shares
    for split, table in tables.items():
        data[split]["label"] = torch.tensor(table["label"].to_numpy(), dtype=torch.float32)
    feature_map = FeatureMap("movielens", ".")
    feature_map.features, feature_map.labels = specs, ["label"]
    feature_map.num_fields, feature_map.default_emb_dim = len(specs), dim
    return feature_map, data


def vocabulary(values: list[Any]) -> dict[Any, int]:
    """1 … n for the distinct values, in the order of their first appearance."""
    return {value: i + 1 for i, value in enumerate(dict.fromkeys(v for v in values if v is not None))}


if __name__ == "__main__":
    main()
