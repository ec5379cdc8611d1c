"""How others train on the same encoded rows, each as its users would, and each at its best.

All get the tensors in memory and the batches' row numbers, which spares FuxiCTR its loaders. Tables have as many rows
and columns, hidden layers are as wide, and the optimizers' rates are the libraries' usual ones.

====================  =====  ===================================================================================
``fuxictr``           stock  DCNv2 of its layers, three crosses beside the MLP, every number embedded too (624
                             inputs of the network), its `train_epoch`: clipped gradients, dense Adam on all tables
``fuxictr-sgd``       tuned  what its settings allow: numbers as they are (429 inputs), and plain SGD for Adam,
                             which keeps no state; its gradients are as large as the tables nonetheless
``fuxictr-sparse``    tuned  what takes a subclass: 429 inputs, sparse gradients, SparseAdam on the tables and Adam
                             on the network, without clipping, which torch does not do to sparse gradients
``torchrec``          stock  DLRM over an `EmbeddingBagCollection`, dense Adam: a smaller network than DCNv2
``torchrec-rowwise``  tuned  the same over a `FusedEmbeddingBagCollection`, FBGEMM's fused tables, with row-wise
                             Adagrad, and Adam on the network: FBGEMM has no fused Adam for a CPU
``torchrec-sgd``      tuned  the same with fused SGD
====================  =====  ===================================================================================
"""

from __future__ import annotations

import importlib.util
import tempfile
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recsys.bench.criteo import CATEGORIES, NUMBERS

__all__ = ["CROSSES", "DIM", "HIDDEN", "Peer", "Rows", "dcnv2", "fuxictr", "torchrec"]

DIM, HIDDEN, CROSSES = 16, (150, 150), 3
Batches = Iterable[Tensor]
"""Row numbers [B] of each batch."""


@dataclass(frozen=True)
class Rows:
    """Encoded rows: numbers [n, 13], ids [26, n] of tables of 2^bits rows, labels [n]."""

    numbers: Tensor
    ids: Tensor
    labels: Tensor
    bits: int


@dataclass(frozen=True)
class Peer:
    """A model of another library.

    Attributes:
        name: As the module describes it.
        kind: As the module describes them.
        learn: Takes a step for each batch.
    """

    name: str
    kind: Literal["stock", "tuned"]
    learn: Callable[[Batches], object]


def fuxictr(rows: Rows) -> list[Peer]:
    """FuxiCTR's three; none where it is not installed."""
    if not _has("fuxictr"):
        return []
    sizes = dict.fromkeys(CATEGORIES, 1 << rows.bits)
    columns = dict(zip(NUMBERS, rows.numbers.T.contiguous(), strict=True))
    columns |= dict(zip(CATEGORIES, rows.ids, strict=True)) | {"label": rows.labels}
    return [
        Peer("fuxictr", "stock", partial(_fuxictr_epoch, dcnv2(sizes, DIM, "adam"), columns)),
        Peer("fuxictr-sgd", "tuned", partial(_fuxictr_epoch, dcnv2(sizes, 1, "SGD"), columns)),
        Peer("fuxictr-sparse", "tuned", partial(_fuxictr_epoch, _sparse(dcnv2(sizes, 1, "adam")), columns)),
    ]


def torchrec(rows: Rows) -> list[Peer]:
    """Torchrec's three; none where it is not installed."""
    if not _has("torchrec"):
        return []
    with warnings.catch_warnings():  # FBGEMM's CPU build warns of each kernel that it leaves out
        warnings.simplefilter("ignore")
        from torchrec.modules.embedding_configs import EmbeddingBagConfig
        from torchrec.modules.embedding_modules import EmbeddingBagCollection
        from torchrec.modules.fused_embedding_modules import FusedEmbeddingBagCollection
        from torchrec.optim import RowWiseAdagrad
    tables = [EmbeddingBagConfig(1 << rows.bits, DIM, name=name, feature_names=[name]) for name in CATEGORIES]
    cpu = torch.device("cpu")
    plain = EmbeddingBagCollection(tables=tables, device=cpu)
    rowwise = FusedEmbeddingBagCollection(tables, RowWiseAdagrad, {"lr": 1e-2}, device=cpu)
    sgd = FusedEmbeddingBagCollection(tables, torch.optim.SGD, {"lr": 1e-2}, device=cpu)
    return [
        Peer("torchrec", "stock", _dlrm(rows, plain, plain.parameters())),
        Peer("torchrec-rowwise", "tuned", _dlrm(rows, rowwise, ())),
        Peer("torchrec-sgd", "tuned", _dlrm(rows, sgd, ())),
    ]


