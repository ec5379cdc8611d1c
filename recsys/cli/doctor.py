"""`recsys doctor`: what is installed, what fits together, what really runs, and how to mend the rest.

A back end is live when a small piece of its work came out right in a process of its own, so that a broken build cannot
take the doctor down. Nothing here imports torch before that.
"""

from __future__ import annotations

import importlib.util
import json
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from typing import Any, Literal

from packaging.requirements import Requirement
from rich.table import Table

from recsys.cli.app import Result, call
from recsys.cli.show import console
from recsys.install import (
    CPU,
    CUDA,
    FITS,
    TORCH,
    Command,
    Installed,
    InstallError,
    commands,
    read_installed,
    shown,
)
from recsys.machine import read_machine

__all__ = ["main", "trial"]

State = Literal["ok", "absent", "broken"]

MODULES = {"torch": "torch", "fbgemm": "fbgemm_gpu", "torchrec": "torchrec", "cuda": "torch", "kernels": "recsys"}
"""The module that each back end on trial is."""
PACKAGES = {"fbgemm": (CPU, CUDA), "torchrec": ("torchrec",)}
"""The packages that may bring a back end."""
COMPILERS = ("c++", "g++", "clang++")
SECONDS = 60.0
"""How long the back ends may take; importing torch from a cold disk takes a while."""
REPORT = "recsys doctor: "
"""What a line of a trial begins with; libraries may print others."""


@dataclass(frozen=True)
class Package:
    """A package that recsys or one of its extras needs."""

    name: str
    needs: str
    """The versions that fit, as pip writes them."""
    installed: str | None
    extras: tuple[str, ...]
    """What needs it; empty is recsys itself."""

    @property
    def state(self) -> State:
        """Whether it is there and fits; only what an extra needs may be absent."""
        if self.installed is None:
            return "absent" if self.extras else "broken"
        fits = Requirement(self.name + self.needs).specifier.contains(self.installed, prereleases=True)
        return "ok" if fits else "broken"


@dataclass(frozen=True)
class Backend:
    """What does work for recsys, and what came of a trial: in a line, and as facts."""

    state: State
    about: str
    facts: dict[str, Any]


def main(argv: Sequence[str]) -> Result:
    """Parse and run."""
    return call(command, argv, "recsys doctor")


def command() -> Result:
    """Say what is installed, what fits together, what really runs, and how to mend the rest."""
    installed, packages, machine = read_installed(), read_packages(), read_machine()
    todo = _todo(installed)
    backends = {**judge(try_backends(), installed, todo), "compiler": find_compiler()}
    mend, add = prescribe(packages, backends, installed, todo)
    states = [*(one.state for one in packages), *(one.state for one in backends.values())]
    ok = not mend and "broken" not in states
    screen = console()
    for table in (_machine_table(machine), *_package_tables(packages), _backend_table(backends), _fits_table()):
        screen.print(table, "")
    for title, lines in {"mend what is broken": mend, "add what is absent, if you need it": add}.items():
        if lines:
            screen.print(f"to {title}:", *(f"  {line}" for line in lines), "", sep="\n", markup=False, soft_wrap=True)
    screen.print("everything that is installed works" if ok else "something is broken: see above")
    return {
        "ok": ok,
        "machine": machine,
        "packages": {one.name: _package_json(one) for one in packages},
        "backends": {name: {"live": one.state == "ok", **_backend_json(one)} for name, one in backends.items()},
        "fits": [fit._asdict() for fit in FITS],
        "mend": mend,
        "add": add,
    }


def read_packages() -> list[Package]:
    """All that the metadata of recsys asks for on this system: first what it needs itself, then what extras do.

    Raises:
        InstallError: When recsys runs from a folder and is not installed, so that it has no metadata.
    """
    try:
        about = metadata.metadata("recsys")
    except metadata.PackageNotFoundError:
        cure = shown(("install", "-e", "."))
        raise InstallError(
            f"recsys is not installed, so what it needs is unknown: run `{cure}` in its folder"
        ) from None
    extras, found = about.get_all("Provides-Extra") or [], dict[str, Package]()
    for requirement in map(Requirement, about.get_all("Requires-Dist") or []):
        marker, name = requirement.marker, requirement.name
        base = marker is None or marker.evaluate({"extra": ""})
        users = () if base else tuple(extra for extra in extras if marker and marker.evaluate({"extra": extra}))
        if name == "recsys" or not (base or users) or (name in found and not found[name].extras):
            continue
        known = found.get(name, Package(name, str(requirement.specifier), _version(name), ()))
        found[name] = replace(known, extras=tuple(dict.fromkeys((*known.extras, *users))) if users else ())
    return sorted(found.values(), key=lambda one: bool(one.extras))


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def try_backends(names: Sequence[str] = tuple(MODULES)) -> dict[str, Backend]:
    """Try back ends one after the other in one process; where it dies, the next one starts in a new process."""
    present = [name for name in names if importlib.util.find_spec(MODULES[name]) is not None]
    tried = {name: Backend("absent", "not installed", {}) for name in names}
    while present:
        reports, end = _try(present)
        for name in present[: len(reports)]:
            facts = reports[name]
            tried[name] = Backend(facts.pop("state"), facts.pop("about"), facts)
        for name in present[len(reports) : len(reports) + 1]:
            tried[name] = Backend("broken", end, {})
        present = present[len(reports) + 1 :]
    return tried


