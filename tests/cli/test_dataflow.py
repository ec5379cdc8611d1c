"""`recsys dataflow`: the published workloads, and that of a model of one's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recsys.cli import app
from recsys.data.readers import read
from recsys.dataflow.counting import measure
from recsys.dataflow.workload import Workload, published
from recsys.models.checkpoint import load
from tests import toy

SMALL = ["--model.embedding-dim", "4", "--model.hidden", "8", "--training.batch-size", "512", "--training.epochs", "1"]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return toy.files(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def run(files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with pooled and with unpooled look-ups."""
    out = tmp_path_factory.mktemp("runs") / "din"
    own = [word for key in ("schema", "train", "valid") for word in (f"--{key}", str(files[key]))]
    assert app.main(["train", "din", *own, "--out", str(out), *SMALL]) == 0
    return out


def printed(capsys: pytest.CaptureFixture[str], *argv: object) -> tuple[str, dict[str, Any]]:
    """What `recsys dataflow …` prints for people, and as JSON."""
    capsys.readouterr()
    assert app.main(["dataflow", *map(str, argv), "--json"]) == 0
    out = capsys.readouterr().out
    values: dict[str, Any] = json.loads(out.splitlines()[-1])
    return out, values


@pytest.mark.parametrize("argv", [(), ("workloads",)])
def test_published_workloads_are_listed(argv: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    out, values = printed(capsys, *argv)
    assert [one["name"] for one in values["workloads"]] == published()
    assert all(name in out for name in published())
    assert "recsys dataflow show NAME" in out
    kaggle = next(one for one in values["workloads"] if one["name"] == "criteo-kaggle")
    assert (kaggle["tables"], kaggle["rows"], kaggle["ids"]) == (26, 33_762_577, 26)


def test_help_names_the_actions(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["dataflow", "--help"]) == 0
    out = capsys.readouterr().out
    assert all(action in out for action in ("workloads", "show", "workload"))


def test_a_workload_is_shown_with_its_bytes(capsys: pytest.CaptureFixture[str]) -> None:
    out, values = printed(capsys, "show", "mlperf-dlrm-v2")
    assert values["bytes"] == 204_184_588 * 128 * 4
    assert values["ids"] == 214
    assert len(values["lookups"]) == 26
    assert values["lookups"][20]["ids"] == 100
    assert values["lookups"][5]["hottest"] == 1  # of three rows
    assert not values["lookups"][0]["unique_measured"]
    for told in ("40,000,000", "105 GB, 214 ids a sample", "~", "github.com/mlcommons/inference"):
        assert told in out


def test_look_ups_that_are_alike_share_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    out, values = printed(capsys, "show", "uniform-200")
    assert len(values["lookups"]) == 200
    assert out.count("100,000") == 1
    assert "table000 … table199" in out


def test_a_measured_share_has_no_tilde(capsys: pytest.CaptureFixture[str]) -> None:
    out, values = printed(capsys, "show", "trace-medium")
    assert values["lookups"][0]["unique_measured"]
    assert " 26.0%" in out


def test_the_workload_of_a_model_is_that_of_its_rows(
    run: Path, files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "mine.toml"
    told, values = printed(
        capsys, "workload", run, files["test"], "--out", out, "--batch-sizes", 64, 1, 1000, "--rows", 300
    )
    assert (values["counted"], values["out"]) == (300, str(out))
    assert f"saved {out}" in told
    found = Workload.find(out)
    assert found.name == "din"
    assert found.about == f"The look-ups of `din`, a din model, in 300 rows of {files['test']}."
    assert found.batch_sizes == (1, 64, 1000)
    checkpoint = load(run)
    batch = checkpoint.encoder.encode(read(files["test"]).slice(0, 300), labels=False)
    tables = checkpoint.model.tables
    assert [lookup.name for lookup in found.lookups] == [lookup.name for lookup in tables.lookups]
    assert {lookup.pooling for lookup in found.lookups} == {"sum", "mean", "none"}
    for lookup, own in zip(found.lookups, tables.lookups, strict=True):
        ids, lengths, _ = batch.ids.feature(tables.position[own.feature])
        rows = tables.tables[own.table].rows
        expected = measure(
            ids.numpy(), None if lengths is None else lengths.numpy(), rows, [1, 64, 1000], str(files["test"])
        )
        assert lookup.ids == expected
    assert found.bytes == sum(table.rows * table.dim * 4 for table in tables.tables.values())


def test_a_file_longer_than_a_window_is_counted_whole(
    run: Path, files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = pq.read_table(files["train"]).drop_columns(["label", "rating"])  # which rows to be scored have not
    pq.write_table(pa.concat_tables([table] * 50), tmp_path / "long.parquet")
    _, values = printed(capsys, "workload", run, tmp_path / "long.parquet", "--out", tmp_path / "long.toml")
    assert values["counted"] == 75_000
    user = next(lookup for lookup in Workload.find(tmp_path / "long.toml").lookups if lookup.name == "user")
    hits = np.sort(np.unique(table["user"].to_numpy(), return_counts=True)[1])[::-1]
    assert user.ids.hot[0][1] == pytest.approx(hits[0] / 1500, rel=1e-5)
    assert user.ids.source == f"measured on 75,000 bags of {tmp_path / 'long.parquet'}"


def test_a_named_model_and_source_will_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told, values = printed(capsys, "workload", "wikipedia-dcn2", "wikipedia:test", "--out", tmp_path / "w.toml")
    assert values["counted"] == 4278
    assert [lookup["lookup"] for lookup in values["lookups"]] == ["user", "history", "page"]
    assert "unknown" in told  # what the encoder met is said here too


def test_what_the_user_did_wrong_is_one_line(
    run: Path, files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, there = tmp_path / "out.toml", tmp_path / "there.toml"
    there.write_text("mine")
    bad = tmp_path / "bad.toml"
    bad.write_text('name = "bad"\ntabels = []\nlookups = []\n')
    full = pq.read_table(files["test"])
    pq.write_table(full.slice(0, 0), tmp_path / "empty.parquet")
    pq.write_table(full.drop_columns(["item"]), tmp_path / "lacking.parquet")
    for argv, words in [
        (("shw",), "no such action as `shw`: did you mean `show`?"),
        (("show",), "NAME|FILE"),
        (("show", "criteo-kagle"), "no such workload as `criteo-kagle`: did you mean `criteo-kaggle`?"),
        (("show", tmp_path / "none.toml"), "no such file"),
        (("show", bad), "unknown key `tabels`: did you mean `tables`?"),
        (("workloads", "all"), "all"),
        (("workload", tmp_path, files["test"], "--out", out), "no config.json"),
        (("workload", run, tmp_path / "none.parquet", "--out", out), "no such file"),
        (("workload", run, tmp_path / "lacking.parquet", "--out", out), "missing column `item`"),
        (("workload", run, tmp_path / "empty.parquet", "--out", out), "empty.parquet: no rows to count ids in"),
        (("workload", run, files["test"], "--out", there), "is there already; choose another --out or add --overwrite"),
        (("workload", run, files["test"], "--out", out, "--rows", 0), "expected at least 1 row to count, got 0"),
        (("workload", run, files["test"], "--out", out, "--batch-sizes", 0), "batch sizes of 1 or more, got 0"),
        (("workload", run, files["test"], "--out", out, "--batch-sizes"), "at least one of batch_sizes"),
        (("workload", run, files["test"], "--out", tmp_path), "there already"),
    ]:
        capsys.readouterr()
        assert app.main(["dataflow", *map(str, argv)]) == 2
        told = capsys.readouterr().err
        assert told.count("\n") == 1
        assert told.startswith("recsys dataflow: ")
        assert words in told
    assert not out.exists()
    assert there.read_text() == "mine"


def test_overwrite_replaces_a_file(
    run: Path, files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "w.toml"
    out.write_text("old")
    printed(capsys, "workload", run, files["test"], "--out", out, "--overwrite")
    assert Workload.find(out).batch_sizes == (1, 64, 512, 2048, 8192)
