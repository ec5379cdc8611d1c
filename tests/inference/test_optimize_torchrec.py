"""Torchrec's collections, float and quantised, give the same when they are optimised."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.ao.quantization import QConfig

from recsys.data.batch import JaggedIds
from recsys.inference.optimize import OptimizeConfig, OptimizedModule, optimize

with warnings.catch_warnings():  # FBGEMM's CPU build warns of each kernel that it leaves out
    warnings.simplefilter("ignore")
    pytest.importorskip("torchrec")
    from torchrec.models.dlrm import DLRM
    from torchrec.modules.embedding_configs import DataType, EmbeddingBagConfig, PoolingType
    from torchrec.modules.embedding_modules import EmbeddingBagCollection
    from torchrec.quant.embedding_modules import EmbeddingBagCollection as Quantised

EAGER = OptimizeConfig(backend="eager")
KEYS = ("a", "b", "c", "d")
ROWS = (1, 2, 7)  # torchrec itself takes no batch of no rows


@pytest.fixture(autouse=True)
def quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def jagged(n: int, weighted: bool = False, keys: Sequence[str] = KEYS) -> Any:
    lengths = torch.randint(0, 4, (len(keys) * n,))
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    values = torch.randint(0, 20, (int(offsets[-1]),))
    return JaggedIds(tuple(keys), values, offsets, torch.rand(len(values)) if weighted else None).to_kjt()


def collection(pooling: str, weighted: bool, dtype: str = "FP32", dim: int = 4) -> Any:
    """Tables of two dims, one of which two features read; a feature that two tables read."""
    tables = [
        EmbeddingBagConfig(
            num_embeddings=20 + k,
            embedding_dim=dim * (1 + k % 2),
            name=f"t{k}",
            feature_names=features,
            pooling=PoolingType[pooling if k else "SUM"],
            data_type=DataType[dtype],
        )
        for k, features in enumerate((["b"], ["a", "c"], ["c"]))
    ]
    return EmbeddingBagCollection(tables=tables, is_weighted=weighted)


class Net(nn.Module):
    """A collection's columns by name, then a linear layer."""

    def __init__(self, tables: Any, width: int) -> None:
        super().__init__()
        self.tables, self.top = tables, nn.Linear(width, 2)

    def forward(self, ids: Any) -> Tensor:
        found = self.tables(ids).to_dict()
        out: Tensor = self.top(torch.cat([found[name] for name in sorted(found)], dim=1))
        return out


def checked(model: nn.Module, weighted: bool = False, sample: Any = None) -> OptimizedModule:
    given = {n: jagged(n, weighted) for n in ROWS}
    with torch.no_grad():
        expected = {n: model(given[n]) for n in ROWS}
    made = optimize(model, (jagged(5, weighted) if sample is None else sample,), EAGER)
    assert not made.report.left
    assert not made.report.eager, made.report.eager
    for n in ROWS:
        torch.testing.assert_close(made(given[n]), expected[n], rtol=1e-5, atol=1e-5)
        with torch.no_grad():  # module by module
            torch.testing.assert_close(model(given[n]), expected[n], rtol=1e-5, atol=1e-5)
    assert made.apart == 0
    assert made(jagged(0, weighted)).shape == (0, 2)
    return made


@pytest.mark.parametrize("pooling", ["SUM", "MEAN"])
def test_a_collection(pooling: str) -> None:
    made = checked(Net(collection(pooling, False), 4 + 8 + 8 + 4).eval())
    assert made.report.calls == 1
    (placed,) = made.report.placed
    assert (placed.kind, placed.tables, placed.dims) == ("EmbeddingBagCollection", 3, (4, 8))


def test_a_weighted_collection_and_one_that_takes_no_heed_of_weights() -> None:
    checked(Net(collection("SUM", True), 24).eval(), weighted=True)
    checked(Net(collection("SUM", False), 24).eval(), weighted=True)


@pytest.mark.parametrize("dtype", ["INT8", "INT4", "INT2", "FP16", "FP32"])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_quantised_collection(dtype: str, weighted: bool) -> None:
    if weighted and dtype in ("INT2", "FP32"):
        pytest.skip("the same code")
    found = collection("MEAN" if not weighted else "SUM", weighted, dim=8)
    kinds = {"INT8": torch.qint8, "INT4": torch.quint4x2, "INT2": torch.quint2x4, "FP16": torch.float16}
    observer = torch.ao.quantization.PlaceholderObserver.with_args
    found.qconfig = QConfig(observer(dtype=torch.float32), observer(dtype=kinds.get(dtype, torch.float32)))  # type: ignore[no-untyped-call]
    made = checked(Net(Quantised.from_float(found), 48).eval(), weighted)
    stored = {"FP16": "fp16", "FP32": "fp32"}.get(dtype, "int8")
    assert made.report.placed[0].dtypes == (stored,)


