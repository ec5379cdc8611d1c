"""An export scores as its run does, whole and unaltered, or does not load."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import recsys
from recsys import files
from recsys.errors import CheckpointError, ConfigError, DataError, QualityError
from recsys.files import locked
from recsys.inference import convert as converting
from recsys.inference import export as module
from recsys.inference.convert import convert
from recsys.inference.export import SEAL, read_seal
from recsys.inference.tolerance import Tolerance
from recsys.models.checkpoint import Checkpoint, load
from tests import toy
from tests.inference.test_session import COLUMNS, eager, plan_for


@pytest.mark.parametrize("model", ["run", "din", "two"])
@pytest.mark.parametrize("storage", ["huge", "map"])
def test_an_export_gives_the_models_scores(
    request: pytest.FixtureRequest, tmp_path: Path, model: str, storage: str
) -> None:
    folder = request.getfixturevalue(model)
    convert(folder, tmp_path / "out", show=False)
    table = toy.rows(100, 8)
    with eager(tmp_path / "out", storage=storage) as session:
        expected = load(folder).predict(table)
        np.testing.assert_allclose(session.predict(table.select(COLUMNS)), expected, rtol=1e-5, atol=1e-6)


def test_tables_lie_on_cache_lines_with_weights_folded_in(export: Path, trained: Checkpoint) -> None:
    seal, content = read_seal(export), (export / "tables.bin").read_bytes()
    assert len(content) % (2 << 20) == 0
    for table in seal.tables:
        assert table.start % 64 == 0
        stored = np.frombuffer(content, np.float32, table.rows * table.dim, table.start)
        rows, weight = trained.model.tables.table(table.name)
        assert weight is not None
        folded = (rows * weight).detach().numpy().ravel()
        np.testing.assert_allclose(stored, folded, rtol=1e-6)


def test_a_plan_goes_with_the_export(run: Path, trained: Checkpoint, tmp_path: Path) -> None:
    seal = convert(run, tmp_path / "out", plan_for(trained, "fp16"), show=False)
    assert {table.dtype for table in seal.tables} == {"fp16"}
    with eager(tmp_path / "out") as session:
        off = np.abs(session.predict(toy.rows(50).select(COLUMNS)) - trained.predict(toy.rows(50))).max()
    assert 0 < off < 1e-3


def test_a_plan_for_more_cores_than_there_are_is_left_aside(run: Path, trained: Checkpoint, tmp_path: Path) -> None:
    convert(run, tmp_path / "out", plan_for(trained, cores=4096), show=False)
    with eager(tmp_path / "out") as session:
        np.testing.assert_allclose(
            session.predict(toy.rows(20).select(COLUMNS)), trained.predict(toy.rows(20)), atol=1e-6
        )


def test_a_folder_in_use_is_not_overwritten(run: Path, export: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds an export; choose another folder or say overwrite"):
        convert(run, export, show=False)
    with pytest.raises(CheckpointError, match="holds a trained model"):
        convert(run, run, overwrite=True, show=False)
    shutil.copytree(export, tmp_path / "again")
    convert(run, tmp_path / "again", overwrite=True, show=False)
    assert read_seal(tmp_path / "again").source == read_seal(export).source


def test_files_that_are_not_an_exports_are_not_replaced(run: Path, tmp_path: Path) -> None:
    for name in ("README.md", "thesis.txt"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / name).write_text("years of work")
        with pytest.raises(CheckpointError, match=f"holds `{name}`; choose a new folder"):
            convert(run, folder, overwrite=True, show=False)
        assert (folder / name).read_text() == "years of work"


def test_the_current_folder_will_do_if_it_is_empty(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    convert(run, ".", show=False)
    assert read_seal(tmp_path / "here").model == "dcn2"
    assert [path.name for path in tmp_path.iterdir()] == ["here"]


def test_two_exports_to_one_folder_do_not_mix(run: Path, tmp_path: Path) -> None:
    with locked(tmp_path / ".out.lock"), pytest.raises(DataError, match="another process"):
        convert(run, tmp_path / "out", show=False)


def test_an_export_of_other_outputs_than_its_network_has_does_not_load(run: Path, two: Path, tmp_path: Path) -> None:
    """Engines are given addresses: what does not fit would be read past its end."""
    for name, folder in (("one", run), ("two", two)):
        convert(folder, tmp_path / name, show=False)
    shutil.copy(tmp_path / "two" / "network.pt2", tmp_path / "one" / "network.pt2")
    content = (tmp_path / "one" / "network.pt2").read_bytes()
    told = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    altered_seal(tmp_path / "one", lambda v: v["files"].update({"network.pt2": told}))
    with pytest.raises(CheckpointError, match=r"the network reads .* and gives .* expected"):
        eager(tmp_path / "one")


def test_onnx_is_written_where_it_is_asked_for(run: Path, trained: Checkpoint, tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs recsys[onnx]")
    convert(run, tmp_path / "out", onnx=True, show=False)
    assert "network.onnx" in read_seal(tmp_path / "out").files
    batch = trained.encoder.encode(toy.rows(9), labels=False)
    x, _ = trained.model.tables(batch)
    found = onnxruntime.InferenceSession(tmp_path / "out" / "network.onnx").run(None, {"x": x.detach().numpy()})
    np.testing.assert_allclose(found[0], trained.predict_batch(batch), atol=1e-5)


def altered_seal(folder: Path, change: Callable[[dict[str, Any]], object], sign: bool = True) -> None:
    values = json.loads((folder / SEAL).read_text())
    change(values)
    if sign:
        rest = {key: value for key, value in values.items() if key != "sha256"}
        values["sha256"] = hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()
    (folder / SEAL).write_text(json.dumps(values))


@pytest.fixture
def copy(export: Path, tmp_path: Path) -> Path:
    shutil.copytree(export, tmp_path / "copy")
    return tmp_path / "copy"


@pytest.mark.parametrize(
    ("change", "sign", "told"),
    [
        (lambda v: v.update(format=99, recsys="9.9"), True, "format 99, made by recsys 9.9; this is recsys"),
        (lambda v: v.update(model="other"), False, "differ from their checksum: altered"),
        (lambda v: v["files"].update({"../x": {"bytes": 1, "sha256": ""}}), True, "names `../x`"),
        (lambda v: v["files"].pop("schema.json"), True, "does not vouch for `schema.json`"),
        (lambda v: v["files"].pop("tables.bin"), True, "lies outside its file"),
        (lambda v: v.update(precisions=[]), True, "precisions"),
        (lambda v: v["lookups"].pop(), True, "the network reads .* expected"),
        (lambda v: v["tables"][0].update(start=1 << 40), True, "lies outside its file"),
        (lambda v: v["tables"][0].update(start=4), True, "off a cache line"),
        (lambda v: v["tables"][0].update(rows=v["tables"][0]["rows"] + 1), True, "do not make its rows"),
        (lambda v: v["tables"].append(v["tables"][0]), True, "two tables have one name"),
        (lambda v: v["lookups"][0].update(table="none"), True, "a table or a feature that is not there"),
        (lambda v: v.update(features=["a", "b", "c", "d"]), True, "a feature that is not there"),
    ],
)
def test_a_seal_that_cannot_be_is_named(copy: Path, change: Callable[[Any], Any], sign: bool, told: str) -> None:
    altered_seal(copy, change, sign)
    with pytest.raises(CheckpointError, match=told):
        eager(copy)


@pytest.mark.parametrize("name", ["schema.json", "network.pt2", "tables.bin"])
def test_a_file_that_is_altered_cut_or_gone_is_named(copy: Path, name: str) -> None:
    content = (copy / name).read_bytes()
    (copy / name).write_bytes(bytes([content[0] ^ 1]) + content[1:])
    with pytest.raises(CheckpointError, match=f"{name}: its checksum differs"):
        eager(copy)
    (copy / name).write_bytes(content[:-1])
    with pytest.raises(CheckpointError, match=f"{name}: .* bytes, expected .*: altered or cut off"):
        eager(copy)
    (copy / name).unlink()
    with pytest.raises(CheckpointError, match=f"{name} is missing"):
        eager(copy)


def test_a_folder_without_its_seal_does_not_load(copy: Path) -> None:
    (copy / SEAL).unlink()
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        eager(copy)


def test_two_processes_share_a_mapped_model(export: Path, trained: Checkpoint) -> None:
    code = (
        "import recsys, sys\n"
        f"session = recsys.session({str(export)!r}, backend='eager', storage='map')\n"
        "print(session.predict({'user': 3, 'item': 'i3', 'age': 20.0})[0], flush=True)\n"
        "sys.stdin.read()\n"
        "print(session.predict({'user': 3, 'item': 'i3', 'age': 20.0})[0])"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    both = [subprocess.Popen([sys.executable, "-c", code], **pipes) for _ in range(2)]  # type: ignore[call-overload]
    first = [process.stdout.readline() for process in both]
    mapped = [
        any("tables.bin" in line for line in Path(f"/proc/{process.pid}/maps").read_text().splitlines())
        for process in both
    ]
    last = [process.communicate("")[0] for process in both]
    assert mapped == [True, True]
    assert first[0] == first[1] == last[0] == last[1]
    expected = eager(export).predict({"user": 3, "item": "i3", "age": 20.0})[0]
    assert float(first[0]) == pytest.approx(float(expected), abs=1e-6)


def test_a_killed_export_does_not_load(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is cut off before each of the files that it writes, the seal among them."""
    steps = 0
    real = files.replacing
    names = ("tables.bin", "schema.json", "network.pt2", "README.md", SEAL)
    for last in range(len(names)):
        steps = 0

        def cut(path: Path, last: int = last) -> Any:
            nonlocal steps
            steps += 1
            if steps > last:
                raise KeyboardInterrupt
            return real(path)

        for place in (files, module, recsys.inference.network):
            monkeypatch.setattr(place, "replacing", cut)
        with pytest.raises(KeyboardInterrupt):
            convert(run, tmp_path / "out", overwrite=True, show=False)
        with pytest.raises(CheckpointError, match=r"no such run folder|no config\.json"):
            eager(tmp_path / "out")
    monkeypatch.undo()
    convert(run, tmp_path / "out", show=False)
    assert not list((tmp_path / "out").glob(".*"))


