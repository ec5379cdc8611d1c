"""A real process: what runs is finished when it is told to stop, and what is new is refused."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from recsys.errors import ConfigError
from recsys.inference.session import session
from recsys.serving.limits import Limits
from recsys.serving.server import bind, serve
from tests.serving.process import started
from tests.serving.test_refusals import RANK

SLOW = """
import os, time
from recsys.inference.session import InferenceSession
real = InferenceSession.rank
def rank(self, user, candidates, *more):
    if candidates != [{}]:  # no warming up
        open(os.environ["STARTED"], "w").close()
        while not os.path.exists(os.environ["GO_ON"]):
            time.sleep(0.01)
    return real(self, user, candidates, *more)
InferenceSession.rank = rank
"""


def ask(address: tuple[str, int], method: str, path: str, found: Any = None) -> tuple[int, Any]:
    connection = http.client.HTTPConnection(*address, timeout=30)
    try:
        connection.request(method, path, json.dumps(found), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def wait_for(file: Path) -> None:
    until = time.monotonic() + 20
    while not file.exists():
        assert time.monotonic() < until
        time.sleep(0.01)


def test_sigterm_during_a_request_finishes_it_refuses_new_ones_and_exits_with_0(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STARTED", str(tmp_path / "started"))
    monkeypatch.setenv("GO_ON", str(tmp_path / "go-on"))
    answers: list[tuple[int, Any]] = []
    with started(run, "--backend", "eager", "--json", first=SLOW) as (process, address):
        assert ask(address, "GET", "/v2/health/ready") == (200, {"ready": True})
        assert ask(address, "POST", "/rank", "x" * 6 * 2**20)[0] == 413  # and the client, still sending, reads it
        client = threading.Thread(target=lambda: answers.append(ask(address, "POST", "/rank", RANK)))
        client.start()
        wait_for(tmp_path / "started")
        until = time.monotonic() + 20
        process.send_signal(signal.SIGTERM)
        while ask(address, "GET", "/v2/health/ready")[0] == 200:
            assert time.monotonic() < until
        assert ask(address, "GET", "/v2/health/ready") == (503, {"ready": False})
        assert ask(address, "GET", "/v2/health/live") == (200, {"live": True})
        assert ask(address, "POST", "/rank", RANK)[0] == 503
        assert not answers
        (tmp_path / "go-on").touch()
        client.join(20)
        out, err = process.communicate(timeout=20)
    assert (answers[0][0], answers[0][1]["positions"]) == (200, [0])
    assert (process.returncode, err) == (0, "")
    assert json.loads(out.splitlines()[-1]) == {"model": "toy", "rows": 1, "drained": True}
    with pytest.raises(ConnectionRefusedError):
        ask(address, "GET", "/v2/health/live")


def test_a_second_signal_ends_it_at_once(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STARTED", str(tmp_path / "started"))
    monkeypatch.setenv("GO_ON", str(tmp_path / "never"))
    with started(run, "--backend", "eager", first=SLOW) as (process, address):
        body = json.dumps(RANK)
        with socket.create_connection(address) as client:
            client.sendall(
                f"POST /rank HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
            )
            wait_for(tmp_path / "started")
            process.send_signal(signal.SIGTERM)
            while ask(address, "GET", "/v2/health/ready")[0] == 200:
                time.sleep(0.01)
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == -signal.SIGTERM


def test_an_address_that_cannot_be_had_is_one_sentence() -> None:
    with bind("127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"cannot serve on 127.0.0.1, port {port}: .*choose another"):
            bind("127.0.0.1", port)
    with pytest.raises(ConfigError, match=r"cannot serve on 198\.51\.100\.1"):
        bind("198.51.100.1", 0)
    with pytest.raises(ConfigError, match="cannot serve on no such host"):
        bind("no such host", 0)
    with pytest.raises(ConfigError, match="expected a port of 0"):
        bind("127.0.0.1", 65536)


def test_an_address_that_another_takes_meanwhile_is_the_same_sentence(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "set_num_threads", lambda threads: None)
    with bind("127.0.0.1", 0) as mine, bind("127.0.0.1", mine.getsockname()[1]) as other:
        other.listen()
        port = mine.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"cannot serve on 127.0.0.1, port {port}: .*choose another"):
            serve("toy", session(run, backend="eager"), mine, Limits(), ready=print)


@pytest.mark.skipif(not socket.has_ipv6 or not os.path.exists("/proc/net/if_inet6"), reason="needs IPv6")
def test_ipv6_addresses_are_served_too() -> None:
    with bind("::1", 0) as found:
        assert found.family == socket.AF_INET6
