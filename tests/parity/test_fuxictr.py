"""FuxiCTR's own layers, given our weights, give our numbers.

FuxiCTR turns a number v into an embedding v·e, which enters the fields; here numbers stay raw columns. So whole models
are compared with id features only.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from recsys.data.batch import Batch
from recsys.data.encoder import IdInput
from recsys.layers.interactions import CrossNetwork, factorisation_machine, pairwise_dots
from recsys.layers.mlp import MLP
from recsys.models.base import FIRST_ORDER
from recsys.models.ranking.dcnv2 import DCNv2, DCNv2Config
from recsys.models.ranking.deepfm import DeepFM, DeepFMConfig
from recsys.models.registry import build
from tests.helpers import inputs, jagged, randomise

pytest.importorskip("fuxictr", reason="parity with FuxiCTR needs it in a venv of its own: `pip install fuxictr`")
from fuxictr.features import FeatureMap
from fuxictr.pytorch.layers import (
    CrossNetV2,
    FactorizationMachine,
    FeatureEmbedding,
    InnerProductInteraction,
    MLP_Block,
)

pytestmark = pytest.mark.parity
LONGEST = 4
IDS = (
    IdInput("user", "user", 8, "categorical", "user"),
    IdInput("item", "item", 10, "categorical", "item"),
    IdInput("history", "item", 10, "sequence", "user", shares="item"),
    IdInput("tags", "tags", 5, "multi-valued", "item"),
)
INPUTS = inputs(dense=0, ids=IDS)


def feature_map(embedding_dim: int) -> Any:
    """The features of `INPUTS` as FuxiCTR describes them; a padding row 0 is its way to ragged lists."""
    specs: OrderedDict[str, dict[str, Any]] = OrderedDict()
    for feature in IDS:
        spec: dict[str, Any] = {"source": "", "type": "categorical", "vocab_size": feature.rows, "padding_idx": 0}
        if feature.kind != "categorical":
            spec |= {"type": "sequence", "max_len": LONGEST, "feature_encoder": "layers.MaskedAveragePooling()"}
        if feature.shares:
            spec["share_embedding"] = feature.shares
        specs[feature.name] = spec
    described = FeatureMap("test", ".")
    described.features, described.labels = specs, ["label"]
    described.num_fields, described.default_emb_dim = len(specs), embedding_dim
    return described


def examples(size: int = 12, longest: int = LONGEST) -> tuple[Batch, dict[str, Tensor]]:
    """The same rows for both: ragged here, padded with 0 there; row 0, their padding, is read by neither."""
    generator = torch.Generator().manual_seed(0)
    bags: list[list[list[int]]] = []
    columns: dict[str, Tensor] = {}
    for feature in IDS:
        single = feature.kind == "categorical"
        lengths = [1] * size if single else torch.randint(0, longest + 1, (size,), generator=generator).tolist()
        rows = [torch.randint(1, feature.rows, (n,), generator=generator).tolist() for n in lengths]
        padded = torch.tensor([row + [0] * (LONGEST - len(row)) for row in rows])
        bags.append(rows)
        columns[feature.name] = padded[:, 0] if single else padded
    return Batch(torch.zeros(size, 0), jagged([f.name for f in IDS], bags)), columns


def load_embeddings(target: Any, model: Any, suffix: str = "") -> None:
    """Our tables into FuxiCTR's layer; its padding row must be zeros, and ours starts so."""
    layers = target.embedding_layer.embedding_layers
    with torch.no_grad():
        for feature in IDS:
            rows = model.tables.table(feature.table + suffix)[0]
            rows[0] = 0.0
            layers[feature.name].weight.copy_(rows)


def load_linear(target: Any, source: nn.Module) -> None:
    target.load_state_dict(source.state_dict())


def load_mlp(target: Any, source: MLP) -> None:
    target.mlp.load_state_dict(source.state_dict())


def load_cross(target: Any, source: CrossNetwork) -> None:
    for theirs, ours in zip(target.cross_layers, source.layers, strict=True):
        load_linear(theirs, ours)


