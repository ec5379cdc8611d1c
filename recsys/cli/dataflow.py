"""`recsys dataflow`: workloads, which are tables and what their ids look like: published ones, and your model's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from rich.table import Table
from rich.text import Text

from recsys.cli.app import Result, UsageError, call
from recsys.cli.show import console, counts_notes
from recsys.config import nearest
from recsys.dataflow.workload import BATCH_SIZES, Workload, WorkloadLookup, published
from recsys.errors import ConfigError, DataError

if TYPE_CHECKING:
    from recsys.data.batch import Batch
    from recsys.data.encoder import Counts
    from recsys.models.checkpoint import Checkpoint

__all__ = ["main", "read_batches"]

HOTTEST = 100
"""Rows whose share of the ids is printed."""

COLUMNS = ("look-up", "table", "rows", "dim", "dtype", "pooling", "ids a bag", "distinct", f"hottest {HOTTEST}")

_SAMPLE = 2048
"""Batch whose share of distinct ids is printed, or the workload's largest below it."""


def main(argv: Sequence[str]) -> Result:
    """Find the action and run it; alone it lists."""
    if argv and argv[0] in ("-h", "--help"):
        print(USAGE)
        return {}
    action, rest = (argv[0], argv[1:]) if argv else ("workloads", [])
    if action not in ACTIONS:
        raise UsageError(f"no such action as `{action}`: {nearest(action, list(ACTIONS))}")
    return call(ACTIONS[action][0], rest, f"recsys dataflow {action}")


def workloads() -> Result:
    """List the published workloads."""
    table = Table(title="workloads", title_justify="left")
    for name in ("name", "tables", "rows", "size", "ids", "what it is"):
        table.add_column(name, justify="left" if name in ("name", "what it is") else "right", no_wrap=name == "name")
    found = [_facts(Workload.find(name)) for name in published()]
    for one in found:
        counts = (f"{one['tables']:,}", f"{one['rows']:,}", _size(one["bytes"]), f"{one['ids']:,.0f}")
        table.add_row(one["name"], *counts, Text(one["about"].partition(". ")[0].rstrip(".")))
    screen = console()
    screen.print(table)
    screen.print("look at one: recsys dataflow show NAME", markup=False)
    return {"workloads": found}


def show(workload: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="NAME|FILE")]) -> Result:
    """Show a workload's look-ups, what their ids look like, and what its tables weigh.

    Args:
        workload: A published workload that `recsys dataflow workloads` names, or a TOML file.
    """
    found = Workload.find(workload)
    return _print(found)


def workload(
    run: tyro.conf.Positional[Path],
    data: Annotated[str, tyro.conf.Positional],
    out: Path = Path("workload.toml"),
    rows: int | None = None,
    batch_sizes: tuple[int, ...] = BATCH_SIZES,
    overwrite: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
) -> Result:
    """Count the ids that a trained model looks up in real rows, and write its workload.

    Args:
        run: Folder of a trained model.
        data: A file or a folder (Parquet, CSV, TSV), or SOURCE:SPLIT such as movielens-100k:test. Its rows should
            follow each other as they are going to be scored: what one user looks at is alike.
        out: Workload file (TOML) to write.
        rows: Count the first so many only.
        batch_sizes: To plan for, and to count distinct ids of.
        overwrite: Replace a file of that name.
    """
    from recsys.data.encoder import Counts
    from recsys.data.sources import resolve
    from recsys.dataflow.counting import measure_tables
    from recsys.files import make_folder, write_text
    from recsys.models.checkpoint import load

    if out.exists() and not overwrite:
        raise DataError(f"{out}: is there already; choose another --out or add --overwrite")
    if rows is not None and rows < 1:
        raise ConfigError(f"expected at least 1 row to count, got {rows}")
    checkpoint, counts = load(run), Counts()
    name = Path(run).resolve().name
    found = measure_tables(
        checkpoint.model.tables,
        read_batches(checkpoint, resolve(data), rows, counts),
        name,
        batch_sizes=batch_sizes,
        source=str(data),
    )
    model = checkpoint.config.model_dump()["name"]
    told = f"The look-ups of `{name}`, a {model} model, in {counts.rows:,} rows of {data}."
    found = found.model_copy(update={"about": told})
    make_folder(out.parent)
    write_text(out, found.toml())
    result = _print(found, f"saved {out}")
    for line in counts_notes(counts):
        console().print(line, markup=False)
    return {**result, "counted": counts.rows, "out": str(out)}


