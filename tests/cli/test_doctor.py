"""What the doctor finds and prescribes; broken builds are played by small modules that crash, lie or hang."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from email.message import Message
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from recsys.cli import app, doctor
from recsys.cli.doctor import Backend, Package, State, judge, prescribe
from recsys.errors import RecsysError
from recsys.install import FITS, NEEDS, Command, Installed, InstallError, commands, shown

FITTING = Installed("2.13.0+cpu", None, fbgemm_cpu="1.8.0", torchrec="1.8.0")
BARE = Installed("2.13.0+cpu", needs=("tqdm",))
AGAIN = f"{sys.executable} -m recsys.install"


def backends(torch: State = "ok", fbgemm: State = "ok", torchrec: State = "ok") -> dict[str, Backend]:
    states = {"torch": torch, "fbgemm": fbgemm, "torchrec": torchrec, "cuda": "absent"}
    return {name: Backend(state, "seen", {}) for name, state in states.items()}


# --- packages


@pytest.mark.parametrize(
    ("installed", "extras", "state"),
    [
        ("2.13.0+cpu", (), "ok"),
        ("2.11.0.dev20260101", (), "broken"),
        ("2.12.0.dev20260101+cu130", (), "ok"),
        ("2.14.0", (), "broken"),
        ("2.10.1", ("dev",), "broken"),
        (None, (), "broken"),
        (None, ("dev",), "absent"),
    ],
)
def test_a_package_fits_or_not(installed: str | None, extras: tuple[str, ...], state: State) -> None:
    assert Package("torch", ">=2.11,<2.14", installed, extras).state == state


@pytest.fixture
def requires(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets what recsys requires, and which versions are installed."""

    def use(*lines: str, **versions: str) -> None:
        about = Message()
        for extra in ("notebooks", "dev"):
            about["Provides-Extra"] = extra
        for line in lines:
            about["Requires-Dist"] = line

        def version(name: str) -> str:
            if name not in versions:
                raise metadata.PackageNotFoundError(name)
            return versions[name]

        monkeypatch.setattr(metadata, "metadata", lambda name: about)
        monkeypatch.setattr(metadata, "version", version)

    return use


def test_requirements_are_read_with_their_extras(requires: Callable[..., None]) -> None:
    requires(
        "numpy>=1.26",
        "rich>=13; python_version >= '3.11'",
        "colorama; sys_platform == 'never'",
        "nbclient>=0.10; extra == 'notebooks'",
        "nbclient>=0.10; extra == 'dev'",
        "recsys[notebooks]; extra == 'dev'",
        "numpy>=1; extra == 'dev'",
        "wincurses; extra == 'dev' and sys_platform == 'never'",
        "torch<2.14,>=2.11",
        numpy="2.4.6",
        nbclient="0.9",
    )
    assert doctor.read_packages() == [
        Package("numpy", ">=1.26", "2.4.6", ()),
        Package("rich", ">=13", None, ()),
        Package("torch", "<2.14,>=2.11", None, ()),
        Package("nbclient", ">=0.10", "0.9", ("notebooks", "dev")),
    ]


def test_the_real_requirements_are_all_there() -> None:
    found = {one.name: one for one in doctor.read_packages()}
    assert {"torch", "numpy", "tyro", "rich", "pytest"} <= set(found)
    assert not [one for one in found.values() if not one.extras and one.state != "ok"]


def test_a_folder_that_is_not_installed_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> Message:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "metadata", absent)
    with pytest.raises(InstallError, match=r"recsys is not installed.*pip install -e \.` in its folder"):
        doctor.read_packages()


# --- the compiler


def test_a_compiler_is_looked_for_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert doctor.find_compiler() == Backend("absent", "none of c++, g++, clang++ is on the PATH: install one", {})
    (tmp_path / "g++").touch(mode=0o755)
    assert doctor.find_compiler() == Backend("ok", str(tmp_path / "g++"), {"path": str(tmp_path / "g++")})


# --- trials