def dcnv2(structure: Literal["stacked", "parallel"]) -> DCNv2:
    model = build(DCNv2Config(structure=structure, embedding_dim=6, cross_layers=2, hidden=(16, 9)), INPUTS)
    assert isinstance(model, DCNv2)
    randomise(model, std=0.3)
    return model


def test_cross_net_v2() -> None:
    ours, theirs = CrossNetwork(7, 3), CrossNetV2(7, 3)
    randomise(ours)
    load_cross(theirs, ours)
    x = torch.randn(5, 7)
    torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize(("hidden", "out"), [([6, 5], 2), ([6], None), ([], 1)])
def test_mlp_block(hidden: list[int], out: int | None) -> None:
    ours, theirs = MLP(7, hidden, out, dropout=0.2), MLP_Block(7, hidden, "ReLU", out, dropout_rates=0.2)
    randomise(ours)
    load_mlp(theirs, ours)
    x = torch.randn(5, 7)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))


def test_inner_products() -> None:
    e = torch.randn(5, 4, 3)
    torch.testing.assert_close(factorisation_machine(e), InnerProductInteraction(4)(e))
    pairs = torch.triu_indices(4, 4, 1)
    torch.testing.assert_close(pairwise_dots(e, pairs), InnerProductInteraction(4, "inner_product")(e))


def test_feature_embedding() -> None:
    model = dcnv2("parallel")
    theirs = FeatureEmbedding(feature_map(6), 6)
    load_embeddings(theirs, model)
    layers = theirs.embedding_layer.embedding_layers
    assert layers["history"] is layers["item"]
    batch, columns = examples()
    assert min(batch.ids.lengths()[2]) == 0
    assert max(batch.ids.lengths()[2]) > 1
    x, _ = model.tables(batch)
    torch.testing.assert_close(x, theirs(columns, flatten_emb=True))
    torch.testing.assert_close(model.layout.stack(x, model.fields), theirs(columns))


@pytest.mark.parametrize("structure", ["stacked", "parallel"])
def test_a_whole_dcnv2(structure: Literal["stacked", "parallel"]) -> None:
    model = dcnv2(structure)
    width = 6 * len(IDS)
    embedding, cross = FeatureEmbedding(feature_map(6), 6), CrossNetV2(width, 2)
    deep, head = MLP_Block(width, [16, 9], "ReLU"), nn.Linear(model.head.in_features, 1)
    load_embeddings(embedding, model)
    load_cross(cross, model.cross)
    load_mlp(deep, model.deep)
    load_linear(head, model.head)
    batch, columns = examples()
    x = embedding(columns, flatten_emb=True)
    top = deep(cross(x)) if structure == "stacked" else torch.cat([cross(x), deep(x)], dim=1)
    torch.testing.assert_close(model(batch), head(top), rtol=1e-5, atol=1e-5)


def test_a_whole_deepfm() -> None:
    model = build(DeepFMConfig(embedding_dim=6, hidden=(8,)), INPUTS)
    assert isinstance(model, DeepFM)
    randomise(model, std=0.3)
    nn.init.ones_(model.pair_scale)
    # FuxiCTR sums the first-order weights of a list, here they are averaged: so no list holds more than one id.
    batch, columns = examples(longest=1)
    described, width = feature_map(6), 6 * len(IDS)
    embedding, machine = FeatureEmbedding(described, 6), FactorizationMachine(described)
    deep = MLP_Block(width, [8], "ReLU", 1)
    load_embeddings(embedding, model)
    load_embeddings(machine.lr_layer.embedding_layer, model, FIRST_ORDER)
    load_mlp(deep, model.mlp)
    with torch.no_grad():
        machine.lr_layer.bias.copy_(model.first.bias)
    e = embedding(columns)
    expected = machine(columns, e) + deep(e.flatten(1))
    torch.testing.assert_close(model(batch), expected, rtol=1e-5, atol=1e-5)
