"""`recsys data`: which data sources there are, how to get one, and how to bring your own."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import tyro
from rich.table import Table

from recsys.cli.app import Result, UsageError, call
from recsys.cli.show import console
from recsys.config import nearest
from recsys.data.cache import SPLITS
from recsys.data.sources import Source, describe, fetch, names, state

__all__ = ["main"]

ACTIONS = {
    "list": "the data sources that recsys knows, and whether they are on this machine",
    "fetch NAME": "get one and prepare its train, valid and test files; once",
    "describe FILE": "guess a schema for a file of your own, to be checked and edited",
    "split FILE": "split files of your own into train, valid and test, at random or by time",
    "synthetic OUT": "make clicks with planted effects, and so with a known best AUC",
}

USAGE = "\n".join(
    [
        "usage: recsys data ACTION [OPTIONS]",
        "",
        "actions:",
        *(f"  {action:<14}{summary}" for action, summary in ACTIONS.items()),
    ]
)


def main(argv: Sequence[str]) -> Result:
    """Find the action and run it; alone it lists."""
    if argv and argv[0] in ("-h", "--help"):
        print(USAGE)
        return {}
    action, rest = (argv[0], argv[1:]) if argv else ("list", [])
    if action == "list":
        return call(list_sources, rest, "recsys data list")
    if action == "fetch":
        return call(fetch_source, rest, "recsys data fetch")
    known = [words.split()[0] for words in ACTIONS]
    if action not in known:
        raise UsageError(f"no such action as `{action}`: {nearest(action, known)}")
    run: Callable[[Sequence[str]], Result] = importlib.import_module(f"recsys.cli.data_{action}").main
    return run(rest)


def list_sources() -> Result:
    """List the data sources that recsys knows, and whether they are on this machine."""
    table = Table(title="data sources", title_justify="left")
    for column in ("name", "what it is", "terms", "on this machine"):
        table.add_column(column)
    found = []
    for name in names():
        manifest, now = describe(name), state(name)
        table.add_row(name, manifest.about, manifest.licence, now)
        about = {"name": name, "about": manifest.about, "licence": manifest.licence, "citation": manifest.citation}
        found.append({**about, "rows": dict(zip(SPLITS, manifest.rows, strict=True)), "state": now})
    screen = console()
    screen.print(table)
    screen.print("get one: recsys data fetch NAME", markup=False)
    return {"sources": found}


def fetch_source(
    name: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME")], file: Path | None = None
) -> Result:
    """Get a data source and prepare its train, valid and test files; a second time it is there already.

    Args:
        name: A source that `recsys data list` names.
        file: Its archive or wheel, had by other means; then the network is not used.
    """
    manifest = describe(name)
    source = fetch(name, file)
    screen, files, command = console(), source.record["files"], _next(source)
    screen.print(_splits(source))
    lines = {
        "folder": source.folder,
        "schema": source.schema,
        "origin": source.record["origin"],
        "split": manifest.split,
        "terms": manifest.terms,
        "cite": manifest.citation,
        "\nnext": command,
    }
    for title, line in lines.items():
        screen.print(f"{title}: {line}", markup=False, soft_wrap=True)
    return {
        "source": name,
        "origin": source.record["origin"],
        "schema": str(source.schema),
        "licence": manifest.licence,
        "splits": {
            split: {"file": str(source.file(split)), **{key: files[split][key] for key in ("rows", "positive")}}
            for split in SPLITS
        },
        "next": command,
    }


def _splits(source: Source) -> Table:
    table = Table(title=source.name, title_justify="left")
    for column in ("split", "rows", "positive", "file"):
        table.add_column(column, justify="right" if column in ("rows", "positive") else "left")
    for split, counts in source.record["files"].items():
        table.add_row(split, f"{counts['rows']:,}", f"{counts['positive']:.1%}", source.file(split).name)
    return table


def _next(source: Source) -> str:
    return f"recsys train dcn2 --source {source.name} --out runs/dcn2-{source.name}"