def test_a_kill_in_the_middle_leaves_nothing_that_loads(run: Path, tmp_path: Path) -> None:
    code = (
        "import os, signal\n"
        "from recsys.inference import export\n"
        "export.vouch = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"from recsys.inference.convert import convert\nconvert({str(run)!r}, {str(tmp_path / 'out')!r}, show=False)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False)
    assert done.returncode == -signal.SIGKILL
    assert os.path.getsize(tmp_path / "out" / "tables.bin") > 0
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        eager(tmp_path / "out")


def test_the_gate_decides_which_precisions_a_session_may_choose(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(converting, "absent", lambda backend, kind: None if backend == "eager" else "left out here")
    rows = toy.rows(400, 6)
    seal = convert(run, tmp_path / "out", data=rows, tolerance=Tolerance(auc=0.05, normalised_entropy=0.05), show=False)
    assert seal.precisions == ("fp32", "bf16")
    assert seal.gate["fp32"]["tasks"]["label"]["largest"] < 1e-5
    assert seal.gate["bf16"]["passed"]
    again = read_seal(tmp_path / "out")
    assert again == seal.model_copy(update={"sha256": seal.digest()})
    with eager(tmp_path / "out") as session:
        assert session.precision == "fp32"


def test_an_export_that_does_not_pass_does_not_load(run: Path, trained: Checkpoint, tmp_path: Path) -> None:
    strict = Tolerance(auc=0, normalised_entropy=0)
    with pytest.raises(QualityError, match="does not pass the quality gate: label: "):
        convert(run, tmp_path / "out", plan_for(trained, "int8"), toy.rows(400, 6), strict, show=False)
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        eager(tmp_path / "out")


def test_tables_beyond_memory_are_refused_before_they_are_read(export: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from recsys.dataflow import storage

    monkeypatch.setattr(storage, "available_memory", lambda: 1000)
    with pytest.raises(ConfigError, match=r"1,000 are available: map them"):
        eager(export)
    with eager(export, storage="map") as session:
        assert session.predict({}).shape == (1,)


def written_again(folder: Path, times: int, monkeypatch: pytest.MonkeyPatch, other: Path) -> list[int]:
    """Others write the folder again whenever its network is read, that many times."""
    real = recsys.inference.network.read
    seen: list[int] = []

    def read(path: Path) -> Any:
        seen.append(len(seen))
        if len(seen) <= times:
            source = other if len(seen) % 2 else folder.with_name("before")
            for name in ("schema.json", "network.pt2", "tables.bin", SEAL):
                shutil.copy(source / name, folder / f"{name}.new")
                os.replace(folder / f"{name}.new", folder / name)
        return real(path)

    monkeypatch.setattr(recsys.inference.network, "read", read)
    return seen


def test_an_export_that_is_written_again_while_it_is_opened_is_opened_again(
    copy: Path, din: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Readers take no lock: they would pair one export's tables with another one's network."""
    shutil.copytree(copy, tmp_path / "before")
    convert(din, tmp_path / "other", show=False)
    expected = eager(tmp_path / "other").predict({"item": "i3"})
    seen = written_again(copy, 1, monkeypatch, tmp_path / "other")
    with eager(copy, storage="map") as session:
        assert len(seen) == 2
        assert session.source == read_seal(tmp_path / "other").digest()
        assert np.array_equal(session.predict({"item": "i3"}), expected)


def test_an_export_that_is_written_again_and_again_is_given_up(
    copy: Path, din: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(copy, tmp_path / "before")
    convert(din, tmp_path / "other", show=False)
    seen = written_again(copy, 9, monkeypatch, tmp_path / "other")
    with pytest.raises(CheckpointError, match="was written again while it was opened; open it when that has ended"):
        eager(copy)
    assert len(seen) == 2


def test_what_the_disk_refuses_is_one_sentence(
    run: Path, copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tests may run as root, whom no mode stops."""
    shutil.copytree(copy, tmp_path / "odd")
    (tmp_path / "odd" / "tables.bin").unlink()
    (tmp_path / "odd" / "tables.bin").mkdir()
    with pytest.raises(CheckpointError, match=r"odd: cannot be written again: .*tables\.bin"):
        convert(run, tmp_path / "odd", overwrite=True, show=False)

    def refuse(path: Path, *_: Any, **__: Any) -> Any:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", refuse)
        with pytest.raises(CheckpointError, match=r"copy: cannot be written again: .*Permission denied"):
            converting._written(load(run), copy, None, False, True, False)
    with monkeypatch.context() as patch:
        seal = read_seal(copy)
        patch.setattr(Path, "open", refuse)
        with pytest.raises(CheckpointError, match=r"network\.pt2: cannot be read: Permission denied"):
            seal.check(copy, ("network.pt2",), unread=("tables.bin", "schema.json"))
    with pytest.raises(CheckpointError, match="cannot be read: File name too long"):
        eager(tmp_path / ("a" * 300))


def test_an_export_that_nothing_could_run_is_not_sealed(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its list of precisions would be empty, and the seal could not be read."""
    for name in ("absent", "InferenceSession"):
        with monkeypatch.context() as patch:
            patch.setattr(converting, "absent", lambda *_: "left out here" if name == "absent" else None)  # noqa: B023
            if name != "absent":
                patch.setattr(converting, name, refused)
            with pytest.raises(QualityError, match="no back end here could run the export as fp32"):
                convert(run, tmp_path / "out", data=toy.rows(20), show=False)
        assert not (tmp_path / "out" / SEAL).exists()


def refused(*_: Any) -> Any:
    raise ConfigError("does not build")
