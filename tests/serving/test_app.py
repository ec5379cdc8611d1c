"""What is around the answers: health, documents, metrics, bodies that come in parts, and shutting down."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from recsys.inference.session import InferenceSession
from recsys.serving.app import Service
from recsys.serving.limits import Limits
from recsys.serving.unread import LINGER_BYTES
from recsys.serving.work import FEW, SMALL, Work
from tests.serving.asgi import JSON, Client
from tests.serving.conftest import LIMITS
from tests.serving.test_infer import INFER, tensor
from tests.serving.test_refusals import RANK


def test_health(client: Client) -> None:
    assert client.get("/v2/health/live").json == {"live": True}
    assert client.get("/v2/health/ready").json == {"ready": True}
    assert client.get("/v2/models/toy/ready").json == {"name": "toy", "ready": True}


@pytest.mark.parametrize(
    "path", ["/v2/health/live", "/v2/health/ready", "/v2", "/v2/models/toy", "/v2/models/toy/ready"]
)
def test_head_is_answered_as_get_is(client: Client, path: str) -> None:
    assert client.ask("HEAD", path).status == 200
    assert client.ask("HEAD", path).headers == client.get(path).headers


def test_a_server_that_shuts_down_is_alive_but_not_ready(client: Client, service: Service) -> None:
    service.draining = True
    try:
        assert client.get("/v2/health/live").status == 200
        for path in ("/v2/health/ready", "/v2/models/toy/ready"):
            assert (client.get(path).status, client.get(path).json["ready"]) == (503, False)
        for path in ("/rank", INFER):
            assert (client.post(path, RANK).status, client.post(path, RANK).error[:13]) == (503, "the server is")
        assert client.get("/metrics").status == 200
    finally:
        service.draining = False


def test_every_route_is_documented(client: Client) -> None:
    paths = client.get("/openapi.json").json["paths"]
    assert set(paths) == {
        "/v2",
        "/v2/health/live",
        "/v2/health/ready",
        "/v2/models/{name}",
        "/v2/models/{name}/ready",
        "/v2/models/{name}/infer",
        "/rank",
        "/metrics",
    }
    assert all(about["description"] for path in paths.values() for about in path.values())
    assert client.get("/docs").status == 200


def metrics(client: Client) -> dict[str, float]:
    answer = client.get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    lines = [line for line in answer.body.decode().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z_]+(\{.*\})? [0-9.e+-]+(inf)?", line) for line in lines)
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


def test_metrics_count_requests_rows_and_what_the_encoder_met(client: Client, opened: InferenceSession) -> None:
    before, rows = metrics(client), opened.counts.rows
    client.post("/rank", {"user": {"history": ["i1"] * 9}, "candidates": [{"item": "never"}, {"item": "i1"}], "k": 1})
    client.post(INFER, {"inputs": [tensor("item", ["never seen", None, "i1"])]})
    client.post("/rank", {})
    client.get("/nowhere")
    after = metrics(client)

    def gained(name: str) -> float:
        return after[name] - before.get(name, 0)

    assert gained('recsys_requests_total{route="/rank",status="200"}') == 1
    assert gained('recsys_requests_total{route="/rank",status="422"}') == 1
    assert gained('recsys_requests_total{route="/v2/models/{name}/infer",status="200"}') == 1
    assert gained('recsys_requests_total{route="other",status="404"}') == 1
    assert gained('recsys_request_seconds_count{route="/rank"}') == 2
    assert gained('recsys_request_seconds_bucket{le="+Inf",route="/rank"}') == 2
    assert after['recsys_request_seconds_sum{route="/rank"}'] > 0
    assert (gained("recsys_batch_rows_count"), gained("recsys_batch_rows_sum")) == (2, 5)
    assert gained('recsys_batch_rows_bucket{le="2.0"}') == 1
    assert gained("recsys_rows_total") == opened.counts.rows - rows == 5
    assert gained('recsys_unknown_values_total{feature="item"}') == 2
    assert gained('recsys_missing_values_total{feature="item"}') == 1
    assert gained('recsys_missing_values_total{feature="age"}') == 4
    assert gained('recsys_cut_lists_total{feature="history"}') == 1
    assert after['recsys_values_total{feature="item"}'] == opened.counts.values["item"]
    assert after["process_resident_memory_bytes"] > 0


def test_no_path_makes_a_route_of_its_own_in_the_metrics(client: Client) -> None:
    for k in range(20):
        client.get(f"/made/up/{k}")
        client.get(f"/v2/models/made-up-{k}")
    assert not [name for name in metrics(client) if "made" in name]


def test_a_body_may_come_in_parts(client: Client) -> None:
    parts = [b'{"user": {}, ', b"", b'"candidates": [{"item"', b': "i1"}]}']
    assert client.ask("POST", "/rank", parts, JSON).json == client.post("/rank", RANK).json


def test_no_more_of_a_body_is_kept_than_is_allowed_and_not_much_more_read(client: Client) -> None:
    read = 0

    def parts() -> Iterator[bytes]:
        nonlocal read
        for _ in range(10_000):
            read += 10_000
            yield b" " * 10_000

    answer = client.ask("POST", "/rank", parts(), JSON)
    assert (answer.status, "more than 200,000 bytes" in answer.error) == (413, True)
    assert read <= 200_000 + LINGER_BYTES + 50_000
    assert answer.headers["connection"] == "close"


@pytest.mark.parametrize("parts", [[b"{", None], [None]])
def test_a_body_that_does_not_come_is_not_waited_for(client: Client, parts: list[bytes | None]) -> None:
    start = time.perf_counter()
    answer = client.ask("POST", "/rank", parts, JSON)
    assert (answer.status, answer.error) == (408, "the body was not complete after 0.2 seconds")
    assert time.perf_counter() - start < 5


def test_who_hangs_up_is_counted_and_not_answered(client: Client) -> None:
    client.ask("POST", "/rank", [b'{"user"', b"HANG UP"], JSON)
    client.ask("POST", "/rank", [b"HANG UP"], JSON)
    assert metrics(client)['recsys_requests_total{route="/rank",status="499"}'] == 2


def test_a_mistake_of_ours_is_500_and_raised_for_the_trace(
    client: Client, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(service.model.session, "rank", broken)
    with pytest.raises(ZeroDivisionError):
        client.post("/rank", RANK)
    assert metrics(client)['recsys_requests_total{route="/rank",status="500"}'] == 1
    assert service.running == 0


def test_health_is_answered_while_a_model_computes(
    client: Client, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    go, rank = threading.Event(), service.model.session.rank

    def slow(*given: Any) -> Any:
        assert go.wait(10)
        return rank(*given)

    monkeypatch.setattr(service.model.session, "rank", slow)
    monkeypatch.setattr(service.work, "_took", 1.0)  # the one before was slow

    async def both() -> tuple[int, int, int]:
        ranked = asyncio.ensure_future(client.call("POST", "/rank", [b'{"user": {}, "candidates": [{}]}'], JSON))
        await asyncio.sleep(0.05)
        health = await client.call("GET", "/v2/health/live")
        running = service.running
        go.set()
        return health.status, running, (await ranked).status

    assert client.loop.run_until_complete(both()) == (200, 1, 200)


def test_only_small_bodies_after_a_quick_one_are_answered_on_the_loop() -> None:
    work, here = Work(1), threading.current_thread().name
    loop = asyncio.new_event_loop()

    def slowly(body: bytes) -> bytes:
        time.sleep(0.002)
        return threading.current_thread().name.encode()

    def quickly(body: bytes) -> bytes:
        return threading.current_thread().name.encode()

    def where(answer: object, size: int = 1, what: bytes = b"x") -> bool:
        return loop.run_until_complete(work.run(answer, what * size)).decode() == here  # type: ignore[arg-type]

    assert [where(quickly), where(quickly), where(quickly, SMALL + 1)] == [False, True, False]
    assert [where(quickly, FEW, b","), where(quickly, FEW + 1, b",")] == [True, False]
    assert [where(slowly), where(slowly), where(quickly), where(quickly)] == [True, False, False, True]
    loop.close()
    work.close()


def test_limits_are_what_the_settings_say() -> None:
    assert Limits().max_rows == 10_000
    assert LIMITS.max_rows == 1000
