"""Every back end gives eager torch's scores, and what is built for this machine is built once."""

from __future__ import annotations

import importlib.util
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from recsys.errors import ConfigError, DataError, MissingExtraError
from recsys.inference import backends, choice, network
from recsys.inference.backends import ENGINES, Backend, Precision, absent, cache_folder, load
from recsys.inference.compile import build
from recsys.inference.trace import trace
from recsys.models.base import RankingModel
from tests.helpers import inputs
from tests.inference.test_network import flat
from tests.models.test_models import model_of

OFF: dict[Precision, float] = {"fp32": 1e-5, "bf16": 0.03, "int8": 0.1}


def check(model: RankingModel, backend: Backend, precision: Precision) -> None:
    engine = load(backend, precision, trace(model))
    for size in (1, 33):
        given, expected = flat(model, size)
        out = torch.full_like(expected, torch.nan)
        run = engine.bind(given, out)
        for _ in range(2):
            run()
            assert (out - expected).abs().max() <= OFF[precision]
        given[0].mul_(0.5)  # read anew by every call
        run()
        expected = network.eager(trace(model))(*given)
        assert (out - expected).abs().max() <= OFF[precision]


@pytest.mark.parametrize(("backend", "precision"), [("eager", "fp32"), ("eager", "bf16")])
@pytest.mark.parametrize("variant", ["dcn2", "din"])
def test_eager(variant: str, backend: Backend, precision: Precision) -> None:
    check(model_of(variant, inputs()).eval(), backend, precision)


@pytest.mark.parametrize(("backend", "precision"), [kind for kind in ENGINES if kind[0] != "eager"])
def test_what_is_built_gives_the_same_scores(backend: Backend, precision: Precision) -> None:
    if reason := absent(backend, precision):
        pytest.skip(reason)
    check(model_of("din", inputs()).eval(), backend, precision)


@pytest.mark.parametrize("backend", ["aoti", "onnx"])
def test_threads_run_one_engine_side_by_side(backend: Backend) -> None:
    """Of the network that the test above has built."""
    if reason := absent(backend, "fp32"):
        pytest.skip(reason)
    model = model_of("din", inputs()).eval()
    engine = load(backend, "fp32", trace(model))
    cases = [flat(model, size) for size in (1, 2, 9, 33, 40)]

    def work(k: int) -> float:
        given, expected = cases[k % len(cases)]
        out = torch.empty_like(expected)
        run = engine.bind(given, out)
        off = 0.0
        for _ in range(50):
            out.fill_(torch.nan)
            run()
            off = max(off, float((out - expected).abs().nan_to_num(9).max()))
        return off

    with ThreadPoolExecutor(5) as pool:
        assert max(pool.map(work, range(10))) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize(("backend", "precision"), [kind for kind in ENGINES if kind[0] != "eager"])
@pytest.mark.parametrize("variant", ["dcn2", "dcnv2", "deepfm", "dlrm", "lr"])
def test_what_is_built_gives_the_same_scores_of_every_model(
    variant: str, backend: Backend, precision: Precision
) -> None:
    if reason := absent(backend, precision):
        pytest.skip(reason)
    check(model_of(variant, inputs()).eval(), backend, precision)


def test_what_cannot_run_here_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    program = trace(model_of("lr", inputs()).eval())
    with pytest.raises(MissingExtraError, match="eager has no int8, only onnx"):
        load("eager", "int8", program)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(MissingExtraError, match="needs a C\\+\\+ compiler"):
        load("aoti", "fp32", program)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"needs onnxruntime, onnx, onnxscript: pip install 'recsys\[onnx\]'"):
        load("onnx", "fp32", program)


def test_a_built_file_that_was_cut_off_is_built_again(monkeypatch: pytest.MonkeyPatch) -> None:
    if reason := absent("onnx", "fp32"):
        pytest.skip(reason)
    program = trace(model_of("lr", inputs()).eval())
    load("onnx", "fp32", program)
    path = backends._path("onnx", "fp32", program)
    path.write_bytes(b"")
    load("onnx", "fp32", program)
    assert path.stat().st_size > 0


def test_no_module_of_the_current_folder_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "zipfile.py").write_text("raise SystemExit('ran')")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="KeyError"):
        build("nonsense", trace(model_of("lr", inputs()).eval()), tmp_path / "out.bin")


