"""The frame of the command line: what it finds, how it ends, and what it prints where."""

from __future__ import annotations

import importlib
import json
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Annotated, Any

import pytest
import tyro

import recsys
from recsys.cli import app
from recsys.cli.app import COMMANDS, Result, UsageError, call, command_line, main
from recsys.errors import DataError

Install = Callable[[Callable[[Sequence[str]], Result]], None]


@pytest.fixture
def as_score(monkeypatch: pytest.MonkeyPatch) -> Install:
    """Puts a function in the place of the command `score`."""

    def use(command: Callable[[Sequence[str]], Result]) -> None:
        monkeypatch.setitem(sys.modules, "recsys.cli.score", SimpleNamespace(main=command))

    return use


@pytest.mark.parametrize("argv", [[], ["-h"], ["--help"], ["help"], ["--json"]])
def test_help_lists_the_commands(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert all(f"  {name}" in out and summary in out for name, summary in COMMANDS.items())
    assert max(map(len, out.splitlines())) <= 120


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_there_and_helps(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert callable(importlib.import_module(f"recsys.cli.{name}").main)
    try:
        code = main([name, "--help"])
    except SystemExit as stop:
        code = int(stop.code or 0)
    assert code == 0
    assert f"usage: recsys {name}" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"{recsys.__version__}\n"


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("trian", "did you mean `train`?"),
        (
            "xyz",
            "known: bench, data, dataflow, demo, doctor, estimate, eval, export, plan, profile, progressive, score, "
            "serve, study, train, tune, verify",
        ),
    ],
)
def test_an_unknown_command_is_one_line(name: str, hint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name]) == 2
    assert capsys.readouterr() == ("", f"recsys {name}: no such command: {hint}\n")


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["doctor", "now"], "now"),
        (["doctor", "--fast"], "--fast"),
        (["score"], "IN"),
        (["score", "run", "in", "out", "--batch-size", "many"], "many"),
        (["score", "run", "in", "out", "--batchsize", "3"], "--batch-size"),
    ],
)
def test_wrong_arguments_are_one_line(argv: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith(f"recsys {argv[0]}: ")
    assert told in line
    assert line.endswith(f"(recsys {argv[0]} --help)")
    assert not set("╭╮╰╯│─") & set(line)


def test_json_is_the_last_line(as_score: Install, capsys: pytest.CaptureFixture[str]) -> None:
    def command(argv: Sequence[str]) -> Result:
        print("for people")
        assert argv == ["a", "b"]
        return MappingProxyType({"rows": 3, "name": "é"})

    as_score(command)
    assert main(["score", "a", "--json", "b"]) == 0
    first, last = capsys.readouterr().out.splitlines()
    assert first == "for people"
    assert json.loads(last) == {"rows": 3, "name": "é"}
    assert main(["score", "a", "b"]) == 0
    assert capsys.readouterr().out == "for people\n"


def fail(argv: Sequence[str]) -> Result:
    raise DataError("in.parquet: no such\nfile")


def test_an_error_is_one_line_and_2(as_score: Install, capsys: pytest.CaptureFixture[str]) -> None:
    as_score(fail)
    assert main(["score", "--json"]) == 2
    assert capsys.readouterr() == ("", "recsys score: in.parquet: no such file\n")


def test_debug_shows_the_trace_first(as_score: Install, capsys: pytest.CaptureFixture[str]) -> None:
    as_score(fail)
    assert main(["score", "--debug"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("Traceback (most recent call last)")
    assert ", in fail\n" in err
    assert err.splitlines()[-1] == "recsys score: in.parquet: no such file"


def test_an_interrupt_is_130(as_score: Install, capsys: pytest.CaptureFixture[str]) -> None:
    def command(argv: Sequence[str]) -> Result:
        raise KeyboardInterrupt

    as_score(command)
    assert main(["score"]) == 130
    assert capsys.readouterr() == ("", "recsys score: interrupted; the same command goes on where it was\n")


def test_call_parses_before_it_runs() -> None:
    """What the command itself prints to standard error is not swallowed, and its errors are its own."""

    def command(rows: int, *, name: str = "a") -> Result:
        if rows < 0:
            raise DataError("fewer than none")
        return {"rows": rows, "name": name}

    assert call(command, ["--rows", "3", "--name", "b"], "recsys test") == {"rows": 3, "name": "b"}
    with pytest.raises(DataError):
        call(command, ["--rows", "-1"], "recsys test")
    with pytest.raises(UsageError, match="--rows"):
        call(command, [], "recsys test")
    with pytest.raises(SystemExit) as stop:
        call(command, ["--help"], "recsys test")
    assert not stop.value.code


def command(
    names: Annotated[tuple[str, ...], tyro.conf.Positional] = ("a",),
    ids: tuple[str, ...] = (),
    cores: int | None = None,
    out: Path | None = None,
) -> Result:
    """Do it."""
    return {"names": names, "ids": ids, "cores": cores, "out": out}


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({}, "recsys x"),
        ({"names": ("b", "c d"), "ids": ("as it is", "e")}, "recsys x b 'c d' --ids 'as it is' e"),
        ({"cores": 2, "out": Path("R.md")}, "recsys x --cores 2 --out R.md"),
    ],
)
def test_a_command_line_gives_the_values_that_it_was_made_of(given: dict[str, Any], line: str) -> None:
    values = {**command(), **given}
    assert command_line(command, "recsys x", values, positional="names") == line
    assert call(command, shlex.split(line)[2:], "recsys x") == values


def test_the_console_script_and_the_module_are_one(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "recsys", "nope"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("recsys nope: no such command: ")


def test_a_closed_pipe_is_no_trace() -> None:
    with subprocess.Popen([sys.executable, "-m", "recsys"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        told = process.stderr.read()
    assert (process.returncode, told) == (1, b"")


def test_usage_names_every_common_option() -> None:
    assert all(option in app.USAGE for option in ("--help", "--json", "--debug"))


def test_a_bug_is_one_line_and_exit_code_1(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def broken(name: str) -> Any:
        raise ZeroDivisionError("of\nours")

    monkeypatch.setattr(app, "_command", broken)
    assert app.main(["doctor"]) == 1
    assert capsys.readouterr().err == "recsys doctor: unexpected ZeroDivisionError: of ours; --debug shows where\n"
    with pytest.raises(ZeroDivisionError):
        app.main(["doctor", "--debug"])
