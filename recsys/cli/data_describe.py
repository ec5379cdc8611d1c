"""`recsys data describe`: from a file to a schema that can be edited."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro
from rich.table import Table
from rich.text import Text

from recsys.cli.app import Result, call
from recsys.cli.show import console
from recsys.data.describe import Description, Finding, describe
from recsys.data.schema import Format, Hashing, Numeric
from recsys.data.sources import resolve
from recsys.errors import DataError
from recsys.files import make_folder, write_text

__all__ = ["main"]

_MOMENTS = 20
"""Different times from which a split by time is proposed: of fewer, its parts would be of very uneven size."""


def main(argv: Sequence[str]) -> Result:
    """Parse and run."""
    return call(command, argv, "recsys data describe")


def command(
    file: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")],
    label: str | None = None,
    out: Path = Path("schema.toml"),
    format: Format | None = None,
    rows: int = 1_000_000,
    overwrite: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
) -> Result:
    """Guess a schema from a file's columns, to be checked and edited.

    Args:
        file: Parquet, CSV or TSV file, a folder of them, or SOURCE:SPLIT such as movielens-100k:train.
        label: The label's column; by default the only one that is named like a label.
        out: Schema file (TOML) to write.
        format: Of a text file that has no header or comes as a known contest's.
        rows: Look at this many rows at most.
        overwrite: Replace a file of that name.
    """
    if out.exists() and not overwrite:
        raise DataError(f"{out}: is there already; choose another --out or add --overwrite")
    path = resolve(file)
    found = describe(path, label, format=format, limit=rows, show=True)
    make_folder(out.parent)
    write_text(out, found.toml(path.name))
    screen = console()
    screen.print(_table(found, path.name))
    screen.print(f"saved {out}: check it, names and values do not tell all", markup=False, soft_wrap=True)
    commands = _next(found, path, file, out)
    for number, line in enumerate(commands):
        screen.print(f"{'      ' if number else 'next: '}{line}", markup=False, soft_wrap=True)
    return {"file": str(path), "out": str(out), **found.to_json(), "next": commands}


def _table(found: Description, name: str) -> Table:
    title = f"{name}: {'the first ' if found.cut else ''}{found.rows:,} rows"
    table = Table(title=Text(title), title_justify="left")
    for head in ("column", "is taken for", "side", "distinct", "missing", "such as", "note"):
        table.add_column(head, justify="right" if head in ("distinct", "missing") else "left", overflow="fold")
    for finding in found.findings:
        column, kept = finding.column, finding.role == "feature" and finding.feature is not None
        distinct = f"{'' if column.exact else '~'}{column.distinct:,}"
        examples = ", ".join(text[:20] for text in column.examples)
        side = finding.feature.side if kept and finding.feature is not None else ""
        row = (
            column.name,
            _kind(finding, found),
            side,
            distinct,
            f"{column.missing_share:.1%}",
            examples,
            finding.note,
        )
        table.add_row(*(Text("".join(c if c.isprintable() else " " for c in cell)) for cell in row))
    return table


def _kind(finding: Finding, found: Description) -> str:
    """``categorical (hash, 18 bits)``."""
    feature = finding.feature
    if finding.role == "label":
        return f"label ({found.schema.labels[0].kind})"
    if finding.role != "feature" or feature is None:
        return finding.role
    if isinstance(feature, Numeric):
        return f"numeric ({feature.transform})"
    if feature.shares:
        return f"{feature.kind} (shares {feature.shares})"
    encoding = feature.encoding
    if isinstance(encoding, Hashing):
        return f"{feature.kind} (hash, {encoding.bits} bits)"
    return f"{feature.kind} (if seen {encoding.min_count}×)" if encoding.min_count > 1 else feature.kind


def _next(found: Description, path: Path, file: str, out: Path) -> list[str]:
    """The commands that split the file and train on it."""
    schema, stem = found.schema, path.name.split(".")[0] or "data"
    folder = Path(f"{stem}-splits")
    split = ["recsys", "data", "split", file, "--out", str(folder)]
    moments = {finding.column.name: finding.column.distinct for finding in found.findings}
    split += ["--time", schema.time] if schema.time and moments[schema.time] >= _MOMENTS else []
    split += ["--format", schema.format] if schema.format else []
    parts = {"--schema": out, "--train": folder / "train.parquet", "--valid": folder / "valid.parquet"}
    train = ["recsys", "train", "dcn2", *(str(word) for pair in parts.items() for word in pair)]
    return [shlex.join(split), shlex.join([*train, "--out", f"runs/dcn2-{stem}"])]
