"""Build the package, install it alone in a bare environment, and try it there, far from the checkout.

    python scripts/check_package.py [--torch "torch==2.13.*"]

Needs `build`; pip's cache serves both environments, so that torch is fetched once.
"""

from __future__ import annotations

import argparse
import importlib
import json
import pkgutil
import shlex
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SHELVES = ("models", "dataflow", "data")
HEAVY = ("fbgemm_gpu", "ray", "torchrec", "transformers")
"""What `import recsys` must not load."""
ABSENT = {
    "recsys.serving.": {"fastapi", "prometheus_client", "starlette", "uvicorn"},
    "recsys.dataflow.kernels.gpu.lookup": {"triton"},
    "recsys.dataflow.kernels.gpu.shared": {"triton"},
    "recsys.inference.cuda.linear": {"triton"},
}
"""Beginnings of modules' names, and what only these may need: the extra `serve`, and what a CUDA build of torch brings;
neither is installed here."""


def main() -> None:
    """Build, install, try; in a folder that goes away."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--torch", default="torch==2.13.*", help="what to ask pip for first, with options if need be")
    parser.add_argument("--inside", action="store_true", help="try the package of the Python that runs this")
    args = parser.parse_args()
    if args.inside:
        inside()
        return
    with tempfile.TemporaryDirectory(prefix="recsys-package-") as folder:
        place = Path(folder)
        wheel = build(place / "dist")
        python = bare_environment(place / "venv", shlex.split(args.torch), wheel)
        try_package(python, place)
    print(f"the package works on its own: {wheel.name}")


def build(folder: Path) -> Path:
    """An sdist, and the wheel that is built from it."""
    run([sys.executable, "-m", "build", "--outdir", str(folder), str(ROOT)], ROOT)
    (wheel,) = folder.glob("*.whl")
    if not list(folder.glob("*.tar.gz")):
        sys.exit("no sdist was built")
    return wheel


def bare_environment(folder: Path, torch: Sequence[str], wheel: Path) -> Path:
    """A fresh environment with the wheel and what it requires; torch first, as in the Makefile."""
    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    for wanted in (torch, [str(wheel)]):
        run([str(python), "-m", "pip", "install", "--quiet", *wanted], folder)
    return python


def try_package(python: Path, place: Path) -> None:
    """The command, the doctor, and what `inside` checks."""
    command = str(python.parent / "recsys")
    if "usage: recsys" not in run([command, "--help"], place):
        sys.exit("`recsys --help` shows no usage")
    report = json.loads(run([command, "doctor", "--json"], place).splitlines()[-1])
    if not report["ok"] or report["mend"] or not report["backends"]["torch"]["live"]:
        sys.exit(f"`recsys doctor` finds fault: {report}")
    print(run([str(python), "-I", __file__, "--inside"], place), end="")


def inside() -> None:
    """Import every module and find the shelves, in the Python that runs this."""
    package = importlib.import_module("recsys")
    home = Path(str(package.__file__)).parent
    loaded = [name for name in HEAVY if name in sys.modules]
    if loaded or home.is_relative_to(ROOT):
        sys.exit(f"`import recsys` loads {loaded} from {home}")
    names = [found.name for found in pkgutil.walk_packages(package.__path__, "recsys.")]
    for name in names:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            lacking = str(error.name).partition(".")[0]
            if not any(name.startswith(own) and lacking in allowed for own, allowed in ABSENT.items()):
                raise
    cpu = importlib.import_module("recsys.dataflow.kernels.cpu")
    if cpu.native is None and any(map(shutil.which, ("c++", "g++", "clang++"))):
        sys.exit(f"there is a C++ compiler and the look-up kernels were not built: {cpu.missing}")
    shelf = importlib.import_module("recsys.shelves").shelf
    for name in SHELVES:
        folder = shelf(name)
        if not folder.is_relative_to(home) or not any(folder.iterdir()):
            sys.exit(f"the shelf {name} is not in the package: {folder}")
    print(f"{len(names)} modules and {len(SHELVES)} shelves are found and load")


def run(command: Sequence[str], folder: Path) -> str:
    """Run a command in a folder; what it says is shown if it fails."""
    done = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{shlex.join(command)}\n{done.stdout}{done.stderr}\nfailed with exit code {done.returncode}")
    return done.stdout


if __name__ == "__main__":
    main()
