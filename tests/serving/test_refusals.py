"""Every way to ask wrongly: one status, one sentence that names what is wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest

from recsys.serving.refusals import Refused, shown
from tests.serving.asgi import JSON, Client
from tests.serving.test_infer import INFER, tensor

ITEM = tensor("item", ["i1"])
RANK: dict[str, Any] = {"user": {}, "candidates": [{"item": "i1"}]}


def item(**changes: Any) -> dict[str, Any]:
    return {"inputs": [ITEM | changes]}


@pytest.mark.parametrize("path", [INFER, "/rank"])
@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        (b"", 400, "the body is no JSON"),
        (b"{", 400, "the body is no JSON"),
        (b'{"k": 1} x', 400, "the body is no JSON"),
        (b"\xff\xfe{", 400, "the body is no UTF-8: byte 0"),
        (b"[" * 50_000, 400, "nested too deep"),
        (b'{"a":' * 20_000, 400, "nested too deep"),
        (b'{"k": NaN}', 400, "NaN is no JSON"),
        (b'{"k": -Infinity}', 400, "-Infinity is no JSON"),
        (b'{"k": ' + b"9" * 5000 + b"}", 400, "the body is no JSON"),
        (b'{"k": 1, "user": {"a": 1, "b": 2, "b": 2}}', 400, "`b` stands twice in one object"),
        (b"{%s}" % b",".join(b'"%d":0' % min(k, 15_000) for k in range(15_002)), 400, "`15000` stands twice"),
        (b"[]", 422, "expected a JSON object, got a list"),
        (b"null", 422, "expected a JSON object"),
        (b'"text"', 422, "expected a JSON object, got a str"),
        (b"{}", 422, "the request: missing key"),
        (b'{"inpts": []}', 422, "unknown key `inpts`"),
        (b" " * 200_001, 413, "the body has more than 200,000 bytes"),
    ],
)
def test_bodies_that_are_no_request(client: Client, path: str, body: bytes, status: int, told: str) -> None:
    answer = client.post(path, body)
    assert (answer.status, told in answer.error) == (status, True), answer.body


@pytest.mark.parametrize(
    ("request_", "status", "told"),
    [
        ({"user": []}, 422, "`user`: expected an object of features, got a list"),
        ({"candidates": {}}, 422, "`candidates`: expected a list of objects"),
        ({"candidates": [{}, 1]}, 422, "`candidates`: expected a list of objects"),
        ({"k": 0}, 422, "`k`: expected an integer of 1 or more, got 0"),
        ({"k": True}, 422, "`k`: expected an integer of 1 or more, got a bool"),
        ({"k": 1.0}, 422, "`k`: expected an integer"),
        ({"candidats": []}, 422, "unknown key `candidats`: did you mean `candidates`?"),
        ({"task": "labl"}, 422, "`labl` is no task of this model: did you mean `label`?"),
        ({"user": {"usr": 1}}, 422, "`usr` is no feature of this model: did you mean `user`?"),
        ({"user": {"click": 1}}, 422, "`click` is no feature of this model: known: age, history, item, tags, user"),
        ({"candidates": [{}, {"tag": ["x"]}]}, 422, "`tag` is no feature of this model: did you mean `tags`?"),
        ({"candidates": [{"x" * 9000: 1}]}, 422, "xxx…` is no feature"),
        ({"user": {"item": "i2"}}, 422, "feature `item` is the item's: send it with each"),
        ({"user": {"age": "old"}}, 422, "feature `age`: expected booleans, integers, null, numbers, got text"),
        ({"user": {"age": [1]}}, 422, "feature `age`: expected booleans, integers, null, numbers, got lists"),
        ({"user": {"user": {"a": 1}}}, 422, "feature `user`: expected booleans, integers, null, numbers, text, got an"),
        ({"user": {"user": ["a"]}}, 422, "feature `user`"),
        ({"user": {"history": "i1|i2"}}, 422, "feature `history`: expected lists, null, got text"),
        ({"user": {"history": [["i1"]]}}, 422, "feature `history`: expected lists of text or numbers, got lists in"),
        ({"user": {"history": [{}]}}, 422, "feature `history`: expected lists of text or numbers, got an object"),
        ({"user": {"user": 2**64}}, 422, "feature `user`: an integer has more than 64 bits"),
        ({"user": {"history": [-(2**63) - 1]}}, 422, "feature `history`: an integer has more than 64 bits"),
        ({"user": {"user": "\ud800"}}, 422, "feature `user`: half of a surrogate pair"),
        ({"candidates": [{}] * 1001}, 413, "1,001 candidates are more than 1,000"),
        ({"user": {"history": ["i1"] * 20_001}}, 413, "20,002 values of user and candidates are more than 20,000"),
        ({"candidates": [{"age": 1}]}, 422, "feature `age` is the user's: send it in `user`, once"),
    ],
)
def test_rankings_that_cannot_be(client: Client, request_: dict[str, Any], status: int, told: str) -> None:
    answer = client.post("/rank", {**RANK, **request_})
    assert (answer.status, told in answer.error) == (status, True), answer.body


def test_what_a_user_says_of_the_context_counts_for_every_candidate(client_of_every: Client) -> None:
    answer = client_of_every.post("/rank", {"user": {"words": ["red"] * 100}, "candidates": [{}] * 400})
    assert (answer.status, answer.error[:14]) == (413, "40,000 values ")


def test_an_infinite_number_is_refused_however_it_is_written(client: Client) -> None:
    body = json.dumps({**RANK, "user": {"age": 0}}).replace('"age": 0', '"age": 1e999').encode()
    assert "feature `age`: a number is infinite" in client.post("/rank", body).error
    body = json.dumps({"inputs": [tensor("age", [0], "FP64")]}).replace("[0]", "[-1e999]").encode()
    assert "beyond what FP64 can hold" in client.post(INFER, body).error


@pytest.mark.parametrize(
    ("request_", "status", "told"),
    [
        ({"inputs": []}, 422, "`inputs`: expected a list of one tensor or more"),
        ({"inputs": {}}, 422, "`inputs`: expected a list"),
        ({"inputs": [1]}, 422, "`inputs`: expected objects, got a int"),
        ({"inputs": [ITEM], "id": 4}, 422, "`id`: expected text, got a int"),
        ({"inputs": [ITEM], "output": []}, 422, "unknown key `output`: did you mean `outputs`?"),
        ({"inputs": [ITEM], "outputs": {}}, 422, "`outputs`: expected a list of objects"),
        ({"inputs": [ITEM], "outputs": [{}]}, 422, "an output: missing key `name`"),
        ({"inputs": [ITEM], "outputs": [{"name": "labl"}]}, 422, "`labl` is no output of this model: did you mean"),
        ({"inputs": [ITEM], "outputs": [{"name": [1]}]}, 422, "is no output of this model"),
        ({"inputs": [ITEM, ITEM]}, 422, "two tensors have the same name"),
        ({"inputs": [ITEM, tensor("user", [1, 2], "INT8")]}, 422, "as many rows in every tensor, got `item` 1, `user`"),
        ({"inputs": [{"name": "item"}]}, 422, "an input: missing key `shape`"),
        (item(dtype="BYTES"), 422, "an input: unknown key `dtype`: did you mean `datatype`?"),
        (item(name="itm"), 422, "`itm` is no feature of this model: did you mean `item`?"),
        (item(name=3), 422, "an input: `name`: expected text"),
        (item(datatype="STRING"), 422, "input `item`: no such datatype as `STRING`: known: BOOL"),
        (item(datatype=["BYTES"]), 422, "input `item`: no such datatype"),
        (item(shape=1), 422, "`shape`: expected one or two integers"),
        (item(shape=[1, 1, 1]), 422, "`shape`: expected one or two integers"),
        (item(shape=[-1]), 422, "`shape`: expected one or two integers"),
        (item(shape=[True]), 422, "`shape`: expected one or two integers"),
        (item(shape=[1, 2]), 422, "expected shape [n] or [n, 1]"),
        (item(shape=[2]), 422, "input `item`: expected 2 elements by its shape, got 1"),
        (item(shape=[1001]), 413, "more than 1,000 rows"),
        (item(shape=[10**40], data=[]), 413, "more than 1,000 rows"),
        (item(name="tags", shape=[1000, 200_001], data=[]), 413, "more than 200,000 values in a row"),
        (item(name="tags", shape=[1000, 10**4300 - 1], data=[]), 413, "more than 200,000 values in a row"),
        ({"inputs": [ITEM], "parameters": "x"}, 422, "the request: `parameters`: expected an object, got x"),
        ({"inputs": [ITEM], "parameters": {"binary_data_output": True}}, 422, "binary data is not served"),
        (
            {"inputs": [ITEM], "outputs": [{"name": "label", "parameters": 1}]},
            422,
            "an output: `parameters`: expected an",
        ),
        (
            {"inputs": [ITEM], "outputs": [{"name": "label", "parameters": {"binary_data": True}}]},
            422,
            "binary data is",
        ),
        (item(parameters=None), 422, "an input: `parameters`: expected an object, got a NoneType"),
        (
            {"inputs": [{"name": "item", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": 4}}]},
            422,
            "an input: `binary_data_size`: binary data is not served",
        ),
        (item(data="i1"), 422, "`data`: expected a list, got i1; binary data is not served"),
        (item(data=[1]), 422, "an element of its data is no BYTES"),
        (item(data=[["i1"]]), 422, "an element of its data is no BYTES"),
        (item(data=["\udfff"]), 422, "feature `item`: half of a surrogate pair"),
        (item(datatype="INT8", data=[128]), 422, "a number is beyond what INT8 can hold"),
        (item(datatype="UINT16", data=[-1]), 422, "a number is beyond what UINT16 can hold"),
        (item(datatype="UINT64", data=[2**64]), 422, "a number is beyond what UINT64 can hold"),
        (item(datatype="INT64", data=[True]), 422, "an element of its data is no INT64"),
        (item(datatype="INT64", data=[1.0]), 422, "an element of its data is no INT64"),
        (item(datatype="FP32", data=[1e39]), 422, "a number is beyond what FP32 can hold"),
        (item(datatype="FP16", data=[65505]), 422, "a number is beyond what FP16 can hold"),
        (item(datatype="FP64", data=[10**400]), 422, "a number is beyond what FP64 can hold"),
        (item(datatype="BOOL", data=[1]), 422, "an element of its data is no BOOL"),
        (item(name="age"), 422, "feature `age`: expected booleans, integers, null, numbers, got text"),
        (item(name="tags"), 422, "input `tags`: expected shape [n, L]"),
        (item(name="tags", shape=[1, 2], data=[["t1"]]), 422, "`data` has not the shape [1, 2]"),
        (item(name="tags", shape=[1, 2], data=[["t1", ["t2"]]]), 422, "an element of its data is no BYTES"),
        (item(name="tags", shape=[2, 1], data=[["t1"], "t2"]), 422, "`data` has not the shape [2, 1]"),
    ],
)
def test_inferences_that_cannot_be(client: Client, request_: dict[str, Any], status: int, told: str) -> None:
    answer = client.post(INFER, request_)
    assert (answer.status, told in answer.error) == (status, True), answer.body


@pytest.mark.parametrize(
    ("method", "path", "status", "told"),
    [
        ("GET", "/v2/models/toi", 404, "no such model as `toi`: did you mean `toy`?"),
        ("GET", "/v2/models/x/ready", 404, "no such model as `x`: known: toy"),
        ("POST", "/v2/models/other/infer", 404, "no such model as `other`: known: toy"),
        ("GET", "/v2/models/toy/versions/1", 404, "this server has no versions: leave out /versions and what follows"),
        ("POST", "/v2/models/toy/versions/1/infer", 404, "this server has no versions"),
        ("GET", "/v2/models/toy/versions", 404, "this server has no versions"),
        ("GET", "/v2/models/toy/version", 404, "no such path as /v2/models/toy/version: /docs lists them"),
        ("GET", "/" + "x" * 500, 404, "no such path as /xxx"),
        ("GET", "/v2/", 404, "no such path as /v2/"),
        ("GET", "/rank", 405, "/rank does not take GET"),
        ("DELETE", INFER, 405, "does not take DELETE"),
    ],
)
def test_paths_and_methods_that_are_not_here(client: Client, method: str, path: str, status: int, told: str) -> None:
    answer = client.ask(method, path, headers=JSON)
    assert (answer.status, told in answer.error) == (status, True), answer.body
    assert ("allow" in answer.headers) == (status == 405)


@pytest.mark.parametrize(
    ("headers", "status", "told"),
    [
        ({}, 415, "expected Content-Type: application/json, got none"),
        ({"content-type": "text/plain"}, 415, "got text/plain"),
        ({"content-type": "application/octet-stream"}, 415, "got application/octet-stream"),
        ({"content-type": "application/json; charset=latin-1"}, 415, "expected JSON in UTF-8, got charset latin-1"),
        ({**JSON, "content-encoding": "gzip"}, 415, "got Content-Encoding: gzip"),
        ({**JSON, "content-length": "200001"}, 413, "more than 200,000 bytes"),
        ({**JSON, "content-length": "9" * 5000}, 413, "more than 200,000 bytes"),
        ({"content-type": 'Application/JSON ; charset="UTF-8"'}, 200, ""),
        ({**JSON, "content-encoding": ""}, 200, ""),
    ],
)
def test_headers_are_refused_before_the_body_is_read(
    client: Client, headers: dict[str, str], status: int, told: str
) -> None:
    answer = client.post("/rank", RANK, headers)
    assert answer.status == status
    assert status == 200 or told in answer.error


def test_a_sentence_stays_short_whatever_stands_in_it() -> None:
    assert len(Refused(422, "x" * 10_000).message) < 700
    assert shown("y" * 10_000) == "y" * 60 + "…"
    assert shown({}) == "a dict"
