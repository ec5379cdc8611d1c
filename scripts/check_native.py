"""Build the kernels with sanitizers, without Python, and have tests/dataflow/native/stress.cpp run them hard.

    python scripts/check_native.py [--seconds 20] [--seed 0]

Needs `hatchling`, whose hook knows how they are compiled, and gcc or clang on Linux.
"""

from __future__ import annotations

import argparse
import os
import platform
import runpy
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HOOK = runpy.run_path(str(ROOT / "hatch_build.py"))
STRESS = ROOT / "tests/dataflow/native/stress.cpp"
SANITIZERS = {
    "address": ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
    "thread": ["-fsanitize=thread"],
}


def main() -> None:
    """Build and run both; what a sanitizer finds ends the run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=20, help="how long each build runs")
    parser.add_argument("--seed", type=int, default=0, help="what the rounds begin with")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="recsys-native-") as folder:
        for name, flags in SANITIZERS.items():
            program = build(Path(folder) / name, flags)
            print(f"{name}: ", end="", flush=True)
            subprocess.run([str(program), str(args.seconds), str(args.seed)], check=True, env=options())


def build(folder: Path, sanitizer: list[str]) -> Path:
    """The driver with executor, pool and every strategy for every instruction set, as they are compiled for a wheel."""
    folder.mkdir()
    native = ROOT / HOOK["NATIVE"]
    common = [*HOOK["find_compiler"](), *HOOK["FLAGS"], "-O1", "-g", *sanitizer, f"-I{native}"]
    isas = {"portable": (), **(HOOK["X86"] if platform.machine().lower() in ("x86_64", "amd64") else {})}
    jobs: list[tuple[Path, list[str]]] = [
        (STRESS, []),
        *((native / name, []) for name in HOOK["PLAIN"] if name != "module.cpp"),
    ]
    jobs += [
        (native / name, [f"-DRECSYS_ISA={isa}", *flags]) for name in HOOK["STRATEGIES"] for isa, flags in isas.items()
    ]
    objects = [str(folder / f"{k}.o") for k in range(len(jobs))]
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        commands = [[*common, *flags, "-c", str(path), "-o", o] for (path, flags), o in zip(jobs, objects, strict=True)]
        list(pool.map(compile_one, commands))
    program = folder / "stress"
    compile_one([*common, *objects, "-pthread", "-Wl,--wrap=pthread_create", "-o", str(program)])
    return program


def compile_one(command: list[str]) -> None:
    """Run the compiler and say what it complains of."""
    if subprocess.run(command).returncode:
        sys.exit("the kernels do not compile with sanitizers")


def options() -> dict[str, str]:
    """The first finding ends the program."""
    return {**os.environ, "TSAN_OPTIONS": "halt_on_error=1", "UBSAN_OPTIONS": "print_stacktrace=1"}


if __name__ == "__main__":
    main()
