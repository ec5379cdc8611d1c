"""Clients that send too much, too slowly or nothing, over real sockets: each is answered, closed, and costs little."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from recsys.serving.protocol import HEADERS
from recsys.serving.unread import LINGER_BYTES
from tests.serving.process import started
from tests.serving.test_refusals import RANK

Address = tuple[str, int]
HEALTH = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n"
ALIVE = b'{"live":true}'
BODY = json.dumps(RANK).encode()


@pytest.fixture(scope="module")
def address(run: Path) -> Iterator[Address]:
    with started(run, "--backend", "eager", "--limits.seconds", "0.3") as (_, found):
        yield found


def post(*headers: str, path: str = "/rank") -> bytes:
    return "\r\n".join(
        [f"POST {path} HTTP/1.1", "Host: x", "Content-Type: application/json", *headers, "", ""]
    ).encode()


CHUNKED = post("Transfer-Encoding: chunked")


def connect(address: Address) -> socket.socket:
    return socket.create_connection(address, 20)


def rest(client: socket.socket) -> bytes:
    """What comes until the server closes; a reset is a close, too."""
    found = b""
    with contextlib.suppress(ConnectionError):
        while part := client.recv(1 << 16):
            found += part
    return found


def answer(client: socket.socket) -> bytes:
    """One answer, of a connection that stays open."""
    found = b""
    while b"\r\n\r\n" not in found:
        found += client.recv(1 << 16)
    head, _, body = found.partition(b"\r\n\r\n")
    size = int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0])
    while len(body) < size:
        body += client.recv(1 << 16)
    return head + b"\r\n\r\n" + body


@pytest.mark.parametrize(
    "sent", [post("Content-Length: 20"), post("Content-Length: 20") + b"{", CHUNKED], ids=["none", "a byte", "no chunk"]
)
def test_a_body_that_does_not_come_is_408_and_the_end(address: Address, sent: bytes) -> None:
    with connect(address) as client:
        client.sendall(sent)
        found = rest(client)
    assert found.startswith(b"HTTP/1.1 408 ")
    assert b"\r\nconnection: close\r\n" in found
    assert found.endswith(b'{"error":"the body was not complete after 0.3 seconds"}')


@pytest.mark.parametrize("before", [b"", HEALTH])
def test_half_a_header_is_not_waited_for(address: Address, before: bytes) -> None:
    with connect(address) as client:
        if before:
            client.sendall(before)
            assert answer(client).endswith(ALIVE)
        client.sendall(b"POST /rank HTTP/1.1\r\nHost: x\r\nConte")
        found = rest(client)
    assert found.startswith(b"HTTP/1.1 408 ")
    assert b"the headers were not complete after 0.3 seconds" in found


@pytest.mark.parametrize("sent", [[], [HEALTH, b"\r\n"]])
def test_who_sends_nothing_is_hung_up_on(address: Address, sent: list[bytes]) -> None:
    with connect(address) as client:
        for k, part in enumerate(sent):
            client.sendall(part)
            if k == 0:
                assert answer(client).endswith(ALIVE)
        assert HEALTH not in rest(client)


def test_an_idle_connection_is_kept_longer_than_headers_may_take(address: Address) -> None:
    with connect(address) as client:
        for _ in range(3):
            client.sendall(HEALTH)
            assert answer(client).endswith(ALIVE)
            time.sleep(0.5)


def test_headers_may_come_in_parts(address: Address) -> None:
    with connect(address) as client:
        for _ in range(2):
            for part in (HEALTH[:10], HEALTH[10:-1], HEALTH[-1:]):
                client.sendall(part)
                time.sleep(0.02)
            assert answer(client).endswith(ALIVE)


@pytest.mark.parametrize("more", [b"X: " + b"a" * HEADERS, b"a: b\r\n" * (HEADERS // 6 + 1)], ids=["long", "many"])
def test_too_many_headers_are_431(address: Address, more: bytes) -> None:
    with connect(address) as client:
        client.sendall(HEALTH[:-2] + more)
        found = rest(client)
    assert found.startswith(b"HTTP/1.1 431 ")
    assert b'{"error": "expected headers of less than 65,536 bytes"}' in found


@pytest.mark.parametrize(
    "before",
    [HEALTH[:-2] + b"X: ", CHUNKED + b"1\r\n{\r\n0\r\nX: ", CHUNKED + b"1;x="],
    ids=["header", "trailer", "extension"],
)
def test_endless_headers_trailers_and_extensions_are_not_read_for_long(address: Address, before: bytes) -> None:
    sent = 0
    with connect(address) as client, contextlib.suppress(ConnectionError):
        client.sendall(before)
        while sent < 100 * 2**20:
            sent += client.send(b"a" * 2**16)
    assert sent < 100 * 2**20


def test_headers_that_are_long_and_requests_that_come_together_are_served(address: Address) -> None:
    with connect(address) as client:
        client.sendall(HEALTH[:-2] + b"X: " + b"a" * (HEADERS - 100) + b"\r\n\r\n")
        assert answer(client).endswith(ALIVE)
        many = 3 * HEADERS // len(HEALTH)
        last = HEALTH.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
        client.sendall(post(f"Content-Length: {len(BODY)}") + BODY + HEALTH * many + last)
        found = rest(client)
    assert (found.count(b"HTTP/1.1 200 OK"), found.count(ALIVE)) == (many + 2, many + 1)


@pytest.mark.parametrize(("path", "status"), [("/rank", 413), ("/nowhere", 404), ("/v2", 405)])
def test_a_body_without_end_is_not_read_for_ever(address: Address, path: str, status: int) -> None:
    sent, chunk = 0, b"10000\r\n" + b" " * 2**16 + b"\r\n"
    with connect(address) as client:
        client.sendall(post("Transfer-Encoding: chunked", path=path))
        with contextlib.suppress(ConnectionError):
            while sent < 10 * LINGER_BYTES:
                sent += client.send(chunk)
        assert sent < 5 * LINGER_BYTES  # buffers of both ends count
    with connect(address) as client:
        client.sendall(post("Transfer-Encoding: chunked", path=path) + chunk * 70)
        found = rest(client)
    assert found.startswith(f"HTTP/1.1 {status} ".encode())
    assert b"\r\nconnection: close\r\n" in found


def test_who_asks_before_sending_is_answered_and_not_asked_to_send(address: Address) -> None:
    with connect(address) as client:
        client.sendall(post("Expect: 100-continue", "Content-Length: 99999999"))
        assert rest(client).startswith(b"HTTP/1.1 413 ")
    with connect(address) as client:
        client.sendall(post("Expect: 100-continue", f"Content-Length: {len(BODY)}"))
        assert client.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(BODY)
        assert answer(client).startswith(b"HTTP/1.1 200 ")


def test_a_connection_lives_on_where_the_whole_body_has_come(address: Address) -> None:
    with connect(address) as client:
        for path, body in (("/nowhere", BODY), ("/v2", BODY), ("/rank", b"{"), ("/rank", BODY)):
            client.sendall(post(f"Content-Length: {len(body)}", path=path) + body)
            assert b"connection: close" not in answer(client)
        client.sendall(HEALTH)
        assert answer(client).endswith(ALIVE)


def test_sigterm_does_not_wait_for_a_body_that_has_not_come(run: Path) -> None:
    with started(run, "--backend", "eager", "--limits.seconds", "100") as (process, address):
        with connect(address) as one, connect(address) as other, connect(address) as silent, connect(address) as half:
            one.sendall(post("Content-Length: 20"))
            other.sendall(CHUNKED + b"1\r\n{\r\n")
            half.sendall(HEALTH[:9])
            time.sleep(0.2)
            with connect(address) as last:  # once it is answered, the others have been read
                last.sendall(HEALTH)
                assert answer(last).endswith(ALIVE)
            process.send_signal(signal.SIGTERM)
            assert process.wait(15) == 0
            for client in (one, other):
                assert rest(client).startswith(b"HTTP/1.1 503 ")
            assert rest(silent) == rest(half) == b""
        assert process.communicate()[1] == ""
