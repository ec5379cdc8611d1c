"""A tiny run of the data benchmark: every peer works, and the account is whole."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from recsys.bench import peers
from recsys.bench.criteo import write
from recsys.bench.data import WORKLOADS, measure
from recsys.errors import ConfigError

pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # FuxiCTR leaves its files open
ROWS = 2000
FUXICTR = importlib.util.find_spec("fuxictr") is not None
BASE = {
    "hash": {"pandas-hash", "pandas-hash-distinct", "scikit-learn-hasher"},
    "vocabulary": {"pandas-factorize", "pandas-index-distinct"},
    "dcn2": {"pandas-hash", "pandas-hash-distinct", "scikit-learn-hasher"},
}


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    return measure(ROWS, 1)


def test_the_account_is_json_with_machine_file_and_workloads(found: dict[str, Any]) -> None:
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found["bench"] == "data"
    assert found["machine"]["cpu"]
    assert found["file"]["rows"] == ROWS
    assert found["file"]["bytes_per_row"] == pytest.approx(found["file"]["bytes"] / ROWS, abs=0.1)
    assert [row["workload"] for row in found["rows"]] == list(WORKLOADS)


def test_every_rate_is_positive(found: dict[str, Any]) -> None:
    for row in found["rows"]:
        for one in (row["ours"], row["bound"], *row["peers"], *row["fit"].values()):
            assert min(one["rows_per_second"], one["cpu_rows_per_second"], one["cpu_us_per_row"]) > 0


def test_every_peer_that_is_there_was_measured(found: dict[str, Any]) -> None:
    for row in found["rows"]:
        names = {peer["name"] for peer in row["peers"]}
        extra = ["polars-enum", "fuxictr"] if row["workload"] == "vocabulary" else ["polars-hash"]
        assert BASE[row["workload"]] <= names
        assert all(name in names or name in found["absent"] for name in extra)
        assert all(peer["class"] in ("stock", "tuned") for peer in row["peers"])


def test_ratios_are_to_the_best_of_each_class(found: dict[str, Any]) -> None:
    for row in found["rows"]:
        for kind in ("stock", "tuned"):
            best = min(peer["cpu_us_per_row"] for peer in row["peers"] if peer["class"] == kind)
            assert row[f"ratio_{kind}"] == pytest.approx(best / row["ours"]["cpu_us_per_row"], rel=0.01)
        assert row["share_of_bound"] == pytest.approx(
            row["bound"]["cpu_us_per_row"] / row["ours"]["cpu_us_per_row"], rel=0.01
        )


def test_absent_peers_are_named_with_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "_has", lambda module: False)
    found = measure(200, 1, folder=tmp_path)
    assert found["absent"] == {"polars-hash": "polars", "fuxictr": "recsys[parity]", "polars-enum": "polars"}
    assert {row["workload"]: {peer["name"] for peer in row["peers"]} for row in found["rows"]} == BASE
    assert pq.read_metadata(tmp_path / "criteo-shaped.parquet").num_rows == 200


def test_a_run_can_be_narrowed() -> None:
    assert [row["workload"] for row in measure(200, 1, ["hash"])["rows"]] == ["hash"]
    with pytest.raises(ConfigError, match="no such workload as `hsh`: did you mean `hash`"):
        measure(200, 1, ["hsh"])
    with pytest.raises(ConfigError, match="at least 1 round"):
        measure(200, 0)
    with pytest.raises(ConfigError, match="at least 1 row"):
        measure(0, 1)


# --- do the peers do the job?


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("rows") / "rows.parquet"
    write(file, ROWS, show=False)
    return file


def test_hashes_are_rows_of_the_table(path: Path) -> None:
    numbers, ids = peers._pandas_hash(path, 10)
    assert (numbers.shape, ids.shape) == ((ROWS, 13), (26, ROWS))
    assert ids.min() >= 0
    assert ids.max() < 1 << 10


def test_a_vocabulary_holds_what_is_frequent(path: Path) -> None:
    column = pq.read_table(path, columns=["C17"])["C17"].to_pylist()
    known = peers._frequent(path, 30)["C17"].to_pylist()
    assert set(known) == {value for value in set(column) if value and column.count(value) >= 30}


@pytest.mark.skipif(not FUXICTR, reason="FuxiCTR is not installed: the extra `parity`")
def test_fuxictr_and_recsys_know_the_same_values(path: Path, tmp_path: Path) -> None:
    """FuxiCTR's vocabulary holds the frequent values, its padding, and its unknown."""
    found, absent = peers.vocabulary(path, 30, tmp_path)
    assert not [peer for peer in absent if peer.name == "fuxictr"]
    fitted = next(peer for peer in found if peer.job.name == "fuxictr")
    assert fitted.fit
    words = json.loads((tmp_path / "criteo" / "feature_vocab.json").read_text())["C17"]
    assert set(words) == {*peers._frequent(path, 30)["C17"].to_pylist(), "__PAD__", "__OOV__"}
