"""Whatever is sent, the answer is a score or one sentence, and no mistake of ours."""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recsys.bench.serve_load import Connection
from tests.serving.asgi import JSON, Client
from tests.serving.junk import TEXT, VALID, requests
from tests.serving.process import started

CLIENTS = {400, 404, 405, 413, 415, 422}
FEW = settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
MANY = settings(FEW, max_examples=10_000)


def test_what_is_not_changed_is_served(client: Client) -> None:
    for path, request in VALID.items():
        assert client.post(path, request).status == 200


@FEW
@given(requests())
def test_any_body_is_answered(client: Client, request_: tuple[str, bytes]) -> None:
    path, body = request_
    answer = client.post(path, body)
    if answer.status == 200:
        assert "error" not in answer.json
    else:
        assert answer.status in CLIENTS
        assert 0 < len(answer.error) < 800


@settings(FEW, max_examples=100)
@given(
    st.sampled_from(["GET", "POST", "PUT", "HEAD", "X"]),
    st.lists(st.sampled_from(["v2", "models", "toy", "infer", "ready", "rank", "é", "", ".."]), max_size=5),
    st.dictionaries(
        st.sampled_from(["content-type", "content-length", "content-encoding", "accept"]),
        st.sampled_from([*JSON.values(), "-1", "9" * 400, "gzip", "application/json;charset=é", ""]),
    ),
    TEXT,
)
def test_any_path_and_headers_are_answered(
    client: Client, method: str, path: list[str], headers: dict[str, str], text: str
) -> None:
    body = text.encode(errors="surrogatepass")
    answer = client.ask(method, "/" + "/".join(path), [body], headers)
    assert answer.status in CLIENTS | {200}
    assert answer.status == 200 or answer.error


def rss(process: int) -> int:
    """Bytes that a process has in memory."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))


def no_http(address: tuple[str, int], sent: bytes) -> None:
    """What is no request at all is hung up on, and nobody else notices."""
    with socket.create_connection(address, 10) as client, contextlib.suppress(ConnectionError):
        client.sendall(b"POST /rank HTTP/1.1\r\n" + sent + b"\r\n\r\n")
        client.shutdown(socket.SHUT_WR)
        assert b" 200 " not in client.recv(1000)


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs /proc")
def test_ten_thousand_malformed_requests_leave_a_server_as_it_was(run: Path) -> None:
    with started(run, "--backend", "eager", "--name", "toy") as (process, address), Connection(address) as connection:
        valid: Any = {path: json.dumps(request).encode() for path, request in VALID.items()}

        def status(path: str, body: bytes) -> int:
            told, _ = connection.send(path, body)
            return int(told.split()[1])

        for _ in range(500):
            for path, body in valid.items():
                assert status(path, body) == 200
        seen: set[int] = set()

        @settings(FEW, max_examples=1000)
        @given(requests())
        def warm_up(request_: tuple[str, bytes]) -> None:
            status(*request_)

        @MANY
        @given(requests())
        def any_body(request_: tuple[str, bytes]) -> None:
            seen.add(status(*request_))

        warm_up()
        for k in range(300):
            no_http(address, bytes(random.Random(k).choices(range(256), k=200)))
        before = rss(process.pid)
        any_body()
        grown = rss(process.pid) - before
        print(f"{before:,} bytes before, {grown:,} more after; statuses {sorted(seen)}")
        assert seen <= CLIENTS | {200}
        assert seen >= {200, 400, 422}
        assert grown < 16 * 2**20, f"{grown:,} bytes"
        assert all(status(path, body) == 200 for path, body in valid.items())
