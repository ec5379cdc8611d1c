"""What can run a network: eager torch, AOTInductor's shared objects, ONNX Runtime. All give the same scores.

Which is fastest depends on the processor and on the batch, so `recsys.inference.choice` measures them. What is built
for this machine lies in the user's cache, under a name that tells processor, torch and network apart; nothing compiled
is ever loaded from elsewhere.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import shutil
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.export import ExportedProgram

from recsys.data.cache import root
from recsys.errors import ConfigError, DataError, MissingExtraError
from recsys.files import make_folder, read_json, sha256, write_json
from recsys.inference import compile as builder
from recsys.inference import network
from recsys.inference.aoti import SharedObject
from recsys.machine import CPU_INFO, read_machine
from recsys.threads import torch_threads

__all__ = ["ENGINES", "Backend", "Engine", "Precision", "Run", "absent", "cache_folder", "discard", "load"]

Backend = Literal["eager", "aoti", "onnx", "inductor", "fused"]
"""`inductor` and `fused` run on GPUs alone, `aoti` and `onnx` on processors."""
Precision = Literal["fp32", "tf32", "bf16", "int8"]
"""Of the weights and inputs of linear layers: int8 weights have a scale a column, their inputs one a batch. `tf32`, of
10 bits, is a GPU's."""

Run = Callable[[], None]


class Engine(Protocol):
    """A network that is ready to run, on one thread, from any number of threads at once."""

    def bind(self, inputs: Sequence[Tensor], out: Tensor) -> Run:
        """A call that reads `inputs` as they are then and fills `out` [B, tasks]."""


class _Eager:
    """Torch's operators one by one."""

    def __init__(self, program: ExportedProgram, precision: Precision) -> None:
        self._forward = network.eager(network.half(program) if precision == "bf16" else program)

    def bind(self, inputs: Sequence[Tensor], out: Tensor) -> Run:
        forward = self._forward

        def run() -> None:
            with torch.no_grad(), torch_threads(1):
                out.copy_(forward(*inputs))

        return run


class _Aoti:
    """AOTInductor: the whole graph as one shared object, its weights packed (frozen) for oneDNN's products."""

    def __init__(self, program: ExportedProgram, precision: Precision) -> None:
        self._object = SharedObject(_built("aoti", precision, program))

    def bind(self, inputs: Sequence[Tensor], out: Tensor) -> Run:
        call = self._object.bind(inputs, out)

        def run() -> None:
            with torch_threads(1):
                call()

        return run


class _Onnx:
    """ONNX Runtime, which writes into `out` itself."""

    def __init__(self, program: ExportedProgram, precision: Precision) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        path = _built("onnx", precision, program)
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self._inputs = [one.name for one in self._session.get_inputs()]
        self._output = self._session.get_outputs()[0].name

    def bind(self, inputs: Sequence[Tensor], out: Tensor) -> Run:
        binding = self._session.io_binding()
        for name, value in zip(self._inputs, inputs, strict=True):
            binding.bind_input(name, "cpu", 0, _NUMPY[value.dtype], tuple(value.shape), value.data_ptr())
        binding.bind_output(self._output, "cpu", 0, _NUMPY[out.dtype], tuple(out.shape), out.data_ptr())
        call = self._session.run_with_iobinding
        kept = [*inputs, out]  # it has their addresses

        def run(_: object = kept) -> None:
            call(binding)

        return run


_NUMPY: dict[torch.dtype, npt.DTypeLike] = {
    torch.float32: np.float32,
    torch.float64: np.float64,
    torch.int64: np.int64,
    torch.int32: np.int32,
    torch.bool: np.bool_,
}

ENGINES: dict[tuple[Backend, Precision], Callable[[ExportedProgram, Precision], Engine]] = {
    ("eager", "fp32"): _Eager,
    ("aoti", "fp32"): _Aoti,
    ("onnx", "fp32"): _Onnx,
    ("eager", "bf16"): _Eager,
    ("aoti", "bf16"): _Aoti,
    ("onnx", "int8"): _Onnx,
}