def _has(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


# --- FuxiCTR


def dcnv2(
    sizes: Mapping[str, int],
    number_dim: int,
    optimizer: str,
    hidden: Sequence[int] = HIDDEN,
    crosses: int = CROSSES,
) -> Any:
    """A DCNv2 as FuxiCTR's model zoo puts it together; its wheel holds the layers only.

    Args:
        sizes: Rows of each category's table.
        number_dim: Columns of a number's embedding; 1 takes numbers as they are.
        optimizer: By FuxiCTR's name.
        hidden: Columns of the deep part's layers.
        crosses: Layers of the other part.
    """
    from fuxictr.features import FeatureMap
    from fuxictr.pytorch.layers import CrossNetV2, FeatureEmbedding, MLP_Block
    from fuxictr.pytorch.models import BaseModel

    class DCNv2(BaseModel):  # type: ignore[misc]
        def __init__(self, features: FeatureMap, folder: str) -> None:
            super().__init__(features, gpu=-1, metrics=["AUC"], verbose=0, model_root=folder)
            self.embedding = FeatureEmbedding(features, DIM)
            width = features.sum_emb_out_dim()
            self.cross = CrossNetV2(width, crosses)
            self.deep = MLP_Block(width, list(hidden))
            self.head = nn.Linear(width + hidden[-1], 1)
            self.compile(optimizer, "binary_crossentropy", 1e-3)
            self.reset_parameters()
            # What `fit` sets before an epoch; it measures after so many steps, which is not to be timed.
            self._max_gradient_norm, self._total_steps, self._eval_steps = 10.0, 0, 1 << 62
            self._stop_training = False

        def forward(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
            x = self.embedding(self.get_inputs(inputs), flatten_emb=True)
            top = torch.cat([self.cross(x), self.deep(x)], dim=1)
            return {"y_pred": self.output_activation(self.head(top))}

    with tempfile.TemporaryDirectory() as folder:
        return DCNv2(_features(FeatureMap("criteo", folder), sizes, number_dim), folder)


def _features(features: Any, sizes: Mapping[str, int], number_dim: int) -> Any:
    numbers = {"source": "", "type": "numeric", "embedding_dim": number_dim}
    categories = {name: {"source": "", "type": "categorical", "vocab_size": rows} for name, rows in sizes.items()}
    features.features.update({name: dict(numbers) for name in NUMBERS} | categories)
    features.labels, features.num_fields, features.default_emb_dim = ["label"], len(features.features), DIM
    return features


def _sparse(model: Any) -> Any:
    """The same model with sparse gradients of its tables."""
    tables = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    for table in tables:
        table.sparse = True
    rows = [table.weight for table in tables]
    own = {id(weight) for weight in rows}
    network = torch.optim.Adam([p for p in model.parameters() if id(p) not in own], lr=1e-3)
    both = (torch.optim.SparseAdam(rows, lr=1e-3), network)

    def train_step(batch: dict[str, Tensor]) -> Tensor:
        loss: Tensor = model.compute_loss(model(batch), model.get_labels(batch))
        _update(both, loss)
        return loss

    model.train_step = train_step
    return model


def _fuxictr_epoch(model: Any, columns: Mapping[str, Tensor], batches: Batches) -> None:
    model.train_epoch({name: column[part] for name, column in columns.items()} for part in batches)


# --- torchrec


def _dlrm(rows: Rows, tables: Any, parameters: Iterable[Tensor]) -> Callable[[Batches], object]:
    """DLRM over `tables`, of which Adam learns `parameters`."""
    from torchrec.models.dlrm import DLRM
    from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

    model = DLRM(tables, len(NUMBERS), [HIDDEN[0], DIM], [*HIDDEN, 1])
    network = [p for part in (model.dense_arch, model.over_arch) for p in part.parameters()]
    optimizers = [torch.optim.Adam([*network, *parameters], lr=1e-3)]
    names = list(CATEGORIES)

    def learn(batches: Batches) -> None:
        for part in batches:
            lengths = torch.ones(len(names) * len(part), dtype=torch.int32)
            ids = KeyedJaggedTensor(names, rows.ids[:, part].reshape(-1), lengths=lengths)
            logits = model(rows.numbers[part], ids).squeeze(1)
            loss = F.binary_cross_entropy_with_logits(logits, rows.labels[part])
            _update(optimizers, loss)
            loss.item()

    return learn


def _update(optimizers: Iterable[torch.optim.Optimizer], loss: Tensor) -> None:
    """A step of them all; gradients are dropped first."""
    for optimizer in optimizers:
        optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    with torch.sparse.check_sparse_tensor_invariants(enable=False):  # type: ignore[no-untyped-call]
        for optimizer in optimizers:
            optimizer.step()
