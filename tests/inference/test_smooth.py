"""Smoothing changes no score, and makes int8's smaller errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from recsys.inference import network
from recsys.inference.backends import absent, load
from recsys.inference.parts import open_parts
from recsys.inference.smooth import smooth
from recsys.inference.trace import trace
from tests.helpers import inputs
from tests.inference.test_network import flat
from tests.models.test_models import model_of


@pytest.mark.parametrize("variant", ["dcn2", "dcnv2", "deepfm", "din", "dlrm", "lr"])
def test_a_smoothed_network_gives_the_same_scores_for_any_batch(variant: str) -> None:
    model = model_of(variant, inputs()).eval()
    program = trace(model)
    before = network.digest(program)
    smoothed = smooth(program, flat(model, 50)[0])
    assert network.digest(program) == before
    for size in (1, 2, 30):
        given, expected = flat(model, size)
        with torch.no_grad():
            torch.testing.assert_close(network.eager(smoothed)(*given), expected, rtol=1e-4, atol=1e-5)


def test_columns_of_input_and_weight_become_alike() -> None:
    model = model_of("dcnv2", inputs()).eval()
    given = flat(model, 200)[0]
    given[0][:, 0] *= 100
    smoothed = smooth(trace(model), given).module(check_guards=False)
    name = next(name for name, _ in smoothed.named_parameters() if name.endswith("_smoothed"))
    scale = smoothed.get_buffer(name.replace("_smoothed", "_scale"))
    sizes = (given[0].abs().amax(0) * scale, smoothed.get_parameter(name).detach().abs().amax(0))
    torch.testing.assert_close(*sizes)


def test_a_column_that_is_never_seen_does_no_harm() -> None:
    model = model_of("dcnv2", inputs()).eval()
    smoothed = smooth(trace(model), [torch.zeros_like(one) for one in flat(model, 9)[0]])
    given, expected = flat(model, 9)
    with torch.no_grad():
        torch.testing.assert_close(network.eager(smoothed)(*given), expected, rtol=1e-4, atol=1e-5)


def test_the_parts_of_a_run_are_smoothed_by_its_own_rows(run: Path, din: Path) -> None:
    for folder in (run, din):
        parts = open_parts(folder)
        assert parts.program_for("fp32") is parts.program
        once, twice = (network.digest(parts.program_for("int8")) for _ in range(2))
        assert once == twice != network.digest(parts.program)


@pytest.mark.skipif(absent("onnx", "int8") is not None, reason=str(absent("onnx", "int8")))
def test_int8_errs_less_where_numbers_are_large() -> None:
    model = model_of("dcnv2", inputs()).eval()
    with torch.no_grad():
        for table in model.tables.storages():
            table.mul_(0.02)
    given, _ = flat(model, 64)
    given[0][:, model.layout.dense] *= 3
    with torch.no_grad():
        expected = network.eager(trace(model))(*given).numpy()
    off = []
    for program in (trace(model), smooth(trace(model), given)):
        out = torch.empty(64, 1)
        load("onnx", "int8", program).bind(given, out)()
        off.append(np.abs(out.numpy() - expected).mean())
    assert off[1] < off[0]
