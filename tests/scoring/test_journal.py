"""What a job has finished: a kill takes the last line at most, and no other job goes on with it."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsys.errors import DataError
from recsys.scoring.journal import Journal

RECORDS = [{"part": i, "name": "é" * i, "next": [i, 0]} for i in range(3)]


def written(folder: Path, header: dict[str, Any]) -> Path:
    journal = Journal(folder / "journal.jsonl", header)
    for record in RECORDS:
        journal.append(record)
    return journal.path


@given(st.floats(0, 1))
def test_of_a_journal_cut_off_anywhere_the_whole_lines_count(kept: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = written(Path(folder), {"run": "a"})
        content = path.read_bytes()
        left = content[: int(kept * len(content))]
        path.write_bytes(left)
        journal = Journal(path, {"run": "a"})
        whole = max(left.count(b"\n") - 1, 0)
        assert journal.records == RECORDS[:whole]
        journal.append({"part": "more"})
        assert Journal(path, {"run": "a"}).records == [*RECORDS[:whole], {"part": "more"}]


def test_another_job_is_named_by_what_changed(tmp_path: Path) -> None:
    path = written(tmp_path, {"run": "a", "keep": ["x"]})
    before = path.read_bytes()
    with pytest.raises(DataError, match=r"unfinished work of another job \(keep changed\)"):
        Journal(path, {"run": "a", "keep": []})
    assert path.read_bytes() == before


def test_a_job_that_has_done_nothing_is_in_nobodys_way(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    Journal(path, {"run": "a"})
    Journal(path, {"run": "b"}).append(RECORDS[0])
    assert [json.loads(line) for line in path.read_text().splitlines()] == [{"run": "b"}, RECORDS[0]]


def test_names_that_are_no_text_are_kept(tmp_path: Path) -> None:
    header = {"input": [b"\xff.csv".decode(errors="surrogateescape")]}
    assert Journal(written(tmp_path, header), header).records == RECORDS


def test_a_journal_that_cannot_be_read_or_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "journal.jsonl").mkdir()
    with pytest.raises(DataError, match="cannot be read"):
        Journal(tmp_path / "journal.jsonl", {})
    with pytest.raises(DataError, match="cannot be written"):
        Journal(tmp_path / "none" / "journal.jsonl", {})
    journal = Journal(tmp_path / "other.jsonl", {})
    (tmp_path / "other.jsonl").unlink()
    (tmp_path / "other.jsonl").mkdir()
    with pytest.raises(DataError, match="cannot be written"):
        journal.append(RECORDS[0])