def read_batches(checkpoint: Checkpoint, path: Path, rows: int | None, counts: Counts) -> Iterator[Batch]:
    """The first `rows` rows, encoded."""
    from tqdm import tqdm

    from recsys.data.ahead import ahead
    from recsys.data.readers import Dataset

    columns = checkpoint.encoder.schema.columns
    data = Dataset(path, checkpoint.encoder.schema.format, columns)
    data.need(columns)
    known = [n for n in (rows, data.rows) if n is not None]
    with tqdm(total=min(known, default=None), desc="count", unit=" rows", unit_scale=True, disable=None) as bar:
        for table, _ in ahead(data.read(columns)):
            part = table.slice(0, None if rows is None else rows - counts.rows)
            yield checkpoint.encoder.encode(part, labels=False, counts=counts)
            bar.update(part.num_rows)
            if counts.rows == rows:
                break


def _facts(found: Workload) -> dict[str, Any]:
    """What is said of a workload in one line."""
    return {
        "name": found.name,
        "about": found.about,
        "tables": len(found.tables),
        "rows": sum(table.rows for table in found.tables),
        "bytes": found.bytes,
        "ids": round(sum(lookup.ids.mean for lookup in found.lookups), 3),
        "batch_sizes": list(found.batch_sizes),
    }


def _print(found: Workload, *more: str) -> Result:
    """A table of the look-ups, alike ones that follow each other in one line, and the sums."""
    batch = max((size for size in found.batch_sizes if size <= _SAMPLE), default=min(found.batch_sizes))
    facts, lookups = _facts(found), [_lookup(found, lookup, batch) for lookup in found.lookups]
    table = Table(title=Text(found.name), title_justify="left")
    for name in COLUMNS:
        table.add_column(name, justify="left" if name in ("look-up", "table", "dtype", "pooling") else "right")
    for cells, alike in groupby(lookups, _cells):
        names = [(one["lookup"], one["table"]) for one in alike]
        table.add_row(*(Text(_span(column)) for column in zip(*names, strict=True)), *cells)
    screen = console()
    screen.print(table)
    tables = f"{facts['tables']:,} table{'s' * (facts['tables'] != 1)}"
    screen.print(f"{tables}, {facts['rows']:,} rows, {_size(facts['bytes'])}, {facts['ids']:,g} ids a sample")
    screen.print(f"distinct: ids that differ, of those of a batch of {batch:,}; ~ is expected, not measured")
    for line in (found.about, *more):
        screen.print(line, markup=False, soft_wrap=True)
    return {**facts, "lookups": lookups}


def _lookup(found: Workload, lookup: WorkloadLookup, batch: int) -> dict[str, Any]:
    import numpy as np

    from recsys.dataflow.ids import hottest, unique_share

    table, ids = found.table(lookup.table), lookup.ids
    measured = dict(ids.unique).get(batch)
    return {
        "lookup": lookup.name,
        "table": table.name,
        "rows": table.rows,
        "dim": table.dim,
        "dtype": table.dtype,
        "pooling": lookup.pooling,
        "ids": round(ids.mean, 6),
        "distribution": ids.distribution,
        "batch": batch,
        "unique": round(unique_share(ids, table.rows, batch) if measured is None else measured, 6),
        "unique_measured": measured is not None,
        "hottest": round(float(hottest(ids, table.rows, np.array([HOTTEST]))[0]), 6),
        "source": ids.source,
    }


def _cells(found: dict[str, Any]) -> tuple[str, ...]:
    unique = f"{'' if found['unique_measured'] else '~'}{found['unique']:.1%}"
    shape = f"{found['rows']:,}", f"{found['dim']}", found["dtype"], found["pooling"]
    return *shape, f"{found['ids']:.4g}", unique, f"{found['hottest']:.1%}"


def _size(size: float) -> str:
    """``2.16 GB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.3g} TB"


def _span(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} … {names[-1]}"


ACTIONS: dict[str, tuple[Callable[..., Result], str]] = {
    "workloads": (workloads, "list the published workloads"),
    "show": (show, "a workload's look-ups, by its name or its file"),
    "workload": (workload, "count what a trained model looks up in real rows, and write it as a workload"),
}

USAGE = "\n".join(
    [
        "usage: recsys dataflow ACTION [OPTIONS]",
        "",
        "actions:",
        *(f"  {action:<11}{summary}" for action, (_, summary) in ACTIONS.items()),
    ]
)
