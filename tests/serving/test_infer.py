"""The Open Inference Protocol: what is described, and scores that are the session's own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from recsys import __version__
from recsys.inference.session import InferenceSession
from tests import toy
from tests.serving.asgi import Client

INFER = "/v2/models/toy/infer"
ROWS = toy.rows(600, seed=9).drop_columns(["label", "rating"])


def tensor(name: str, data: list[Any], datatype: str = "BYTES", shape: list[int] | None = None) -> dict[str, Any]:
    return {"name": name, "shape": shape or [len(data)], "datatype": datatype, "data": data}


def padded(name: str, lists: list[list[str]]) -> dict[str, Any]:
    width = max(map(len, lists), default=0)
    data = [[*one, *[None] * (width - len(one))] for one in lists]
    return tensor(name, data, shape=[len(lists), width])


def inputs(rows: pa.Table) -> list[dict[str, Any]]:
    found = rows.to_pydict()
    return [
        tensor("user", found["user"], "INT64"),
        tensor("item", found["item"]),
        padded("history", found["history"]),
        padded("tags", found["tags"]),
        tensor("age", [None if np.isnan(age) else age for age in found["age"]], "FP64"),
    ]


def scores(client: Client, **request: Any) -> list[float]:
    answer = client.post(INFER, request)
    assert answer.status == 200, answer.body
    found: list[float] = answer.json["outputs"][0]["data"]
    return found


@pytest.mark.parametrize("n", [1, 2, 50, 600])
def test_scores_are_exactly_the_sessions(client: Client, opened: InferenceSession, n: int) -> None:
    rows = ROWS.slice(0, n)
    answer = client.post(INFER, {"id": "a/1", "inputs": inputs(rows)})
    assert answer.headers["content-type"] == "application/json"
    assert answer.json == {
        "model_name": "toy",
        "id": "a/1",
        "outputs": [{"name": "label", "datatype": "FP32", "shape": [n], "data": opened.predict(rows).tolist()}],
    }


def test_one_row_scores_as_it_does_among_others(client: Client) -> None:
    together = scores(client, inputs=inputs(ROWS))
    alone = [scores(client, inputs=inputs(ROWS.slice(k, 1)))[0] for k in range(10)]
    assert np.allclose(together[:10], alone, rtol=1e-6)  # the network rounds otherwise for other batch sizes


def test_no_id_is_no_id_and_no_rows_are_no_scores(client: Client) -> None:
    answer = client.post(INFER, {"inputs": [tensor("item", [])], "parameters": {"any": 1}}).json
    assert answer == {
        "model_name": "toy",
        "outputs": [{"name": "label", "datatype": "FP32", "shape": [0], "data": []}],
    }


def test_data_may_be_flat_or_nested_and_single_values_a_column(client: Client) -> None:
    nested = scores(client, inputs=[tensor("tags", [["t1", "t2"], ["t3", "t0"]], shape=[2, 2])])
    flat = scores(client, inputs=[tensor("tags", ["t1", "t2", "t3", "t0"], shape=[2, 2])])
    assert nested == flat
    assert scores(client, inputs=[tensor("item", [["i1"], ["i2"]], shape=[2, 1])]) == scores(
        client, inputs=[tensor("item", ["i1", "i2"])]
    )


def test_null_and_empty_text_fill_up_lists(client: Client, opened: InferenceSession) -> None:
    found = scores(client, inputs=[tensor("tags", ["t1", None, None, "", "t1", "t2"], shape=[3, 2])])
    rows = pa.table({"tags": [["t1"], [], ["t1", "t2"]]})
    for name in ("user", "item", "history", "age"):
        rows = rows.append_column(name, pa.nulls(3))
    assert found == opened.predict(rows).tolist()


def test_what_is_left_out_is_missing(client: Client) -> None:
    rest = [one for one in inputs(ROWS) if one["name"] not in ("item", "age")]
    nothing = [tensor("item", [None] * 600), tensor("age", [None] * 600, "FP32")]
    assert scores(client, inputs=rest) == scores(client, inputs=[*rest, *nothing])


@pytest.mark.parametrize("n", [1, 3, 600])
@pytest.mark.parametrize(
    ("datatype", "five"), [("INT64", 5), ("UINT8", 5), ("FP64", 5.0), ("FP32", 5), ("BYTES", "5"), ("INT16", 5)]
)
def test_a_category_is_the_same_in_every_datatype(client: Client, n: int, datatype: str, five: Any) -> None:
    assert scores(client, inputs=[tensor("user", [five] * n, datatype)]) == scores(
        client, inputs=[tensor("user", [5] * n, "INT32")]
    )


@pytest.mark.parametrize("n", [1, 600])
def test_whole_numbers_beyond_a_floats_digits_are_rounded(client: Client, n: int) -> None:
    found = scores(client, inputs=[tensor("age", [2**53 + 1] * n, "FP64")])
    assert found == scores(client, inputs=[tensor("age", [float(2**53)] * n, "FP64")])


@pytest.mark.parametrize("n", [1, 600])
def test_ids_of_64_unsigned_bits_are_served(client_of_every: Client, n: int) -> None:
    found = scores(client_of_every, inputs=[tensor("shop id", [2**64 - 1] * n, "UINT64")])
    assert found == scores(client_of_every, inputs=[tensor("shop id", [str(2**64 - 1)] * n)])


def test_a_boolean_is_a_category_and_a_number(client: Client, opened: InferenceSession) -> None:
    found = scores(client, inputs=[tensor("user", [True], "BOOL"), tensor("age", [True], "BOOL")])
    nothing = dict.fromkeys(("item", "history", "tags"))
    assert found == opened.predict({"user": True, "age": 1.0, **nothing}).tolist()


def test_text_with_the_schemas_separator_is_a_list(client_of_every: Client) -> None:
    text = scores(client_of_every, inputs=[tensor("words", ["red|blue", ""]), tensor("seen", ["a b", "c"])])
    lists = [padded("words", [["red", "blue"], []]), padded("seen", [["a", "b"], ["c"]])]
    assert text == scores(client_of_every, inputs=lists)


def test_metadata_names_columns_once_with_their_types_and_shapes(client: Client, client_of_every: Client) -> None:
    assert client.get("/v2").json == {"name": "recsys", "version": __version__, "extensions": []}
    found = client.get("/v2/models/toy").json
    assert (found["name"], found["platform"]) == ("toy", "recsys")
    assert {one["name"]: (one["datatype"], one["shape"]) for one in found["inputs"]} == {
        "user": ("BYTES", [-1]),
        "item": ("BYTES", [-1]),
        "history": ("BYTES", [-1, -1]),
        "tags": ("BYTES", [-1, -1]),
        "age": ("FP64", [-1]),
    }
    assert found["outputs"] == [{"name": "label", "datatype": "FP32", "shape": [-1]}]
    other = client_of_every.get("/v2/models/toy").json
    assert [one["name"] for one in other["inputs"]] == ["price", "shop id", "words", "seen"]
    assert other["inputs"][0]["datatype"] == "FP64"


def test_outputs_are_chosen_by_task(client_of_two: Client, two_tasks: InferenceSession) -> None:
    expected = two_tasks.predict(ROWS)
    answer = client_of_two.post(INFER, {"inputs": inputs(ROWS)}).json["outputs"]
    assert [one["name"] for one in answer] == ["label", "rating"]
    assert [one["data"] for one in answer] == expected.T.tolist()
    assert {one["datatype"] for one in answer} == {"FP64"}
    one = client_of_two.post(INFER, {"inputs": inputs(ROWS), "outputs": [{"name": "rating"}]}).json["outputs"]
    assert one == [answer[1]]
    assert [row["name"] for row in client_of_two.get("/v2/models/toy").json["outputs"]] == ["label", "rating"]
