"""Every back end gives eager torch's scores, and what is built for this machine is built once."""

from __future__ import annotations

import copy
import errno
import importlib.util
import json
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recsys.errors import ConfigError, DataError, MissingExtraError
from recsys.files import scratch, sweep
from recsys.inference import backends, choice, network
from recsys.inference import compile as builder
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
    whole, built = path.read_bytes(), []

    def build(form: str, program: torch.export.ExportedProgram, target: Path) -> None:
        built.append(form)
        target.write_bytes(whole)

    monkeypatch.setattr(builder, "build", build)
    for spoilt in (b"", whole[: len(whole) // 20], bytes(len(whole))):
        path.write_bytes(spoilt)  # a shared object that is cut off would kill the process that opens it
        load("onnx", "fp32", program)
        assert path.read_bytes() == whole
    backends._seal(path).unlink()
    for _ in range(2):
        load("onnx", "fp32", program)
    assert built == ["onnx-fp32"] * 4


@pytest.mark.parametrize("seal", ["[]", "{", '{"bytes": 1, "sha256": ""}', "[" * 100_000])
def test_what_its_seal_does_not_vouch_for_is_never_opened(tmp_path: Path, seal: str) -> None:
    path = tmp_path / "network.so"
    assert not backends._whole(path)
    path.write_bytes(b"built")
    assert not backends._whole(path)
    backends._seal(path).write_text(json.dumps(backends._told(path)))
    assert backends._whole(path)
    backends._seal(path).write_text(seal)
    assert not backends._whole(path)


def test_what_a_killed_build_left_is_swept_and_what_one_at_work_has_is_not(tmp_path: Path) -> None:
    code = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from recsys.files import scratch\n"
        "with scratch(Path(sys.argv[1])) as folder:\n"
        "    (folder / 'half').write_text('x')\n"
        "    print(folder, flush=True)\n"
        "    time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        left = Path(other.stdout.readline().strip())
        with scratch(tmp_path) as mine:
            assert (left / "half").is_file()
            sweep(tmp_path)
            assert mine.is_dir()
            assert (left / "half").is_file()
        other.kill()
    with pytest.raises(ConfigError, match="KeyError"):
        build("nonsense", trace(model_of("lr", inputs()).eval()), tmp_path / "out.bin")
    assert list(tmp_path.iterdir()) == []


def test_a_compiler_ends_when_the_process_that_asked_for_it_is_killed(tmp_path: Path) -> None:
    """The child is stopped while it builds, so that only the end of its parent can end it."""
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from recsys.inference import compile\n"
        "compile._run('aoti-fp32', Path(sys.argv[1]) / 'source.pt2', Path(sys.argv[1]) / 'made')"
    )
    os.mkfifo(tmp_path / "source.pt2")  # reading it waits for ever
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)]) as parent:
        children: list[int] = []
        until = time.monotonic() + 60
        while not children and time.monotonic() < until:
            found = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
            children = [one for one in map(int, found) if "compile" in Path(f"/proc/{one}/cmdline").read_text()]
            time.sleep(0.02)
        (child,) = children
        parent.kill()
    while Path(f"/proc/{child}").is_dir() and "\nState:\tZ" not in Path(f"/proc/{child}/status").read_text():
        assert time.monotonic() < until
        time.sleep(0.02)