def _try(names: Sequence[str]) -> tuple[dict[str, dict[str, Any]], str]:
    """What the trials reported before their process ended, and how it ended."""
    code = f"from recsys.cli.doctor import trial; trial({list(names)!r})"
    with tempfile.TemporaryFile("w+", encoding="utf-8") as out:
        try:
            end = subprocess.run([sys.executable, "-c", code], stdout=out, stderr=subprocess.DEVNULL, timeout=SECONDS)
            code_or_signal = f"signal {-end.returncode}" if end.returncode < 0 else f"code {end.returncode}"
            said = f"its process ended with {code_or_signal}"
        except subprocess.TimeoutExpired:
            said = f"no answer in {SECONDS:.0f} s"
        out.seek(0)
        lines = [json.loads(line.removeprefix(REPORT)) for line in out if line.startswith(REPORT)]
    return {one.pop("name"): one for one in lines}, said


def trial(names: Sequence[str]) -> None:
    """Let back ends do a small piece of work each, and report on each in a line of its own."""
    for name in names:
        try:
            facts = {"state": "ok", **TRIALS[name]()}
        except Exception as error:  # whatever a broken build raises is what there is to tell, its first cause best
            cause: BaseException = error
            while cause.__cause__:
                cause = cause.__cause__
            facts = {"state": "broken", "about": " ".join(f"{type(cause).__name__}: {cause}".split())}
        print(f"\n{REPORT}{json.dumps({'name': name, **facts})}", flush=True)


def _torch_trial() -> dict[str, Any]:
    import torch

    _same((torch.ones(2, 3) @ torch.ones(3, 2)).tolist(), [[3.0, 3.0], [3.0, 3.0]])
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU"
    about = f"{torch.__version__}, a {build} build, {torch.get_num_threads()} threads"
    return {"about": about, "version": torch.__version__, "build": build, "threads": torch.get_num_threads()}


def _fbgemm_trial() -> dict[str, Any]:
    import fbgemm_gpu
    import torch

    device = "cuda" if torch.cuda.is_available() and getattr(fbgemm_gpu, "__variant__", "") == "cuda" else "cpu"
    sums = torch.ops.fbgemm.asynchronous_complete_cumsum(torch.tensor([1, 2, 3], device=device))
    _same(sums.tolist(), [0, 1, 3, 6])
    return {"about": f"ran on {device}", "version": fbgemm_gpu.__version__}


def _torchrec_trial() -> dict[str, Any]:
    import torch
    import torchrec

    lengths, values = torch.tensor([1, 2, 0, 1]), torch.tensor([3, 1, 4, 1])
    ids = torchrec.KeyedJaggedTensor.from_lengths_sync(keys=["user", "item"], values=values, lengths=lengths)
    _same(ids["user"].values().tolist(), [3, 1, 4])
    return {"about": "packed ids", "version": torchrec.__version__}


def _cuda_trial() -> dict[str, Any]:
    import torch

    if not torch.cuda.is_available():
        about = "torch finds no device" if torch.version.cuda else "torch is a CPU build"
        return {"state": "absent", "about": about, "devices": []}
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    for i in range(len(devices)):
        _same(torch.ones(3, device=f"cuda:{i}").cumsum(0).tolist(), [1.0, 2.0, 3.0])
    return {"about": ", ".join(devices), "devices": devices}


def _kernels_trial() -> dict[str, Any]:
    import torch

    from recsys.data.batch import JaggedIds
    from recsys.dataflow.kernels.cpu import CpuKernels, isas, missing
    from recsys.dataflow.kernels.reference import Slot
    from recsys.dataflow.storage import Source, Storage

    if not isas():
        return {"state": "absent", "about": f"not built ({missing}): install recsys where there is a C++ compiler"}
    rows = Storage({"t": Source(torch.arange(6.0).view(3, 2))}).tables["t"]
    x = torch.zeros(2, 2)
    CpuKernels([Slot("t", 0, rows, 0)]).look_up(JaggedIds(("t",), torch.tensor([2, 1])), x)
    _same(x.tolist(), [[4.0, 5.0], [2.0, 3.0]])
    return {"about": f"in C++, for {', '.join(isas())}", "isas": isas()}


TRIALS: dict[str, Callable[[], dict[str, Any]]] = {
    "torch": _torch_trial,
    "fbgemm": _fbgemm_trial,
    "torchrec": _torchrec_trial,
    "cuda": _cuda_trial,
    "kernels": _kernels_trial,
}


def _same(got: Any, expected: Any) -> None:
    if got != expected:
        raise RuntimeError(f"it computes {got} where {expected} is right")