def absent(backend: Backend, precision: Precision) -> str | None:
    """Why a back end cannot run here in that precision; None where it can."""
    if (backend, precision) not in ENGINES:
        able = ", ".join(name for name, kind in ENGINES if kind == precision)
        known = ", ".join(f"{kind} ({name})" for name, kind in ENGINES)
        return f"{backend} has no {precision}, only {able}" if able else f"expected one of {known}, got {precision}"
    if backend == "aoti" and not any(map(shutil.which, ("c++", "g++", "clang++"))):
        return "AOTInductor needs a C++ compiler, and there is none"
    missing = [name for name in ("onnxruntime", "onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if backend == "onnx" and missing:
        return f"ONNX Runtime needs {', '.join(missing)}: pip install 'recsys[onnx]'"
    return None


def load(backend: Backend, precision: Precision, program: ExportedProgram) -> Engine:
    """An engine, built first if it has to be.

    Raises:
        MissingExtraError: When it cannot run here.
        ConfigError: When it cannot be built.
    """
    reason = absent(backend, precision)
    if reason:
        raise MissingExtraError(reason)
    there = backend in _SUFFIXES and _whole(_path(backend, precision, program))
    try:
        return ENGINES[backend, precision](program, precision)
    except Exception:
        if not there:
            raise
        discard(backend, precision, program)  # by another version of its runtime, say: build it again
        return ENGINES[backend, precision](program, precision)


def discard(backend: Backend, precision: Precision, program: ExportedProgram) -> None:
    """Remove what was built for an engine that proved to be no good: it is built anew when it is next asked for.

    Raises:
        ConfigError: When somebody else may write to the cache.
        DataError: When the disk refuses.
    """
    if backend in _SUFFIXES:
        path = _path(backend, precision, program)
        try:
            _seal(path).unlink(missing_ok=True)
            path.unlink(missing_ok=True)
        except OSError as error:
            raise DataError(f"{path}: cannot be removed: {error.strerror or error}") from None


def cache_folder() -> Path:
    """Where what is built for this processor and this torch is kept.

    Raises:
        ConfigError: When somebody else may write there: shared objects are run.
        DataError: When the disk refuses.
    """
    folder = root() / "networks" / _machine()
    try:
        if not folder.is_dir():
            make_folder(folder)
            folder.chmod(0o700)
        found = folder.stat()
    except OSError as error:
        raise DataError(f"{folder}: cannot be made: {error.strerror or error}") from None
    if found.st_uid != os.getuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ConfigError(f"{folder}: others may write there, and what it holds is run: remove it")
    return folder


def _machine() -> str:
    """Processor, its instruction sets, and torch, as one name."""
    lines = CPU_INFO.read_text(encoding="utf-8").splitlines() if CPU_INFO.is_file() else []
    flags = next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), [])
    words = [read_machine()["cpu"], *sorted(flags), torch.__version__]
    return f"torch-{torch.__version__.partition('+')[0]}-{hashlib.sha256(' '.join(words).encode()).hexdigest()[:16]}"


_SUFFIXES: dict[Backend, str] = {"aoti": ".so", "onnx": ".onnx"}


def _path(backend: Backend, precision: Precision, program: ExportedProgram) -> Path:
    return cache_folder() / f"{network.digest(program)[:32]}-{backend}-{precision}{_SUFFIXES[backend]}"


def _built(backend: Backend, precision: Precision, program: ExportedProgram) -> Path:
    """The file that an engine loads, built first if it is not there as it was built.

    What is cut off or altered, by a loss of power or a full disk, would kill the process that runs it. Files are of a
    few megabytes, whose checksum takes milliseconds.
    """
    path = _path(backend, precision, program)
    if not _whole(path):
        builder.build(f"{backend}-{precision}", program, path)
        with contextlib.suppress(DataError):  # on a full disk; it is then built again next time
            write_json(_seal(path), _told(path))
    return path


def _seal(path: Path) -> Path:
    return path.with_name(path.name + ".seal.json")


def _told(path: Path) -> dict[str, Any]:
    """What the seal of a built file says: it is written last."""
    return {"bytes": path.stat().st_size, "sha256": sha256(path)}


def _whole(path: Path) -> bool:
    try:
        told = read_json(_seal(path))
        return isinstance(told, dict) and told.get("bytes") == path.stat().st_size and told == _told(path)
    except (OSError, ValueError, RecursionError):
        return False