class Refused:
    """A folder that is there and cannot be written to: tests may run as root, whom no mode stops."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        mkdir, opened = os.mkdir, os.open

        def no_mkdir(path: Any, *args: Any, **options: Any) -> None:
            self.refuse(path)
            mkdir(path, *args, **options)

        def no_open(path: Any, flags: int, *args: Any, **options: Any) -> int:
            if flags & os.O_CREAT:
                self.refuse(path)
            return opened(path, flags, *args, **options)

        monkeypatch.setattr(os, "mkdir", no_mkdir)
        monkeypatch.setattr(os, "open", no_open)
        monkeypatch.setattr(Path, "write_text", lambda path, *_, **__: self.refuse(path))
        self.folder = cache_folder()

    def refuse(self, path: Any) -> None:
        if Path(path).parent == self.folder:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))


def test_a_cache_that_is_there_and_read_only_leaves_eager(monkeypatch: pytest.MonkeyPatch) -> None:
    program = trace(model_of("dcnv2", inputs(), seed=11).eval())
    Refused(monkeypatch)
    monkeypatch.setattr(choice, "absent", lambda backend, kind: None)
    monkeypatch.setattr(choice, "_SECONDS", 0.0)
    for backend in ("aoti", "onnx"):
        with pytest.raises(ConfigError, match=f"cannot be built as {backend}-fp32: .*Permission denied"):
            backends._built(backend, "fp32", program)
    found = choice.choose(program, "fp32", 1, show=False)
    assert found.backend(1) == "eager"
    assert all("Permission denied" in found.left[name] for name in ("aoti", "onnx"))
    assert not choice.measured(program, "fp32", 1)


def test_a_remembered_choice_that_cannot_be_built_again_is_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    program = trace(model_of("lr", inputs(), seed=12).eval())
    broken = False

    def engine(backend: Backend, kind: Precision, program: torch.export.ExportedProgram) -> backends.Engine:
        if backend == "onnx" and broken:
            raise OSError("no space left")
        return load("eager", kind, program)

    monkeypatch.setattr(choice, "absent", lambda backend, kind: "left out here" if backend == "aoti" else None)
    monkeypatch.setattr(choice, "load", engine)
    monkeypatch.setattr(
        choice, "_measure", lambda engines, *_: {name: 1.0 if name == "onnx" else 2.0 for name in engines}
    )
    assert choice.choose(program, "fp32", 1, show=False).backend(1) == "onnx"
    assert choice.measured(program, "fp32", 1)
    broken = True
    found = choice.choose(program, "fp32", 1, show=False)
    assert found.backend(1) == "eager"
    assert found.left["onnx"] == "OSError: no space left"


MEMORY: dict[str, Any] = {"versions": {}, "at": 1.7e9, "failed": {}, "us": {"1": {"eager": 2.0}, "8": {"eager": 3.5}}}
NUMBERS: st.SearchStrategy[Any] = (
    st.floats() | st.integers() | st.sampled_from([0, -1, 1e999, 10**400, True, None, "a", [], {}])
)
JUNK = st.recursive(
    NUMBERS | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=5
)


def recalled(path: Path, text: str) -> Any:
    path.write_text(text)
    return choice._remembered(path, ["eager"], [1, 8])


@given(key=st.sampled_from([None, "versions", "at", "failed", "us", "1", "8", "time"]), junk=NUMBERS | JUNK)
def test_only_finite_times_of_all_sizes_are_remembered(tmp_path_factory: Any, key: str | None, junk: Any) -> None:
    kept = copy.deepcopy(MEMORY)
    if key == "time":
        kept["us"]["8"]["eager"] = junk
    elif key in ("1", "8"):
        kept["us"][key] = junk
    elif key is not None:
        kept[key] = junk
    path = tmp_path_factory.getbasetemp() / "memory.json"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(choice, "_versions", dict)
        found = recalled(path, json.dumps(junk if key is None else kept))
    if found is not None:
        assert sorted(found.us) == [1, 8]
        assert all(set(row) == {"eager"} and 0 < row["eager"] < math.inf for row in found.us.values())


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m["us"].pop("8"),
        lambda m: m["us"].update({"64": {"eager": 1.0}}),
        lambda m: m["us"].update({"8": {}}),
        lambda m: m["us"]["8"].update(onnx=1.0),
        lambda m: m["us"]["8"].update(eager=math.nan),
        lambda m: m["us"]["8"].update(eager=0),
        lambda m: m["us"]["8"].update(eager=-1),
        lambda m: m["us"]["8"].update(eager=None),
        lambda m: m["us"]["8"].update(eager="a"),
        lambda m: m["failed"].update(eager="it did not run"),
        lambda m: m["versions"].update(onnxruntime="0"),
        lambda m: m.pop("at"),
    ],
)
def test_what_is_not_whole_is_not_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[Any], Any]
) -> None:
    monkeypatch.setattr(choice, "_versions", dict)
    kept = copy.deepcopy(MEMORY)
    found = recalled(tmp_path / "memory.json", json.dumps(kept))
    assert found.us == {1: {"eager": 2.0}, 8: {"eager": 3.5}}
    change(kept)
    assert recalled(tmp_path / "memory.json", json.dumps(kept)) is None


def test_no_junk_in_the_place_of_a_memory_is_in_the_way(tmp_path: Path) -> None:
    assert recalled(tmp_path / "deep.json", "[" * 100_000 + "]" * 100_000) is None
    assert recalled(tmp_path / "long.json", '{"at": ' + "9" * 5000 + "}") is None
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe")
    assert choice._remembered(tmp_path / "bytes.json", ["eager"], [1]) is None
    assert choice._remembered(tmp_path, ["eager"], [1]) is None


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
    path = backends._path("aoti", "fp32", program)
    for one in (path, backends._seal(path)):
        one.write_text("built")
    found = choice.choose(program, "fp32", 1, show=False)
    assert "gives other scores than eager torch" in found.left["aoti"]
    assert found.backend(1) == "eager"
    assert not path.exists()
    assert not backends._seal(path).exists()
    with pytest.raises(ConfigError, match=r"aoti as fp32 gives other scores than eager torch, by .*: use another"):
        choice.checked("aoti", "fp32", program)


def test_an_engine_is_looked_at_in_batches_of_several_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is right for the rows that it was traced with may be wrong for others."""
    program = trace(model_of("dcn2", inputs()).eval())

    class Wrong:
        def __init__(self, size: int) -> None:
            self.size, self.engine = size, load("eager", "fp32", program)

        def bind(self, given: Sequence[torch.Tensor], out: torch.Tensor) -> backends.Run:
            run = self.engine.bind(given, out)
            return lambda: (run(), out.fill_(torch.nan if len(out) == self.size else out[0, 0].item()))[0]

    class Right(Wrong):
        def bind(self, given: Sequence[torch.Tensor], out: torch.Tensor) -> backends.Run:
            return self.engine.bind(given, out)

    for size in (1, 3, 8):
        monkeypatch.setattr(choice, "load", lambda *_, size=size: Wrong(size))
        with pytest.raises(ConfigError, match="gives other scores"):
            choice.checked("onnx", "fp32", program)
    monkeypatch.setattr(choice, "load", lambda *_: Right(1))
    assert isinstance(choice.checked("onnx", "fp32", program), Right)
