"""`recsys COMMAND …`: find the command, run it, and turn what the user did wrong into one line and exit code 2.

A command is a module of this package with ``main(argv) -> Result``: it prints for people and returns what ``--json``
prints as the last line of standard output. Progress goes to standard error.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import inspect
import io
import json
import os
import re
import shlex
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import tyro

from recsys.config import nearest
from recsys.errors import QualityError, RecsysError

__all__ = ["COMMANDS", "Result", "call", "command_line", "entry", "main"]

Result = Mapping[str, Any]

COMMANDS = {
    "demo": "train, compare and score rankers on real data in a few minutes",
    "data": "describe and split your files; list and fetch sources; make synthetic clicks",
    "train": "train a model from a recipe",
    "eval": "measure a trained model on a file, alone or against another",
    "tune": "search a recipe's hyper-parameters for better ones",
    "study": "compare arms over seeds under one protocol",
    "progressive": "predict then learn, once through the rows in time: AUC over windows",
    "score": "score a file or a folder with a trained model",
    "export": "write a trained model for inference: mapped tables, a network without code",
    "verify": "compare an export's scores and metrics with the trained model's",
    "estimate": "say how much memory a session will take, before it loads",
    "serve": "serve a trained model over HTTP: the Open Inference Protocol, and ranking",
    "profile": "measure what look-ups cost on this machine",
    "plan": "plan which core looks up which table, and how",
    "dataflow": "list, show and measure workloads: tables, and what their ids look like",
    "bench": "measure recsys beside its peers on this machine",
    "doctor": "say what is installed, what fits together, and how to mend the rest",
}

USAGE = "\n".join(
    [
        "usage: recsys COMMAND [OPTIONS]",
        "",
        "Train recommenders and serve them at the lowest latency that your hardware allows.",
        "",
        "commands:",
        *(f"  {name:<13}{summary}" for name, summary in COMMANDS.items()),
        "",
        "options of every command:",
        "  --help    what the command takes",
        "  --json    the last line of standard output is one JSON object",
        "  --debug   show the whole trace of an error",
        "",
        "start with:  recsys demo",
    ]
)


class UsageError(RecsysError):
    """The command line itself does not parse."""


def call(command: Callable[..., Result], argv: Sequence[str], prog: str) -> Result:
    """Parse `argv` into the parameters of `command` and call it.

    Raises:
        UsageError: When the arguments do not fit, in one line.
    """

    @functools.wraps(command)
    def deferred(*args: Any, **kwargs: Any) -> Callable[[], Result]:
        return functools.partial(command, *args, **kwargs)

    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            parsed = tyro.cli(deferred, args=list(argv), prog=prog)
    except SystemExit as stop:
        if not stop.code:
            raise
        raise UsageError(_one_line(said.getvalue())) from None
    return parsed()


def command_line(command: Callable[..., Result], prog: str, given: Mapping[str, object], positional: str = "") -> str:
    """What to type so that `command` is given these values; those by default are left out."""
    parameters = inspect.signature(command).parameters
    words = [prog]
    for name, value in given.items():
        if value != parameters[name].default:
            words += [] if name == positional else [f"--{name}"]
            words += [shlex.quote(str(one)) for one in (value if isinstance(value, tuple) else (value,))]
    return " ".join(words)


def _one_line(box: str) -> str:
    """Tyro's framed message as a sentence, without its frame; where to read more comes last."""
    lines = [re.sub(r"[╭╮╰╯│─]+|-{3,}", " ", line) for line in box.splitlines()]
    text = " ".join(" ".join(lines[1:]).split())
    text = re.sub(r"Argument helptext:.*(?=For full helptext)", "", text)
    return re.sub(r"For full helptext, (?:run|see):? (.*)$", r"(\1)", text)


def main(argv: Sequence[str]) -> int:
    """Run one command line and return its exit code.

    0: done; 2: what the user can mend; 3: a model that does not pass the quality gate; 130: interrupted; 1: a bug.
    """
    argv = list(argv)
    as_json, debug = "--json" in argv, "--debug" in argv
    argv = [word for word in argv if word not in ("--json", "--debug")]
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(USAGE)
        return 0
    if argv[0] == "--version":
        print(importlib.import_module("recsys").__version__)
        return 0
    try:
        result = _command(argv[0])(argv[1:])
    except RecsysError as error:
        if debug:
            traceback.print_exc()
        print(f"recsys {argv[0]}: {' '.join(str(error).splitlines())}", file=sys.stderr)
        return 3 if isinstance(error, QualityError) else 2
    except KeyboardInterrupt:
        again = "; the same command goes on where it was" if argv[0] in ("train", "tune", "study", "score") else ""
        print(f"recsys {argv[0]}: interrupted{again}", file=sys.stderr)
        return 130
    except BrokenPipeError:
        raise  # `entry` knows what to do
    except Exception as error:  # a bug of ours: one line for the user, the trace for who mends it
        if debug:
            raise
        what = " ".join(f"{type(error).__name__}: {error}".split())
        print(f"recsys {argv[0]}: unexpected {what}; --debug shows where", file=sys.stderr)
        return 1
    if as_json or "bench" in result:  # a benchmark's last line is always JSON
        print(json.dumps(dict(result), allow_nan=False))
    return 3 if result.get("passed") is False else 0


def _command(name: str) -> Callable[[Sequence[str]], Result]:
    if name not in COMMANDS:
        raise UsageError(f"no such command: {nearest(name, list(COMMANDS))}")
    run: Callable[[Sequence[str]], Result] = importlib.import_module(f"recsys.cli.{name}").main
    return run


def entry() -> None:
    """The console script; a reader that leaves early, such as `head`, is no error worth a trace."""
    try:
        code = main(sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    sys.exit(code)
