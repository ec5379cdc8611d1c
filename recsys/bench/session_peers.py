"""Who else scores: the same network over torchrec's look-ups, and FuxiCTR's DCNv2, each as its users would run it.

===================  =====  ========================================================================================
``torchrec``         stock  an `EmbeddingBagCollection` with our rows, then our network, by eager torch
``torchrec-compile`` tuned  the same module through `torch.compile`, for each batch size by itself
``fuxictr``          stock  DCNv2 of FuxiCTR's layers in evaluation mode: other weights of the same shapes
===================  =====  ========================================================================================

All get their ids ready: a `KeyedJaggedTensor` that has just been made, or a dict of columns. Making it is not timed.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from recsys.bench.criteo import CATEGORIES, NUMBERS
from recsys.bench.lookup_peers import Contender
from recsys.bench.train_peers import dcnv2
from recsys.data.batch import JaggedIds
from recsys.models.base import RankingModel, to_scores

__all__ = ["DIM", "absent", "peers"]

DIM, HIDDEN, CROSSES = 16, (1024, 512, 256), 3
"""What all models of the benchmark have: columns of a row, hidden layers, crosses or OnlyDense layers."""


def absent() -> dict[str, str]:
    """Peers that are not installed, and how they are."""
    installs = {"torchrec": "python -m recsys.install", "fuxictr": "pip install 'recsys[parity]'"}
    return {name: how for name, how in installs.items() if importlib.util.find_spec(name) is None}


def peers(model: RankingModel, numbers: Callable[[int], Tensor]) -> list[Contender]:
    """The peers of a model over Criteo's columns.

    Args:
        model: Its rows are shared with torchrec's modules, not copied.
        numbers: [B, 13] for a batch of B.
    """
    missing = absent()
    found = [] if "torchrec" in missing else _torchrec(model, numbers)
    return found if "fuxictr" in missing else [*found, _fuxictr(model, numbers)]


class _Collection(nn.Module):
    """A user's module: look up, join, score."""

    def __init__(self, collection: nn.Module, model: RankingModel) -> None:
        super().__init__()
        self.collection, self.model = collection, model

    def forward(self, numbers: Tensor, ids: Any) -> Tensor:
        x = torch.cat([numbers, self.collection(ids).values()], dim=1)
        return to_scores(self.model.network(x, {}), self.model.inputs.tasks)


def _torchrec(model: RankingModel, numbers: Callable[[int], Tensor]) -> list[Contender]:
    with warnings.catch_warnings():  # FBGEMM's CPU build warns of each kernel that it leaves out
        warnings.simplefilter("ignore")
        from torchrec.modules.embedding_configs import EmbeddingBagConfig
        from torchrec.modules.embedding_modules import EmbeddingBagCollection
    tables = model.tables
    configs = [
        EmbeddingBagConfig(tables.tables[n.table].rows, DIM, name=n.table, feature_names=[n.feature])
        for n in tables.lookups
    ]
    collection = EmbeddingBagCollection(configs, device=torch.device("meta"))
    for name, bags in collection.embedding_bags.items():
        bags.weight = nn.Parameter(tables.table(name)[0].detach(), requires_grad=False)
    module = _Collection(collection, model).eval()

    def prepare(ids: JaggedIds) -> Any:
        return numbers(ids.size), ids.to_kjt()

    def compiled() -> Callable[[Any], Tensor]:
        fast: dict[int, Any] = {}

        def run(given: Any) -> Tensor:
            size = len(given[0])
            if size not in fast:
                torch._dynamo.reset()
                fast[size] = torch.compile(module, dynamic=False)
            result: Tensor = fast[size](*given)
            return result

        return run

    return [
        Contender("torchrec", "stock", "fp32", prepare, lambda given: module(*given)),
        Contender("torchrec-compile", "tuned", "fp32", prepare, compiled()),
    ]


def _fuxictr(model: RankingModel, numbers: Callable[[int], Tensor]) -> Contender:
    rows = {name: model.tables.tables[name].rows for name in CATEGORIES}
    module = dcnv2(rows, 1, "adam", HIDDEN, CROSSES).eval()

    def prepare(ids: JaggedIds) -> dict[str, Tensor]:
        columns = dict(zip(NUMBERS, numbers(ids.size).T.contiguous(), strict=True))
        return {**columns, **dict(zip(CATEGORIES, ids.values.view(len(CATEGORIES), -1).long(), strict=True))}

    def run(columns: dict[str, Tensor]) -> Tensor:
        scores: Tensor = module(columns)["y_pred"]
        return scores

    return Contender("fuxictr", "stock", "fp32", prepare, run)