FINE = """
class Tensor:
    def __init__(self, values): self.values = values
    def __matmul__(self, other): return Tensor([[3.0, 3.0], [3.0, 3.0]])
    def tolist(self): return self.values
class version: cuda = None
class cuda: is_available = staticmethod(lambda: False)
def ones(*shape): return Tensor([])
def tensor(values, device="cpu"): return Tensor(values)
def get_num_threads(): return 2
class ops:
    class fbgemm: asynchronous_complete_cumsum = staticmethod(lambda given: Tensor([0, 1, 3, 6]))
__version__ = "2.13.0+cpu"
print("noise", end="")
"""
CRASH = "import os, signal; os.kill(os.getpid(), signal.SIGILL)"
CHAIN = """
try:
    raise OSError("libcudart.so.13: cannot open shared object file:\\n no such file")
except OSError as error:
    raise RuntimeError("Could not load this library") from error
"""


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts modules before the installed ones, here and in what is started from here."""

    def use(**sources: str) -> None:
        for name, source in sources.items():
            (tmp_path / f"{name}.py").write_text(source)
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    return use


def test_what_works_is_live(modules: Callable[..., None]) -> None:
    modules(torch=FINE, fbgemm_gpu="__version__ = '1.8.0'")
    found = doctor.try_backends(["torch", "fbgemm", "cuda"])
    assert {name: one.state for name, one in found.items()} == {"torch": "ok", "fbgemm": "ok", "cuda": "absent"}
    assert found["torch"].facts == {"version": "2.13.0+cpu", "build": "CPU", "threads": 2}
    assert found["torch"].about == "2.13.0+cpu, a CPU build, 2 threads"
    assert found["cuda"].about == "torch is a CPU build"


@pytest.mark.parametrize(
    ("source", "told"),
    [
        (CHAIN, "OSError: libcudart.so.13: cannot open shared object file: no such file"),
        ("import nothing_there", "ModuleNotFoundError: No module named 'nothing_there'"),
        ("import torch; torch.ops.fbgemm.asynchronous_complete_cumsum = lambda given: given", "it computes [1, 2, 3]"),
        (CRASH, "its process ended with signal 4"),
        ("import os; os._exit(3)", "its process ended with code 3"),
    ],
)
def test_what_is_broken_says_why_and_the_rest_goes_on(modules: Callable[..., None], source: str, told: str) -> None:
    modules(torch=FINE, fbgemm_gpu=source)
    found = doctor.try_backends(["torch", "fbgemm", "cuda"])
    assert {name: one.state for name, one in found.items()} == {"torch": "ok", "fbgemm": "broken", "cuda": "absent"}
    assert told in found["fbgemm"].about
    assert "\n" not in found["fbgemm"].about


def test_what_hangs_is_given_up(modules: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    modules(torch="import time; time.sleep(600)")
    monkeypatch.setattr(doctor, "SECONDS", 0.5)
    assert doctor.try_backends(["torch"]) == {"torch": Backend("broken", "no answer in 0 s", {})}


def test_what_is_not_installed_starts_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(doctor.MODULES, "fbgemm", "no_such_module")
    monkeypatch.setattr(doctor, "_try", None)
    assert doctor.try_backends(["fbgemm"]) == {"fbgemm": Backend("absent", "not installed", {})}


# --- judging and prescribing


def judged(installed: Installed, **states: State) -> dict[str, Backend]:
    return judge(backends(**states), installed, commands(installed))


def test_what_fits_is_named() -> None:
    found = judged(FITTING)
    assert found["fbgemm"].about == "fbgemm-gpu-cpu 1.8.0, seen"
    assert found["torchrec"].about == "torchrec 1.8.0, seen"
    assert [one.state for one in found.values()] == ["ok", "ok", "ok", "absent"]


def test_what_runs_beside_the_wrong_version_is_broken() -> None:
    both = judged(replace(FITTING, fbgemm_cuda="1.8.0"))["fbgemm"]
    told = "fbgemm-gpu-cpu 1.8.0 and fbgemm-gpu 1.8.0 installed, only fbgemm-gpu-cpu==1.8.0 fits"
    assert (both.state, both.about) == ("broken", told)
    assert judged(replace(FITTING, torchrec="1.9.2"), torchrec="broken")["torchrec"].about == (
        "torchrec 1.9.2 installed, only torchrec==1.8.0 fits (seen)"
    )


def test_metadata_without_files_is_broken() -> None:
    assert judged(replace(FITTING, damaged=True), fbgemm="absent")["fbgemm"].state == "broken"
    assert judge(backends(fbgemm="absent"), FITTING, [])["fbgemm"].about == "fbgemm-gpu-cpu 1.8.0, seen"


def test_what_pip_does_not_know_stays_as_it_is() -> None:
    assert judged(BARE) == backends()


def prescribed(
    installed: Installed, *packages: Package, todo: list[Command] | None = None, **states: State
) -> tuple[list[str], list[str]]:
    todo = commands(installed) if todo is None else todo
    return prescribe(packages, judge(backends(**states), installed, todo), installed, todo)


def test_nothing_is_prescribed_to_the_healthy() -> None:
    assert prescribed(FITTING, Package("numpy", ">=1.26", "2.4.6", ())) == ([], [])


def test_what_is_absent_may_be_added() -> None:
    assert prescribed(BARE, fbgemm="absent", torchrec="absent") == ([], [AGAIN])
    packages = [Package("build", ">=1.2", None, ("dev",)), Package("nbclient", "", None, ("dev", "notebooks"))]
    assert prescribed(FITTING, *packages) == (
        [],
        [shown(("install", "recsys[dev]")), shown(("install", "recsys[notebooks]"))],
    )


def test_what_is_broken_is_mended_by_what_install_would_run() -> None:
    both = replace(FITTING, fbgemm_cuda="1.8.0")
    assert prescribed(both) == ([shown(command) for command in commands(both)], [])
    forced = commands(replace(FITTING, damaged=True))
    assert prescribed(FITTING, fbgemm="broken") == ([shown(command) for command in forced], [])


def test_a_torch_that_does_not_load_is_mended_first() -> None:
    mend, add = prescribed(FITTING, torch="broken", fbgemm="broken", torchrec="broken")
    assert mend == [shown(("install", "--force-reinstall", "--no-deps", "torch==2.13.0+cpu"))]
    assert add == []


def test_packages_of_wrong_versions_are_mended_together() -> None:
    packages = [
        Package("torch", "<2.14,>=2.11", "2.10.0", ()),
        Package("numpy", ">=1.26", None, ()),
        Package("build", ">=1.2", "1.0", ("dev",)),
        Package("mypy", ">=1.15", "1.0", ("dev",)),
    ]
    installed = replace(FITTING, torch="2.10.0")
    mend, _ = prescribe(packages, backends(fbgemm="broken"), installed, None)
    assert mend == [shown(("install", "torch==2.13.*", "numpy>=1.26")), shown(("install", "recsys[dev]")), AGAIN]


# --- the command


def report(capsys: pytest.CaptureFixture[str]) -> tuple[str, dict[str, Any]]:
    assert app.main(["doctor", "--json"]) == 0
    out = capsys.readouterr().out
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    return out, found


def test_the_report_of_a_bare_environment(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(doctor, "read_installed", lambda: BARE)
    monkeypatch.setattr(doctor, "try_backends", lambda: backends(fbgemm="absent", torchrec="absent"))
    monkeypatch.setattr(doctor, "read_packages", lambda: [Package("torch", ">=2.11", "2.13.0+cpu", ())])
    out, found = report(capsys)
    assert found["ok"] is True
    assert (found["mend"], found["add"]) == ([], [AGAIN])
    assert found["packages"] == {"torch": {"installed": "2.13.0+cpu", "needs": ">=2.11", "state": "ok", "extras": []}}
    assert {name: one["live"] for name, one in found["backends"].items() if name != "compiler"} == {
        "torch": True,
        "fbgemm": False,
        "torchrec": False,
        "cuda": False,
    }
    assert [list(fit.values()) for fit in found["fits"]] == [list(fit) for fit in FITS]
    assert f"\nto add what is absent, if you need it:\n  {AGAIN}\n" in out
    assert "everything that is installed works" in out


def test_the_report_of_a_broken_one(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    both = replace(FITTING, fbgemm_cuda="1.8.0")
    monkeypatch.setattr(doctor, "read_installed", lambda: both)
    monkeypatch.setattr(doctor, "try_backends", lambda: backends(fbgemm="broken"))
    out, found = report(capsys)
    assert found["ok"] is False
    assert found["mend"] == [shown(command) for command in commands(both)]
    assert all(f"\n  {line}\n" in out for line in found["mend"])
    assert "something is broken" in out


def test_a_torch_that_nothing_fits_is_a_finding(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    old = Package("torch", "<2.14,>=2.11", "2.10.0", ())
    monkeypatch.setattr(doctor, "read_installed", lambda: Installed("2.10.0", needs=NEEDS))
    monkeypatch.setattr(doctor, "try_backends", lambda: backends(fbgemm="absent", torchrec="absent"))
    monkeypatch.setattr(doctor, "read_packages", lambda: [old])
    _, found = report(capsys)
    assert (found["ok"], found["mend"]) == (False, [shown(("install", "torch==2.13.*"))])


def test_the_report_of_the_python_that_runs_this(capsys: pytest.CaptureFixture[str]) -> None:
    out, found = report(capsys)
    assert found["backends"]["torch"]["live"]
    assert found["packages"]["torch"]["state"] == "ok"
    assert found["ok"] == (not found["mend"])
    for title in ("machine", "packages", "back ends, each tried", "what fits together"):
        assert f"{title} " in out


def test_install_errors_are_recsys_errors() -> None:
    assert issubclass(InstallError, RecsysError)
