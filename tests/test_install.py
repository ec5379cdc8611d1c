"""The commands of `recsys.install`: which they are, that they lead somewhere, and that nothing runs twice."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import recsys
from recsys import install
from recsys.install import FITS, NEEDS, Command, Installed, InstallError, commands, main, shown

CPU = Installed("2.13.0+cpu", None, fbgemm_cpu="1.8.0", torchrec="1.8.0")
CUDA = Installed("2.13.0", "13.0", fbgemm_cuda="1.8.0", torchrec="1.8.0")
BARE = Installed("2.13.0+cpu", needs=())


def install_fbgemm(package: str, *options: str) -> Command:
    return ("install", "--no-warn-conflicts", *options, package)


BOTH_AWAY = ("uninstall", "-y", "fbgemm-gpu-cpu", "fbgemm-gpu")


@pytest.mark.parametrize("installed", [CPU, CUDA, replace(CPU, fbgemm_cpu="1.8.1"), replace(CPU, torchrec="1.8.3")])
def test_what_fits_needs_no_command(installed: Installed) -> None:
    assert commands(installed) == []


@pytest.mark.parametrize(
    ("torch", "cuda", "fbgemm", "torchrec"),
    [
        ("2.13.0+cpu", None, "fbgemm-gpu-cpu==1.8.0", "torchrec==1.8.0"),
        ("2.13.1", None, "fbgemm-gpu-cpu==1.8.0", "torchrec==1.8.0"),
        ("2.13.0", "13.0", "fbgemm-gpu==1.8.0", "torchrec==1.8.0"),
        ("2.12.0+cu126", "12.6", "fbgemm-gpu==1.7.0", "torchrec==1.7.0"),
        ("2.11.0+cu130", "13.0", "fbgemm-gpu==1.6.0", "torchrec==1.6.1"),
        ("2.12.0.dev20260101+cpu", None, "fbgemm-gpu-cpu==1.7.0", "torchrec==1.7.0"),
        ("2.13.0a0+gitcf30153", None, "fbgemm-gpu-cpu==1.8.0", "torchrec==1.8.0"),
    ],
)
def test_a_bare_torch_gets_all_of_it(torch: str, cuda: str | None, fbgemm: str, torchrec: str) -> None:
    assert commands(Installed(torch, cuda, needs=("tqdm",))) == [
        install_fbgemm(fbgemm),
        ("install", "--no-deps", torchrec),
        ("install", "--no-warn-conflicts", "pyre-extensions", "tensordict", "torchmetrics", f"torch=={torch}"),
    ]


@pytest.mark.parametrize(
    ("installed", "expected"),
    [
        (replace(CPU, fbgemm_cpu="1.7.0"), [install_fbgemm("fbgemm-gpu-cpu==1.8.0")]),
        (replace(CPU, fbgemm_cuda="1.8.0"), [BOTH_AWAY, install_fbgemm("fbgemm-gpu-cpu==1.8.0")]),
        (replace(CUDA, fbgemm_cpu="1.8.0"), [BOTH_AWAY, install_fbgemm("fbgemm-gpu==1.8.0")]),
        (
            replace(CPU, fbgemm_cpu=None, fbgemm_cuda="1.9.0"),
            [("uninstall", "-y", "fbgemm-gpu"), install_fbgemm("fbgemm-gpu-cpu==1.8.0")],
        ),
        (
            replace(CPU, damaged=True),
            [install_fbgemm("fbgemm-gpu-cpu==1.8.0", "--force-reinstall", "--no-deps")],
        ),
        (replace(CPU, torchrec="1.9.2"), [("install", "--no-deps", "torchrec==1.8.0")]),
        (replace(CPU, torchrec="1.80.0"), [("install", "--no-deps", "torchrec==1.8.0")]),
        (
            replace(CPU, needs=("tqdm", "torchmetrics", "pyre-extensions")),
            [("install", "--no-warn-conflicts", "tensordict", "torch==2.13.0+cpu")],
        ),
    ],
)
def test_only_what_is_wrong_is_touched(installed: Installed, expected: list[Command]) -> None:
    assert commands(installed) == expected


@pytest.mark.parametrize("torch", [None, "2.10.0", "2.14.0.dev20270101+cpu", "1.13.1", "2.130.0", "3.0.0", "unknown"])
def test_a_torch_that_nothing_fits_is_one_clear_line(torch: str | None) -> None:
    with pytest.raises(InstallError) as caught:
        commands(replace(CPU, torch=torch))
    told = str(caught.value)
    assert "\n" not in told
    assert "torch 2.11 to 2.13" in told
    assert (torch or "no torch") in told
    assert shown(("install", "torch==2.13.*")) in told


VERSIONS = st.sampled_from([None, "1.5.0", *(fit.fbgemm for fit in FITS), "1.6.1", "1.9.0"])
STATES = st.builds(
    Installed,
    st.sampled_from([f"{fit.torch}.{patch}" for fit in FITS for patch in ("0", "1+cpu", "0.dev20260101+cu130")]),
    st.sampled_from([None, "12.6", "13.0"]),
    VERSIONS,
    VERSIONS,
    VERSIONS,
    st.sets(st.sampled_from(NEEDS)).map(lambda names: tuple(name for name in NEEDS if name in names)),
    st.booleans(),
)


def pip(installed: Installed, command: Command) -> Installed:
    """What pip makes of it, as far as these packages go."""
    verb, *words = command
    fields = {"fbgemm-gpu-cpu": "fbgemm_cpu", "fbgemm-gpu": "fbgemm_cuda", "torchrec": "torchrec"}
    changed: dict[str, Any] = {}
    for name, _, version in (word.partition("==") for word in words if not word.startswith("-")):
        if name in fields:
            changed[fields[name]] = version if verb == "install" else None
            if "fbgemm" in name:
                fresh = "--force-reinstall" in words or getattr(installed, fields[name]) != version
                changed["damaged"] = installed.damaged and not (verb == "uninstall" or fresh)
        elif name == "torch":
            assert version == installed.torch
        else:
            changed["needs"] = tuple(one for one in NEEDS if one in {*changed.get("needs", installed.needs), name})
    return replace(installed, **changed)


@settings(deadline=None)
@given(STATES)
def test_the_commands_lead_to_what_needs_none(installed: Installed) -> None:
    after = installed
    for command in commands(installed):
        assert (after.fbgemm_cpu is None or after.fbgemm_cuda is None) or command[0] == "uninstall"
        after = pip(after, command)
    assert commands(after) == []
    assert (after.fbgemm_cpu is None) != (after.fbgemm_cuda is None)
    assert (after.torch, after.cuda) == (installed.torch, installed.cuda)


def site(folder: Path, *packages: tuple[str, str], files: Sequence[tuple[str, int]] = ()) -> Path:
    """A folder of installed packages: metadata alone, and the files that each records with their sizes."""
    for name, version in packages:
        info = folder / f"{name}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        lines = [f"{path},sha256=x,{size}\n" for path, size in files] if name.startswith("fbgemm") else []
        (info / "RECORD").write_text("".join([*lines, f"{info.name}/METADATA,,\n"]))
    return folder


def look(folder: Path) -> dict[str, Any]:
    """`read_installed` in a Python that has that folder, recsys and the standard library alone."""
    root = Path(recsys.__file__).parent.parent
    code = (
        f"import sys, json, dataclasses; sys.path[:0] = [{str(folder)!r}, {str(root)!r}]\n"
        "from recsys.install import read_installed\n"
        "print(json.dumps(dataclasses.asdict(read_installed())))\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_reads_an_empty_environment(tmp_path: Path) -> None:
    assert look(tmp_path) == {**asdict(Installed(needs=())), "needs": []}


@pytest.mark.parametrize(
    ("line", "cuda"),
    [
        ("cuda: Optional[str] = None", None),
        ("cuda: Optional[str] = '13.0'", "13.0"),
        ("cuda = '12.6'", "12.6"),
        ("hip = '6.1'", None),
    ],
)
def test_reads_versions_without_importing_torch(tmp_path: Path, line: str, cuda: str | None) -> None:
    folder = site(
        tmp_path, ("torch", "2.13.0+cpu"), ("torchrec", "1.8.0"), ("tensordict", "0.15.3"), ("tqdm", "4.70.1")
    )
    (folder / "torch").mkdir()
    (folder / "torch" / "__init__.py").write_text("raise ImportError('broken')")
    (folder / "torch" / "version.py").write_text(f"from typing import Optional\n__version__ = '2.13.0'\n{line}\n")
    found = look(folder)
    assert (found["torch"], found["cuda"], found["torchrec"]) == ("2.13.0+cpu", cuda, "1.8.0")
    assert found["needs"] == ["tensordict", "tqdm"]


@pytest.mark.parametrize(("content", "damaged"), [("12345", False), ("1234", True), (None, True)])
def test_a_file_of_another_size_is_damage(tmp_path: Path, content: str | None, damaged: bool) -> None:
    folder = site(tmp_path, ("fbgemm_gpu_cpu", "1.8.0"), files=[("fbgemm_gpu/sparse.so", 5)])
    (folder / "fbgemm_gpu").mkdir()
    if content is not None:
        (folder / "fbgemm_gpu" / "sparse.so").write_text(content)
    found = look(folder)
    assert (found["fbgemm_cpu"], found["fbgemm_cuda"], found["damaged"]) == ("1.8.0", None, damaged)


class Pip:
    """Stands in for both pip and what it changes."""

    def __init__(self, installed: Installed, obey: bool = True, code: int = 0) -> None:
        self.installed, self.obey, self.code = installed, obey, code
        self.ran: list[Command] = []

    def run(self, words: Sequence[str], check: bool) -> subprocess.CompletedProcess[str]:
        assert list(words[:3]) == [sys.executable, "-m", "pip"]
        assert not check
        self.ran.append(tuple(words[3:]))
        if self.obey:
            self.installed = pip(self.installed, self.ran[-1])
        return subprocess.CompletedProcess(list(words), self.code)


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Callable[[Pip], Pip]:
    def use(fake: Pip) -> Pip:
        monkeypatch.setattr(install, "read_installed", lambda: fake.installed)
        monkeypatch.setattr(subprocess, "run", fake.run)
        return fake

    return use


def test_main_runs_them_once(environment: Callable[[Pip], Pip], capsys: pytest.CaptureFixture[str]) -> None:
    fake = environment(Pip(replace(BARE, fbgemm_cuda="1.9.0")))
    expected = commands(fake.installed)
    assert main([]) == 0
    assert fake.ran == expected
    assert len(expected) == 4
    out = capsys.readouterr().out
    assert all(shown(command) in out for command in expected)
    assert main([]) == 0
    assert fake.ran == expected
    assert capsys.readouterr().out.splitlines() == [
        "torch 2.13.0+cpu (CPU) goes with FBGEMM 1.8.0 and torchrec 1.8.0: all installed"
    ]


def test_a_dry_run_runs_nothing(environment: Callable[[Pip], Pip], capsys: pytest.CaptureFixture[str]) -> None:
    fake = environment(Pip(BARE))
    assert main(["--dry-run"]) == 0
    assert fake.ran == []
    assert [line.strip() for line in capsys.readouterr().out.splitlines()[1:]] == list(map(shown, commands(BARE)))


@pytest.mark.parametrize(
    ("fake", "told"),
    [
        (Pip(BARE, code=1), "pip ended with exit code 1"),
        (Pip(BARE, obey=False), "this is left to do: "),
        (Pip(Installed()), "no torch is installed"),
    ],
)
def test_what_goes_wrong_is_one_line_and_2(
    fake: Pip, told: str, environment: Callable[[Pip], Pip], capsys: pytest.CaptureFixture[str]
) -> None:
    environment(fake)
    assert main([]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("recsys.install: ")
    assert told in line


def test_every_release_fits_by_the_rule() -> None:
    for fit in FITS:
        major, minor = map(int, fit.torch.split("."))
        assert fit.fbgemm == f"1.{minor - 5}.0"
        assert fit.torchrec.startswith(f"1.{minor - 5}.")
        assert major == 2
