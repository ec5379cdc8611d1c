"""Which FBGEMM and torchrec fit the torch that is installed, and the pip commands that install them.

    python -m recsys.install [--dry-run]

FBGEMM 1.X loads with torch 2.(X+5) and no other. `pip install torchrec` would bring `fbgemm-gpu`, the newest and for
CUDA, over the files of `fbgemm-gpu-cpu`, and neither would load on a CPU build of torch. So torchrec is installed
without what it requires, which then follows by name. Its pin ``torchmetrics==1.0.3`` is left out on purpose: newer
ones work, and `iopath` serves only its data sets.

Nothing here imports torch: versions come from the metadata of packages, CUDA's from ``torch/version.py`` as text.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import importlib.util
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from recsys.errors import RecsysError

__all__ = ["FITS", "TORCH", "Fit", "InstallError", "Installed", "commands", "main", "read_installed", "shown"]


class Fit(NamedTuple):
    """The releases that belong together."""

    torch: str
    fbgemm: str
    torchrec: str


FITS = (Fit("2.11", "1.6.0", "1.6.1"), Fit("2.12", "1.7.0", "1.7.0"), Fit("2.13", "1.8.0", "1.8.0"))
"""The torch releases that recsys supports, oldest first; there is no torchrec 1.6.0."""

TORCH = f"torch=={FITS[-1].torch}.*"
"""What to ask pip for where no torch fits."""

CPU, CUDA = "fbgemm-gpu-cpu", "fbgemm-gpu"
NEEDS = ("pyre-extensions", "tensordict", "torchmetrics", "tqdm")
"""What `import torchrec` needs besides torch and FBGEMM."""

Command = tuple[str, ...]
"""The words after ``python -m pip``."""


class InstallError(RecsysError):
    """No FBGEMM fits the torch that is installed, or pip failed."""


@dataclass(frozen=True)
class Installed:
    """Versions as pip knows them; None is absent."""

    torch: str | None = None
    """With its local part, as in 2.13.0+cpu."""
    cuda: str | None = None
    """The CUDA that torch was built for; None is a CPU build."""
    fbgemm_cpu: str | None = None
    fbgemm_cuda: str | None = None
    torchrec: str | None = None
    needs: tuple[str, ...] = NEEDS
    """Those of `NEEDS` that are installed."""
    damaged: bool = False
    """Files of an installed FBGEMM are missing or not its own: another build was installed over it."""


def commands(installed: Installed) -> list[Command]:
    """The pip commands that make FBGEMM and torchrec fit torch; none when they do.

    Raises:
        InstallError: When torch is absent or no FBGEMM is built for it.
    """
    fit = fitting(installed.torch)
    return [*_fbgemm(installed, fit), *_torchrec(installed, fit), *_needs(installed)]


def fitting(torch: str | None) -> Fit:
    """The row of `FITS` for a version of torch, such as 2.13.0+cpu or a nightly's 2.12.0.dev20260101+cu130.

    Raises:
        InstallError: When there is none.
    """
    expected = f"recsys needs torch {FITS[0].torch} to {FITS[-1].torch}"
    cure = f"run `{shown(('install', TORCH))}`, then `python -m recsys.install`"
    if torch is None:
        raise InstallError(f"{expected}, and no torch is installed: {cure}")
    for fit in FITS:
        if _release(torch) == fit.torch:
            return fit
    raise InstallError(f"{expected}, and torch {torch} is installed, for which no FBGEMM is known: {cure}")


def _release(version: str | None) -> str | None:
    """``2.13`` of ``2.13.0+cpu``."""
    found = re.match(r"\d+\.\d+(?!\d)", version or "")
    return found.group() if found else None


def _fbgemm(installed: Installed, fit: Fit) -> list[Command]:
    """Both builds own the folder `fbgemm_gpu`: where a wrong one is, both go before the right one comes."""
    have = {CPU: installed.fbgemm_cpu, CUDA: installed.fbgemm_cuda}
    right, wrong = (CPU, CUDA) if installed.cuda is None else (CUDA, CPU)
    present = [name for name in have if have[name] is not None]
    fits = _release(have[right]) == _release(fit.fbgemm)
    if fits and wrong not in present and not installed.damaged:
        return []
    clear = [("uninstall", "-y", *present)] if wrong in present else []
    force = ("--force-reinstall", "--no-deps") if installed.damaged else ()
    return [*clear, ("install", "--no-warn-conflicts", *force, f"{right}=={fit.fbgemm}")]


def _torchrec(installed: Installed, fit: Fit) -> list[Command]:
    if _release(installed.torchrec) == _release(fit.torchrec):
        return []
    return [("install", "--no-deps", f"torchrec=={fit.torchrec}")]


def _needs(installed: Installed) -> list[Command]:
    """Torch goes along by its exact version, so that nothing can move it."""
    absent = [name for name in NEEDS if name not in installed.needs]
    return [("install", "--no-warn-conflicts", *absent, f"torch=={installed.torch}")] if absent else []


def read_installed() -> Installed:
    """What this Python has, from metadata alone."""
    versions = {name: _version(name) for name in (CPU, CUDA)}
    return Installed(
        torch=_version("torch"),
        cuda=_cuda(),
        fbgemm_cpu=versions[CPU],
        fbgemm_cuda=versions[CUDA],
        torchrec=_version("torchrec"),
        needs=tuple(name for name in NEEDS if _version(name) is not None),
        damaged=any(not _whole(name) for name, version in versions.items() if version is not None),
    )


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _cuda() -> str | None:
    """``torch.version.cuda``, read as text."""
    spec = importlib.util.find_spec("torch")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        file = Path(folder, "version.py")
        for node in ast.parse(file.read_text(encoding="utf-8")).body if file.is_file() else []:
            names = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            if any(isinstance(name, ast.Name) and name.id == "cuda" for name in names):
                value = getattr(node, "value", None)
                return value.value if isinstance(value, ast.Constant) and isinstance(value.value, str) else None
    return None


def _whole(name: str) -> bool:
    """Whether every file that a package brought is there, in its recorded size."""
    for file in metadata.distribution(name).files or []:
        place = Path(str(file.locate()))
        if not place.is_file() or (file.size is not None and place.stat().st_size != file.size):
            return False
    return True


def shown(command: Command) -> str:
    """A command as one types it: with the Python that runs this, quoted for a shell."""
    return shlex.join([sys.executable, "-m", "pip", *command])


def main(argv: Sequence[str] | None = None) -> int:
    """Print the commands and run them; returns 0, or 2 for what the user can mend."""
    parser = argparse.ArgumentParser(
        prog="python -m recsys.install",
        description="Install the FBGEMM and the torchrec that fit the torch that is installed.",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the commands and run none")
    dry_run = parser.parse_args(argv).dry_run
    try:
        installed = read_installed()
        todo = commands(installed)
        print(_summary(installed, todo), flush=True)
        for command in todo:
            print(f"  {shown(command)}", flush=True)
            if not dry_run:
                _run(command)
        if todo and not dry_run:
            _check()
    except RecsysError as error:
        print(f"recsys.install: {error}", file=sys.stderr)
        return 2
    return 0


def _summary(installed: Installed, todo: Sequence[Command]) -> str:
    fit = fitting(installed.torch)
    build = "CPU" if installed.cuda is None else f"CUDA {installed.cuda}"
    told = f"torch {installed.torch} ({build}) goes with FBGEMM {fit.fbgemm} and torchrec {fit.torchrec}"
    return f"{told}: {'to do' if todo else 'all installed'}"


def _run(command: Command) -> None:
    done = subprocess.run([sys.executable, "-m", "pip", *command], check=False)
    if done.returncode:
        raise InstallError(f"pip ended with exit code {done.returncode}; its message is above. Run again to go on")


def _check() -> None:
    """After the commands there must be none left.

    Raises:
        InstallError: When there is.
    """
    importlib.invalidate_caches()
    left = commands(read_installed())
    if left:
        raise InstallError(f"pip ended well, and yet this is left to do: {'; '.join(map(shown, left))}")


if __name__ == "__main__":
    sys.exit(main())
