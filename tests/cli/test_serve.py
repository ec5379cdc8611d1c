"""`recsys serve`: what a user can do wrong, and `recsys bench serve`."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from recsys.bench import serve as bench
from recsys.bench.serve import measure
from recsys.cli import app
from recsys.errors import ConfigError
from recsys.training.run import train
from tests import toy

pytest.importorskip("fastapi", reason="needs the extra `serve`")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served")
    train(toy.recipe(folder / "data", epochs=1), folder / "run", show=False)
    return folder / "run"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["nowhere"], "nowhere"),
        (["RUN", "--port", "99999"], "expected a port of 0 (any that is free) to 65535, got 99999"),
        (["RUN", "--host", "198.51.100.1", "--port", "0"], "cannot serve on 198.51.100.1"),
        (["RUN", "--port", "0", "--plan", "no-such-plan.json"], "no-such-plan.json"),
        (["RUN", "--port", "0", "--threads", "0"], "threads of 1 to 1,024"),
        (["RUN", "--port", "0", "--backend", "tpu"], "tpu"),
        (["RUN", "--port", "0", "--limits.max-rows", "0"], "max_rows"),
        *(
            (["RUN", "--port", "0", "--name", name], "expected a --name that can stand in a URL as it is")
            for name in ("a/b", "a?b", "a#b", "a%20b", "a b", "ä", "a\n", "..")
        ),
    ],
)
def test_what_is_wrong_is_one_line(run: Path, words: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["serve", *(str(run) if word == "RUN" else word for word in words)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = [line for line in err.splitlines() if line.startswith("recsys serve: ")]
    assert told in line


@pytest.mark.parametrize("absent", ["fastapi", "uvicorn", "prometheus_client"])
def test_without_the_extra_a_sentence_says_what_to_install(
    run: Path, absent: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.startswith("recsys.serving.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, absent, None)
    assert app.main(["serve", str(run)]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert 'pip install "recsys[serve]"' in err


def test_neither_the_package_nor_the_command_loads_a_server_before_it_serves() -> None:
    code = "import recsys.cli.serve, recsys.cli.bench, recsys.serving.model, sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "recsys.serving.model" in loaded
    assert not {"fastapi", "starlette", "uvicorn", "prometheus_client"} & set(loaded)


def test_the_benchmark_measures_both_requests_in_three_loops(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "CANDIDATES", 5)
    found = measure(run, backend="eager", requests=30, clients=2, rate=300, seconds=5)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert (found["bench"], found["backends"]) == ("serve", {"1": "eager", "5": "eager"})
    assert [(row["case"], row["rows"], row["loop"], row["clients"]) for row in found["rows"]] == [
        (case, rows, loop, clients)
        for case, rows in (("infer", 1), ("rank", 5))
        for loop, clients in (("closed", 1), ("closed", 2), ("open", 16))
    ]
    for row in found["rows"]:
        assert 0 < row["p50_us"] <= row["p99_us"]
        assert (row["requests"], row.get("unsent", 0)) == (30, 0)
        assert row["per_second"] > 0
    beside = [row for row in found["rows"] if "overhead_p50_us" in row]
    assert [row["case"] for row in beside] == ["infer", "rank"]
    for row in beside:
        assert row["overhead_p50_us"] == pytest.approx(row["p50_us"] - row["session_p50_us"], abs=0.2)


@pytest.mark.parametrize(("rate", "seconds"), [(0.001, 0.1), (300.0, 1e-9)])
def test_the_benchmark_sends_one_request_however_little_it_may(run: Path, rate: float, seconds: float) -> None:
    found = measure(run, backend="eager", requests=3, clients=1, rate=rate, seconds=seconds)
    assert all(row["requests"] >= 1 for row in found["rows"])


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"host": "0.0.0.0"}, "expected an address of this machine alone, such as 127.0.0.1, got 0.0.0.0"),
        ({"host": "10.0.0.1"}, "this machine alone"),
        ({"host": "example.com"}, "this machine alone"),
        ({"requests": 0}, "expected requests of more than 0"),
        ({"rate": 1e6}, "expected rate of more than 0 and at most 20,000"),
        ({"clients": 65}, "expected clients of more than 0 and at most 64"),
        ({"seconds": 601}, "expected seconds"),
    ],
)
def test_the_benchmark_stays_on_this_machine_and_ends(given: dict[str, object], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        measure(**given)  # type: ignore[arg-type]
