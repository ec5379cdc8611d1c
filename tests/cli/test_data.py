"""`recsys data`: what it prints, what it returns, and how it says no."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from recsys.cli import app
from recsys.data import sources


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_list_names_every_source(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["data", "list", "--json"]) == 0
    out = capsys.readouterr().out
    found = {source["name"]: source for source in json.loads(out.splitlines()[-1])["sources"]}
    assert list(found) == sources.names()
    assert found["adult"]["state"] == "bundled"
    assert found["movielens-100k"]["state"] == "not fetched"
    assert sum(found["movielens-100k"]["rows"].values()) == 100_000
    assert "GroupLens terms of use" in out
    assert "CC BY 4.0" in out


def test_without_an_action_it_lists(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["data"]) == 0
    assert "movielens-100k" in capsys.readouterr().out


@pytest.mark.parametrize("argv", [["data", "--help"], ["data", "-h"]])
def test_help_shows_the_actions(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(argv) == 0
    assert "fetch NAME" in capsys.readouterr().out


def test_fetch_prints_rows_terms_and_the_next_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["data", "fetch", "adult", "--json"]) == 0
    out = capsys.readouterr().out
    result = json.loads(out.splitlines()[-1])
    source = sources.load("adult")
    assert result["splits"]["test"] == {"file": str(source.test), "rows": 4884, "positive": 0.227068}
    assert result["next"] == "recsys train dcn2 --source adult --out runs/dcn2-adult"
    for told in ("39,074", "24.1%", str(source.folder), "Barry Becker", f"next: {result['next']}"):
        assert told in out


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["data", "fetch", "movielens"], "no such data source as `movielens`: did you mean `movielens-100k`?"),
        (["data", "ftch"], "no such action as `ftch`: did you mean `fetch`?"),
        (["data", "fetch"], "NAME"),
        (["data", "list", "adult"], "adult"),
        (["data", "fetch", "adult", "--file", "nowhere.zip"], "nowhere.zip: no such file"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(argv: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert told in err
    assert err.splitlines()[-1].startswith("recsys data: ")