def test_where_the_cache_cannot_be_written_to_eager_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> Path:
        raise DataError("read-only")

    monkeypatch.setattr(choice, "cache_folder", refuse)
    program = trace(model_of("lr", inputs()).eval())
    assert not choice.measured(program, "fp32", 8)
    found = choice.choose(program, "fp32", 8, show=False)
    assert found.backend(1) == "eager"
    assert found.left["aoti"] == found.left["onnx"] == "read-only"


def test_a_failed_build_is_one_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    program = trace(model_of("lr", inputs()).eval())
    with pytest.raises(ConfigError, match="cannot be built as nonsense: KeyError"):
        build("nonsense", program, tmp_path / "out.bin")
    assert list(tmp_path.iterdir()) == []


def test_a_cache_that_others_may_write_to_is_refused() -> None:
    folder = cache_folder()
    mode = folder.stat().st_mode
    try:
        for open_to in (0o770, 0o702):
            folder.chmod(open_to)
            with pytest.raises(ConfigError, match="others may write there"):
                cache_folder()
    finally:
        os.chmod(folder, mode)


def test_the_fastest_is_chosen_for_each_size_and_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    program = trace(model_of("dlrm", inputs()).eval())
    monkeypatch.setattr(choice, "absent", lambda backend, kind: None if backend == "eager" else "left out here")
    monkeypatch.setattr(choice, "_SECONDS", 0.0)
    assert not choice.measured(program, "fp32", 64)
    found = choice.choose(program, "fp32", 64, show=False)
    assert sorted(found.us) == [1, 8, 64]
    assert found.left == {"aoti": "left out here", "onnx": "left out here"}
    assert found.backend(1) == found.backend(100) == "eager"
    assert found.engine(65) is found.engine(1)
    assert choice.measured(program, "fp32", 64)
    monkeypatch.setattr(choice, "_measure", lambda *_: pytest.fail("measured again"))
    assert choice.choose(program, "fp32", 64, show=False).us == found.us
    assert not choice.measured(program, "fp32", 512)  # of other sizes


def test_of_several_back_ends_the_one_with_the_least_median_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    program = trace(model_of("deepfm", inputs()).eval())
    monkeypatch.setattr(choice, "absent", lambda backend, kind: "left out here" if backend == "aoti" else None)
    monkeypatch.setattr(choice, "load", lambda backend, kind, program: load("eager", kind, program))
    us = {1: {"eager": 5.0, "onnx": 2.0}, 8: {"eager": 3.0, "onnx": 4.0}}
    monkeypatch.setattr(choice, "_measure", lambda engines, program, size: us[size])
    found = choice.choose(program, "fp32", 8, show=False)
    assert [found.backend(size) for size in (1, 2, 8)] == ["onnx", "eager", "eager"]


def test_a_back_end_that_fails_is_left_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    program = trace(model_of("dcnv2", inputs()).eval())

    def broken(backend: Backend, kind: Precision, program: torch.export.ExportedProgram) -> backends.Engine:
        if backend != "eager":
            raise ConfigError("does not build")
        return load(backend, kind, program)

    monkeypatch.setattr(choice, "absent", lambda backend, kind: None)
    monkeypatch.setattr(choice, "load", broken)
    monkeypatch.setattr(choice, "_SECONDS", 0.0)
    found = choice.choose(program, "fp32", 1, show=False)
    assert found.left == {"aoti": "does not build", "onnx": "does not build"}
    assert choice.measured(program, "fp32", 1)  # it is not tried again
    assert choice.choose(program, "fp32", 1, show=False).left == found.left
    monkeypatch.setattr(choice, "_DAY", 0)
    assert not choice.measured(program, "fp32", 1)  # but after a day


def test_an_engine_that_gives_other_scores_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    program = trace(model_of("dcn2", inputs()).eval())
    other = trace(model_of("dcn2", inputs()).eval())
    with torch.no_grad():
        for name, weight in other.state_dict.items():
            if name.endswith("bias"):
                weight += 3

    def wrong(backend: Backend, kind: Precision, program: torch.export.ExportedProgram) -> backends.Engine:
        return load("eager", kind, other if backend == "aoti" else program)

    monkeypatch.setattr(choice, "absent", lambda backend, kind: "left out here" if backend == "onnx" else None)
    monkeypatch.setattr(choice, "load", wrong)
    monkeypatch.setattr(choice, "_SECONDS", 0.0)
    found = choice.choose(program, "fp32", 1, show=False)
    assert "gives other scores than eager torch" in found.left["aoti"]
    assert found.backend(1) == "eager"
