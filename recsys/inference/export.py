"""A trained model as a folder for machines, which loads without the model's code, whole or not at all.

    export.json      what is looked up where, where each table lies, and the checksum of every file
    schema.json      features and the encoder's state
    tables.bin       the tables' rows as the plan stores them, each table on a cache line, the file in whole 2 MiB
    network.pt2      the network, as torch.export keeps it
    network.onnx     the same for other runtimes, where it was asked for
    plan.json        the plan, where there was one
    README.md        what it is and how it is used

Collision weights are multiplied into their rows. `export.json` is the seal: removed first when a folder is written
again, and written last. Nothing in the folder is run or unpickled: shared objects are built where they are used.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, Self

import torch
from pydantic import Field, model_validator
from tqdm import tqdm

import recsys
from recsys.config import Config
from recsys.data.encoder import Encoder
from recsys.dataflow.plan import DataFlowPlan
from recsys.dataflow.storage import HUGE_PAGE, Rows, Source, copied, mapped, places, view
from recsys.dataflow.workload import MOST, Dtype
from recsys.errors import CheckpointError, RecsysError
from recsys.files import make_folder, read_json, replacing, sweep, write_json, write_text
from recsys.inference import network
from recsys.inference.backends import Precision
from recsys.inference.parts import Parts, Storing
from recsys.inference.scores import score_dtype
from recsys.layers.tables import Lookup, Table, TableSpec
from recsys.seals import Sealed, SealedFile, vouch

__all__ = ["SEAL", "Seal", "is_export", "read_export", "read_seal", "write_export"]

SEAL = "export.json"
FORMAT = 1
_NAMES = ("schema.json", "tables.bin", "network.pt2", "network.onnx", "plan.json", "README.md")


class StoredTable(Config):
    """Where a table lies in `tables.bin`."""

    name: str
    rows: int = Field(ge=1, le=MOST)
    dim: int = Field(ge=1, le=MOST)
    dtype: Dtype
    start: int = Field(ge=0)
    bytes: int = Field(ge=1)


class StoredLookup(Config):
    """A look-up, as `recsys.layers.tables.Lookup` has it."""

    name: str
    feature: str
    table: str
    pooling: Literal["sum", "mean", "none"]
    field: str


class Seal(Sealed):
    """The contents of `export.json`."""

    torch: str
    """The version that wrote the network."""
    model: str
    """The model's name; for people."""
    source: str
    """Checksum of the run that it was made from."""
    features: tuple[str, ...]
    dense: int = Field(ge=0)
    tables: tuple[StoredTable, ...]
    lookups: tuple[StoredLookup, ...]
    gate: dict[str, Any] = Field(default_factory=dict)
    """What the quality gate found, by precision."""
    precisions: tuple[Precision, ...] = Field(("fp32",), min_length=1)
    """Those that have passed the gate; float32 alone where there was none."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        tables, file = {table.name for table in self.tables}, self.files.get("tables.bin")
        size = 0 if file is None else file.bytes
        if len(tables) < len(self.tables):
            raise ValueError("two tables have one name")
        if any(table.start % 64 or table.start + table.bytes > size for table in self.tables):
            raise ValueError("a table lies outside its file or off a cache line")
        if any(lookup.table not in tables or lookup.feature not in self.features for lookup in self.lookups):
            raise ValueError("a look-up reads a table or a feature that is not there")
        return self

    def spec(self) -> TableSpec:
        """What is looked up where."""
        return TableSpec(
            self.features,
            tuple(Table(table.name, table.rows, table.dim) for table in self.tables),
            tuple(Lookup(n.name, n.feature, n.table, n.pooling, n.field) for n in self.lookups),
            self.dense,
        )


def is_export(folder: Path) -> bool:
    """Whether `folder` bears the seal of a finished export.

    Raises:
        CheckpointError: When the disk refuses to say.
    """
    try:
        return (folder / SEAL).is_file()
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot be read: {error.strerror or error}") from None


def write_export(
    folder: Path,
    *,
    model: str,
    source: str,
    encoder: Encoder,
    spec: TableSpec,
    rows: Mapping[str, Source],
    program: torch.export.ExportedProgram,
    plan: DataFlowPlan | None = None,
    onnx: bool = False,
    overwrite: bool = False,
    show: bool = True,
) -> Seal:
    """Write all of an export but its seal, with which it loads: ``seal.write(folder / SEAL)`` comes last.

    A kill at any moment leaves a folder that does not load, never a wrong one.

    Raises:
        CheckpointError: When `folder` holds an export and `overwrite` is not set.
        DataError: When the disk refuses, or a table holds numbers that cannot be stored as the plan says.
    """
    if is_export(folder) and not overwrite:
        raise CheckpointError(f"{folder}: holds an export; choose another folder or say overwrite")
    try:
        _check_ours(folder)
        make_folder(folder)
        for name in (SEAL, *_NAMES):
            (folder / name).unlink(missing_ok=True)
        sweep(folder)
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot be written again: {error}") from None
    tables = _write_tables(folder / "tables.bin", rows, show)
    write_json(folder / "schema.json", encoder.to_json())
    network.write(program, folder / "network.pt2")
    if plan is not None:
        plan.write(folder / "plan.json")
    if onnx:
        from recsys.inference.compile import build

        build("onnx-fp32", program, folder / "network.onnx")
    write_text(folder / "README.md", _card(model, tables))
    files = [name for name in _NAMES if name != "README.md" and (folder / name).is_file()]
    return Seal(
        format=FORMAT,
        recsys=recsys.__version__,
        torch=torch.__version__,
        model=model,
        source=source,
        features=spec.features,
        dense=spec.dense,
        tables=tuple(tables),
        lookups=tuple(
            StoredLookup(name=n.name, feature=n.feature, table=n.table, pooling=n.pooling, field=n.field)
            for n in spec.lookups
        ),
        files=vouch(folder, files),
    )


def _check_ours(folder: Path) -> None:
    """Files are replaced in a folder that is new, or holds an export or what a killed one left."""
    there = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    odd = next((name for name in sorted(there) if name not in (SEAL, *_NAMES) and not name.startswith(".")), None)
    if odd is None and there and not there & {SEAL, "tables.bin"} and any(not name.startswith(".") for name in there):
        odd = min(name for name in there if not name.startswith("."))
    if odd is not None:
        what = "a trained model" if odd == "config.json" or "config.json" in there else f"`{odd}`"
        raise CheckpointError(f"{folder}: holds {what}; choose a new folder for the export")


def _write_tables(path: Path, rows: Mapping[str, Source], show: bool) -> list[StoredTable]:
    starts, end = places(rows)
    total = max(-(-end // HUGE_PAGE), 1) * HUGE_PAGE
    bar = tqdm(total=end, desc="tables", unit="B", unit_scale=True, disable=None if show else True)
    with bar, replacing(path) as temporary, temporary.open("wb") as file:
        for name, source in rows.items():
            file.seek(starts[name])
            for piece in source.pieces(name):
                file.write(piece.contiguous().view(torch.uint8).numpy().data)
                bar.update(piece.numel() * piece.element_size())
        file.truncate(total)
    return [
        StoredTable(
            name=name,
            rows=source.rows.shape[0],
            dim=source.dim,
            dtype=source.dtype,
            start=starts[name],
            bytes=source.bytes,
        )
        for name, source in rows.items()
    ]


def read_seal(folder: Path) -> Seal:
    """Read `export.json` and hold the other files against it; of `tables.bin` the size only, for it is read later.

    Raises:
        CheckpointError: When a file is missing or altered, or the folder was made by another version.
    """
    return _checked(folder, Seal.read(folder / SEAL, FORMAT, "an export"))


def _checked(folder: Path, seal: Seal) -> Seal:
    odd = next((name for name in seal.files if name not in _NAMES), None)
    if odd is not None:
        raise CheckpointError(f"{folder / SEAL}: names `{odd}`, which is no file of an export")
    seal.check(folder, ("schema.json", "tables.bin", "network.pt2"), unread=("tables.bin",))
    return seal


def read_export(folder: Path, storage: Storing = "huge", seal: Seal | None = None) -> Parts:
    """The parts of an export.

    What is written again meanwhile, for which nobody waits, is noticed by its seal and read once more.

    Args:
        folder: As `write_export` leaves it.
        storage: `huge` reads the tables into memory and checks them; `map` reads rows when they are looked up, and
            trusts their file to be what it was.
        seal: By default the folder's own.

    Raises:
        CheckpointError: When a file is missing or altered, or was made by a version that this one does not read; or
            when the folder is written again and again.
        ConfigError: When the tables do not fit into memory.
    """
    if seal is not None:
        return _opened(folder, storage, seal)
    for _ in range(2):
        seal = Seal.read(folder / SEAL, FORMAT, "an export")
        try:
            parts = _opened(folder, storage, _checked(folder, seal))
        except RecsysError:
            if _still(folder, seal):
                raise
        else:
            if _still(folder, seal):
                return parts
    raise CheckpointError(f"{folder}: was written again while it was opened; open it when that has ended")


def _still(folder: Path, seal: Seal) -> bool:
    """Whether a folder has the seal that it had."""
    try:
        return Seal.read(folder / SEAL, FORMAT, "an export") == seal
    except CheckpointError:
        return False


def _opened(folder: Path, storage: Storing, seal: Seal) -> Parts:
    try:
        encoder = Encoder.from_json(read_json(folder / "schema.json"), str(folder / "schema.json"))
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{folder}: cannot be read: {error}") from None
    if tuple(part.name for part in encoder.inputs.ids) != seal.features or len(encoder.inputs.dense) != seal.dense:
        raise CheckpointError(f"{folder}: schema.json and {SEAL} name different features")
    program = network.read(folder / "network.pt2")
    spec, tasks = seal.spec(), encoder.inputs.tasks
    network.check(program, spec.layout.width, [*spec.layout.sequences.values()], len(tasks), score_dtype(tasks))
    plan = DataFlowPlan.read(folder / "plan.json") if "plan.json" in seal.files else None
    rows = _read_rows(folder / "tables.bin", seal.files["tables.bin"], seal.tables, storage)
    return Parts(encoder, spec, rows, program, seal.digest(), plan, seal.precisions)


def _read_rows(path: Path, file: SealedFile, tables: Iterable[StoredTable], storage: Storing) -> dict[str, Rows]:
    memory = mapped(path, file.bytes) if storage == "map" else copied(path, file.bytes, file.sha256)
    try:
        return {t.name: view(memory[t.start : t.start + t.bytes], t.rows, t.dim, t.dtype) for t in tables}
    except RuntimeError as error:
        raise CheckpointError(f"{path}: a table's bytes do not make its rows: {error}") from None


def _card(model: str, tables: Iterable[StoredTable]) -> str:
    """What people read who find the folder."""
    size = sum(table.bytes for table in tables)
    return "\n".join(
        [
            f"# {model}, exported",
            "",
            f"Made by recsys {recsys.__version__} for inference: {size:,} bytes of tables, and the network.",
            "",
            "```python",
            "import recsys",
            "",
            'recsys.session("path/of/this/folder").predict(frame)',
            "```",
            "",
        ]
    )