def find_compiler() -> Backend:
    """The C++ compiler on the PATH."""
    found = next((path for name in COMPILERS if (path := shutil.which(name))), None)
    if found is None:
        return Backend("absent", f"none of {', '.join(COMPILERS)} is on the PATH: install one", {})
    return Backend("ok", found, {"path": found})


def _todo(installed: Installed) -> list[Command] | None:
    """What `recsys.install` would run; None where no torch fits, which `Package` tells."""
    try:
        return commands(installed)
    except InstallError:
        return None


def judge(backends: dict[str, Backend], installed: Installed, todo: Sequence[Command] | None) -> dict[str, Backend]:
    """Name the packages of FBGEMM and torchrec, and call broken those that do not fit torch though they run."""
    versions = {CPU: installed.fbgemm_cpu, CUDA: installed.fbgemm_cuda, "torchrec": installed.torchrec}
    judged = dict(backends)
    for name, packages in PACKAGES.items():
        have = " and ".join(f"{one} {versions[one]}" for one in packages if versions[one])
        fits = [line[-1] for line in todo or () if line[0] == "install" and line[-1].partition("==")[0] in packages]
        one = judged[name]
        if have and fits:
            trouble = "" if one.state == "ok" else f" ({one.about})"
            judged[name] = replace(one, state="broken", about=f"{have} installed, only {fits[0]} fits{trouble}")
        elif have:
            state: State = "broken" if one.state == "absent" else one.state
            judged[name] = replace(one, state=state, about=f"{have}, {one.about}")
    return judged


def prescribe(
    packages: Sequence[Package], backends: dict[str, Backend], installed: Installed, todo: list[Command] | None
) -> tuple[list[str], list[str]]:
    """The commands that mend what is broken, and those that add what is absent and optional."""
    mend, add = _packages_to_mend(packages), _extras_to_add(packages)
    states = {backends[name].state for name in ("fbgemm", "torchrec")}
    again = shlex.join([sys.executable, "-m", "recsys.install"])
    if todo is None:
        mend += [again] if "broken" in states else []
    elif backends["torch"].state == "broken":
        mend.append(shown(("install", "--force-reinstall", "--no-deps", f"torch=={installed.torch}")))
    elif "broken" in states:
        mend += map(shown, todo or commands(replace(installed, damaged=True)))
    elif todo:
        add.insert(0, again)
    return mend, add


def _packages_to_mend(packages: Sequence[Package]) -> list[str]:
    """One command for what recsys itself needs, and one for each extra that has a package of a wrong version."""
    broken = [one for one in packages if one.state == "broken"]
    base = [TORCH if one.name == "torch" else one.name + one.needs for one in broken if not one.extras]
    extras = dict.fromkeys(one.extras[0] for one in broken if one.extras)
    return [shown(("install", *base))] * bool(base) + [_extra_command(name) for name in extras]


def _extras_to_add(packages: Sequence[Package]) -> list[str]:
    absent = [one for one in packages if one.state == "absent"]
    return [_extra_command(name) for name in dict.fromkeys(extra for one in absent for extra in one.extras)]


def _extra_command(name: str) -> str:
    return shown(("install", f"recsys[{name}]"))


def _package_json(one: Package) -> dict[str, Any]:
    return {"installed": one.installed, "needs": one.needs, "state": one.state, "extras": list(one.extras)}


def _backend_json(one: Backend) -> dict[str, Any]:
    return {"state": one.state, "about": one.about, **one.facts}


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column)
    return table


def _machine_table(machine: dict[str, Any]) -> Table:
    table = _table("machine", "what", "is")
    table.add_row("recsys", machine["recsys"])
    table.add_row("python", f"{machine['python']}  {machine['executable']}")
    table.add_row("processor", f"{machine['cpu']}, {machine['cores']} cores, {machine['system']}")
    table.add_row("transparent huge pages", machine["huge_pages"] or "the system has no such setting")
    return table


def _package_tables(packages: Sequence[Package]) -> list[Table]:
    """What recsys needs, and what its extras need, each package in a row."""
    base, extra = (
        _table("packages", "name", "installed", "needs", ""),
        _table("extras", "name", "installed", "needs", "for", ""),
    )
    for one in packages:
        row = (one.name, one.installed or "–", one.needs)
        if one.extras:
            extra.add_row(*row, ", ".join(one.extras), one.state)
        else:
            base.add_row(*row, one.state)
    return [base, extra]


def _backend_table(backends: dict[str, Backend]) -> Table:
    table = _table("back ends, each tried", "name", "state", "about")
    titles = {"fbgemm": "FBGEMM", "cuda": "CUDA", "compiler": "C++ compiler", "kernels": "look-up kernels"}
    for name, one in backends.items():
        table.add_row(titles.get(name, name), "live" if one.state == "ok" else one.state, one.about)
    return table


def _fits_table() -> Table:
    table = _table("what fits together", "torch", "FBGEMM", "torchrec")
    for fit in FITS:
        table.add_row(*fit)
    return table
