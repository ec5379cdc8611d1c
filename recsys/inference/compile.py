"""Build one form of a network in a process of its own: ``python -m recsys.inference.compile FORM IN.pt2 OUT``.

A compiler's memory, its global state and what it prints stay out of the process that serves.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from recsys.errors import ConfigError, DataError
from recsys.files import move, replacing, scratch
from recsys.inference.aoti import SharedObject
from recsys.inference.network import eager, example, half, load, write

__all__ = ["FORMS", "build"]

_LONGEST = 1800
"""Seconds that a build may take."""


def build(form: str, program: ExportedProgram, target: Path) -> None:
    """Write one of `FORMS` of a program to `target`, whole or not at all.

    Raises:
        ConfigError: With what the process said last, when it fails; or when the disk refuses.
    """
    try:
        with scratch(target.parent) as folder:
            source, made, whole = folder / "source.pt2", folder / target.name, folder / "whole"
            write(program, source)
            _run(form, source, made)
            with replacing(whole) as temporary:  # here, so that a kill leaves nothing beside the target
                made.replace(temporary)
            move(whole, target)
    except (DataError, OSError) as error:
        raise ConfigError(f"the network cannot be built as {form}: {error}") from None


def _run(form: str, source: Path, made: Path) -> None:
    """Build in a process that ends, and all that it started, when this one does."""
    # Inductor keeps compiled code in a cache that all users of a machine may write to, unless told otherwise.
    environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(source.with_name("inductor"))}
    # -P: no module of the folder that the user happens to be in.
    words = [sys.executable, "-P", "-m", __name__, form, str(source), str(made)]
    told = source.with_name("told")
    with (
        told.open("wb") as said,
        subprocess.Popen(
            words,
            env=environment,
            stdin=subprocess.PIPE,  # its end tells the child that this process is gone
            stdout=subprocess.DEVNULL,
            stderr=said,
            start_new_session=True,
        ) as child,
    ):
        try:
            code = child.wait(_LONGEST)
        except BaseException as error:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)  # compilers, too
            if isinstance(error, subprocess.TimeoutExpired):
                raise ConfigError(f"the network was not built as {form} within {_LONGEST} seconds") from None
            raise
    if code or not made.is_file():
        lines = told.read_text(encoding="utf-8", errors="replace").strip().splitlines() or [f"exit code {code}"]
        raise ConfigError(f"the network cannot be built as {form}: {lines[-1][:300]}")


def _aoti(program: ExportedProgram, target: Path) -> None:
    """A shared object with the weights inside, packed as the matrix products of this processor like them."""
    import torch._inductor

    program.example_inputs = (example(program), {})
    options: dict[str, Any] = {"freezing": True, "cpp.threads": 1}
    package = target.with_name("package.pt2")
    torch._inductor.aoti_compile_and_package(program, package_path=str(package), inductor_configs=options)
    with zipfile.ZipFile(package) as archive:
        named = [name for name in archive.namelist() if "/data/aotinductor/" in name]
        (found,) = (name for name in named if name.endswith(".so"))
        if any(name.endswith((".bin", ".blob")) for name in named):
            raise ValueError("its weights are too large for one file")
        target.write_bytes(archive.read(found))
    inputs = example(program)
    SharedObject(target).bind(inputs, torch.empty_like(eager(program)(*inputs)))()  # if it crashes, then here


def _onnx(program: ExportedProgram, target: Path) -> None:
    program.example_inputs = (example(program), {})
    found = torch.onnx.export(program, dynamo=True, verbose=False)
    assert found is not None
    found.save(target)


def _int8(program: ExportedProgram, target: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    plain = target.with_name("plain.onnx")
    _onnx(program, plain)
    quantize_dynamic(plain, target, per_channel=True, weight_type=QuantType.QInt8)


FORMS: dict[str, Callable[[ExportedProgram, Path], None]] = {
    "aoti-fp32": _aoti,
    "aoti-bf16": lambda program, target: _aoti(half(program), target),
    "onnx-fp32": _onnx,
    "onnx-int8": _int8,
}
"""What can be built: the back end and the precision of its matrix products."""


def _main(form: str, source: str, target: str) -> None:
    torch.set_num_threads(1)
    with torch.no_grad(), contextlib.redirect_stdout(sys.stderr):
        FORMS[form](load(source), Path(target))  # `build` has just written it


def _end_with_parent() -> None:
    """End this process and the compilers that it started once its standard input ends: `build` holds the other end."""
    os.read(0, 1)
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_end_with_parent, daemon=True).start()
    warnings.simplefilter("ignore")
    _main(*sys.argv[1:])
