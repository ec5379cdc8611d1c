"""POST /rank: the best candidates are those that the session scores highest."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import numpy as np
import pytest

from recsys.inference.session import InferenceSession
from recsys.serving.app import Service
from tests.serving.asgi import JSON, Answer, Client

USER = {"user": 3, "age": 23.5, "history": ["i1", "i7"]}
CANDIDATES: list[dict[str, Any]] = [{"item": f"i{k}", "tags": [f"t{k % 4}"]} for k in range(20)]


def expected(session: InferenceSession) -> Any:
    return session.predict([USER | candidate for candidate in CANDIDATES])  # as the session ranks, to the bit


@pytest.mark.parametrize("k", [1, 3, 20])
def test_the_best_come_first_with_exactly_the_sessions_scores(client: Client, opened: InferenceSession, k: int) -> None:
    answer = client.post("/rank", {"user": USER, "candidates": CANDIDATES, "k": k})
    scores = expected(opened)
    best = np.argsort(-scores, kind="stable")[:k]
    assert (answer.status, answer.json) == (200, {"positions": best.tolist(), "scores": scores[best].tolist()})


def test_k_is_ten_by_default_and_never_more_than_there_are(client: Client) -> None:
    assert len(client.post("/rank", {"user": USER, "candidates": CANDIDATES}).json["positions"]) == 10
    found = client.post("/rank", {"user": USER, "candidates": CANDIDATES[:2], "k": 10**30})
    assert sorted(found.json["positions"]) == [0, 1]


def test_no_candidates_are_no_answer_and_no_features_are_missing_ones(client: Client) -> None:
    assert client.post("/rank", {"user": USER, "candidates": []}).json == {"positions": [], "scores": []}
    found = client.post("/rank", {"user": {}, "candidates": [{}, {}]}).json
    assert found["positions"] == [0, 1]
    assert found["scores"][0] == found["scores"][1]


def test_candidates_may_lack_what_others_have(client: Client) -> None:
    """Rows of several columns make a table of all of them, not of the first row's."""
    bare = client.post("/rank", {"user": USER, "candidates": [{}, {"item": "i5"}, {"tags": ["t1"]}], "k": 3}).json
    alone = [
        client.post("/rank", {"user": USER, "candidates": [one], "k": 1}).json["scores"][0]
        for one in ({}, {"item": "i5"}, {"tags": ["t1"]})
    ]
    assert np.allclose([alone[position] for position in bare["positions"]], bare["scores"], rtol=1e-6)
    assert len(set(alone)) == 3


def test_the_context_is_the_users_unless_a_candidate_has_its_own(client_of_every: Client) -> None:
    user = {"price": 3, "words": "red|blue"}
    answer = client_of_every.post("/rank", {"user": user, "candidates": [{"shop id": 1}, {"price": 180.0}], "k": 2})
    alone = [
        client_of_every.post("/rank", {"user": {}, "candidates": [one]}).json["scores"][0]
        for one in ({**user, "shop id": 1}, {**user, "price": 180.0})
    ]
    assert np.allclose([alone[position] for position in answer.json["positions"]], answer.json["scores"], rtol=1e-6)


def test_values_of_one_column_may_be_of_several_types(client: Client) -> None:
    candidates = [{"item": 1}, {"item": "i1"}, {"item": 2**60 + 1}, {"item": 0.5}, {"item": True}, {"tags": ["t1", 2]}]
    assert client.post("/rank", {"user": {"history": ["i1", 1]}, "candidates": candidates}).status == 200


def test_of_several_tasks_one_is_named(client_of_two: Client, two_tasks: InferenceSession) -> None:
    request = {"user": USER, "candidates": CANDIDATES, "k": 3}
    for position, task in enumerate(("label", "rating")):
        scores = expected(two_tasks)[:, position]
        best = np.argsort(-scores, kind="stable")[:3]
        assert client_of_two.post("/rank", {**request, "task": task}).json["positions"] == best.tolist()
    refused = client_of_two.post("/rank", request)
    assert (refused.status, refused.error) == (422, "missing key `task`: this model has label, rating")
    assert "did you mean `rating`?" in client_of_two.post("/rank", {**request, "task": "ratng"}).error
    assert "known: label, rating" in client_of_two.post("/rank", {**request, "task": 1}).error


def test_answers_are_json_that_every_reader_takes(client: Client) -> None:
    body = client.post("/rank", {"user": USER, "candidates": CANDIDATES}).body
    assert b"NaN" not in body
    assert body == json.dumps(json.loads(body), separators=(",", ":")).encode()


def test_many_at_once_are_answered_as_one_after_the_other(
    client: Client, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recsys.serving.work.QUICK", 0.0)  # all on threads
    requests = [{"user": {"user": k}, "candidates": CANDIDATES[: 1 + k % 5], "k": 3} for k in range(60)]
    expected = [client.post("/rank", one).json for one in requests]

    async def together() -> list[Answer]:
        calls = (client.call("POST", "/rank", [json.dumps(one).encode()], JSON) for one in requests)
        return await asyncio.gather(*calls)

    assert [answer.json for answer in client.loop.run_until_complete(together())] == expected
    assert service.running == 0
