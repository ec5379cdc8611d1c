"""What a caller's process has set does not change a session on a GPU, and a session changes nothing of it."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch

import recsys
from recsys.data.batch import Batch, JaggedIds
from recsys.errors import ConfigError, DataError
from recsys.inference.backends import Precision, Run
from recsys.inference.cuda import choice, engines
from recsys.inference.cuda.choice import choose
from recsys.inference.cuda.lane import _products
from recsys.inference.cuda.workspace import Workspace
from recsys.inference.trace import trace
from recsys.models.checkpoint import Checkpoint, load
from tests.inference.cuda.test_scorer import batch_of, on_gpu


def test_autocast_of_who_calls_is_not_the_sessions(folder: Path, device: torch.device) -> None:
    batch = batch_of(load(folder), 8)
    with on_gpu(folder) as session:
        expected = session.predict(batch)
        with torch.autocast(device.type, torch.bfloat16):
            assert np.array_equal(session.predict(batch), expected)


@pytest.mark.parametrize("place", ["cpu", "cuda"])
def test_inference_mode_of_who_calls_first_is_not_that_of_others(folder: Path, place: str) -> None:
    batch = batch_of(load(folder), 8)
    weighted = Batch(
        batch.dense,
        JaggedIds(batch.ids.features, batch.ids.values, batch.ids.offsets, torch.ones(len(batch.ids.values))),
    )
    with torch.inference_mode():
        session = recsys.session(folder, backend="eager", max_batch=8, device=place)
        first = session.predict(weighted)  # of a kind that was not prepared
    for one in (weighted, batch):
        np.testing.assert_allclose(session.predict(one), first, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("precision", ["fp32", "tf32"])
@pytest.mark.parametrize("kind", ["none", "bf16"])
def test_products_of_the_processor_stay_as_the_process_has_set_them(precision: Precision, kind: str) -> None:
    matmul = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = matmul.fp32_precision
    try:
        matmul.fp32_precision = kind
        with _products(precision, torch.device("cuda")):
            pass
        assert matmul.fp32_precision == kind
    finally:
        matmul.fp32_precision = before


@pytest.mark.parametrize("own", [None, "/somewhere"])
def test_folders_of_compiled_code_are_named_while_it_compiles_alone(
    own: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"
    for name in names:
        monkeypatch.delenv(name, raising=False)
        if own is not None:
            monkeypatch.setenv(name, own)
    with engines._own_cache():
        assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == own or own is None
        os.environ.setdefault("TRITON_CACHE_DIR", "as Inductor sets it")
    assert [os.environ.get(name) for name in names] == [own, own]


def test_a_batch_that_is_not_on_the_host_is_refused(folder: Path) -> None:
    batch = batch_of(load(folder), 8).to("meta")
    with on_gpu(folder) as session, pytest.raises(DataError, match=r'in host memory.*: pass batch.to\("cpu"\)'):
        session.predict(batch)


def test_a_remembered_engine_that_does_not_compile_any_more_is_left_aside(
    trained: Checkpoint, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout, program = trained.model.layout, trace(trained.model)

    class Broken(engines._Eager):
        def bind(self, *_: object) -> Run:
            raise RuntimeError("no compiler here")

    monkeypatch.setattr(choice, "GPU_ENGINES", {"inductor": engines._Eager})
    monkeypatch.setattr(choice, "_SECONDS", 0.0)
    assert choose(program, layout, "tf32", 4, device, show=False).left == {}
    monkeypatch.setattr(choice, "GPU_ENGINES", {"inductor": Broken})
    with pytest.raises(ConfigError, match="no compiler here"):
        choose(program, layout, "tf32", 4, device, show=False)


def test_sequences_of_many_lengths_need_few_lists_of_work(din: Path) -> None:
    checkpoint = load(din)
    with on_gpu(din) as session:
        workspace = session._open()._free.get()  # type: ignore[union-attr]
        session._open()._free.put(workspace)  # type: ignore[union-attr]
        assert isinstance(workspace, Workspace)
        for seed in range(20):
            session.predict(batch_of(checkpoint, 8, seed))
        unpooled = workspace._model.unpooled
        assert unpooled is not None
        lists = [group._work for _, _, kernels in unpooled._slots for group in kernels._groups]
        assert sum(map(len, lists)) <= 6  # powers of two up to 8 bags of 5
