"""torchrec's own layers, given our weights, give our numbers."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from recsys.data.batch import Batch, JaggedIds
from recsys.layers.interactions import CrossNetwork, factorisation_machine, pairwise_dots
from recsys.layers.tables import EmbeddingTables, Lookup, Table
from recsys.models.ranking.dlrm import DLRMConfig
from recsys.models.registry import build
from tests.helpers import ITEM, TAGS, USER, batch_of, inputs, jagged_ids, randomise, unpack, unpack_weights

with warnings.catch_warnings():  # torchrec and FBGEMM warn of what they leave out
    warnings.simplefilter("ignore")
    pytest.importorskip("torchrec", reason="parity with torchrec needs torchrec: run `python -m recsys.install`")
    from torchrec.models.dlrm import InteractionArch
    from torchrec.modules.crossnet import CrossNet, LowRankCrossNet
    from torchrec.modules.deepfm import FactorizationMachine
    from torchrec.modules.embedding_configs import EmbeddingBagConfig, PoolingType
    from torchrec.modules.embedding_modules import EmbeddingBagCollection

pytestmark = pytest.mark.parity
TABLES = (Table("shared", 10, 5), Table("own", 10, 3))
POOLING = {"sum": PoolingType.SUM, "mean": PoolingType.MEAN}


def copy(target: Any, source: Tensor) -> None:
    with torch.no_grad():
        target.copy_(source.view(target.shape))


def ours(pooling: str, seed: int) -> EmbeddingTables:
    """Features f0 and f2 read one table, f1 another of its own dim."""
    tables = EmbeddingTables(
        ("f0", "f1", "f2"),
        TABLES,
        [Lookup(f, f, t, pooling) for f, t in (("f0", "shared"), ("f1", "own"), ("f2", "shared"))],  # type: ignore[arg-type]
    )
    randomise(tables, seed)
    return tables


def theirs(tables: EmbeddingTables, pooling: str, weighted: bool) -> Any:
    reads = {"shared": ["f0", "f2"], "own": ["f1"]}
    collection = EmbeddingBagCollection(
        tables=[
            EmbeddingBagConfig(
                name=t.name,
                embedding_dim=t.dim,
                num_embeddings=t.rows,
                feature_names=reads[t.name],
                pooling=POOLING[pooling],
            )
            for t in TABLES
        ],
        is_weighted=weighted,
    )
    for name, bag in collection.embedding_bags.items():
        copy(bag.weight, tables.table(name)[0].detach())
    return collection


@settings(deadline=None, max_examples=40)
@given(jagged_ids(features=3, weighted=False), st.sampled_from(["sum", "mean"]), st.integers(0, 9))
def test_embedding_bag_collection(ids: JaggedIds, pooling: str, seed: int) -> None:
    assume(ids.size)  # torchrec refuses an empty batch
    tables = ours(pooling, seed)
    keyed = theirs(tables, pooling, weighted=False)(ids.to_kjt())
    x, _ = tables(Batch(torch.zeros(ids.size, 0), ids))
    assert set(keyed.keys()) == set(tables.layout.slices)
    for name, part in tables.layout.slices.items():
        torch.testing.assert_close(keyed[name], x[:, part])


@settings(deadline=None, max_examples=25)
@given(jagged_ids(features=3, weighted=True), st.integers(0, 9))
def test_weighted_embedding_bag_collection(ids: JaggedIds, seed: int) -> None:
    assume(ids.size)
    tables = ours("sum", seed)
    keyed = theirs(tables, "sum", weighted=True)(ids.to_kjt())
    x, _ = tables(Batch(torch.zeros(ids.size, 0), ids))
    for name, part in tables.layout.slices.items():
        torch.testing.assert_close(keyed[name], x[:, part])


@settings(deadline=None)
@given(jagged_ids())
def test_keyed_jagged_tensor_shares_memory_there_and_back(ids: JaggedIds) -> None:
    kjt = ids.to_kjt()
    back = JaggedIds.from_kjt(kjt)
    assert kjt.values().data_ptr() == back.values.data_ptr() == ids.values.data_ptr()
    assert back.offsets is not None
    assert kjt.offsets().data_ptr() == back.offsets.data_ptr()
    if ids.offsets is not None:
        assert back.offsets.data_ptr() == ids.offsets.data_ptr()
    assert (back.weights is None) == (ids.weights is None)
    if ids.weights is not None and back.weights is not None:
        assert back.weights.data_ptr() == ids.weights.data_ptr()
    assert back.features == ids.features
    assert unpack(back) == unpack(ids)
    assert unpack_weights(back) == unpack_weights(ids)


@settings(deadline=None)
@given(jagged_ids())
def test_lengths_are_torchrec_s(ids: JaggedIds) -> None:
    assert ids.lengths().flatten().tolist() == ids.to_kjt().lengths().tolist()


def test_cross_net() -> None:
    our, their = CrossNetwork(7, 3), CrossNet(7, 3)
    randomise(our)
    for layer, kernel, bias in zip(our.layers, their.kernels, their.bias, strict=True):
        assert isinstance(layer, nn.Linear)
        copy(kernel, layer.weight)
        copy(bias, layer.bias)
    x = torch.randn(5, 7)
    torch.testing.assert_close(our(x), their(x))


def test_low_rank_cross_net() -> None:
    our, their = CrossNetwork(7, 3, rank=2), LowRankCrossNet(7, 3, low_rank=2)
    randomise(our)
    for layer, *kernels in zip(our.layers, their.V_kernels, their.W_kernels, their.bias, strict=True):
        for kernel, weight in zip(kernels, layer.parameters(), strict=True):
            copy(kernel, weight)
    x = torch.randn(5, 7)
    torch.testing.assert_close(our(x), their(x))


def test_dlrm_s_interaction() -> None:
    dense, sparse = torch.randn(5, 4), torch.randn(5, 3, 4)
    dots = pairwise_dots(torch.cat([dense.unsqueeze(1), sparse], dim=1), torch.triu_indices(4, 4, 1))
    torch.testing.assert_close(torch.cat([dense, dots], dim=1), InteractionArch(3)(dense, sparse))


def test_a_whole_dlrm() -> None:
    what = inputs(dense=2, ids=(USER, ITEM, TAGS))
    model = build(DLRMConfig(embedding_dim=4, bottom=(6,), hidden=(8,)), what)
    randomise(model)
    batch = batch_of(what, 9)
    x, _ = model.tables(batch)
    assert isinstance(model.bottom, nn.Module)
    assert isinstance(model.top, nn.Module)
    interaction = InteractionArch(3)(model.bottom(batch.dense), x[:, 2:].view(9, 3, 4))
    torch.testing.assert_close(model(batch), model.top(interaction))


def test_factorisation_machine() -> None:
    # torchrec's module flattens its input and multiplies every column with every other, those of one embedding too:
    # a factorisation machine of F·d fields of one column each.
    e = torch.randn(5, 3, 4)
    columns = e.flatten(1).unsqueeze(2)
    torch.testing.assert_close(factorisation_machine(columns), FactorizationMachine()([e]), rtol=1e-5, atol=1e-5)


def test_factorisation_machine_of_dot_products() -> None:
    # Column by column torchrec's module is Rendle's formula: the sum over the dims of an F-field machine of dim 1.
    e = torch.randn(5, 3, 4)
    expected = sum((FactorizationMachine()([e[:, :, d : d + 1]]) for d in range(4)), torch.zeros(5, 1))
    torch.testing.assert_close(factorisation_machine(e), expected, rtol=1e-5, atol=1e-5)
