"""Build the look-up kernels with the package, where there is a C++ compiler; without one recsys is whole, but slower.

Each strategy's file is compiled once for every instruction set; the one that the processor has is chosen when it runs.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

NATIVE = Path("recsys/dataflow/kernels/native")
STRATEGIES = ("gather.cpp", "stream.cpp", "vector.cpp")
PLAIN = ("executor.cpp", "module.cpp", "pool.cpp")
FLAGS = ("-std=c++20", "-O3", "-fPIC", "-fvisibility=hidden", "-fno-math-errno", "-DNDEBUG")
AVX2 = ("-mavx2", "-mfma", "-mf16c")
AVX512 = (*AVX2, "-mavx512f", "-mavx512vl", "-mavx512bw", "-mavx512dq", "-mprefer-vector-width=512")
X86 = {"avx2": AVX2, "avx512": AVX512}


class NativeHook(BuildHookInterface[Any]):
    """Compiles `_native` next to its sources' package; what goes wrong is said, and the build goes on without it."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Hatchling calls it before it collects the files of a wheel."""
        if self.target_name != "wheel":
            return
        root = Path(self.root)
        module = root / NATIVE.parent / f"_native{sysconfig.get_config_var('EXT_SUFFIX')}"
        try:
            compile_module(root, module)
        except (OSError, subprocess.CalledProcessError, ImportError) as error:
            self.app.display_warning(
                f"recsys: the look-up kernels were not built ({first_error(error)}); all else works"
            )
            module.unlink(missing_ok=True)
            return
        build_data["artifacts"].append(str(module.relative_to(root)))
        build_data["infer_tag"] = True
        build_data["pure_python"] = False


def compile_module(root: Path, module: Path) -> None:
    """Compile every source, two at a time or more, and link them."""
    import nanobind

    compiler = find_compiler()
    source = Path(nanobind.source_dir())
    include = [sysconfig.get_path("include"), nanobind.include_dir(), str(source.parent / "ext/robin_map/include")]
    common = [*compiler, *FLAGS, "-DNB_COMPACT_ASSERTIONS", *(f"-I{path}" for path in include)]
    isas = {"portable": (), **(X86 if platform.machine().lower() in ("x86_64", "amd64") else {})}
    with tempfile.TemporaryDirectory() as folder:
        jobs = [(source / "nb_combined.cpp", ["-fno-strict-aliasing"])]
        jobs += [(root / NATIVE / name, []) for name in PLAIN]
        jobs += [
            (root / NATIVE / n, [f"-DRECSYS_ISA={isa}", *flags]) for n in STRATEGIES for isa, flags in isas.items()
        ]
        objects = [str(Path(folder) / f"{k}.o") for k in range(len(jobs))]
        commands = [
            [*common, *flags, "-c", str(path), "-o", out] for (path, flags), out in zip(jobs, objects, strict=True)
        ]
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            list(pool.map(run, commands))
        undefined = ["-undefined", "dynamic_lookup"] if sys.platform == "darwin" else ["-pthread"]
        run([*compiler, "-shared", *objects, *undefined, "-s", "-o", str(module)])


def find_compiler() -> list[str]:
    """The C++ compiler that `CXX` names, perhaps with arguments; without `CXX`, the first on the PATH."""
    named = shlex.split(os.environ.get("CXX", ""))
    if named:
        if shutil.which(named[0]) is None:
            raise FileNotFoundError(f"CXX names {named[0]}, which is not there")
        return named
    found = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
    if found is None:
        raise FileNotFoundError("no C++ compiler is on the PATH")
    return [found]


def run(command: list[str]) -> None:
    """Run a compiler quietly; its output is in the error that it raises."""
    subprocess.run(command, check=True, capture_output=True, text=True)


def first_error(error: Exception) -> str:
    """The first line of a compiler's complaint that says error, or the exception itself."""
    lines = getattr(error, "stderr", None) or str(error)
    return next((line for line in lines.splitlines() if "error" in line), str(error))
