"""A network as it is on a GPU: precisions, the form for one row, and that nothing is left behind."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from recsys.errors import ConfigError
from recsys.inference.backends import Backend, Precision, Run
from recsys.inference.cuda import choice, engines
from recsys.inference.cuda.choice import choose
from recsys.inference.cuda.module import Form, on_device
from recsys.inference.cuda.rows import buckets, network_input
from recsys.inference.network import eager, half
from recsys.inference.trace import trace
from recsys.layers.tables import InputLayout
from recsys.models.checkpoint import Checkpoint, load


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
@pytest.mark.parametrize("form", ["products", "sums", "fused"])
def test_all_forms_give_the_programs_numbers(
    trained: Checkpoint, precision: Precision, form: Form, device: torch.device
) -> None:
    if (precision, form, device.type) == ("bf16", "fused", "cpu"):
        pytest.skip("Triton's interpreter has no products of bfloat16")
    program = trace(trained.model)
    x = torch.randn(1 if form == "sums" else 5, trained.model.layout.width)
    expected = eager(half(program) if precision == "bf16" else program)(x)
    found = on_device(program, device, precision, form)(x.to(device)).cpu()
    torch.testing.assert_close(found, expected, rtol=0, atol=5e-3 if precision != "fp32" else 2e-6)
    assert torch.equal(eager(program)(x), eager(trace(trained.model))(x))  # it stayed as it was


@pytest.mark.parametrize("model", ["run", "din", "two"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("form", ["products", "fused"])
def test_nothing_is_left_on_the_processor(
    request: pytest.FixtureRequest, model: str, precision: Precision, form: Form
) -> None:
    """Torch's `meta` device refuses to work with any other."""
    trained = load(request.getfixturevalue(model))
    inputs = [torch.zeros(4, trained.model.layout.width)]
    for dim in trained.model.layout.sequences.values():
        inputs += [torch.zeros(4, 3, dim), torch.ones(4, dtype=torch.int64)]
    meta = torch.device("meta")
    module = on_device(trace(trained.model), meta, precision, form)
    assert module(*(one.to(meta) for one in inputs)).device == meta


def test_buckets_ascend_to_the_largest_batch() -> None:
    assert buckets(1) == [1]
    assert buckets(16) == [1, 8, 16]
    assert buckets(300) == [1, 8, 32, 64, 96, 128, 192, 256, 300]
    assert buckets(8192)[-3:] == [4096, 6144, 8192]


@pytest.mark.parametrize("dense", [0, 1, 4, 13])
def test_embeddings_begin_at_multiples_of_16_bytes(dense: int, device: torch.device) -> None:
    layout = InputLayout(slice(0, dense), {"a": slice(dense, dense + 16)}, {}, dense + 16)
    x = network_input(3, layout, device)
    assert x.shape == (3, dense + 16)
    assert (x.storage_offset() + dense) % 4 == 0 == x.stride(0) % 4


def test_what_was_measured_is_remembered(
    trained: Checkpoint, device: torch.device, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    layout, program = trained.model.layout, trace(trained.model)
    monkeypatch.setattr(choice, "GPU_ENGINES", {"eager": engines.GPU_ENGINES["eager"]})
    monkeypatch.setattr(choice, "_SECONDS", 0.0)
    found = choose(program, layout, "bf16", 16, device, show=False)
    assert [*found.engines] == [*found.us] == [1, 8, 16]
    (path,) = cache.glob("networks/*/*-bf16-16-*.json")
    monkeypatch.setattr(choice, "_measured", None)  # it would fail
    assert choose(program, layout, "bf16", 16, device, show=False).us == found.us
    told = json.loads(path.read_text())
    path.write_text(json.dumps({**told, "us": {}}))
    with pytest.raises(TypeError):
        choose(program, layout, "bf16", 16, device, show=False)


def test_an_engine_that_fails_or_gives_other_numbers_is_left_aside(
    trained: Checkpoint, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout, program = trained.model.layout, trace(trained.model)

    class Wrong(engines._Eager):
        def bind(self, inputs: Sequence[Tensor], out: Tensor) -> Run:
            return lambda: (out.fill_(0.25), None)[1]

    def broken(*_: object) -> None:
        raise ValueError("no such kernel")

    monkeypatch.setattr(choice, "_memory", lambda *_: None)
    monkeypatch.setattr(choice, "GPU_ENGINES", {"eager": engines._Eager, "inductor": Wrong})
    assert "gives other numbers" in choose(program, layout, "fp32", 2, device, show=False).left["inductor"]
    monkeypatch.setattr(choice, "GPU_ENGINES", {"eager": broken})
    with pytest.raises(ConfigError, match=r"eager does not run this network on .*: ValueError: no such kernel"):
        choose(program, layout, "fp32", 2, device, show=False)


@pytest.mark.parametrize("backend", ["inductor", "fused"])
def test_a_network_is_compiled_for_one_row_and_for_any_number(
    trained: Checkpoint, backend: Backend, device: torch.device
) -> None:
    """Sizes that come later are not compiled for."""
    layout, program = trained.model.layout, trace(trained.model)
    found = choose(program, layout, "fp32", 64, device, backend, show=False)
    for size in (33, 8, 2, 1):
        x = network_input(size, layout, device)
        x.copy_(torch.randn(size, layout.width))
        out = torch.zeros(size, 1, device=device)
        with torch._dynamo.config.patch(error_on_recompile=True):
            found.engine(size).bind([x], out)()
        torch.testing.assert_close(out.cpu(), eager(program)(x.cpu().contiguous()), rtol=1e-5, atol=2e-6)