def test_a_float16_collection_is_left_since_it_sums_as_float16() -> None:
    model = Net(collection("SUM", False, "FP16"), 24).eval()
    made = optimize(model, (jagged(6),), EAGER)
    assert [one.why for one in made.report.left] == ["its weights are torch.float16 on cpu"]
    given = jagged(7)
    with torch.no_grad():
        torch.testing.assert_close(made(given), model(given), rtol=1e-5, atol=1e-5)


def test_a_jagged_tensor_of_deduplicated_examples_runs_module_by_module() -> None:
    made = optimize(Net(collection("SUM", False), 24).eval(), (jagged(6),), EAGER)
    given = jagged(4)
    again = torch.tensor([[0, 1, 1, 3]] * len(KEYS))
    odd = type(given)(
        list(KEYS),
        given.values(),
        offsets=given.offsets(),
        stride_per_key_per_rank=[[4]] * len(KEYS),
        inverse_indices=(list(KEYS), again),
    )
    try:
        theirs = made._module(odd)
    except Exception as error:  # torchrec may refuse it, and then so do we
        with pytest.raises(type(error)):
            made(odd)
    else:
        torch.testing.assert_close(made(odd), theirs)
    assert made.apart == 1


def test_a_model_that_is_a_collection_gives_keyed_tensors() -> None:
    model = collection("SUM", False).eval()
    given = jagged(4)
    with torch.no_grad():
        expected = model(given)
    made = optimize(model, (given,), EAGER)
    assert "KeyedTensor" in made.report.eager
    found = made(given)
    assert type(found) is type(expected)
    assert (found.keys(), found.length_per_key()) == (expected.keys(), expected.length_per_key())
    torch.testing.assert_close(found.values(), expected.values())


class Several(nn.Module):
    """Two collections of one KeyedJaggedTensor, and tables that are asked otherwise."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = collection("MEAN", False), collection("SUM", True)
        self.bag, self.one = nn.EmbeddingBag(20, 4, mode="mean"), nn.Embedding(20, 4)
        self.top = nn.Linear(24 + 24 + 4 + 4, 1)

    def forward(self, ids: Any, more: Tensor) -> Tensor:
        found = [self.first(ids).values(), self.bag(more), self.second(ids).values(), self.one(more[:, 0])]
        out: Tensor = self.top(torch.cat(found, dim=1))
        return out


def test_collections_beside_other_tables() -> None:
    model = Several().eval()
    given = {n: (jagged(n, True), torch.randint(0, 20, (n, 3))) for n in ROWS}
    with torch.no_grad():
        expected = {n: model(*given[n]) for n in ROWS}
    made = optimize(model, given[7], EAGER)
    assert (made.report.eager, made.report.calls) == ("", 4)
    assert made._compiled is not None
    assert made._compiled._cut.widths == (24 + 4 + 24 + 4,)
    for n in ROWS:
        torch.testing.assert_close(made(*given[n]), expected[n], rtol=1e-5, atol=1e-5)
    assert made.apart == 0


def test_keys_in_another_order_and_other_keys_run_module_by_module() -> None:
    model = Net(collection("SUM", False), 24).eval()
    other = jagged(3, keys=("d", "c", "b", "e", "a"))
    with torch.no_grad():
        expected = model(other)
    made = optimize(model, (jagged(5),), EAGER)
    torch.testing.assert_close(made(other), expected)
    assert made.apart == 1
    with pytest.raises(KeyError):
        made(jagged(3, keys=("a", "b")))


def test_dlrm_over_a_collection() -> None:
    tables = [EmbeddingBagConfig(num_embeddings=20, embedding_dim=8, name=f"t{k}", feature_names=[k]) for k in KEYS]
    model = DLRM(EmbeddingBagCollection(tables=tables), 3, [16, 8], [16, 8, 1]).eval()
    given = {n: (torch.randn(n, 3), jagged(n)) for n in ROWS}
    with torch.no_grad():
        expected = {n: model(*given[n]) for n in ROWS}
    before = model.sparse_arch.embedding_bag_collection
    made = optimize(model, given[7], EAGER)
    assert made._compiled is not None
    targets = [str(node.target) for node in made._compiled._cut.network.graph.nodes]
    assert not any("split" in target for target in targets)
    for n in ROWS:
        torch.testing.assert_close(made(*given[n]), expected[n], rtol=1e-5, atol=1e-5)
    made.revert()
    assert model.sparse_arch.embedding_bag_collection is before
    assert "forward" not in vars(before)


def test_nothing_imports_torchrec_by_itself() -> None:
    code = """
import sys, torch, recsys
model = torch.nn.Sequential(torch.nn.EmbeddingBag(5, 2), torch.nn.Linear(2, 1)).eval()
config = recsys.inference.optimize.OptimizeConfig(backend="eager") if recsys.optimize else None
made = recsys.optimize(model, (torch.zeros(3, 2, dtype=torch.int64),), config)
print(made.report.calls, made.report.eager, "torchrec" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1  False"
